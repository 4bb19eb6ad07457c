"""Progress: JSON lines where nobody watches, one live line on a terminal."""

import io
import json
import time

import pytest

from pipeline.cluster.graph import _since
from pipeline.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines() -> None:
    stream = io.StringIO()
    progress = Progress(shards=4, done=1, images=40, interval_s=1e-9, stream=stream)
    progress.add(ok=9, failed=1, pixels=10**6)
    progress.add(ok=10, failed=0, pixels=10**6)
    progress.close()
    lines = [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]
    assert [line["shards_done"] for line in lines] == [2, 3, 3]
    assert (lines[-1]["images"], lines[-1]["failed"]) == (20, 1)
    assert lines[-1]["seconds_left"] is not None


def test_what_is_left_is_told_by_the_time_of_work() -> None:
    stream = io.StringIO()
    progress = Progress(shards=11, done=0, images=None, interval_s=3600, stream=stream)
    progress.working = time.monotonic() - 2  # however long the start of workers took
    progress.add(1, 0, 1)
    progress.close()
    assert json.loads(stream.getvalue())["progress"]["seconds_left"] == pytest.approx(20, abs=1)


@pytest.mark.parametrize(("ago_s", "expected_s"), [(3, 3), (1000, 10), (-1000, 0)])
def test_the_clock_of_another_machine_may_be_wrong(ago_s: float, expected_s: float) -> None:
    now = time.monotonic()
    assert now - _since(time.time() - ago_s, at_least=now - 10) == pytest.approx(expected_s, abs=0.1)


def test_skipped_images_are_counted_apart() -> None:
    stream, terminal = io.StringIO(), Terminal()
    for each in (stream, terminal):
        progress = Progress(shards=1, done=0, images=10, interval_s=3600, stream=each)
        progress.add(ok=6, failed=1, pixels=1, skipped=3)
        progress.close()
    told = json.loads(stream.getvalue())["progress"]
    assert (told["images"], told["failed"], told["skipped"]) == (10, 1, 3)
    assert "10 images, 1 failed, 3 skipped" in terminal.getvalue()


def test_lines_come_at_intervals() -> None:
    stream = io.StringIO()
    progress = Progress(shards=100, done=0, images=None, interval_s=3600, stream=stream)
    for _ in range(100):
        progress.add(1, 0, 1)
    assert stream.getvalue() == ""
    progress.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_live_line() -> None:
    stream = Terminal()
    progress = Progress(shards=2, done=0, images=20, interval_s=3600, stream=stream)
    progress.add(10, 0, 1)
    progress.add(9, 1, 1)
    progress.close()
    last = stream.getvalue().split("\r")[-1]
    assert "2/2 shards, 20 images, 1 failed" in last
    assert last.endswith("\n")
