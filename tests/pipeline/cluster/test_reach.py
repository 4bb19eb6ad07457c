"""What a cluster may become, by its node types; and for what a run says that it waits."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipeline.cluster import connection

ROOT = Path(__file__).parents[3]


def kind(cpus: int, gpus: int, most: int) -> dict[str, Any]:
    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return {"resources": resources, "max_workers": most, "node_config": {}}


def reached(folder: Path, ceiling: int, *kinds: dict[str, Any]) -> tuple[dict[str, float], list[dict[str, float]]]:
    config = folder / connection.BOOTSTRAP
    config.write_text(yaml.safe_dump({"max_workers": ceiling, "available_node_types": dict(enumerate(kinds))}))
    return connection._of_node_types(config)


@pytest.mark.parametrize(
    ("ceiling", "kinds", "cpus", "gpus"),
    [
        (20, [kind(0, 0, 0)], 0, 0),
        (20, [kind(0, 0, 0), kind(8, 1, 3)], 24, 3),
        (20, [kind(8, 1, 4), kind(8, 1, 4)], 64, 8),  # two types of one machine: both may come
        (6, [kind(8, 1, 4), kind(8, 1, 4)], 48, 6),  # but no more nodes than the ceiling allows
        (5, [kind(8, 1, 4), kind(8, 4, 2)], 40, 11),
        (4, [kind(4, 1, 4), kind(16, 0, 2)], 40, 4),  # of each what the best choice of nodes has
        (0, [kind(8, 1, 4)], 0, 0),
    ],
)
def test_all_nodes_that_may_come_count(
    ceiling: int, kinds: list[dict[str, Any]], cpus: float, gpus: float, tmp_path: Path
) -> None:
    most, each = reached(tmp_path, ceiling, *kinds)
    assert most == {"CPU": cpus, "GPU": gpus}
    assert each == [one["resources"] for one in kinds if one["max_workers"]]


def test_the_cluster_that_we_ship_may_have_a_gpu_a_node() -> None:
    most, each = connection._of_node_types(ROOT / "cluster.yaml")
    assert most == {"CPU": 8 * 16 + 12 * 8, "GPU": 20}
    assert connection._cpus_by_gpu(each) == 8


@pytest.mark.parametrize("text", ["", "[]", "a: [", "available_node_types: {a: {}}", "available_node_types: 3"])
def test_a_config_that_tells_nothing_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    assert connection._of_node_types(tmp_path / "config") == ({}, [])
    assert connection._of_node_types(tmp_path / "none") == ({}, [])


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("nodes", "waits"),
    [
        ([], True),
        ([node(8, 1)], False),
        ([node(8, 1, alive=False)], True),
        ([node(2), node(2), node(2)], True),  # together there is enough, but an actor is on one node
        ([node(8), node(2, 1)], True),
        ([node(2, 1), node(4, 1)], False),
    ],
)
def test_a_run_waits_for_a_node_with_room_for_an_actor(
    nodes: list[dict[str, Any]],
    waits: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(connection, "resources", lambda: (6.0, 1.0))
    monkeypatch.setattr(connection, "FIRST_WORD_S", 0.01)
    has_node = connection._has_node
    monkeypatch.setattr(connection, "_has_node", lambda *each: asked.append(has_node(*each)) or asked[-1])
    with caplog.at_level(logging.WARNING), connection.waiting(4, 1):
        while not asked:
            time.sleep(0.01)
    assert ("waiting for a node with 4 CPUs and 1 GPUs" in caplog.text) == waits


@pytest.mark.parametrize("length", [4, 30, 39, 40, 70, 200])
def test_rays_sockets_have_room_wherever_temporary_files_lie(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * (length - 1))
    chosen = connection._temporary_folder()
    assert len((chosen or f"/{'x' * (length - 1)}/ray") + connection.SESSION.removeprefix("/ray")) <= 107
    assert (chosen is None) == (length <= 107 - len(connection.SESSION))
    monkeypatch.setenv("RAY_TMPDIR", "/y")  # whoever names a folder gets it
    assert connection._temporary_folder() is None
