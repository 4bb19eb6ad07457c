"""However a run ends, ten seconds later none of its processes is left."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import made
from tests.chaos.processes import descendants, parts, start, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.parametrize("moment", ["Ray starts", "at work"])
@pytest.mark.parametrize("victim", ["driver", "gcs_server", "raylet"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left(number: signal.Signals, victim: str, moment: str, small_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(made.folder(tmp_path / "in", 60), output, "--model", small_model, "--set", "shard_images=2")

    def below() -> dict[int, str]:
        return dict(descendants(process.pid))

    until(lambda: any("raylet" in title for title in below().values()), process)
    if moment == "at work":
        until(lambda: parts(output), process)
    started = below()
    named = [pid for pid, title in started.items() if victim in title.partition(" ")[0]]
    target = process.pid if victim == "driver" else named[0]
    os.kill(target, number)
    process.communicate(timeout=120)
    time.sleep(10)
    assert not [started[pid] for pid in started if Path(f"/proc/{pid}").exists()]
