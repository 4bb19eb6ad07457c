"""Tools that one could install instead: what they make of JPEG files. `apt-get install ffmpeg jpegqs`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Set = NDArray[np.uint8]  # (N, H, W, 3)


def spp(jpegs: Sequence[bytes], qp: int) -> Set:
    """ffmpeg's simple post-processing filter, its best quality, at one quantiser."""
    accurate = "accurate_rnd+full_chroma_int+full_chroma_inp"
    with tempfile.TemporaryDirectory() as folder:
        write(jpegs, Path(folder))
        run(
            *("ffmpeg", "-v", "error", "-i", f"{folder}/%05d.jpg", "-vf", f"spp=6:{qp}", "-sws_flags", accurate),
            *("-pix_fmt", "rgb24", "-start_number", "0", f"{folder}/%05d.png"),
        )
        return read(folder, "png", len(jpegs))


def jpegqs(jpegs: Sequence[bytes]) -> Set:
    """JPEG Quant Smooth, its best quality."""
    with tempfile.TemporaryDirectory() as folder:
        for name in write(jpegs, Path(folder)):
            run("jpegqs", "-q", "6", "-i", "0", name, name.replace(".jpg", ".jpeg"))
        return read(folder, "jpeg", len(jpegs))


def write(jpegs: Sequence[bytes], folder: Path) -> list[str]:
    names = [str(folder / f"{i:05}.jpg") for i in range(len(jpegs))]
    for name, data in zip(names, jpegs, strict=True):
        Path(name).write_bytes(data)
    return names


def read(folder: str, suffix: str, count: int) -> Set:
    return np.stack([np.asarray(Image.open(f"{folder}/{i:05}.{suffix}").convert("RGB")) for i in range(count)])


def run(*command: str) -> None:
    if which(command[0]) is None:
        sys.exit(f"{command[0]} is not installed: apt-get install --no-install-recommends ffmpeg jpegqs")
    subprocess.run(command, check=True, capture_output=True)
