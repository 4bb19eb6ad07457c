"""Ray, connected to: the cluster of RAY_ADDRESS, or else a local one on 127.0.0.1 that ends with this process."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import workers as ray_workers

from driftrec.errors import DriftRecError
from pipeline.ends import Interrupted

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def connect(num_cpus: int | None = None) -> None:
    """Connect this process, unless it is already. RAY_ADDRESS, which `ray job submit` sets, names the cluster.

    Args:
        num_cpus: of a local cluster; None for all of this machine.
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
        where = os.environ.get("RAY_ADDRESS") or "a local cluster"
        raise DriftRecError(f"Ray ({where}) did not start: {' '.join(str(error).split())[:500]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init puts its own there, which ends the process


def _init(num_cpus: int | None) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    with _held_back_stderr(), contextlib.chdir(code_folder()):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=LOOPBACK,
        )


def checkout() -> Path | None:
    """The root of the checkout that this code is of; None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None


def code_folder() -> Path:
    """Where a local Ray is to start: it puts the current folder before all others on its workers' import path, and in
    an archive's folder anything may be called scipy.py.

    A checkout's root, so that its workers run its code; or else the folder of the workers' own program, where their
    import path begins anyway.
    """
    return checkout() or Path(ray_workers.__file__).parent


@contextmanager
def _held_back_stderr() -> Iterator[None]:
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


@contextmanager
def connected(num_cpus: int | None = None) -> Iterator[None]:
    """Connected inside the block, as by `connect`. A connection that was there before stays."""
    before = ray.is_initialized()
    connect(num_cpus)
    try:
        yield
    finally:
        if not before:
            disconnect()


def resources() -> tuple[float, float]:
    """(CPUs, GPUs) that the cluster has now; an autoscaling one may get more."""
    total = ray.cluster_resources()
    return float(total.get("CPU", 0)), float(total.get("GPU", 0))
