"""`driftrec status`: whatever lies in OUTPUT, it tells what is known; it loads neither Ray nor PyTorch."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs import status
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.storage import open_store
from tests import made
from tests.pipeline.offline import no_ray


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished run; one of its images failed."""
    source = made.folder(tmp_path / "in", 3)
    (source / "a/empty.jpg").write_bytes(b"")
    given = {"model": "identity", "report": False, "max_failed": "1", "price_per_hour": 2.0}
    with no_ray():
        run_restore(RestoreSettings(input=str(source), output=str(tmp_path / "out"), **given))
    return tmp_path / "out"


def change(output: Path, **values: Any) -> None:
    path = output / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def on_terminal(*arguments: str) -> str:
    with redirect_stdout(Terminal()) as screen:
        assert status.main(arguments) == 0
    return screen.getvalue()


def as_json(capsys: pytest.CaptureFixture[str], output: object) -> dict[str, Any]:
    assert status.main([str(output)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_finished_run(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told, file = as_json(capsys, output), json.loads((output / "status.json").read_text())
    assert {name: told[name] for name in file} == file
    assert told["output"] == str(output)
    assert (told["state"], told["status"], told["is_old"]) == ("done", {"ok": 3, "failed": 1, "skipped": 0}, False)
    text = on_terminal(str(output))
    for words in ("restore in ", "done", "100%", "4 of 4: 3 ok, 1 failed, 0 skipped", "1 empty", "cost", " ago"):
        assert words in text
    assert "still running" not in text
    assert json.loads(on_terminal(str(output), "--json"))["state"] == "done"


def test_old_news(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "_RESULT.json").unlink()
    for hours, is_old in ((3, True), (0, False)):
        written = datetime.now(UTC) - timedelta(hours=hours)
        change(output, state="running", written=written.isoformat(), seconds_left=7200)
        told = as_json(capsys, output)
        assert (told["state"], told["is_old"]) == ("running", is_old)
    text = on_terminal(str(output))
    assert "about 2.0 h" in text
    change(output, written=(datetime.now(UTC) - timedelta(hours=3)).isoformat())
    assert "3.0 h ago: is it still running?" in on_terminal(str(output))


def test_a_result_that_came_later_counts(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = {"listed": 4, "done": 1, "resumed": 0, "left": 3}
    change(output, state="running", shards=shards, status={"ok": 1, "failed": 0, "skipped": 0}, reasons={})
    told = as_json(capsys, output)
    assert (told["state"], told["status"]["ok"], told["shards"]["left"]) == ("done", 3, 0)
    assert told["reasons"] == {"empty": 1}


def test_runs_of_older_versions(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "status.json").unlink()
    told = as_json(capsys, output)
    assert (told["state"], told["images"], told["age_s"]) == ("done", 4, None)
    assert "there is no status.json" in on_terminal(str(output))
    (output / "_RESULT.json").unlink()
    next(iter(output.glob("ledger/*.parquet"))).unlink()
    told = as_json(capsys, output)
    assert (told["state"], told["shards"]) == ("unknown", {"listed": 4, "done": 3, "left": 1})
    assert "75%, 3 of 4" in on_terminal(str(output))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "[" * 9999, '{"state": 3}', '{"status": [], "reasons": 3, "shards": {"listed": "x"}}',
        '{"written": "yesterday", "images": NaN, "shards": {"listed": 1e999}, "last_interval": {"seconds": null}}',
        '{"written": "2026-01-01", "cost": 1e300, "error": ["\u202e"], "state": "running", "status_s": null}',
    ],
)  # fmt: skip
def test_whatever_it_holds_it_is_told(text: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = json.loads((output / "run.json").read_text())["fingerprint"]
    (output / "_RESULT.json").unlink()
    noted = text if not text.startswith("{") else f'{{"fingerprint": "{fingerprint}"{", " * (len(text) > 2)}{text[1:]}'
    (output / "status.json").write_text(noted)
    as_json(capsys, output)
    screen = on_terminal(str(output))
    assert "restore in " in screen
    assert screen.replace("\n", "").isprintable()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "none"):
        assert status.main([str(place)]) == 2
        told = json.loads(capsys.readouterr().out)
        assert told["state"] == "refused"
        assert "run.json" in told["error"]


def test_on_a_remote_store(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"memory://{tmp_path.name}/out")
    for name in ("run.json", "status.json", "_RESULT.json"):
        store.put(name, (output / name).read_bytes())
    told = as_json(capsys, store.url)
    assert (told["state"], told["output"]) == ("done", store.url)


def test_it_loads_neither_ray_nor_pytorch(output: Path) -> None:
    code = f"""
import sys
from jobs.cli import main
code = main(["status", {str(output)!r}])
sys.exit(code or any(name in sys.modules for name in ("ray", "torch")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
