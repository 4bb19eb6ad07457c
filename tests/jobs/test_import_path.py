"""What lies beside the pictures is data: no process of a run imports it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import made

CANARY = """
import os, sys
open({flag!r}, "a").write(f"{{os.getpid()}} {{__name__}} {{sys.argv}}\\n")
"""
# Of the standard library, of what workers load, and our own packages.
MODULES = ("colorsys", "html", "scipy", "numpy", "lpips", "yaml", "pipeline", "driftrec", "jobs", "sitecustomize")


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of pictures with modules beside them, and the file that tells which ran."""
    folder, flag = made.folder(tmp_path / "archive", 2), tmp_path / "ran"
    for name in MODULES:
        (folder / f"{name}.py").write_text(CANARY.format(flag=str(flag)))
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(CANARY.format(flag=str(flag)))
    return folder, flag


@pytest.mark.parametrize(
    "arguments",
    [
        "restore . {out} --model identity --actors 1",
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (
                "degrade . {out} --quality 10",
                "survey . {out} --calibration 0 --pixels all",
                "evaluate . {out} --model x=identity --quality 10 --metrics psnr",
                "train . {out} --steps 1 --set network.width=8 --set batch_size=1 --set patches.size=32",
            )
        ),
    ],
    ids=lambda arguments: arguments.split()[0],
)
def test_no_module_beside_the_pictures_is_imported(arguments: str, trap: tuple[Path, Path], tmp_path: Path) -> None:
    folder, flag = trap
    command = Path(sys.executable).with_name("driftrec")  # `python -m` means the current folder's modules by definition
    words = arguments.format(out=tmp_path / "out").split()
    done = subprocess.run([command, *words], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert not flag.exists(), flag.read_text()
    assert done.returncode == 0, done.stderr.decode()[-2000:]
