"""What a machine's GPU gives, in two minutes at most: what to run first where there is one.

python -m benchmarks.gpu [--device cuda|cpu] [--data data/photos] [--small]

Prints a Markdown table, a line as soon as it is known: equality with the CPU (largest difference of the mean, in levels
of 255), megapixels a second of restore by tile and batch, an evaluation of the paper's network, training steps of
`recipes.embedded` and, with --data, the share of the time that they do not wait for patches; and where the work of a
restore goes beside the network, a megapixel: decoding, noise, to the device and back, finishing (colours, the JPEG's
constraint), encoding. --small is for a CPU: the same, of little pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from driftrec import Restorer
from driftrec.image import encode, from_pil
from driftrec.jpeg.codec import encode_jpeg
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp
from driftrec.noise import gaussian
from driftrec.restoration.finishing import finish
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Plan, Sampling
from driftrec.restoration.tiling import Canvas, tiles
from driftrec.training.learner import Learner
from recipes.embedded import plan
from recipes.embedded.data import Batches, read_photographs

SECONDS = 2.0  # that a measurement goes on for


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=None, help="what `python -m recipes.photos` has left")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; leave it out, or take --device cpu")
    device, small = torch.device(args.device), args.small
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, PyTorch {torch.__version__}\n\n| what | |\n|---|---|")
    tell("mean, largest difference from the CPU's", f"{difference(device, 128 if small else 1024):.0f} levels of 255")
    tell("noise on the device, values that differ from a CPU's", str(unlike_noise(device, 128 if small else 1024)))
    for tile, batch in ((128, 1), (128, 2)) if small else ((256, 1), (256, 16), (512, 1), (512, 8), (512, 32)):
        speed = megapixels_a_second(device, tile, batch)
        tell(f"mean, tiles of {tile}, {batch} at once", f"{speed:.2f} megapixels/s")
    for batch in () if small else (1, 8):
        tell(f"paper's network, {batch} x 256x256", f"{1000 * paper_seconds(device, batch):.1f} ms")
    for batch in (2,) if small else (8, 32, 128):
        alone, fed = training(device, batch, args.data)
        waiting = f", not waiting for patches {100 * alone / fed:.0f} % of the time" if fed else ""
        tell(f"training, {batch} x {plan.PATCHES.size}x{plan.PATCHES.size}", f"{1 / alone:.2f} steps/s{waiting}")
    for what, seconds in beside(device, 256 if small else 1024).items():
        tell(f"{what}, one core", f"{seconds:.3f} s/megapixel")
    return 0


def tell(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def scene(side: int) -> np.ndarray:
    """Something smooth with edges and grain: (side, side, 3) uint8."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    smooth[side // 4 : side // 2] //= 2
    return (smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def difference(device: torch.device, side: int) -> float:
    """Of the embedded model's mean on this device and on the CPU."""
    picture = from_pil(Image.open(io.BytesIO(encode_jpeg(scene(side), 10, "4:2:0"))).convert("RGB"))
    both = [
        Restorer.from_pretrained("tiny", where).restore([picture], ["scene"], 0, Sampling(fidelity=1.0))[0].picture.rgb8
        for where in ("cpu", device)
    ]
    return float(np.abs(both[0].astype(int) - both[1].astype(int)).max())


def unlike_noise(device: torch.device, side: int) -> int:
    """Of the noise that is drawn on this device."""
    here, there = (gaussian(side, side, key="scene", seed=0, device=of).cpu() for of in (torch.device("cpu"), device))
    return int((here != there).sum())


def megapixels_a_second(device: torch.device, tile: int, batch: int) -> float:
    """Of the mean of pictures as large as a tile, so many at once; decoding and encoding are not in it."""
    restorer, keys = Restorer.from_pretrained("tiny", device), [str(i) for i in range(batch)]
    pictures = [from_pil(Image.fromarray(scene(tile)))] * batch
    seconds = mean_seconds(lambda: restorer.restore(pictures, keys, 0, Sampling(fidelity=1.0, tile=tile)), device)
    return batch * tile**2 / 1e6 / seconds


def paper_seconds(device: torch.device, batch: int) -> float:
    """One evaluation of the paper's network in bfloat16."""
    network = NCSNpp(NetworkConfig.paper()).eval().to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.rand(batch, 3, 256, 256, device=device).bfloat16()
    level = torch.zeros((), device=device)
    with torch.inference_mode():
        return mean_seconds(lambda: network(x, x, level), device)


def training(device: torch.device, batch: int, data: Path | None) -> tuple[float, float]:
    """Seconds a step of patches that are there, and of those that are drawn meanwhile (0 without data)."""
    torch.manual_seed(0)
    settings = plan.optimisation(plan.sizes(device.type, fresh=True), device.type)
    learner = Learner(plan.denoiser(plan.NETWORK).to(device), plan.STAGES[0].density, settings, blocking=plan.BLOCKING)
    side = plan.PATCHES.size
    clean = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    alone = mean_seconds(lambda: learner.step(clean, clean), device)
    if data is None:
        return alone, 0.0
    workers = min(12, (os.cpu_count() or 1) - 1)
    drawn = Batches(read_photographs(data).train, plan.PATCHES, batch).since(0, workers)
    return alone, mean_seconds(lambda: learner.step(*next(drawn)), device)


def beside(device: torch.device, side: int) -> dict[str, float]:
    """CPU seconds a megapixel of what goes along with every evaluation (noise) or picture (the others)."""
    pixels = scene(side)
    encoded = encode_jpeg(pixels, 10, "4:2:0")
    picture = open_picture(encoded)
    plan = Plan(Sampling().resolve({}), 1.0, 10)
    canvas, (tile,) = Canvas(side, side), tiles(side, side, None)
    canvas.add(tile, picture.rgb.astype(np.float32) / 255)
    image = torch.from_numpy(pixels.astype(np.float32))
    tasks: dict[str, Callable[[], object]] = {
        "decoding a JPEG": lambda: open_picture(encoded),
        "noise on the CPU": lambda: gaussian(side, side, key="scene", seed=0),
        "noise on the device": lambda: gaussian(side, side, key="scene", seed=0, device=device),
        "to the device and back": lambda: image.to(device, copy=True).cpu().numpy(),
        "finishing": lambda: finish(picture, canvas, plan, nfe=1),
        "encoding a PNG": lambda: encode(picture, "png"),
    }
    return {name: mean_seconds(task, device) / (side**2 / 1e6) for name, task in tasks.items()}


def mean_seconds(task: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of a call, over SECONDS, after one that warms up."""
    task()
    wait_for(device)
    begun, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - begun < SECONDS:
        task()
        calls += 1
    wait_for(device)
    return (time.perf_counter() - begun) / calls


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
