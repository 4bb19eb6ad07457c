"""`driftrec evaluate`, `degrade` and `split` as commands: one JSON object on stdout, for other programs."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests.pipeline.evaluations import clean


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return code, json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_stdout_is_json_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even what other libraries print goes there."""
    flags = ("--quality", "10,30", "--scorers", "1", "--set", "report=false")
    code, told = answer(capfd, "evaluate", clean(tmp_path / "in", 3), tmp_path / "out", *flags)
    first = told["conditions"][0]  # jq .conditions[0]
    assert (code, first["condition"], first["candidates"][0]["candidate"]) == (0, "q10-420", "jpeg")
    assert first["candidates"][0]["metrics"]["psnr"]["mean"] > 20


def test_dry_runs_tell_and_write_nothing(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = clean(tmp_path / "in", 20)
    flags = ("--quality", "10,30/10", "--model", f"m={small_model}?steps=3", "--dry-run")
    code, told = answer(capsys, "evaluate", source, tmp_path / "out", *flags)
    assert (code, told["images"], told["conditions"]) == (0, 20, ["q10-420", "q30-q10-shift4-420"])
    assert told["estimate"]["rows"] == 20 * 2 * 2
    assert told["estimate"]["restoring_seconds_of_one_actor"]["m"] > 0
    assert told["settings"]["quality"] == ["10", "30/10"]
    code, told = answer(capsys, "degrade", source, tmp_path / "out", "--quality", "10", "--dry-run")
    assert (code, told["images"], told["conditions"]) == (0, 20, ["q10-420"])
    code, told = answer(capsys, "split", source, tmp_path / "out", "--dry-run")
    assert (code, told["keys"], told["seed"]) == (0, {"train": 16, "validation": 1, "test": 3}, 102405)
    assert not (tmp_path / "out").exists()


def test_a_refusal_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = clean(tmp_path / "in", 2)
    code, told = answer(capsys, "evaluate", source, tmp_path / "out", "--metrics", "psnr,nothing")
    assert (code, told["state"]) == (2, "refused")
    assert "--metrics: 'nothing' not known; there are psnr" in told["error"]
    assert not (tmp_path / "out").exists()
    code, told = answer(capsys, "evaluate", source, tmp_path / "out", "--set", "quality=[10, 200]")
    assert code == 2
    assert "give numbers from 0 to 100" in told["error"]


def test_split_writes_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "split", clean(tmp_path / "in", 20), tmp_path / "out", "--seed", "7")
    assert (code, told["seed"]) == (0, 7)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.txt", "validation.txt", "test.txt", "split.json",
    }  # fmt: skip
