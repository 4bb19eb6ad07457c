"""Prepares the photographs that the embedded model learns from: `python -m recipes.photos [OUT]`.

Leaves OUT/train/photos-NNNNN.tar (tiles), OUT/devtest/*.png (never trained on), OUT/photos.json (what came
from where, under which licence) and, last, OUT/READY. Needs Debian 12's apt-get and dpkg-deb, pip, 2 GB of
disk and, once, the network.
"""

import argparse
import hashlib
import json
import logging
import sys
from pathlib import Path, PurePosixPath

from recipes.photos import fetch, tiles
from recipes.photos.catalogue import Photograph

log = logging.getLogger("recipes.photos")

DEVTEST = (0, 0, 256, 256)  # two of the hundred are 513 high before they are reduced


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.photos", description=__doc__)
    parser.add_argument(
        "out", nargs="?", type=Path, default=Path("data/photos"), help="folder to fill (default: data/photos)"
    )
    out: Path = parser.parse_args(argv).out
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    (out / "READY").unlink(missing_ok=True)
    versions = fetch.fetch(out / "packages")
    train, records = prepare(out)
    shards = tiles.write_shards(train, out / "train")
    summary = {
        "photographs": sum(record["use"] == "train" for record in records),
        "tiles": len(train),
        "megapixels": round(sum(float(record["tile_megapixels"]) for record in records), 1),
        "shards": len(shards),
        "development_test": sum(record["use"] == "devtest" for record in records),
        "kept_out_for_examples": sum(record["use"] == "example" for record in records),
        "tile_pixels_sha256": tiles.pixels_sha256(train),
    }
    table = {"summary": summary, "packages": versions, "photographs": records, "shards": shards}
    (out / "photos.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    (out / "READY").write_text(json.dumps(summary) + "\n")
    log.info("%s", json.dumps(summary))
    return 0


def prepare(out: Path) -> tuple[list[tiles.Tile], list[dict[str, str | int | float]]]:
    """Cuts the training photographs, writes the development test; returns tiles, a record a photograph."""
    train: list[tiles.Tile] = []
    records: list[dict[str, str | int | float]] = []
    for source, data in fetch.photographs(out / "packages"):
        image = tiles.open_upright(data)
        cut: list[tiles.Tile] = []
        if source.use == "train":
            cut = list(tiles.cut(image, name_of(source)))
        elif source.use == "devtest":
            path = out / "devtest" / f"{int(PurePosixPath(source.file).stem):03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiles.encode(image.reduce(2).crop(DEVTEST)))
        train += cut
        pixels = sum(tile.width * tile.height for tile in cut)
        records.append(
            {
                "package": source.package,
                "file": source.file,
                "use": source.use,
                "licence": source.licence,
                "author": source.author,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "width": image.width,
                "height": image.height,
                "tiles": len(cut),
                "tile_megapixels": round(pixels / 1e6, 3),
            }
        )
        log.info("%s %s: %d tiles", source.package, PurePosixPath(source.file).name, len(cut))
    return train, records


def name_of(source: Photograph) -> str:
    """A name that stays the same and is one photograph's only: package and the telling part of the path."""
    path = PurePosixPath(source.file)
    telling = path.parts[-4] if source.package.startswith("plasma") else f"{path.parent.name}-{path.stem}"
    return f"{source.package}-{telling}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
