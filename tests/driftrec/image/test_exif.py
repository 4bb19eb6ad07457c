"""Only the orientation's own bytes change in an EXIF block."""

import io
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from driftrec.image import decode, exif
from tests.driftrec.pictures import stored


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


def with_subjects(order: str, area: list[int], location: list[int]) -> bytes:
    """An EXIF block that leads to a directory with these two tags, their values behind it where they need room."""
    below = 8 + 2 + 12 + 4
    behind = below + 2 + 2 * 12 + 4
    entries, data = b"", b""
    for tag, values in ((0x9214, area), (0xA214, location)):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        offset = struct.pack(order + "I", behind + len(data))
        entries += struct.pack(order + "HHI", tag, 3, len(values)) + (
            packed.ljust(4, b"\0") if len(values) < 3 else offset
        )
        data += packed if len(values) > 2 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHII", 1, exif.EXIF_DIRECTORY, 4, 1, below) + bytes(4)
    return exif.PREFIX + head + first + struct.pack(order + "H", 2) + entries + bytes(4) + data


@given(
    order=st.sampled_from("<>"),
    orientation=st.integers(1, 8),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    place=st.tuples(st.integers(0, 39), st.integers(0, 39)),
    sides=st.lists(st.integers(0, 99), max_size=2),
)
@example(order="<", orientation=6, size=(40, 30), place=(3, 20), sides=[8, 6])
def test_the_subject_is_where_it_was_seen(order, orientation, size, place, sides):
    """A pixel marked in the upright picture lies in the stored one where its camera would say; and back."""
    x, y = place[0] % size[0], place[1] % size[1]
    upright = np.zeros((size[1], size[0]), np.uint8)
    upright[y, x] = 1
    as_stored = stored(upright, orientation)
    (row,), (column,) = np.nonzero(as_stored)
    turned = orientation >= 5
    before = with_subjects(order, [column, row, *(sides[::-1] if turned else sides)], [column, row])
    after = exif.with_subject_turned(before, orientation, as_stored.shape[::-1])
    assert after == with_subjects(order, [x, y, *sides], [x, y])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [[], [1], [1, 2, 3, 4, 5]])
def test_a_subject_of_another_form_is_left(orientation, values):
    before = with_subjects("<", values, values)
    assert exif.with_subject_turned(before, orientation, (30, 20)) == before


@given(st.binary(max_size=80), st.integers(2, 8))
def test_broken_exif_keeps_its_length(noise, orientation):
    area = with_subjects(">", [900, 900, 7], [65535, 0])
    for data in (noise, exif.PREFIX + noise, exif.PREFIX + b"MM\0*\0\0\0\x08" + noise, area, area[:-3], area[:40]):
        assert len(exif.with_subject_turned(data, orientation, (30, 20))) == len(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_is_turned_says_where_its_subject_is(orientation, kind):
    upright = np.zeros((20, 30, 3), np.uint8)
    block = Image.Exif()
    block[exif.ORIENTATION] = orientation
    mark = np.zeros((20, 30), np.uint8)
    mark[4, 25] = 1
    (row,), (column,) = np.nonzero(stored(mark, orientation))
    block.get_ifd(exif.EXIF_DIRECTORY)[0x9214] = (int(column), int(row), *((6, 8) if orientation >= 5 else (8, 6)))
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored(upright, orientation))).save(out, kind, exif=block)
    found = Image.Exif()
    found.load(decode(out.getvalue()).exif)
    assert found.get_ifd(exif.EXIF_DIRECTORY)[0x9214] == (25, 4, 8, 6)
    assert found[exif.ORIENTATION] == 1
