"""`make .venv/.runtime` and `.test`: what is installed with and without CPU_INDEX, from packages made here."""

import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU = {"nvidia-thing", "cuda-thing", "triton"}
BUILT_HERE = """
[project]
name = "driftrec"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import shutil
def build_editable(folder, *_):
    return shutil.copy("../index/driftrec/driftrec-1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""
RUNTIME = {"torch", "torchvision", "thing"} | GPU


def wheel(index: Path, name: str, version: str) -> None:
    """A package that holds nothing, in an index of pip's."""
    module, folder = name.replace("-", "_"), index / name
    folder.mkdir(parents=True)
    told = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as packed:
        packed.writestr(f"{told}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{told}/RECORD", "")
    (folder / "index.html").write_text("".join(f'<a href="{file.name}">{file.name}</a>' for file in folder.iterdir()))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This project's Makefile, with locks that name what two indexes beside it hold."""
    folder = tmp_path / "project"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").write_text(BUILT_HERE)
    (folder / "backend.py").write_text(BACKEND)
    pins = "".join(f"{name}==1.0\n" for name in sorted(RUNTIME))
    (folder / "requirements" / "runtime.lock").write_text(f"# all\n{pins}")
    (folder / "requirements" / "test.lock").write_text("-r runtime.lock\ntested==1.0\n")
    for name in RUNTIME | {"tested", "driftrec"}:
        wheel(tmp_path / "index", name, "1.0")
    for name in ("torch", "torchvision"):
        wheel(tmp_path / "cpu", name, "1.0+cpu")
    return folder


def installed(project: Path, target: str, *more: str) -> dict[str, str]:
    """Versions after `make TARGET`."""
    indexes = {"PIP_INDEX_URL": (project.parent / "index").as_uri(), "PIP_CONFIG_FILE": os.devnull}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | indexes
    make = ["make", target, *more]
    done = subprocess.run(make, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = (line.partition("-") for line in os.listdir(next((project / ".venv/lib").glob("*/site-packages"))))
    return {name: rest.removesuffix(".dist-info") for name, _, rest in found if rest.endswith(".dist-info")}


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("cpu", [pytest.param(False, marks=pytest.mark.slow), True])
def test_without_a_gpu_what_only_a_gpu_needs_is_left_out(cpu: bool, project: Path) -> None:
    index = [f"CPU_INDEX={(project.parent / 'cpu').as_uri()}"] if cpu else []
    gpu = {name.replace("-", "_") for name in GPU}
    for target, more in ((".venv/.runtime", index), (".venv/.test", []), (".venv/.test", [])):  # what was chosen stays
        found = installed(project, target, *more)
        os.utime(project / "pyproject.toml", (time.time() + 10, time.time() + 10))  # all is to be installed again
        assert {found["torch"], found["torchvision"]} == {"1.0+cpu" if cpu else "1.0"}
        assert gpu & found.keys() == (set() if cpu else gpu)
        assert found["thing"] == "1.0"
        assert ("tested" in found) == (target == ".venv/.test")
