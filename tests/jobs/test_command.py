"""The command line: one JSON object on stdout, the talk on stderr, an exit code for every end."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cli import JOBS, main
from jobs.command import in_short
from tests import made


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    return code, json.loads(out), err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = "torch ray numpy pyarrow pydantic PIL fsspec"
    check = f"import sys, jobs.cli; sys.exit(bool(set('{heavy}'.split()) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "jobs.cli", "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - begun)
        assert done.returncode == 0
        assert all(job in done.stdout for job in JOBS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_help(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([job, "--help"])
    assert caught.value.code == 0
    assert f"driftrec {job}" in capsys.readouterr().out


def test_help_needs_no_docstrings() -> None:
    done = subprocess.run([sys.executable, "-OO", "-m", "jobs.cli", "split", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: driftrec split INPUT OUTPUT")


MISTAKES = {  # after the places that a job wants
    "an unknown flag": ["--stepz", "3"],
    "no value": ["--config"],
    "one thing too many": ["x", "y", "z", "w"],
    "control signs": ["--\x1b[2J"],
}
PLACES = {job: ["in", "out"] for job in JOBS} | {"verify": ["out"], "models": ["list"], "serve": []}
WRONG = [(job, mistake) for job in JOBS for mistake in ("nothing", *MISTAKES) if PLACES[job] or mistake in MISTAKES]


@pytest.mark.parametrize(("job", "mistake"), WRONG)
def test_wrong_usage(job: str, mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused as any other bad input is: one object on stdout, the same words on stderr."""
    places = PLACES[job] if mistake in MISTAKES else []
    code, result, err = answer(capsys, job, *places, *MISTAKES.get(mistake, []))
    assert (code, result["exit_code"], result["state"]) == (2, 2, "refused")
    assert result["error"]
    assert "\x1b" not in err


