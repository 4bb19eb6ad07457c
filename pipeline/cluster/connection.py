"""Ray, connected to: the cluster of RAY_ADDRESS, or else a local one on 127.0.0.1 that ends with this process."""

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray._private import workers as ray_workers
from ray._private.state import state as ray_state
from ray.exceptions import AuthenticationError

from driftrec import plugins
from driftrec.errors import DriftRecError, one_line
from pipeline.cluster import reaper
from pipeline.cluster.watch import End, watched
from pipeline.cpus import usable_cpus
from pipeline.runs.ends import Interrupted

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
BOOTSTRAP = "ray_bootstrap_config.yaml"  # in the home folder of a head that `ray up` has started
TOKEN = (
    "is the address right? If the head wants a token, set RAY_AUTH_MODE=token and give the head's own (there: ray "
    "get-auth-token) by RAY_AUTH_TOKEN or in ~/.ray/auth_token"
)
SOCKET_PATH = 107  # bytes of a Unix socket's path, at most
SESSION = "/ray/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # what Ray adds to a folder
FIRST_WORD_S, WORD_S = 1.0, 60.0  # until it is said what a run waits for, and between two such words


def connect(num_cpus: int | None = None) -> None:
    """Connect this process, unless it is already. RAY_ADDRESS, which `ray job submit` sets, names the cluster.

    Args:
        num_cpus: of a local cluster; None for all that this process may use.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.WARNING)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _init(num_cpus)
    except SystemExit:  # how Ray's own handler, while it starts, answers SIGTERM
        raise Interrupted from None
    except Exception as error:  # a node that is slow to start gives a bare one
        address = os.environ.get("RAY_ADDRESS")
        remedy = f"; {TOKEN}" if address and isinstance(error, ConnectionError | AuthenticationError) else ""
        if "AF_UNIX path length" in str(error):
            remedy = "; set RAY_TMPDIR to a folder with a short name"
        where = address or "a local cluster"
        raise DriftRecError(f"Ray ({where}) did not start: {one_line(error, 500)}{remedy}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init puts its own there, which ends the process


def _init(num_cpus: int | None) -> None:
    if address := os.environ.get("RAY_ADDRESS"):
        log.info("connecting to Ray at %s", address)
        ray.init(log_to_driver=False, logging_level=logging.WARNING, runtime_env=_with_plugins())
        return
    log.info("starting Ray on this machine")
    with _held_back_stderr(), _forking_into_own_groups(), _reaped(), contextlib.chdir(code_folder()):
        ray.init(
            address="local",
            num_cpus=num_cpus or usable_cpus(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=_with_plugins(),
            _node_ip_address=LOOPBACK,
            _temp_dir=_temporary_folder(),
        )


def _with_plugins() -> dict[str, Any] | None:
    """For workers that are to know plugins which no package brings: they import them first, for what they are sent may
    be an instance of one's class.
    """
    if not plugins.named():
        return None
    told = {"env_vars": {plugins.VARIABLE: os.environ[plugins.VARIABLE]}} if plugins.was_added() else {}
    return {"worker_process_setup_hook": f"{plugins.__name__}.{plugins.load.__name__}", **told}


def _temporary_folder() -> str | None:
    """Where a local Ray puts its sockets, whose paths have little room; None: where it would by itself."""
    wanted = os.fsencode(tempfile.gettempdir())
    if os.environ.get("RAY_TMPDIR") or len(wanted) + len(SESSION) <= SOCKET_PATH:
        return None
    return next((f"{place}/ray" for place in ("/tmp", "/var/tmp") if os.access(place, os.W_OK | os.X_OK)), None)


@contextmanager
def _reaped() -> Generator[None]:
    """What is started inside the block ends soon after `disconnect`, or this process, however it ends."""
    mark = f"DRIFTREC_CLUSTER={secrets.token_hex(8)}"
    name, _, value = mark.partition("=")
    command = [sys.executable, "-I", "-S", reaper.__file__, mark]
    none = subprocess.DEVNULL  # nobody is to wait for it behind a pipe
    _reapers.append(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=none, stderr=none, start_new_session=True)
    )
    os.environ[name] = value
    try:
        yield
    except BaseException:
        _reap()
        raise
    finally:
        del os.environ[name]  # what this process starts later is none of the cluster's


_reapers: list[subprocess.Popen[bytes]] = []


def _reap() -> None:
    """Let them know that the clusters are to end, and do not wait for it."""
    for process in _reapers:
        if process.stdin and not process.stdin.closed:
            process.stdin.close()
    _reapers[:] = [process for process in _reapers if process.poll() is None]


def checkout() -> Path | None:
    """The root of the checkout that this code is of; None where it is installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def code_folder() -> Path:
    """Where a local Ray is to start: it puts the current folder before all others on its workers' import path, and in
    an archive's folder anything may be called scipy.py.

    A checkout's root, so that its workers run its code; or else the folder of the workers' own program, where their
    import path begins anyway.
    """
    return checkout() or Path(ray_workers.__file__).parent


