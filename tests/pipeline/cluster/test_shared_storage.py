"""A cluster of several nodes: paths are refused unless the user vouches for them, and then a node tries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from driftrec.errors import InvalidInput
from pipeline.cluster import connection
from pipeline.cluster.shared_storage import PROBE, attempt, check_shared, lacking
from pipeline.inputs.listing import list_input
from pipeline.storage.local import LocalStore
from tests import made


class OfOneNode(LocalStore):
    """A disk that one node alone has, though all run on this machine."""

    def __init__(self, path: str, node: str) -> None:
        super().__init__(path)
        self.node = node

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        here = ray.get_runtime_context().get_node_id() == self.node
        return super().read(name if here else f"elsewhere/{name}", offset, length)


class OnEachNode(LocalStore):
    """A folder that every node has, each its own."""

    @property
    def root(self) -> Path:
        return self.path / ray.get_runtime_context().get_node_id()[:8]

    @root.setter
    def root(self, path: Path) -> None:
        self.path = path


def on_two_nodes(folder: Path) -> None:
    """On a head without CPUs and a worker; for a process of its own, since a process has one Ray."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = nodes.address
    connection.connect()
    listing, output = list_input(str(made.folder(folder / "in", 2))), LocalStore(str(folder / "out"))
    output.put("run.json", b"{}")
    with pytest.raises(InvalidInput, match=r"INPUT .*in is a path on this machine.*--allow-local"):
        check_shared(listing, output, allow_local=False)
    check_shared(listing, output, allow_local=True)
    assert [path.name for path in output.root.rglob("*") if path.is_file()] == ["run.json"]
    here, *others = (node["NodeID"] for node in ray.nodes())
    for node in (here, *others):
        (folder / "each" / node[:8]).mkdir(parents=True, exist_ok=True)
    for broken in (OfOneNode(str(folder / "out"), here), OnEachNode(str(folder / "each"))):
        with pytest.raises(InvalidInput, match=r"does not see what this machine sees: .*(out|each)"):
            check_shared(listing, broken, allow_local=True)
    assert not [path for path in (folder / "each").rglob("*") if path.is_file()]
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_paths_on_two_nodes(tmp_path: Path) -> None:
    program = "import sys, pathlib, pipeline; from tests.pipeline import test_shared_storage as t; "
    program += "t.on_two_nodes(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, tmp_path]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_folder_that_each_node_has_is_no_shared_one(tmp_path: Path) -> None:
    """Whether it is there tells nothing: what one has written the other reads, both ways."""
    source = list_input(str(made.folder(tmp_path / "in", 1))).source.store
    first, _ = next(source.list())
    here, there = LocalStore(str(tmp_path / "a")), LocalStore(str(tmp_path / "b"))
    there.root.mkdir()
    here.put("of-driver", PROBE)
    assert "another place" in attempt(source, first, there, "of-driver", "of-node")
    assert attempt(source, first, here, "of-driver", "of-node") == ""
    assert (lacking(here, "of-node"), "another place" in lacking(there, "of-node")) == ("", True)
    here.put("of-driver", b"older")
    assert "other bytes" in attempt(source, first, here, "of-driver", "of-node")


def test_one_machine_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    listing = list_input(str(made.folder(tmp_path / "in", 1)))
    check_shared(listing, LocalStore(str(tmp_path / "none")), allow_local=False)
