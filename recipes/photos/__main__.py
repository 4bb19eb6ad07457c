"""Prepares the photographs that the embedded model learns from: `python -m recipes.photos [OUT]`.

Leaves OUT/train/photos-NNNNN.tar (tiles), OUT/held_out/photos-00000.tar (a tile each of photographs never trained on,
which tell how a training goes), OUT/devtest/*.png (never trained on either), OUT/photos.json (what came from where,
under which licence) and, last, OUT/READY. Needs Debian 12's apt-get and dpkg-deb, pip, npm, 5 GB of disk and, once, the
network.
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
    cut, records = prepare(out)
    train = cut["train"]
    shards = tiles.write_shards(train, out / "train")
    tiles.write_shards(cut["held_out"], out / "held_out")
    summary = {
        "photographs": sum(record["use"] == "train" for record in records),
        "tiles": len(train),
        "megapixels": round(sum(tile.width * tile.height for tile in train) / 1e6, 1),
        "shards": len(shards),
        "held_out": sum(record["use"] == "held_out" for record in records),
        "development_test": sum(record["use"] == "devtest" for record in records),
        "kept_out_for_examples": sum(record["use"] == "example" for record in records),
        "tile_pixels_sha256": tiles.pixels_sha256(train),
    }
    table = {"summary": summary, "packages": versions, "photographs": records, "shards": shards}
    (out / "photos.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    (out / "READY").write_text(json.dumps(summary) + "\n")
    log.info("%s", json.dumps(summary))
    return 0


def prepare(out: Path) -> tuple[dict[str, list[tiles.Tile]], list[dict[str, str | int | float]]]:
    """Cuts the photographs to train on and those held out (one tile of each), writes the development test; returns the
    tiles of both, a record a photograph.
    """
    tiles_of: dict[str, list[tiles.Tile]] = {"train": [], "held_out": []}
    records: list[dict[str, str | int | float]] = []
    for source, data in fetch.photographs(out / "packages"):
        image = tiles.open_upright(data)
        cut: list[tiles.Tile] = []
        if source.use in tiles_of:
            cut = list(tiles.cut(image, name_of(source), source.reduction))
            cut = cut if source.use == "train" else cut[:1]
            tiles_of[source.use] += cut
        elif source.use == "devtest":
            path = out / "devtest" / f"{int(PurePosixPath(source.file).stem):03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiles.encode(image.reduce(2).crop(DEVTEST)))
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
    return tiles_of, records


def name_of(source: Photograph) -> str:
    """A name that stays the same and is one photograph's only: package and the telling part of the path."""
    path = PurePosixPath(source.file)
    telling = path.parts[-4] if source.package == "plasma-workspace-wallpapers" else f"{path.parent.name}-{path.stem}"
    return f"{source.package}-{telling}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
