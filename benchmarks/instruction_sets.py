"""Do CPUs of different instruction sets restore the same bytes?

python -m benchmarks.instruction_sets data/photos/devtest [--images 12]

Photographs of quality 10, 4:2:0, the model's mean and what it recommends: as this CPU computes (in bfloat16 where it
has that), by it in float32, and in float32 by AVX2, as a CPU without AVX-512 does. Prints the share of 8-bit values
that differ from those of float32 here, the largest difference in levels, and CPU seconds a megapixel.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.scores import clean_images
from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # PyTorch's own kernels, and its library's
PATHS = ("mean", "as recommended")
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "as it comes": ("no", {}),
    "float32": ("yes", {}),
    "float32 by AVX2": ("yes", AVX2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean PNG images of one size")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--out", type=Path, default=None, help=argparse.SUPPRESS)  # of the processes that do it
    parser.add_argument("--float32", choices=("yes", "no"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out:
        np.savez(args.out, **restored(args.folder, args.images, args.float32 == "yes"))
        return
    found = {way: by_itself(sys.argv[1:], *how) for way, how in WAYS.items()}
    print("| | network | values that differ | by at most | s/megapixel |\n" + "|---" * 5 + "|")
    for path in PATHS:
        truth = found["float32"][path].astype(int)
        for way, of in found.items():
            off = abs(of[path] - truth)
            share, seconds = 100 * np.mean(off > 0), of[f"seconds, {path}"]
            print(f"| {path} | {way} | {share:.2f} % | {off.max()} | {seconds:.2f} |", flush=True)


def by_itself(arguments: list[str], float32: str, environment: dict[str, str]) -> dict[str, np.ndarray]:
    """What a process with these variables restores: the instruction set is chosen when PyTorch is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "restored.npz"
        command = [sys.executable, "-m", "benchmarks.instruction_sets", *arguments]
        subprocess.run([*command, "--out", str(out), "--float32", float32], check=True, env=os.environ | environment)
        return dict(np.load(out))


def restored(folder: Path, count: int, float32: bool) -> dict[str, np.ndarray]:
    """(N, H, W, 3) of each path, and CPU seconds a megapixel."""
    torch.set_num_threads(1)
    names, clean = clean_images(folder, count)
    restorer = Restorer.from_pretrained("tiny")
    pictures = [open_picture(encode_jpeg(image, 10, "4:2:0")) for image in clean]
    found: dict[str, np.ndarray] = {}
    for path in PATHS:
        sampling = Sampling(fidelity=1.0, float32=float32) if path == "mean" else Sampling(float32=float32)
        begun = time.process_time()
        done = restorer.restore(pictures, names, 0, sampling)
        found[f"seconds, {path}"] = np.array((time.process_time() - begun) / (clean[..., 0].size / 1e6))
        found[path] = np.stack([one.picture.rgb8 for one in done])
    return found


if __name__ == "__main__":
    main()
