"""Data, weights and code in a few files, for a machine without a network: plain tars, to be unpacked into one folder.

That folder is then both a checkout and what `recipes.embedded` takes as DATA. pack.json, in it, names every file with
its sha256, so that a file that is cut or missing is told before an accelerator's minutes are spent.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from PIL import Image

from driftrec.errors import InvalidInput
from recipes.embedded import plan

VERSION = 1
INDEX = "pack.json"
LARGEST = 60_000_000  # bytes of a file
QUALITY = 95  # of the tiles, JPEG at 4:4:4: what they were cut from was JPEG, too
ROOT = Path(__file__).parents[2]
CODE = ("pyproject.toml", "README.md", "LICENSE", "driftrec/**/*", "recipes/**/*.*", "benchmarks/*.py")


def write_pack(data: Path, out: Path, features: Path, weights: Path | None = None) -> list[Path]:
    """embedded-N.tar under `out`; the classifier's layers get the place at which the training looks for them, the
    weights become init.safetensors. Raises InvalidInput for data without tars.
    """
    photos = [sorted((data / folder).glob("*.tar")) for folder in ("train", "held_out")]
    if not all(photos):
        raise InvalidInput(f"{data}: no tars in train/ or held_out/; make them with: python -m recipes.photos {data}")
    files = {name: (ROOT / name).read_bytes() for name in code()}
    files[str(plan.FEATURES)] = features.read_bytes()
    files |= {"init.safetensors": weights.read_bytes()} if weights else {}
    files |= {str(path.relative_to(data)): as_jpeg(path) for path in chain(*photos)}
    index = {"version": VERSION, "files": {name: sha256(content) for name, content in files.items()}}
    files = {INDEX: json.dumps(index, indent=1).encode()} | files
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, names in enumerate(parts({name: len(content) for name, content in files.items()})):
        written.append(out / f"embedded-{number}.tar")
        with tarfile.open(written[-1], "w") as tar:
            for name in names:
                add(tar, name, files[name])
    return written


def check_pack(data: Path) -> None:
    """Raises InvalidInput naming a file of an unpacked pack that is cut, missing or of another version."""
    if not (data / INDEX).exists():
        return
    index = json.loads((data / INDEX).read_bytes())
    if index["version"] != VERSION:
        raise InvalidInput(
            f"{data / INDEX}: a pack of version {index['version']}, this code reads {VERSION}; pack again"
        )
    for name, expected in index["files"].items():
        path = data / name
        if not path.is_file() or sha256(path.read_bytes()) != expected:
            raise InvalidInput(f"{path}: not as it was packed; unpack every embedded-*.tar into {data} again")


def code() -> Iterator[str]:
    """Files of this checkout that the training needs, by their paths."""
    for pattern in CODE:
        found = (path for path in ROOT.glob(pattern) if path.is_file() and "__pycache__" not in path.parts)
        yield from sorted(str(path.relative_to(ROOT)) for path in found)


def as_jpeg(path: Path) -> bytes:
    """A tar of tiles with the tiles as JPEG."""
    packed = io.BytesIO()
    with tarfile.open(path) as tiles, tarfile.open(fileobj=packed, mode="w") as tar:
        for member in tiles:
            content = tiles.extractfile(member)
            if content is not None:
                buffer = io.BytesIO()
                image = Image.open(io.BytesIO(content.read())).convert("RGB")
                image.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
                add(tar, str(Path(member.name).with_suffix(".jpg")), buffer.getvalue())
    return packed.getvalue()


def parts(sizes: dict[str, int]) -> list[list[str]]:
    """Names in order, cut where the next would make a tar larger than LARGEST."""
    cut: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        size = size + 3 * tarfile.BLOCKSIZE  # its header and its padding
        if total + size > LARGEST - tarfile.RECORDSIZE and cut[-1]:
            cut.append([])
            total = 0
        cut[-1].append(name)
        total += size
    return cut


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member; the same content makes the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
