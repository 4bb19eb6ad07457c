"""What do an adaptive start and skipping cost and save on an archive of mixed quality?

python -m benchmarks.adaptive data/photos/devtest [--limit N] [--least 5 --most 95] [--only mean] [--model tiny]

Every photograph becomes two JPEG files, of qualities drawn evenly from --least to --most (4:2:0, every tenth 4:4:4),
and all go through the restore job's own stage, from bytes to bytes, once for each row of the table. Gains are of PSNR
in dB, restored less JPEG: the mean of all files and of those of a range of quality; the last column is the worst of the
files of quality 90 and more. On one core about five minutes for 100 photographs of 256x256.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from driftrec.image import decode
from driftrec.jpeg.codec import encode_jpeg
from pipeline.inputs.listing import list_shards
from pipeline.inputs.shards import read_shard
from pipeline.model_source import find
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard
from pipeline.storage.local import LocalStore

SEED = 102405
RANGES = ((5, 19), (20, 49), (50, 79), (80, 89), (90, 100))
ON = {"adaptive": True}
ARMS: dict[str, dict[str, Any]] = {
    "sample": {},
    "sample, adaptive": ON,
    "sample, adaptive, skip above 90": ON | {"skip_above": 90},
    "mean": {"fidelity": 1.0},
    "mean, adaptive": ON | {"fidelity": 1.0},
    "mean, adaptive, skip above 90": ON | {"fidelity": 1.0, "skip_above": 90},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean PNG images of one size")
    parser.add_argument("--least", type=int, default=5, help="lowest quality")
    parser.add_argument("--most", type=int, default=95, help="highest quality")
    parser.add_argument("--limit", type=int, default=None, help="photographs")
    parser.add_argument("--only", choices=("sample", "mean"), default="", help="half of the rows")
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    names = [path.name for path in sorted(args.folder.glob("*.png"))[: args.limit]]
    clean = [np.asarray(Image.open(args.folder / name).convert("RGB")) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        jpegs = Path(folder) / "jpegs"
        truth = dict(damaged(jpegs, names, clean, args.least, args.most))
        qualities = {key: int(key.split("-q")[1][:-4]) for key in truth}
        before = {key: psnr(truth[key], decode((jpegs / key).read_bytes()).rgb) for key in truth}
        weights = find(args.model)
        print(f"{len(truth)} files of quality {args.least} to {args.most}, model {weights.sha256[:12]}\n")
        spans = " | ".join(f"{low} to {high}" for low, high in RANGES)
        print(f"| | evaluations | skipped | PSNR | gain | {spans} | worst |\n|{'---|' * (6 + len(RANGES))}")
        wanted = {name: changes for name, changes in ARMS.items() if name.startswith(args.only)}
        for number, (name, changes) in enumerate(wanted.items()):
            output = Path(folder) / str(number)
            given = {"model": args.model, "adaptive": False} | changes
            rows = restored(jpegs, output, RestoreSettings(input=str(jpegs), output=str(output), **given))
            files = {row["key"]: (output / row["output"]).read_bytes() for row in rows}
            after = {key: psnr(truth[key], decode(data).rgb) for key, data in files.items()}
            show(name, rows, qualities, before, after)


def damaged(
    folder: Path, names: list[str], clean: list[np.ndarray], least: int, most: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(key, clean image) of every file that is written."""
    folder.mkdir()
    generator = np.random.default_rng(SEED)
    twice = [pair for pair in zip(names, clean, strict=True) for _ in range(2)]
    for number, (name, image) in enumerate(twice):
        quality = int(generator.integers(least, most + 1))
        key = f"{number:03}-{Path(name).stem}-q{quality}.jpg"
        (folder / key).write_bytes(encode_jpeg(image, quality, "4:4:4" if number % 10 == 9 else "4:2:0"))
        yield key, image


def restored(source: Path, output: Path, settings: RestoreSettings) -> list[dict[str, Any]]:
    """Ledger rows of all files, restored as one shard. Raises AssertionError if one failed."""
    weights = find(settings.model)
    stage = RestoreShard(settings, weights, LocalStore(str(output)))
    shards = list_shards(str(source))
    summary = stage(pa.concat_tables([read_shard(shard) for shard in shards])).to_pylist()[0]
    assert summary["error"] is None and not summary["failed"], summary
    return stage.ledger.read_part(shards[0].id).to_pylist()


def psnr(truth: np.ndarray, candidate: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((truth.astype(np.float64) - candidate) ** 2)))


def show(
    name: str,
    rows: list[dict[str, Any]],
    qualities: dict[str, int],
    before: dict[str, float],
    after: dict[str, float],
) -> None:
    """One row of the table."""
    gain = {key: after[key] - before[key] for key in after}
    spans = [[gain[key] for key in gain if low <= qualities[key] <= high] for low, high in RANGES]
    means = " | ".join(f"{np.mean(span):+.2f}" if span else "" for span in spans)
    worst = f"{min(spans[-1]):+.2f}" if spans[-1] else ""
    skipped = sum(row["status"] == "skipped" for row in rows)
    evaluations = np.mean([row["nfe"] for row in rows])
    mean, gained = np.mean(list(after.values())), np.mean(list(gain.values()))
    print(f"| {name} | {evaluations:.2f} | {skipped} | {mean:.2f} | {gained:+.2f} | {means} | {worst} |", flush=True)


if __name__ == "__main__":
    main()
