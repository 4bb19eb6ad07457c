"""Makes docs/images/contact-sheet.webp: `python -m recipes.contact_sheet [--rows 4] [--model tiny]`. Needs data/photos
and ffmpeg.

Some photographs of the development test at quality 10, 4:2:0; from left to right: clean, JPEG, ffmpeg's spp=6:20, the
model's mean, what it recommends: a sample of 2 evaluations.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.other_tools import spp
from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling

QUALITY, QP, GAP = 10, 20, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=4, help="photographs")
    parser.add_argument("--photos", type=Path, default=Path("data/photos/devtest"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/contact-sheet.webp"))
    args = parser.parse_args()
    files = sorted(args.photos.glob("*.png"))
    files = files[3 :: len(files) // args.rows][: args.rows]
    clean = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    jpegs = [encode_jpeg(image, QUALITY, "4:2:0") for image in clean]
    pictures = [open_picture(data) for data in jpegs]
    restorer, keys = Restorer.from_pretrained(args.model), [file.name for file in files]

    def by(sampling: Sampling) -> list[np.ndarray]:
        return [done.picture.rgb for done in restorer.restore(pictures, keys, 0, sampling)]

    mean, sample = by(Sampling(fidelity=1.0)), by(Sampling())
    columns = [clean, [picture.rgb for picture in pictures], list(spp(jpegs, QP)), mean, sample]
    side = clean[0].shape[0] + GAP
    sheet = np.full((args.rows * side - GAP, len(columns) * side - GAP, 3), 255, np.uint8)
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            sheet[y * side : (y + 1) * side - GAP, x * side : (x + 1) * side - GAP] = image
    Image.fromarray(sheet).save(args.out, quality=80)


if __name__ == "__main__":
    main()
