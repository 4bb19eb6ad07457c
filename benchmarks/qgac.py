"""QGAC as an arm: a network of its kind trained here, and what comes of it beside the JPEGs it was given.

python -m benchmarks.qgac data/photos data/standins [--steps 800] [--width 32] [--images 24] [--keep FOLDER]

The patches are those of `benchmarks.ablations`, at a quality of 10, 20, ... or 100 each, 4:2:0. Prints a row for the
JPEGs and one for the network, at quality 10. --keep stores the weights, for `--model qgac:PATH`.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.ablations import batches
from benchmarks.scores import Scores, cells, clean_images, header
from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.models.qgac import Coefficients
from driftrec.networks.qgac import QGAC, QGACConfig
from driftrec.random import generator_for
from driftrec.restoration.opening import open_picture
from driftrec.training.patches import PatchConfig
from driftrec.training.qgac import Recipe, compressed, loss, train

JUDGED = 16  # batches, whose loss before and after stands beside each other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="what `python -m recipes.photos` has left")
    parser.add_argument("standins", type=Path, help="folder of the stand-ins' weights")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--width", type=int, default=32, help="channels at the block grid; the paper's network has 256")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--keep", type=Path, default=Path("runs/arms"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, clean = clean_images(args.photos / "devtest", args.images)
    score = Scores(clean, args.standins)
    pictures = [open_picture(encode_jpeg(image, 10, "4:2:0")) for image in clean]
    print(f"{args.steps} steps of 8 patches, {len(names)} images\n\n" + header("what"), flush=True)
    print(f"| jpeg | {cells(score(np.stack([picture.rgb8 for picture in pictures])))} |", flush=True)
    path = trained(args.photos, args.keep, args.width, Recipe(steps=args.steps, lr=args.lr))
    done = Restorer.from_pretrained(f"qgac:{path}").restore(pictures, names)
    print(f"| qgac, width {args.width} | {cells(score(np.stack([one.picture.rgb8 for one in done])))} |", flush=True)


def trained(photos: Path, folder: Path, width: int, recipe: Recipe) -> Path:
    """Weights after so many steps, a network whose parts keep the proportions of the paper's."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = QGAC(QGACConfig(manifold=width // 4, width=width, features=width // 4, chroma=width // 8))
    stream = pairs(photos)
    judged = list(islice(stream, JUDGED))
    before = mean_loss(network, judged)
    deque(train(network, stream, recipe), maxlen=0)
    after = mean_loss(network, judged)
    print(f"\nloss of {JUDGED} batches aside: {before:.5f} at first, {after:.5f} at last\n", flush=True)
    path = folder / f"qgac {width} {recipe.steps}.safetensors"
    save_file(network.state_dict(), path)
    return path


@torch.inference_mode()
def mean_loss(network: QGAC, judged: Sequence[tuple[Coefficients, Tensor]]) -> float:
    """Over batches, nothing being learnt."""
    return sum(loss(network, said, clean).item() for said, clean in judged) / len(judged)


def pairs(photos: Path) -> Iterator[tuple[Coefficients, Tensor]]:
    """Eight patches at a time, for ever: what their files say, and the patches; without what says nothing."""
    draw = generator_for("qgac", "qualities")
    for clean, _ in batches(photos, PatchConfig(share_444=0, share_grey=0, share_double=0)):
        patches = clean.permute(0, 2, 3, 1).contiguous().numpy()
        qualities = (10 * draw.integers(1, 11, len(patches))).tolist()
        try:
            said = compressed(patches, qualities)
        except ValueError:  # black and white noise in one of them
            continue
        yield said, clean.float() / 255


if __name__ == "__main__":
    main()
