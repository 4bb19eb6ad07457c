"""What the restore stage leaves as it is, and what it says of the others in their own metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from driftrec import __version__
from driftrec.jpeg.codec import degrade, encode_jpeg
from driftrec.metrics.blockiness import bef_u8
from driftrec.models.checkpoint import load
from pipeline.inputs.names import copy_name, output_name
from tests.driftrec.pictures import RGB, exif_bytes, saved
from tests.pipeline.restore.test_stage import restore

PHOTO = np.ascontiguousarray(astronaut()[20:148, 100:260])
GIF = saved(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good and bad JPEGs, a PNG and an animation."""
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for quality in (50, 89, 90, 95):
        (source / f"{quality}.jpg").write_bytes(encode_jpeg(PHOTO, quality, "4:2:0"))
    (source / "sub/older.JPG").write_bytes(encode_jpeg(degrade(PHOTO, 10), 95, "4:2:0"))
    (source / "sub/whole.png").write_bytes(saved(RGB, "PNG"))
    (source / "sub/moving.gif").write_bytes(GIF)
    return source


def by_key(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in rows}


def test_good_files_are_copied_and_others_restored(tmp_path: Path, mixed: Path) -> None:
    rows, summary = restore(mixed, tmp_path / "out", skip_above=90, frames="skip")
    assert (summary["ok"], summary["failed"], summary["skipped"]) == (4, 0, 3)
    skipped = {key: row for key, row in by_key(rows).items() if row["status"] == "skipped"}
    assert {key: row["reason"] for key, row in skipped.items()} == {
        **dict.fromkeys(("90.jpg", "95.jpg"), "good_enough"),
        "sub/moving.gif": "animated",
    }
    for key, row in skipped.items():
        assert row["output"] == f"images/{key}"
        assert (tmp_path / "out" / row["output"]).read_bytes() == (mixed / key).read_bytes()
        assert row["output_sha256"] == row["input_sha256"]
        assert (row["nfe"], row["stage"]) == (0, None)
    assert "quality 95" in skipped["95.jpg"]["detail"]
    assert skipped["95.jpg"]["quality"] == 95
    restored = [row["output"] for row in rows if row["status"] == "ok"]
    assert restored == ["images/50.png", "images/89.png", "images/sub/older.png", "images/sub/whole.png"]


def test_skipped_files_may_only_be_listed(tmp_path: Path, mixed: Path) -> None:
    rows, _ = restore(mixed, tmp_path / "out", skip_above=90, skipped="list", frames="skip")
    skipped = [row for row in rows if row["status"] == "skipped"]
    assert len(skipped) == 3
    assert all(row["output"] is row["output_sha256"] is None for row in skipped)
    assert len([path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]) == 4


def test_nothing_is_skipped_unless_asked_for(tmp_path: Path, mixed: Path) -> None:
    rows, summary = restore(mixed, tmp_path / "out")
    assert (summary["ok"], summary["skipped"]) == (7, 0)
    assert "further pictures" in by_key(rows)["sub/moving.gif"]["detail"]


def test_a_good_file_that_is_cut_is_no_good_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cut.jpg").write_bytes(encode_jpeg(PHOTO, 95)[:-900])
    rows, _ = restore(tmp_path / "in", tmp_path / "out", skip_above=90)
    assert (rows[0]["status"], rows[0]["reason"]) == ("failed", "truncated")


@pytest.mark.parametrize("wanted", ["png", "same", "jpeg"])
def test_a_copy_takes_no_other_outputs_name(wanted: str) -> None:
    """Two keys that have different outputs have different copies, and none is on the other's output."""
    keys = ["a", "b", "b/c", "a.mpo", "a.jpg", "a.jpeg", "a.png", "a.jpg.png", "a.jpg.jpg", "a.gif", "A.jpg"]
    for one in keys:
        for other in keys:
            if output_name(one, wanted) != output_name(other, wanted):
                assert copy_name(one, wanted) not in (output_name(other, wanted), copy_name(other, wanted))


def test_an_output_says_what_was_done(tmp_path: Path, mixed: Path, small_model: Path) -> None:
    rows, _ = restore(mixed, tmp_path / "out", model=str(small_model), steps=3, fidelity=0.0, seed=7)
    records = {
        row["key"]: json.loads(Image.open(tmp_path / "out" / row["output"]).text["driftrec"])  # type: ignore[attr-defined]
        for row in rows
    }
    png, half = records["sub/whole.png"], records["50.jpg"]
    assert png["model"] == load(small_model).sha256[:16]
    assert (png["version"], png["seed"], png["sampler"], png["steps"]) == (__version__, 7, "multistep", 3)
    assert (png["strength"], png["projection"]) == (0.0, False)  # it shows no JPEG damage
    assert "no JPEG damage shows" in {row["key"]: row["detail"] for row in rows}["sub/whole.png"]
    assert half["start"] < 1
    assert half["steps"] == 2  # a file of quality 50 has lost half of what one of 10 has
    assert half["projection"]
    assert records["89.jpg"]["strength"] < 1


def test_what_an_output_cannot_hold_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    deep = (np.random.default_rng(0).random((20, 30)) * 65535).astype(np.uint16)
    (tmp_path / "in/deep.png").write_bytes(saved(Image.fromarray(deep), "PNG"))
    for wanted, depth, told in [("png", 16, None), ("tiff", 16, None), ("jpeg", 8, "16 bits rounded to 8")]:
        rows, _ = restore(tmp_path / "in", tmp_path / wanted, format=wanted)
        assert (rows[0]["depth"], rows[0]["detail"], rows[0]["mode"]) == (depth, told, "L")


def test_options_of_the_formats_reach_the_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").write_bytes(saved(Image.fromarray(PHOTO), "PNG"))

    def size(number: int, **changes: Any) -> int:
        rows, _ = restore(tmp_path / "in", tmp_path / str(number), **changes)
        return (tmp_path / str(number) / rows[0]["output"]).stat().st_size

    assert size(1, png_level=0) > size(2, png_level=9)
    assert size(3, format="jpeg", jpeg_quality=30) < size(4, format="jpeg")
    assert size(5, format="jpeg", jpeg_subsampling="4:2:0") < size(4, format="jpeg", seed=1)
    assert size(6, format="webp", webp_quality=20) < size(7, format="webp")


def test_a_turned_file_is_measured_on_its_own_grid(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture = Image.fromarray(PHOTO[:75, :101])
    (tmp_path / "in/x.jpg").write_bytes(saved(picture, "JPEG", quality=10, exif=exif_bytes(3)))
    rows, _ = restore(tmp_path / "in", tmp_path / "out")
    assert rows[0]["bef_before"] == rows[0]["bef_after"] == bef_u8(degrade(PHOTO[:75, :101], 10))
