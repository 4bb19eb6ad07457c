"""Ray's own processes killed under a run: it ends with a message, a result and an exit code, and the next attempt goes
on."""

import json
import os
import signal
from pathlib import Path

import pytest

from pipeline import watch
from tests import made
from tests.chaos.processes import descendants, end, images, parts, start, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

IMAGES = 100
ENDED_S = 60.0  # within so long, on a slow machine too


def first_word(title: str) -> str:
    return title.split(" ")[0].rpartition("/")[2]


@pytest.mark.parametrize("victims", [["gcs_server"], ["raylet"], ["gcs_server", "raylet"]], ids="+".join)
def test_a_run_whose_ray_is_killed_ends_with_a_word(small_model: Path, tmp_path: Path, victims: list[str]) -> None:
    source, output = made.folder(tmp_path / "in", IMAGES), tmp_path / "out"
    flags = ["--model", small_model, "--actors", "1", "--set", "report=false", "--set", "shard_images=2"]
    process = start(source, output, *flags)
    until(lambda: parts(output), process)
    below = list(descendants(process.pid))
    found = [child for child, title in below if first_word(title) in victims]
    assert len(found) == len(victims)
    for child in found:
        os.kill(child, signal.SIGKILL)
    until(lambda: False, process, limit_s=watch.PATIENCE_S + ENDED_S)
    assert process.poll() is not None, "it hangs"
    result = end(process, code=1)
    assert result["state"] == "failed"
    assert "the same command goes on" in result["error"]
    assert json.loads((output / "_RESULT.json").read_text()) == result
    assert 0 < len(parts(output)) < IMAGES / 2
    assert end(start(source, output, *flags))["status"]["ok"] == IMAGES == len(images(output))
