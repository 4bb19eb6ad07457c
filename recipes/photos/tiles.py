"""Cuts photographs into tiles and packs tiles into tar shards. Same photographs, same bytes."""

import hashlib
import io
import random
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

TILE = 512  # pixels, largest side of a tile
SMALLEST = 192  # pixels, smallest side of a tile at the right and lower edges
MULTIPLE = 16  # a 4:2:0 macroblock: JPEG needs no padding at a tile's edge
FLATTEST = 8.0  # standard deviation of the luma (0 to 255) below which a tile teaches nothing
SMALLEST_AT_HALF = 384  # pixels, shorter side that a photograph must keep to be used at half its size too
SHARD_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Tile:
    """A piece of a photograph, as a lossless PNG file."""

    key: str  # unique, no dot: WebDataset cuts a member's name at its first dot
    png: bytes
    width: int
    height: int


def open_upright(data: bytes) -> Image.Image:
    """An image file as 8 bit RGB, its EXIF orientation applied."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def cut(photograph: Image.Image, name: str, reduction: int = 2) -> Iterator[Tile]:
    """The tiles of an RGB photograph, area-reduced by `reduction` and, if it stays large enough, by twice that; no flat
    ones.

    Reduction first: most of these files are JPEGs themselves, and 2x averages their own blocking away.
    """
    for factor in (reduction, 2 * reduction):
        reduced = photograph.reduce(factor)
        if factor > reduction and min(reduced.size) < SMALLEST_AT_HALF:
            return
        for left, top, right, bottom in boxes(*reduced.size):
            tile = reduced.crop((left, top, right, bottom))
            if np.asarray(tile.convert("L")).std() >= FLATTEST:
                yield Tile(f"{_slug(name)}-{factor}x-{top:04d}-{left:04d}", encode(tile), *tile.size)


def boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the tiles of an image, row by row: sides multiples of 16, 192 to 512."""
    for top, tall in _spans(height):
        for left, wide in _spans(width):
            yield left, top, left + wide, top + tall


def _spans(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, TILE):
        size = min(TILE, length - start) // MULTIPLE * MULTIPLE
        if size >= SMALLEST:
            yield start, size


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def write_shards(tiles: Sequence[Tile], folder: Path, seed: int = 0) -> list[dict[str, object]]:
    """Shuffles tiles and writes photos-NNNNN.tar of about 8 MiB; returns name, tiles, bytes, sha256 of each.

    Raises ValueError if two tiles share a key.
    """
    if len({tile.key for tile in tiles}) < len(tiles):
        raise ValueError("two tiles share a key: a photograph is twice in the catalogue")
    shuffled = sorted(tiles, key=lambda tile: tile.key)
    random.Random(seed).shuffle(shuffled)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("photos-*.tar"):
        old.unlink()
    shards = []
    for number, group in enumerate(_groups(shuffled)):
        data = tar(group)
        path = folder / f"photos-{number:05d}.tar"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append({"name": path.name, "tiles": len(group), "bytes": len(data), "sha256": digest})
    return shards


def _groups(tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
    group: list[Tile] = []
    for tile in tiles:
        group.append(tile)
        if sum(len(member.png) for member in group) >= SHARD_BYTES:
            yield group
            group = []
    if group:
        yield group


def tar(tiles: Sequence[Tile]) -> bytes:
    """A WebDataset shard: one member KEY.png a tile; headers say nothing of who or when."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for tile in tiles:
            member = tarfile.TarInfo(f"{tile.key}.png")  # its defaults: mtime, uid and gid 0, no names
            member.size = len(tile.png)
            archive.addfile(member, io.BytesIO(tile.png))
    return buffer.getvalue()


def pixels_sha256(tiles: Sequence[Tile]) -> str:
    """One hash over keys, sizes and pixels of all tiles; whatever their order and the PNG compressor."""
    digest = hashlib.sha256()
    for tile in sorted(tiles, key=lambda tile: tile.key):
        pixels = np.asarray(Image.open(io.BytesIO(tile.png)))
        digest.update(f"{tile.key} {pixels.shape}\n".encode() + pixels.tobytes())
    return digest.hexdigest()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
