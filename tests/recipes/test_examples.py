"""What the demo's archive must hold, read from the committed files themselves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from recipes.examples import EXAMPLES, NOT_FOUND, name_of
from recipes.photos.catalogue import CATALOGUE

ARCHIVE = Path(__file__).parents[2] / "examples" / "archive"
CREDITS = ARCHIVE.parent / "CREDITS.md"
GOOD = [example for example in EXAMPLES if example.special != "truncated"]
SUBSAMPLING = {0: "4:4:4", 2: "4:2:0"}  # Pillow's codes
# The first row of the luma table of the JPEG standard (ITU-T T.81, table K.1), which quality scales.
LUMA_ROW = np.array([16, 11, 10, 16, 24, 40, 51, 61])


def opened(example) -> Image.Image:
    image = Image.open(ARCHIVE / example.name)
    image.load()
    return image


def of(special: str) -> Image.Image:
    (example,) = [example for example in EXAMPLES if example.special == special]
    return opened(example)


def test_the_archive_holds_what_the_recipe_lists_and_nothing_else():
    files = {str(path.relative_to(ARCHIVE)) for path in ARCHIVE.rglob("*") if path.is_file()}
    assert files == {example.name for example in EXAMPLES} | {NOT_FOUND}
    assert 16 <= len(GOOD) <= 20
    assert len({example.source for example in GOOD}) >= 10
    assert len({Path(name).parent for name in files}) >= 4  # the output mirrors a tree


def test_the_archive_is_small():
    sizes = [(ARCHIVE / example.name).stat().st_size for example in EXAMPLES]
    assert sum(sizes) < 3_000_000
    pixels = [width * height for width, height in (opened(example).size for example in GOOD)]
    assert sum(pixels) <= 5_000_000


@pytest.mark.parametrize("example", GOOD, ids=lambda example: example.name)
def test_each_file_is_the_jpeg_that_the_recipe_says(example):
    image = opened(example)
    assert image.format == "JPEG"
    scale = 5000 // example.quality if example.quality < 50 else 200 - 2 * example.quality  # libjpeg's rule
    expected = np.clip((LUMA_ROW * scale + 50) // 100, 1, 255)
    assert image.quantization[0][:8] == expected.tolist()
    if image.mode != "L":
        assert SUBSAMPLING[JpegImagePlugin.get_sampling(image)] == example.subsampling
    assert ImageOps.exif_transpose(image).size == example.size
    assert all(150 <= side <= 1200 for side in image.size)


def test_the_archive_spans_qualities_sides_and_samplings():
    assert min(example.quality for example in GOOD) == 5
    assert max(example.quality for example in GOOD) == 60
    sides = [side for example in GOOD for side in example.size]
    assert (min(sides), max(sides)) == (150, 1200)
    assert {example.subsampling for example in GOOD} == {"4:2:0", "4:4:4"}


def test_one_grey_one_progressive_one_rotated_one_with_a_profile():
    assert of("grey").mode == "L"
    assert of("progressive").info.get("progressive")
    assert of("orientation").getexif()[0x0112] == 6
    assert of("icc").info["icc_profile"][36:40] == b"acsp"  # the signature of every ICC profile
    plain = [opened(example) for example in GOOD if not example.special]
    assert not any(image.info.get("progressive") or image.info.get("icc_profile") for image in plain)
    assert not any(image.getexif() or image.mode != "RGB" for image in plain)


def test_the_twice_compressed_file_carries_the_grid_of_its_first_compression():
    """Steps across columns are largest where the first 8x8 grid lay: four pixels beside the file's own."""
    luma = np.asarray(of("twice").convert("L"), dtype=float)
    steps = np.abs(np.diff(luma, axis=1)).mean(axis=0)  # steps[i]: from column i to i + 1
    by_phase = [steps[phase::8].mean() for phase in range(8)]
    assert int(np.argmax(by_phase)) == 3


def test_the_two_bad_files_are_bad():
    (cut,) = [example for example in EXAMPLES if example.special == "truncated"]
    with pytest.raises(OSError, match="truncated"):
        opened(cut)
    with pytest.raises(UnidentifiedImageError):
        Image.open(ARCHIVE / NOT_FOUND)
    assert (ARCHIVE / NOT_FOUND).read_text().startswith("<!DOCTYPE html>")


def test_credits_name_every_file_with_title_author_licence_and_source():
    sources = {name_of(entry): entry for entry in CATALOGUE if entry.use == "example"}
    rows = {}
    for line in CREDITS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = cells[1:]
    assert NOT_FOUND in rows
    for example in EXAMPLES:
        source = sources[example.source]
        title, author, licence, origin, done = rows[example.name]
        assert (title, author, origin) == (example.title, source.author, f"{source.package}: {source.file}")
        assert licence.startswith(f"[{source.licence}](https://")
        assert f"quality {example.quality}" in done


def test_the_sources_of_the_examples_are_kept_out_of_training():
    kept_out = {name_of(entry) for entry in CATALOGUE if entry.use == "example"}
    trained_on = {name_of(entry) for entry in CATALOGUE if entry.use == "train"}
    assert {example.source for example in EXAMPLES} == kept_out
    assert not kept_out & trained_on
