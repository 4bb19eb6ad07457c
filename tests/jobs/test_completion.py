"""What the shell completes is what the command line takes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.cli import JOBS, main


@pytest.fixture(scope="module", params=["bash", "zsh"])
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of a shell, without what zsh alone has: bash must understand the rest."""
    path = tmp_path_factory.mktemp("completion") / request.param
    with path.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        assert main(["completion", request.param]) == 0
    text = path.read_text()
    assert text.startswith("autoload") == (request.param == "zsh")
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("autoload")))
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What there is for the last word."""
    listed = " ".join(f"'{word}'" for word in words)
    asked = f'source {script}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _driftrec; echo "${{COMPREPLY[@]}}"'
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "--norc", "-c", asked], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("re",), {"restore"}),
        (("restore", "a", "b", "--on"), {"--on-clash", "--only-listed"}),
        (("restore", "a", "b", "--on-clash", ""), {"refuse", "row", "suffix"}),
        (("restore", "a", "b", "--look", "n"), {"natural"}),
        (("restore", "pho"), set()),
        (("train", "a", "b", "--optimizer.lr"), {"--optimizer.lr"}),
        (("models", "i"), {"import"}),
        (("weights", "f"), {"fetch"}),
        (("unknown", "--"), set()),
    ],
)
def test_words(script: Path, words: tuple[str, ...], found: set[str]) -> None:
    assert set(completed(script, "driftrec", *words)) == found


def test_every_job_is_there(script: Path) -> None:
    assert set(completed(script, "driftrec", "")) == {*JOBS, "--help", "--version"}
