"""The connection to Ray: loopback only, and signals stay ours."""

import logging
import os
import signal
from pathlib import Path

import pytest
import ray

from pipeline.cluster import connection
from tests.chaos.processes import descendants

pytestmark = pytest.mark.usefixtures("ray_cluster")

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENING = "0A"


def listening_addresses(pids: list[int]) -> set[str]:
    """Local addresses, as /proc/net writes them, on which these processes listen."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue  # it has just ended
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def test_a_local_cluster_listens_on_loopback_only() -> None:
    found = listening_addresses([child for child, _ in descendants(os.getpid())])
    assert found
    assert found <= LOOPBACK


def test_what_signals_our_group_does_not_signal_rays_processes() -> None:
    titles = {title.split(" ")[0].rpartition("/")[2]: child for child, title in descendants(os.getpid())}
    for name in ("gcs_server", "raylet"):
        assert os.getpgid(titles[name]) != os.getpgrp()


def test_the_signal_handler_is_not_rays() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_connection_that_was_there_stays() -> None:
    with connection.connected():
        assert connection.resources()[0] == 2
    assert ray.is_initialized()


def test_what_a_look_at_a_gpu_waits_for_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a cluster without one it waits; here till it has said so."""
    answers = iter([False, True])
    monkeypatch.setattr("ray.wait", lambda asked, timeout: (asked, []) if next(answers) else ([], asked))
    monkeypatch.setattr("ray.get", lambda asked: ray.cancel(asked))
    with caplog.at_level(logging.WARNING):
        assert not connection.has_cuda()
    assert "waiting for a GPU" in caplog.text
    assert "0 of 0 GPUs are free" in caplog.text


def test_what_a_cluster_may_become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file that `ray up` makes of cluster.yaml: no more than its own ceiling, no more than its node types."""
    text = (Path(__file__).parents[3] / "cluster.yaml").read_text()
    (tmp_path / connection.BOOTSTRAP).write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert connection.reach() == (2, 0, False, 0)  # on this machine nothing else counts
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert connection.reach() == (8 * 16 + 12 * 8, 20, True, 8)
    for broken in ("", "[]", "available_node_types: {a: 1}", "a: [", "\0"):
        (tmp_path / connection.BOOTSTRAP).write_text(broken)
        assert connection.reach() == (2, 0, True, 0)
