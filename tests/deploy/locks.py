"""The pinned versions, for the tests that compare other files with them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([a-z0-9.-]+)==([A-Za-z0-9.+!]+)")


def locked(name: str = "runtime") -> dict[str, str]:
    """Package -> version of requirements/NAME.lock. Fails on a line that is no exact pin."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#") and line != "-r runtime.lock"]
    matches = [(line, PIN.fullmatch(line)) for line in pins]
    loose = [line for line, match in matches if not match]
    assert not loose, f"not exact pins: {loose}"
    return {match[1]: match[2] for _, match in matches if match}
