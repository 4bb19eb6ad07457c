"""Only the orientation's own bytes change in an EXIF block."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from driftrec.image import exif


def written(order: str, orientation: int, kind: int = 3) -> bytes:
    """An EXIF block with a make, an orientation of a TIFF type, and bytes behind that no reader knows."""
    value = {3: f"{order}HH", 4: f"{order}I", 1: f"{order}BBH"}[kind]
    packed = struct.pack(value, *[orientation, 0, 0][: len(value) - 1])
    entries = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    return exif.PREFIX + head + entries + struct.pack(order + "I", 0) + b"maker notes \xff\x00"


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_is_read_and_reset(order, orientation, kind):
    before = written(order, orientation, kind)
    found, after = exif.upright(before)
    assert found == orientation
    assert after == written(order, 1, kind)
    assert exif.upright(after) == (1, after)
    theirs = Image.Exif()
    theirs.load(after)
    assert theirs[0x0112] in (1, b"\1")  # Pillow takes single bytes for text


@pytest.mark.parametrize("orientation", [0, 1, 9, 255])
def test_an_upright_or_senseless_orientation_changes_nothing(orientation):
    assert exif.upright(written("<", orientation)) == (1, written("<", orientation))


@given(st.binary(max_size=80))
def test_broken_exif_is_upright(noise):
    for data in (noise, exif.PREFIX + noise, exif.PREFIX + b"MM\0*\0\0\0\x08" + noise):
        orientation, after = exif.upright(data)
        assert 1 <= orientation <= 8
        assert len(after) == len(data)
        assert exif.has_tag(data, 0x0112) or orientation == 1


def test_what_describes_the_storage_is_left_behind():
    found = Image.Exif()
    found.update({0x010F: "maker", 0x0100: 640, 0x0111: 8, 0x0112: 6, 0x8298: "© nobody"})
    found.get_ifd(exif.EXIF_DIRECTORY).update({0x9003: "2001:02:03 04:05:06", 0xA005: 1234})
    found.get_ifd(exif.GPS_DIRECTORY)[1] = "N"
    kept = Image.Exif()
    kept.load(exif.block(exif.descriptive(found)))
    assert {tag: kept[tag] for tag in kept if tag < 0x8769} == {0x010F: "maker", 0x8298: "© nobody"}
    assert kept.get_ifd(exif.EXIF_DIRECTORY) == {0x9003: "2001:02:03 04:05:06"}
    assert kept.get_ifd(exif.GPS_DIRECTORY) == {1: "N"}
    assert exif.parse(exif.block(exif.descriptive(found))) == exif.descriptive(found)
    assert exif.block({}) is None