@pytest.mark.parametrize("arguments", [[], ["restor"], ["--steps"], ["restor", "--help"]])
def test_an_unknown_job(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = answer(capsys, *arguments)
    assert (code, result["state"]) == (2, "refused")


@pytest.mark.parametrize(
    "value", ["--steps=abc", "--limit=", "--seed=1.5", "--jpeg-subsampling=x", "--layout=zip", "--order=3", "--set=x"]
)
def test_a_wrong_value(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = answer(capsys, "restore", "in", "out", value)
    assert (code, result["state"]) == (2, "refused")


def test_detach_goes_with_submit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = answer(capsys, "restore", made.folder(tmp_path / "in", 1), tmp_path / "out", "--detach")
    assert (code, result["state"]) == (2, "refused")
    assert "--submit" in result["error"]
    assert not (tmp_path / "out").exists()


def test_a_refusal_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = answer(capsys, "restore", tmp_path / "none", tmp_path / "out")
    assert (code, result["exit_code"], result["state"]) == (2, 2, "refused")
    assert f"{tmp_path}/none does not exist" in result["error"]
    assert not (tmp_path / "out").exists()
    config = tmp_path / "c.yaml"
    config.write_text("stepz: 4\n")
    code, result, _ = answer(capsys, "restore", made.folder(tmp_path / "in", 1), tmp_path / "out", "--config", config)
    assert code == 2
    assert "unknown setting 'stepz'; did you mean steps" in result["error"]


def test_dry_run_tells_and_writes_nothing(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made.folder(tmp_path / "in", 20)
    code, result, _ = answer(
        capsys, "restore", source, tmp_path / "out", "--dry-run", "--model", small_model, "--set", "batch_size=2"
    )
    assert code == 0
    assert (result["shards"], result["images"], result["shards_done"]) == (10, 20, 0)
    assert result["bytes"] == sum(path.stat().st_size for path in source.rglob("*.jpg"))
    assert result["settings"]["batch_size"] == 2
    assert (result["settings"]["steps"], result["settings"]["fidelity"]) == (2, 0.25)  # what the model recommends
    pixels = sum((48 + index % 5 * 8) * 64 for index in range(20))
    assert result["estimate"]["megapixels_to_do"] == pytest.approx(pixels / 1e6, rel=0.3)
    assert result["estimate"]["seconds"] > 0
    assert not (tmp_path / "out").exists()


def unwritable(folder: Path) -> dict[str, Path]:
    """Places that no run can write to, by what is wrong with them."""
    (folder / "file").write_bytes(b"")
    (folder / "link").symlink_to(folder / "nowhere")
    made.folder(folder / "foreign/images", 1)
    return {
        "system": Path("/proc/nope"),
        "a file": folder / "file",
        "below a file": folder / "file/out",
        "link to nothing": folder / "link",
        "in INPUT": folder / "in/out",
        "foreign": folder / "foreign",
    }


@pytest.mark.parametrize("job", ["restore", "evaluate", "survey", "degrade", "split", "train"])
def test_a_dry_run_refuses_what_the_run_would_refuse(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, places = made.folder(tmp_path / "in", 2, 160, 160), unwritable(tmp_path)
    for name in ("in INPUT", "foreign") if job == "split" else ():  # whose lists lie anywhere
        places.pop(name)
    before = {path: path.is_dir() or path.is_symlink() or path.read_bytes() for path in sorted(tmp_path.rglob("*"))}
    for what, output in places.items():
        for more in (["--dry-run"], []) if what != "system" else (["--dry-run"],):
            code, result, _ = answer(capsys, job, source, output, *more)
            assert (code, result["state"]) == (2, "refused"), (what, more)
    assert {path: before.get(path) for path in sorted(tmp_path.rglob("*"))} == before


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_a_run_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.folder(tmp_path / "in", 4)
    (source / "z.jpg").write_bytes(b"no")
    flags = ("--format", "webp", "--actors", "1", "--batch-size", "2", "--set", "report=false", "--max-failed", "0")
    command = ("restore", source, tmp_path / "out", "--model", "identity", "--limit", "4")
    code, result, _ = answer(capsys, *command, *flags)
    assert code == 0
    assert result["images"] == 4
    assert result == json.loads((tmp_path / "out/_RESULT.json").read_text())
    assert len(list((tmp_path / "out/images").rglob("*.webp"))) == 4
    code, result, _ = answer(capsys, *command, *flags, "--seed", "3")
    assert code == 2
    assert "seed is 0 there, 3 here" in result["error"]
    code, result, _ = answer(capsys, "restore", source, tmp_path / "all", "--model", "identity", "--actors", "1")
    assert code == 3
    assert result["reasons"] == {"not_an_image": 1}


def test_names_cannot_play_with_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\u202egpj.exe"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "restore", tmp_path / name, tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "a\\x1b[2J\\u202egpj.exe" in done.stderr
    listing, refused, end = done.stderr.split("\n")
    assert (listing.isprintable(), refused.isprintable(), end) == (True, True, "")


def catches_sigterm(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("later", [0.0, 0.3, 1.0, 2.5])
def test_a_signal_while_the_command_still_starts(later: float, tmp_path: Path) -> None:
    """From the moment on that Python itself is up: one object, one message, 130; a run that is begun goes on later."""
    source = made.folder(tmp_path / "in", 1)
    command = [sys.executable, "-m", "jobs.cli", "restore", source, tmp_path / "out", "--model", "identity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while not catches_sigterm(job.pid):
            time.sleep(0.01)
        time.sleep(later)
        job.terminate()
        out, err = job.communicate(timeout=60)
    assert (job.returncode, json.loads(out)["state"]) == (130, "interrupted"), err
    if (tmp_path / "out/run.json").exists():
        assert json.loads((tmp_path / "out/_RESULT.json").read_text())["state"] == "interrupted"


def at_a_terminal(*arguments: object) -> tuple[int, str]:
    """Exit code, and what stands on stdout; stderr is elsewhere."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    return process.wait(), shown.decode().replace("\r\n", "\n")


def test_a_person_reads_words_and_a_program_json(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(made.jpeg(1))
    ours = ["restore", tmp_path / "a.jpg", tmp_path / "a.png", "--model", small_model, "--overwrite"]
    assert at_a_terminal(*ours) == (0, f"{tmp_path / 'a.png'}: ok\n")
    assert json.loads(at_a_terminal(*ours, "--json")[1])["state"] == "done"
    refused = [*ours[:2], tmp_path / "a.gif"]
    assert at_a_terminal(*refused) == (2, "")
    assert json.loads(at_a_terminal(*refused, "--json")[1])["state"] == "refused"


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("failed", [0, 2])
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_run_in_short(page: bool, failed: int, skipped: int) -> None:
    reasons = {"empty": failed} if failed else {}
    told = in_short({
        "state": "done", "output": "out", "status": {"ok": 7, "failed": failed, "skipped": skipped},
        "reasons": reasons, "leaves": {"report.html": {}} if page else {},
    })  # fmt: skip
    first, *rest = told.splitlines()
    assert first.startswith("done: 7 ok")
    assert (f"{failed} failed" in first, "(2 empty)" in first) == (failed > 0, failed > 0)
    assert ("1 skipped" in first) == (skipped > 0)
    assert rest == (["page: out/report.html"] if page else []) + ["all else: out/_RESULT.json"]
    hostile = in_short({"images": [{"output": "\x1b[2J\udcff.png", "status": "ok"}]})
    assert "\x1b" not in hostile
    hostile.encode()
