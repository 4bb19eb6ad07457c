"""How much memory and time does a large image take? Each in a process of its own, through the restore job's stage.

python -m benchmarks.large data/photos/devtest [--megapixels 1,24,100] [--model tiny] [--fidelity 1]
                                               [--subsampling 4:2:0] [--format png]

A mosaic of the photographs is mirrored to each size and stored as a JPEG of quality 30. Prints the peak of resident
memory of the worker, decoding, restoring and writing, and the seconds of CPU a megapixel. --model identity measures
everything around the network. One core, one evaluation (fidelity 1): about three seconds a megapixel.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from driftrec.jpeg.codec import encode_jpeg

ASPECT = 4 / 3
QUALITY = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="PNG images of one size")
    parser.add_argument("--megapixels", default="1,24,100")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--fidelity", type=float, default=1.0)
    parser.add_argument("--subsampling", default="4:2:0")
    parser.add_argument("--format", default="png")
    args = parser.parse_args()
    print("| megapixels | size | peak, MiB | CPU seconds | a megapixel |\n|---|---|---|---|---|")
    for megapixels in map(float, args.megapixels.split(",")):
        height = int((megapixels * 1e6 / ASPECT) ** 0.5)
        width = int(megapixels * 1e6 / height)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "in").mkdir()
            data = encode_jpeg(mirrored(mosaic(args.folder), height, width), QUALITY, args.subsampling)
            (Path(folder) / "in/large.jpg").write_bytes(data)
            given = {"model": args.model, "fidelity": args.fidelity, "format": args.format}
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(restored, (Path(folder), given))
        rate = seconds * 1e6 / (height * width)
        print(f"| {megapixels:g} | {width}x{height} | {peak:.0f} | {seconds:.1f} | {rate:.2f} |", flush=True)


def restored(folder: Path, given: dict[str, object]) -> tuple[float, float]:
    """(peak of this process in MiB, seconds of CPU) of restoring folder/in to folder/out."""
    from pipeline.inputs.listing import list_shards
    from pipeline.inputs.shards import read_shard
    from pipeline.model_source import find
    from pipeline.restore.settings import RestoreSettings
    from pipeline.restore.stage import RestoreShard
    from pipeline.storage.local import LocalStore

    settings = RestoreSettings.model_validate(given | {"input": str(folder / "in"), "output": str(folder / "out")})
    stage = RestoreShard(settings, find(settings.model), LocalStore(settings.output))
    table = read_shard(list_shards(settings.input)[0])
    begun = time.process_time()
    summary = stage(table).to_pylist()[0]
    seconds = time.process_time() - begun
    assert summary["ok"] == 1, summary
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds


def mosaic(folder: Path) -> np.ndarray:
    """All photographs side by side, as square as may be."""
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    side = int(len(images) ** 0.5)
    return np.concatenate([np.concatenate(images[i * side : (i + 1) * side], axis=1) for i in range(side)])


def mirrored(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3), the image at the corner."""
    rest = [max(0, wanted - length) for wanted, length in zip((height, width), image.shape[:2], strict=True)]
    return np.pad(image, [(0, rest[0]), (0, rest[1]), (0, 0)], mode="symmetric")[:height, :width]


if __name__ == "__main__":
    main()
