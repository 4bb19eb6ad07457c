"""`driftrec survey` by command: what it would do, what it refuses, and the exit code of an archive with damage."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests import made


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main(["survey", *map(str, arguments)])
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 1
    return code, json.loads(out)


def test_plans_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = made.folder(tmp_path / "in", 20), tmp_path / "out"
    code, told = answer(capsys, source, output, "--dry-run", "--pixels", "10%", "--limit", 7, "--calibration", 0)
    assert (code, told["images"], told["share_decoded"], told["settings"]["limit"]) == (0, 7, 0.1, 7)
    for arguments, words in (
        ((source, output, "--pixels", "half"), "give auto, all, none, or a share"),
        ((tmp_path / "none", output), "does not exist"),
        ((source, source / "out"), "lie in each other"),
        ((source, output, "--model", tmp_path / "no.safetensors"), "no.safetensors"),
        ((source, output, "--set", "pixel=all"), "did you mean"),
    ):
        code, told = answer(capsys, *arguments)
        assert (code, told["state"]) == (2, "refused")
        assert words in told["error"]
    assert not output.exists()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_damage_has_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.folder(tmp_path / "in", 3)
    (source / "z.jpg").write_bytes(b"no")
    given = (source, tmp_path / "out", "--pixels", "none", "--calibration", 0, "--gpu-megapixels-per-s", 2)
    code, told = answer(capsys, *given)
    assert (code, told["damaged"], told["sound"]) == (3, {"not_an_image": 1}, 3)
    assert told == json.loads((tmp_path / "out/_RESULT.json").read_text())
    assert (tmp_path / "out/report.html").is_file()
    assert "measured" not in told["cost"]
    code, told = answer(capsys, source, tmp_path / "allowed", "--max-failed", "1", "--calibration", 0)
    assert (code, told["status"]) == (0, {"ok": 3, "failed": 1, "skipped": 0})
