"""A training that is asked to halt, at whatever step, has a checkpoint of that step and goes on as if nothing were."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from driftrec.training.learner import Learner, StepResult
from pipeline.storage.base import Store
from pipeline.storage.local import LocalStore
from pipeline.train import feed, halt
from pipeline.train.checkpoints import Mark
from pipeline.train.feed import DRAW_CPUS, drawers, read_items
from pipeline.train.metrics_log import Interval
from pipeline.train.windows import Drawing, PatchConfig
from pipeline.train.worker import open_interval
from tests import made
from tests.pipeline import trainings
from tests.pipeline.trainings import SMALL, draw_here, small

STEPS = 9
EVERY = {"checkpoint_every": 6, "log_every": 4, "validate_every": 3, "validation_images": 1}
TIMINGS = {"images_per_s", "waiting_for_data", "seconds", "time"}


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches are drawn in this process."""
    monkeypatch.setattr(feed, "read_items", draw_here)
    monkeypatch.setattr(halt, "LOOK_S", 0.0)


def work(data: Path, output: Path) -> dict[str, Any]:
    """The outcome of a run of one worker that is scored now and then."""
    optimizer = SMALL["optimizer"] | {"steps": STEPS}
    return trainings.work(small(data, output, optimizer=optimizer, validation=str(data), **EVERY))


def told(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


@pytest.fixture(params=["object", "SIGTERM"])
def asked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Steps in which the training is asked to halt: by the object in OUTPUT, or by the signal that a worker gets."""
    steps: set[int] = set()
    take = Learner.step
    stores: list[Store] = []
    make = halt.Requests.__init__

    def noted(requests: halt.Requests, store: Store, looks: bool) -> None:
        stores.append(store)
        make(requests, store, looks)

    def step(learner: Learner, *images: torch.Tensor) -> StepResult:
        if learner.step_count + 1 in steps:
            if request.param == "object":
                stores[-1].put(halt.STOP, b"")
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        return take(learner, *images)

    monkeypatch.setattr(halt.Requests, "__init__", noted)
    monkeypatch.setattr(Learner, "step", step)
    before = signal.getsignal(signal.SIGTERM)
    yield steps
    signal.signal(signal.SIGTERM, before)
    halt.terminated.clear()


def test_halted_at_every_step_in_turn_the_curve_and_the_weights_are_those_of_the_unbroken_run(
    without_ray: None, asked_at: set[int], tmp_path: Path
):
    """Inside an interval, where one ends, at a checkpoint, at a validation: STEPS covers all of them."""
    data = made.folder(tmp_path / "data", 5)
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert work(data, whole)["state"] == "done"
    asked_at |= set(range(1, STEPS + 1))
    halt.note_sigterm()
    for step in range(1, STEPS):
        outcome = work(data, halted)
        assert (outcome["state"], outcome["step"]) == ("halted", step)
        assert Mark.from_json((halted / f"checkpoints/step-{step:08d}.json").read_bytes()).step == step
        assert not (halted / halt.STOP).exists()
        halt.terminated.clear()  # the next one is another process
        halt.note_sigterm()
    assert work(data, halted)["state"] == "done"  # asked in its last step: there is nothing left to halt for
    name = f"checkpoints/step-{STEPS:08d}.safetensors"
    assert (halted / name).read_bytes() == (whole / name).read_bytes()
    assert told(halted) == told(whole)


def test_an_open_interval_goes_on_with_other_workers_too():
    mine, other = Interval([1.0, 2.0], 3.0, 0.5), Interval([3.0, 4.0], 3.0, 1.0)
    mark = Mark.from_json(Mark(2, 1, "", (), (mine, other)).to_json())
    assert [open_interval(mark, rank, 2) for rank in (0, 1)] == [mine, other]
    assert open_interval(mark, 0, 1) == open_interval(mark, 2, 3) == Interval([2.0, 3.0], 3.0, 0.75)
    assert open_interval(Mark(2, 1, ""), 0, 1) == open_interval(None, 1, 2) == Interval()
    before = json.loads(mark.to_json())
    del before["open"]  # a marker of before there was one
    assert Mark.from_json(json.dumps(before).encode()) == Mark(2, 1, "")


def test_whoever_asks_waits_no_longer_than_said_and_leaves_nothing(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    seen: list[bool] = []
    halt.halt(store, lambda: seen.append(store.exists(halt.STOP)) or len(seen) == 2, limit_s=60)
    assert seen == [True, True]
    halt.halt(store, lambda: False, limit_s=0)
    assert not store.exists(halt.STOP)


def test_drawing_waits_for_no_cpu_whatever_the_cluster_and_its_workers(monkeypatch: pytest.MonkeyPatch):
    """At every size, on every cluster whose nodes hold them: a worker has a drawing task at work, and all of them
    together take no more CPUs than the workers leave, as long as that gives each of them one.
    """
    nodes = [nodes for count in (1, 2, 3) for nodes in itertools.combinations_with_replacement((1, 2, 4, 8), count)]
    for cpus, mine in itertools.product(nodes, (0.25, 0.5, 0.75, 1.0, 2.0)):
        for world in range(1, sum(int(each / mine) for each in cpus) + 1):
            at_once, left = drawers(sum(cpus), mine, world), sum(cpus) - mine * world
            assert at_once >= 1
            assert at_once == 1 or at_once * world * DRAW_CPUS <= left
    reserved: dict[str, Any] = {}
    empty = SimpleNamespace(iter_batches=lambda **_: iter(()))
    monkeypatch.setattr(feed.ray.data, "read_datasource", lambda *_, **told: reserved.update(told) or empty)
    assert not list(read_items([], Drawing(PatchConfig(), 0, 1), 1, 3))
    assert (reserved["num_cpus"], reserved["concurrency"]) == (0, 3)
