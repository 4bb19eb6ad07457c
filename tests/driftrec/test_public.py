"""The public names: each is there, under `__all__` and by attribute, and none is loaded before it is asked for."""

import importlib
import subprocess
import sys

import pytest

import driftrec
from driftrec.diffusion import PROCESSES
from driftrec.metrics import PAIR_METRICS

PUBLIC = {
    "driftrec": ("Restorer", "Sampling", "PROCESSES", "SAMPLERS", "METRICS", "__version__"),
    "driftrec.diffusion": ("OUVE", "TSDVE", "CosVE"),
    "driftrec.networks": ("NCSNpp", "NetworkConfig"),
    "driftrec.models": ("load", "save", "import_authors"),
    "driftrec.metrics": ("PAIR_METRICS", "Moments", "fid", "kid"),
    "driftrec.jpeg": ("degrade", "inspect"),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_there(module: str) -> None:
    package = importlib.import_module(module)
    for name in PUBLIC[module]:
        assert name in package.__all__
        assert getattr(package, name) is not None


def test_registries_are_the_ones_in_use() -> None:
    assert driftrec.PROCESSES is PROCESSES
    assert driftrec.METRICS is PAIR_METRICS


def test_the_package_alone_loads_no_torch_and_knows_no_other_name() -> None:
    code = "import sys, driftrec; assert 'torch' not in sys.modules; driftrec.Restorer; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = driftrec.nonsense  # pyright: ignore[reportAttributeAccessIssue]
