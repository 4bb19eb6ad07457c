"""Fixtures for all tests: a small network, and one Ray cluster for the whole test run."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline  # before Ray is imported: sets what Ray reads then  # noqa: F401
from tests.s3 import KEY, SECRET, Server, serve

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Random numbers of a test follow from its name: what fails once fails again, alone or among others."""
    import random

    import numpy as np
    import torch

    seed = int(hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8], 16)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of two CPUs, shared by all tests that need one."""
    from pipeline.cluster import connection

    connection.connect(num_cpus=2)
    yield
    connection.disconnect()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network in which every weight matters: nonsense, but as deterministic as good ones."""
    import torch

    from driftrec.diffusion.denoiser import Denoiser
    from driftrec.diffusion.drift import OUVE
    from driftrec.models.checkpoint import save
    from driftrec.networks.config import NetworkConfig

    torch.manual_seed(0)
    denoiser = Denoiser.create(replace(NetworkConfig.tiny(), width=8), OUVE())
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save(path, denoiser, sampling={"steps": 2, "fidelity": 0.25})
    return path


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server on loopback."""
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket; the environment of this process knows the way to it."""
    import s3fs

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    name = "b-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=s3_server.endpoint, skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
