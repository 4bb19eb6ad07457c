"""AVIF and HEIC boxes, without decoding; and what is said where a reader is missing."""

import contextlib
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import features

from driftrec.errors import BadImage
from driftrec.image import isobmff
from tests.corpus.make import odd_files
from tests.driftrec.pictures import refused

ODD = {odd.name: odd.data for odd in odd_files()}


def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


def described(*properties: bytes) -> bytes:
    inner = box(b"iprp", box(b"ipco", b"".join(properties)))
    return box(b"ftyp", b"avif\0\0\0\0") + box(b"meta", bytes(4) + box(b"hdlr", bytes(20)) + inner)


@pytest.mark.parametrize(("flags", "bits"), [(0x00, 8), (0x40, 10), (0x60, 12), (0x9F, 8)])
def test_the_depth_of_an_avif(flags, bits):
    data = described(box(b"ispe", bytes(12)), box(b"av1C", bytes([0x81, 0, flags, 0])), box(b"av1C", b"\x81\0\0\0"))
    if bits == 8:
        isobmff.check_depth(data, "AVIF")
    else:
        with pytest.raises(BadImage, match=f"unsupported: AVIF of {bits} bits"):
            isobmff.check_depth(data, "AVIF")


def test_a_whole_file_ends_with_its_last_box():
    whole = described() + box(b"mdat", bytes(50))
    assert not isobmff.is_cut(whole)
    assert not isobmff.is_cut(whole + box(b"free", b"", size=0))  # 0: to the end
    assert not isobmff.is_cut(whole + struct.pack(">I4sQ", 1, b"mdat", 20) + bytes(4))  # 1: the size follows, 64 bits
    for length in (len(whole) - 1, len(whole) - 57, len(whole) + 3):
        assert isobmff.is_cut((whole + b"\0\0\0")[:length])


@given(st.binary(max_size=200))
def test_boxes_of_any_content(noise):
    for data in (noise, described(noise), described() + noise, box(b"ftyp", b"mif1\0\0\0\0" + noise)):
        isobmff.identify(data)
        isobmff.is_cut(data)
        with contextlib.suppress(BadImage):
            isobmff.check_depth(data, "HEIC")


def test_many_boxes_take_no_time():
    endless = box(b"iprp", b"", size=1 << 30)  # were it believed, each of them would be looked through to the end
    isobmff.check_depth(box(b"meta", bytes(4) + endless) * 50_000, "HEIC")


def test_a_missing_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(features, "check", lambda feature: False)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    for name, package in {"plain.heic": "pillow-heif", "plain.jxl": "pillow-jxl", "jpeg.jxl": "pillow-jxl"}.items():
        error = refused(ODD[name])
        assert (error.reason, f"pip install {package}" in error.detail) == ("unsupported", True)
    assert "update it" in refused(ODD["rgb.jp2"]).detail
    assert "update it" in refused(ODD["rgb.avif"]).detail
    assert refused(ODD["plain.heic"]).reason == refused(ODD["rgb.avif"]).reason == "unsupported"
