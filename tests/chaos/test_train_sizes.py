"""A training whose cluster shrinks, grows, or is told that a node is to go: it goes on with what is there, and nothing
that was asked for on purpose costs a step. Nodes are simulated on this machine.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests import made

LIMIT_S = 400
SETTINGS = {
    "network": {"preset": "tiny", "width": 8},
    "patches": {"size": 32, "per_image": 8},
    "batch_size": 4,
    "shuffle_buffer": 64,
    "threads": 1,
    "log_every": 20,
    "min_workers": 1,
    "workers": 3,
    "allow_local": True,
}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * LIMIT_S)]


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A head of one CPU, which one worker fills. One for all tests: a process cannot start a second one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.1"})
        yield made
        made.shutdown()


@pytest.fixture
def cluster(head: Cluster) -> Iterator[Cluster]:
    """The head alone."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)


class Training:
    """One `python -m jobs.train` on the cluster."""

    def __init__(self, cluster: Cluster, folder: Path, **changes: Any) -> None:
        (folder / "data").mkdir()
        for shard in range(4):
            images = {f"{shard}-{i}.jpg": made.jpeg(12 * shard + i, 64, 64, quality=90) for i in range(6)}
            (folder / f"data/{shard}.tar").write_bytes(made.tar(images))
        (folder / "c.yaml").write_text(json.dumps(SETTINGS | changes))
        command = [sys.executable, "-m", "jobs.train", str(folder / "data"), str(folder / "run"), "--config"]
        self.output, self.talk = folder / "run", folder / "talk.log"
        with self.talk.open("wb") as talk:
            environment = os.environ | {"RAY_ADDRESS": cluster.address}
            self.process = subprocess.Popen(
                [*command, str(folder / "c.yaml")], env=environment, stdout=subprocess.PIPE, stderr=talk
            )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)

    def marks(self) -> dict[int, int]:
        """How many workers there were at the step of each checkpoint."""
        found = [json.loads(path.read_text()) for path in sorted(self.output.glob("checkpoints/*.json"))]
        return {mark["step"]: len(mark["positions"]) for mark in found}

    def step(self) -> int:
        """The last one of the curve."""
        curve = self.output / "metrics.jsonl"
        return json.loads(curve.read_text().splitlines()[-1])["step"] if curve.exists() else 0

    def end(self) -> dict[str, Any]:
        stdout, _ = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, self.said()
        return json.loads(stdout)

    def steps_done_again(self) -> bool:
        return "started anew" in self.said()

    def said(self) -> str:
        return self.talk.read_text()


def test_two_nodes_of_three_are_lost_and_the_worker_that_fills_the_last_one_goes_on(cluster: Cluster, tmp_path: Path):
    lost = [cluster.add_node(num_cpus=cpus, node_ip_address="127.0.0.1") for cpus in (1, 2)]
    training = Training(
        cluster, tmp_path, cpus_per_worker=1, checkpoint_every=20, optimizer={"steps": 200, "warmup": 2}, keep=99
    )
    training.wait_until(lambda: 3 in training.marks().values())
    for node in lost:
        cluster.remove_node(node, allow_graceful=False)
    result = training.end()
    assert (result["steps"], result["workers"]) == (200, 1)
    assert training.marks()[200] == 1


def test_a_node_that_comes_is_used_from_the_very_step_at_which_it_is_seen(cluster: Cluster, tmp_path: Path):
    training = Training(
        cluster, tmp_path, cpus_per_worker=1, checkpoint_every=1000, optimizer={"steps": 6000, "warmup": 2}, keep=99
    )
    training.wait_until(lambda: training.step() > 0)
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    training.wait_until(lambda: 1 in training.marks().values())
    halted = max(training.marks())
    assert halted % 1000, "this checkpoint was planned; the node must be seen before it"
    training.wait_until(lambda: training.step() > halted)
    assert not training.steps_done_again()
    training.process.terminate()  # which asks for a checkpoint, too
    training.process.wait(timeout=LIMIT_S)
    assert training.marks()[max(training.marks())] == 2, training.said()


def test_a_node_that_is_to_go_is_left_before_it_goes(cluster: Cluster, tmp_path: Path):
    node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    training = Training(
        cluster, tmp_path, cpus_per_worker=1, checkpoint_every=100, optimizer={"steps": 400, "warmup": 2}, keep=99
    )
    training.wait_until(lambda: 2 in training.marks().values())
    drain = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address]
    drain += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    drain += ["--reason-message", "test", "--deadline-remaining-seconds", "60"]
    subprocess.run(drain, check=True, capture_output=True)
    training.wait_until(lambda: bool(re.search(r"halted with a checkpoint of step \d+", training.said())))
    result = training.end()
    assert (result["steps"], result["workers"]) == (400, 1)
    assert not training.steps_done_again()
