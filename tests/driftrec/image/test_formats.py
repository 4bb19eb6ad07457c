"""Bytes are told by their content, before a decoder sees them."""

import pytest

from driftrec.errors import BadImage, Reason
from driftrec.image.sniff import identify, is_cut, looks_like


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "BMP"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x14ftypmsf1\0\0\0\0msf1avis", "HEIC"),  # a brand behind the end of its box is none
    ],
)
def test_formats_by_content(data, name):
    assert identify(data) == name


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", Reason.empty, "0 bytes"),
        (b"\xff\xd8", Reason.truncated, "first 2 bytes of a JPEG"),
        (b"RIFF\x10\0", Reason.truncated, "first 6 bytes"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><p>404</p>", Reason.not_an_image, "HTML"),
        (b"<div>x</div><HTML>", Reason.not_an_image, "HTML"),
        (b"%PDF-1.7", Reason.not_an_image, "PDF"),
        (b"PK\3\4rest", Reason.not_an_image, "ZIP"),
        (b'{"error": "no such key"}', Reason.not_an_image, "JSON"),
        (b'<?xml version="1.0"?><Error/>', Reason.not_an_image, "XML"),
        ("BMW und Öl, mehr nicht".encode(), Reason.not_an_image, "text"),
        (bytes(5000), Reason.not_an_image, "zeros"),
        (b"\x01\x02\xfe\xfd" * 9, Reason.not_an_image, "unknown data"),
        (b"RIFF\0\0\0\0WAVEfmt ", Reason.not_an_image, "unknown data"),
        (b"\0\0\0\x0cjP  \r\n", Reason.truncated, "JP2"),
        (b"8BPS\0\x01", Reason.unsupported, "Photoshop"),
    ],
)
def test_the_rest_has_a_reason_and_a_word(data, reason, words):
    with pytest.raises(BadImage) as caught:
        identify(data)
    assert caught.value.reason == reason
    assert words in caught.value.detail


def test_text_cut_inside_a_character_is_text():
    assert looks_like("ü".encode() * 2000) == "text"
    assert looks_like(b"x" + "ü".encode() * 2000) == "text"


def test_a_tiff_whose_directory_lies_behind_its_end_is_cut():
    assert is_cut(b"II*\0\xff\xff\0\0", "TIFF")
    assert not is_cut(b"II*\0\x08\0\0\0\0\0", "TIFF")  # no entry: broken, but whole