@contextmanager
def _forking_into_own_groups() -> Generator[None]:
    """A signal to this process and all of its group, as `timeout` and a shell's kill send it, is for this process to
    answer: Ray's processes, which end when this one does, must not be ended under its hands.
    """
    _own_groups.set()
    try:
        yield
    finally:
        _own_groups.clear()


_own_groups = threading.Event()
os.register_at_fork(after_in_child=lambda: os.setpgid(0, 0) if _own_groups.is_set() else None)


@contextmanager
def _held_back_stderr() -> Generator[None]:
    """Ray's C++ side greets on stderr, whatever its log level: shown only if the start fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()
    _reap()


@contextmanager
def connected(end: End | None = None) -> Generator[None]:
    """Connected inside the block, as by `connect`. A connection that was there before stays.

    Args:
        end: of the run, where Ray is gone: see `pipeline.cluster.watch`.
    """
    before = ray.is_initialized()
    connect()
    with watched(end) as enough:
        try:
            yield
        finally:
            enough()  # a Ray that we end goes, too
            if not before:
                disconnect()


def resources() -> tuple[float, float]:
    """(CPUs, GPUs) that the cluster has now; an autoscaling one may get more."""
    total = ray.cluster_resources()
    return float(total.get("CPU", 0)), float(total.get("GPU", 0))


def spans() -> bool:
    """Whether the cluster has, or may get as far as is told, more nodes than one."""
    if not os.environ.get("RAY_ADDRESS"):
        return False
    return sum(node["Alive"] for node in ray.nodes()) > 1 or bool(_of_node_types(Path.home() / BOOTSTRAP)[0])


def has_cuda() -> bool:
    """Whether PyTorch finds the GPU that Ray gives it, on the node of one. Waits for one, and says so."""
    answer, pause = ray.remote(num_cpus=0, num_gpus=1)(_finds_cuda).remote(), FIRST_WORD_S
    while not ray.wait([answer], timeout=pause)[0]:
        log.warning("waiting for a GPU, to see whether PyTorch finds it; %s now", room())
        pause = WORD_S
    return bool(ray.get(answer))


def _finds_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def room() -> str:
    """What is free of what there is, in words."""
    free, (cpus, gpus) = ray.available_resources(), resources()
    return f"{free.get('CPU', 0):g} of {cpus:g} CPUs and {free.get('GPU', 0):g} of {gpus:g} GPUs are free"


class Reach(NamedTuple):
    """What a cluster has, or may get."""

    cpus: float
    gpus: float
    grows: bool  # whether nodes may come of which nothing is known here
    cpus_by_gpu: float = 0.0  # of the node with GPUs that has fewest for each; 0 where none is known


def reach() -> Reach:
    """What the cluster has now, or with all the nodes that its autoscaler may start, as far as that is told: by Ray, or
    by the file that `ray up` leaves on the head, where jobs run.
    """
    cpus, gpus = resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not os.environ.get("RAY_ADDRESS"):
        return Reach(cpus, gpus, False, _cpus_by_gpu(nodes))
    told, types = _of_node_types(Path.home() / BOOTSTRAP)
    told = ray_state.get_max_resources_from_cluster_config() or told
    return Reach(max(cpus, told.get("CPU", 0)), max(gpus, told.get("GPU", 0)), True, _cpus_by_gpu(nodes + types))


def _cpus_by_gpu(nodes: Sequence[Mapping[str, float]]) -> float:
    """The fewest CPUs for each GPU, of nodes by their resources; 0 without GPUs."""
    return min((node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU", 0)), default=0.0)


def _of_node_types(config: Path) -> tuple[dict[str, float], list[dict[str, float]]]:
    """By a cluster's config: of each resource the most that it allows, all its nodes together, and the resources of
    each type of node; nothing without a config.
    """
    try:
        told = yaml.safe_load(config.read_text(encoding="utf-8"))
        types = [(kind["resources"], kind.get("max_workers", 0)) for kind in told["available_node_types"].values()]
        ceiling = told.get("max_workers", sys.maxsize)
        most = {name: _most([(each.get(name, 0), count) for each, count in types], ceiling) for name in ("CPU", "GPU")}
        return most, [each for each, count in types if count]
    except (OSError, yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError):
        return {}, []


def _most(types: list[tuple[float, int]], ceiling: int) -> float:
    """The sum over at most `ceiling` nodes of (resource of one, how many there may be of it)."""
    total = 0.0
    for each, count in sorted(types, reverse=True):
        total += each * min(count, ceiling)
        ceiling -= min(count, ceiling)
    return total


@contextmanager
def waiting(cpus: float, gpus: float) -> Generator[None]:
    """While no node has room for one actor that wants so much, say what the run waits for every now and then."""
    done = threading.Event()

    def tell() -> None:
        pause = FIRST_WORD_S
        while not done.wait(pause):
            if not _has_node(cpus, gpus):
                log.warning(
                    "waiting for a node with %g CPUs and %g GPUs; the cluster has %g CPUs and %g GPUs now",
                    *(cpus, gpus, *resources()),
                )
            pause = WORD_S

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _has_node(cpus: float, gpus: float) -> bool:
    """Whether one node has all that, be it in use or not: the nodes' sum tells nothing, for an actor is on one."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in there)
