"""The table of LIVE1: its rows are means over the images, of files as a viewer shows them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.live1 import LIVE1, PUBLISHED, as_decoded, published, read, row
from driftrec.jpeg.codec import degrade


def test_a_row_is_the_mean_over_the_images() -> None:
    generator = np.random.default_rng(0)
    images = {str(side): generator.integers(0, 256, (side, 24, 3), dtype=np.uint8) for side in (16, 40)}
    errors = [np.mean((image / 255.0 - degrade(image, 10) / 255.0) ** 2, axis=(0, 1)) for image in images.values()]
    psnr = np.mean([10 * np.log10(1 / error.mean()) for error in errors])
    cells = [cell.strip() for cell in row("JPEG", images, 10, as_decoded, None).split("|")[1:-1]]
    assert cells[:2] == ["JPEG", f"{psnr:.2f}"]
    assert len(cells) == 5


def test_images_are_found_by_their_suffix_and_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no clean images"):
        read(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "b.bmp")
    (tmp_path / "notes.txt").write_text("")
    assert list(read(tmp_path)) == ["b"]


def test_published_rows_are_those_of_the_quality() -> None:
    assert len(LIVE1) == 29
    assert len(published(10, 0)) == len(PUBLISHED)
    assert [line.split(" ")[1] for line in published(40, 2)] == ["JPEG,", "SwinIR,", "GRL-S"]
    assert {line.count("|") for line in published(20, 2)} == {8}
    assert published(20, 0)[1] == "| QGAC, published | 29.88 | 0.868 |  | |"


@pytest.mark.parametrize("quality", [10, 20, 40])
def test_the_results_show_the_published_rows_as_they_are(quality: int) -> None:
    page = (Path(__file__).parents[2] / "docs/results/comparison.md").read_text()
    _, _, networks = page.partition("## Compared with published networks")
    table = networks.partition(f"| quality {quality} |")[2].partition("\n\n")[0].splitlines()
    shown, known = (
        [[cell.strip() for cell in line.split("|")[1:5]] for line in lines if "published" in line]
        for lines in (table, published(quality, 0))
    )
    assert shown == known
