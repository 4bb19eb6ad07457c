"""Files that end oddly: what is mended shows every pixel of the whole file, and what has lost some is not mended."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from driftrec.errors import BadImage
from driftrec.image.decoding import decode
from driftrec.image.probe import read_header
from driftrec.jpeg import ending
from driftrec.jpeg.ending import behind, mended, scans
from driftrec.restoration.opening import open_picture
from tests import made

KINDS = list(itertools.product([False, True], [0, 2], [False, True], [0, 1]))


MOST = 10**6


def jpeg(progressive: bool, subsampling: int, grey: bool, restarts: int, seed: int = 3) -> bytes:
    image = Image.fromarray(made.pixels(seed, 77, 101))
    out = io.BytesIO()
    image = image.convert("L") if grey else image
    image.save(out, "JPEG", quality=60, progressive=progressive, subsampling=subsampling, restart_marker_rows=restarts)
    return out.getvalue()


def without_end(data: bytes) -> bytes:
    assert data.endswith(b"\xff\xd9")
    return data[:-2]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_that_lacks_its_end_alone_is_whole(kind: tuple[bool, int, bool, int]) -> None:
    data = jpeg(*kind)
    assert mended(data, MOST) == (data, "")
    assert not scans(data).open
    whole = open_picture(data)
    for cut in (data[:-1], data[:-2]):
        assert mended(cut, MOST)[0] == data
        picture = open_picture(cut)
        assert np.array_equal(picture.rgb, whole.rgb)
        assert "no end marker" in picture.note
        assert (picture.constraint is None) == (whole.constraint is None)
        assert read_header(io.BytesIO(cut), len(cut), 10**6).reason is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_that_was_cut_is_not(kind: tuple[bool, int, bool, int], seed: int) -> None:
    """Wherever it was cut: if it is mended all the same, not a pixel is another."""
    data = jpeg(*kind, seed=seed)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    length, odd = len(without_end(data)), 0
    for cut in {*range(1, 90), *range(100, length, 97)}:
        cut_data = data[: length - cut]
        found = read_header(io.BytesIO(cut_data), len(cut_data), 10**6)
        if found.reason:
            with pytest.raises(BadImage, match="truncated"):
                decode(cut_data)
            continue
        odd += 1
        picture = decode(cut_data)
        assert "no end marker" in picture.note
        assert np.array_equal(np.squeeze(picture.rgb[..., : 1 if kind[2] else 3]), whole), cut
    assert odd <= 2


def test_the_height_behind_the_first_scan() -> None:
    """DNL, which libjpeg does not read."""
    data = jpeg(False, 0, False, 0)
    at = data.index(b"\xff\xc0") + 5
    assert data[at : at + 2] == (77).to_bytes(2, "big")
    moved = data[:at] + b"\0\0" + without_end(data)[at + 2 :] + b"\xff\xdc\0\4\0\x4d\xff\xd9"
    picture = open_picture(moved)
    assert np.array_equal(picture.rgb, decode(data).rgb)
    assert "height stands behind its first scan" in picture.note
    found = read_header(io.BytesIO(moved), len(moved), 10**6)
    assert (found.height, found.reason) == (77, None)


@pytest.mark.parametrize("progressive", [False, True])
def test_nothing_larger_than_allowed_is_decoded_to_see_its_end(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a file without an end says that it is."""
    data = without_end(jpeg(progressive, 0, False, 0))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    large = data[:at] + struct.pack(">HH", 65_000, 65_000) + data[at + 4 :]
    monkeypatch.setattr(ending, "_digest_of_pixels", None)
    with pytest.raises(BadImage, match="too_large: 65000x65000"):
        decode(large)
    assert read_header(io.BytesIO(large), len(large), MOST).reason == "too_large"


@pytest.mark.parametrize("thing", [b"\0\0\0\x18ftypmp42" + bytes(range(250)), b"x" * 500])
def test_what_stands_behind_the_end(thing: bytes) -> None:
    for kind in KINDS:
        data = jpeg(*kind)
        assert behind(data) == b""
        assert behind(data + bytes(40)) == b""
        for padding in (b"", bytes(9)):
            assert behind(data + padding + thing + padding) == padding + thing + padding
