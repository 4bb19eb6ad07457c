"""How often `double_compression.earlier` sees an earlier compression, and how often it sees one that never was.

    python -m benchmarks.double_compression data/photos/devtest [--images 100]

Every photograph is compressed once at a pair's second quality, and twice: on the same grid, and with 1 to 4 rows and
columns cut off in between, as many as its number in the folder says. Precision is that of as many files of one kind as
of the other. Beside it `driftrec.jpeg.older_blocks.suspected`, on the same files. The last table is of JPEGs that were
saved again without loss.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from PIL import Image

from driftrec.image import decode
from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.jpeg.double_compression import earlier_in, once_jpeg
from driftrec.jpeg.older_blocks import suspected

# The first five are the paper's (Table IV).
GRIDS = ("same", "cut")
ONCE = (None, 10, 30, 50, 75, 85, 90, 95)  # qualities of what is saved again without loss; None: never a JPEG
PAIRS = ((30, 10), (10, 30), (30, 30), (50, 30), (30, 50), (10, 10), (75, 90), (90, 75), (60, 95), (50, 75), (80, 70))


def cuts_of(grid: str, count: int) -> list[tuple[int, int]]:
    """Rows and columns that are cut off so many photographs."""
    return [(0, 0) if grid == "same" else (1 + i % 4, 1 + i // 4 % 4) for i in range(count)]


def look(photo: np.ndarray, first: int | None, second: int, cut: tuple[int, int]) -> tuple[str, int | None, bool]:
    """(verdict, quality that it names, verdict of suspected) on one file."""
    once = photo if first is None else degrade(photo, first)
    data = encode_jpeg(np.ascontiguousarray(shift(once, *cut)), second, "4:2:0")
    seen = earlier_in(data)
    assert seen is not None
    return seen.found, seen.quality, suspected(decode(data).rgb8, second)


def look_at_pixels(photo: np.ndarray, quality: int | None, cut: tuple[int, int]) -> int | None:
    """The quality that shows in a lossless file."""
    once = photo if quality is None else degrade(photo, quality, "4:2:0")
    found = once_jpeg(np.ascontiguousarray(shift(once, *cut)))
    return found.quality if found else None


def main() -> int:
    """Print a Markdown table."""
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    told.add_argument("folder", type=Path)
    told.add_argument("--images", type=int, default=100)
    flags = told.parse_args()
    photos = [np.array(Image.open(path).convert("RGB")) for path in sorted(flags.folder.glob("*.png"))[: flags.images]]
    once = {q: [look(photo, None, q, (0, 0)) for photo in photos] for q in sorted({second for _, second in PAIRS})}
    print("| first / second | grid | recall | precision | names the first quality within 2 | suspected: recall |")
    print("|---|---|---|---|---|---|")
    for first, second in PAIRS:
        wrong = sum(bool(found) for found, _, _ in once[second])
        for grid in GRIDS:
            cuts = cuts_of(grid, len(photos))
            seen = [look(photo, first, second, cut) for photo, cut in zip(photos, cuts, strict=True)]
            right = sum(bool(found) for found, _, _ in seen)
            named = sum(quality is not None and abs(quality - first) <= 2 for _, quality, _ in seen)
            older = sum(older for _, _, older in seen)
            shares = [right / len(photos), right / max(1, right + wrong), named / len(photos), older / len(photos)]
            print(f"| {first} / {second} | {grid} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)
    print("\n| compressed once at | found | suspected |\n|---|---|---|")
    for q, seen in once.items():
        shares = np.mean([(bool(found), older) for found, _, older in seen], axis=0)
        print(f"| {q} | {shares[0]:.2f} | {shares[1]:.2f} |")
    print("\n| then without loss | grid | found | names the quality within 2 |\n|---|---|---|---|")
    for quality in ONCE:
        for grid in GRIDS if quality else GRIDS[:1]:
            pairs = zip(photos, cuts_of(grid, len(photos)), strict=True)
            named = [look_at_pixels(photo, quality, cut) for photo, cut in pairs]
            found = np.mean([of is not None for of in named])
            near = np.mean([of is not None and quality is not None and abs(of - quality) <= 2 for of in named])
            print(f"| {quality or 'never a JPEG'} | {grid} | {found:.2f} | {near:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
