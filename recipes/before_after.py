"""README's picture, after `make demo`: `python -m recipes.before_after out/demo docs/images/before-after.webp`."""

import sys
from pathlib import Path

from PIL import Image

ARCHIVE = Path("examples/archive")
CROPS = {  # name below the archive: (left, top) of a square, of the side below
    "flowers/marigold.jpg": (0.35, 0.3),
    "animals/dog.jpg": (0.35, 0.2),
    "landscapes/boats.jpg": (0.3, 0.4),
}
SIDE, ZOOM, GAP = 160, 2, 16  # pixels of the image, enlargement, pixels between


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    demo, target = map(Path, argv)
    shown = SIDE * ZOOM
    sheet = Image.new("RGB", (len(CROPS) * (2 * shown + GAP) - GAP, shown), "white")
    left = 0
    for name, place in CROPS.items():
        for path in (ARCHIVE / name, (demo / "images" / name).with_suffix(".png")):
            sheet.paste(
                crop(Image.open(path).convert("RGB"), place).resize((shown, shown), Image.Resampling.NEAREST), (left, 0)
            )
            left += shown
        left += GAP
    sheet.save(target, quality=85)
    return 0


def crop(image: Image.Image, place: tuple[float, float]) -> Image.Image:
    """A square of the image; the place is relative to the room there is."""
    left, top = (round(share * (side - SIDE)) for share, side in zip(place, image.size, strict=True))
    return image.crop((left, top, left + SIDE, top + SIDE))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
