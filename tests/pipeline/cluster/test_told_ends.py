"""What ended a graph is told in its own words, and "the same command goes on" only where it can.

A pool that this machine can never give is refused.
"""

from collections.abc import Callable

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RayTaskError,
    WorkerCrashedError,
)

from driftrec.errors import InvalidInput
from pipeline.cluster import connection, graph
from pipeline.cluster.connection import Reach
from pipeline.cluster.graph import Pool

GOES_ON, ENDS_AGAIN = "the same command goes on", "the same command would end the same way"
LOST = [
    ActorDiedError(),
    ActorUnavailableError("its node is gone", b"0" * 16),
    GetTimeoutError("after 60 s"),
    LocalRayletDiedError(),
    NodeDiedError("its node is gone"),
    ObjectLostError("0" * 56, None, ""),
    ObjectStoreFullError("full"),
    OutOfDiskError("full"),
    OutOfMemoryError("full"),
    OwnerDiedError("0" * 56, None, ""),
    WorkerCrashedError(),
    ConnectionResetError("by peer"),
]
DEFECTS = [ValueError("You must provide `batch_size`"), TypeError("no such argument"), KeyError("shard")]


def carried(error: Exception) -> Exception:
    """As Ray brings it from a worker."""
    trace = f'Traceback (most recent call last):\n  File "stage.py", line 1, in f\n{type(error).__name__}: {error}'
    return RayTaskError("f", trace, error).as_instanceof_cause()


@pytest.mark.parametrize("way", [lambda error: error, carried])
@pytest.mark.parametrize("error", LOST + DEFECTS, ids=lambda error: type(error).__name__)
def test_an_end_is_told_with_what_helps(error: Exception, way: Callable[[Exception], Exception]) -> None:
    told = str(graph._plain(way(error)))
    assert "\n" not in told
    assert (GOES_ON in told, ENDS_AGAIN in told) == (error in LOST, error not in LOST), told
    if error in DEFECTS:
        assert f"{type(error).__name__}: {error}" in told


@pytest.mark.parametrize("wanted", ["cpus_per_actor", "gpus_per_actor"])
@pytest.mark.parametrize("grows", [False, True])
def test_what_this_machine_cannot_give_is_refused(wanted: str, grows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "reach", lambda: Reach(2, 1, grows))
    each = {"cpus_per_actor": None, "gpus_per_actor": None, wanted: 4.0}
    if grows:
        assert Pool.fit(None, *each.values(), 10).actors
    else:
        with pytest.raises(InvalidInput, match=f"{wanted} is 4,"):
            Pool.fit(None, *each.values(), 10)


NODES = ([(16, 1)], [(4, 1)], [(4, 4), (64, 0)], [(96, 8), (8, 1)], [(1, 1), (32, 0)], [(8, 0)])  # (CPUs, GPUs)


@pytest.mark.parametrize("nodes", NODES, ids=str)
@pytest.mark.parametrize("gpus_each", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("busy", [1.0, 5.0])
def test_no_gpu_is_left_without_the_cpus_of_its_actor(
    nodes: list[tuple[int, int]], gpus_each: float | None, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed node by node, all actors that the GPUs have room for find their CPUs, and leave some to read tasks."""
    resources = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    cpus, gpus = (sum(node[kind] for node in resources) for kind in ("CPU", "GPU"))
    reach = Reach(cpus, gpus, True, connection._cpus_by_gpu(resources))
    monkeypatch.setattr(connection, "reach", lambda: reach)
    pool = Pool.fit(None, None, gpus_each, 1000, busy=busy)
    assert pool.cpus <= (busy if pool.gpus else 1.0)
    if pool.gpus:
        places = [(node["GPU"] // pool.gpus, node["CPU"]) for node in resources if node["GPU"] >= pool.gpus]
        assert all(count * pool.cpus <= graph.ACTOR_CPU_SHARE * there + 0.01 * count for count, there in places)
    if (nodes, gpus_each, busy) == ([(16, 1)], None, 5.0):
        assert pool.cpus == 5.0
