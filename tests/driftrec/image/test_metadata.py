"""What lies beside the pixels: XMP, comments, PNG chunks, thumbnails, the record of what was done, further frames."""

import io
import json
import struct
import zlib
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from driftrec.errors import BadImage, Reason
from driftrec.image import Picture, decode, encode, exif, from_pil, not_kept, to_pil, xmp
from driftrec.jpeg.headers import inspect
from tests.corpus.made import ICC, PHOTO, XMP, exif_with_thumbnail
from tests.corpus.make import odd_files
from tests.driftrec.pictures import RGB, RGBA, exif_bytes, png_chunk, png_with, refused, saved

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

RECORD = {"version": "1.0", "model": "tiny", "settings": {"steps": 8, "name": "<ü & co>"}}
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
HISTORY = f"{{{xmp.NAMESPACE}}}history"


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


# --- the record ----------------------------------------------------------------------------------------------


def history(packet: bytes) -> list[dict]:
    root = ElementTree.fromstring(packet.partition(b"?>")[2].rpartition(b"<?")[0])
    return [json.loads(entry.text) for entry in root.findall(f".//{HISTORY}/{RDF}Seq/{RDF}li")]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("packet", [None, XMP % 1])
def test_a_file_says_what_was_done(kind, packet):
    picture = Picture(PHOTO, xmp=packet)
    data = encode(picture, kind, record=RECORD)
    assert data == encode(picture, kind, record=dict(reversed(RECORD.items())))
    again = decode(data)
    other = RECORD | {"model": "another"}
    twice = decode(encode(again, kind, record=other))
    if kind == "png":
        assert again.xmp == packet
        records = [json.loads(body.removeprefix(b"driftrec\0")) for _, body in twice.chunks]
    else:
        assert history(again.xmp) == [RECORD]
        records = history(twice.xmp)
        if packet:  # not a byte of it is gone
            at = packet.index(b"</rdf:RDF>")
            assert (again.xmp[:at], again.xmp[-len(packet[at:]) :]) == (packet[:at], packet[at:])
    assert records == [RECORD, other]


def test_without_a_record_nothing_is_added():
    for kind in ("png", "jpeg", "webp", "tiff"):
        again = decode(encode(Picture(PHOTO), kind))
        assert (again.xmp, again.chunks) == (None, ())


def test_a_packet_of_another_kind_is_left_alone():
    odd = Picture(PHOTO, xmp=b"\xff\xfeu\0t\0f\0")
    assert decode(encode(odd, "webp", record=RECORD)).xmp == odd.xmp
    assert "no room in its XMP for the record" in not_kept(odd, "webp", RECORD)
    assert decode(encode(odd, record=RECORD)).chunks[0][1].startswith(b"driftrec\0")


@settings(deadline=None)
@given(st.text(), st.booleans())
def test_any_words_make_a_packet_that_can_be_read(words, onto):
    packet = xmp.with_record(XMP % 1 if onto else None, json.dumps({"a": words}))
    assert history(packet) == [{"a": words}]


# --- XMP, texts, comments ------------------------------------------------------------------------------------


def test_only_an_orientation_is_changed_in_xmp():
    for before, after in (
        (b'<a tiff:Orientation="6" b="6">', b'<a tiff:Orientation="1" b="6">'),
        (b"<a tiff:Orientation='8'/>", b"<a tiff:Orientation='1'/>"),
        (b"<tiff:Orientation>3</tiff:Orientation>", b"<tiff:Orientation>1</tiff:Orientation>"),
    ):
        assert xmp.upright(before) == after
    for same in (b'<a xtiff:Orientation="6">', b'<a tiff:Orientation="66">', b'<a exif:Orientation="6">', b"", XMP % 1):
        assert xmp.upright(same) == same


def test_xmp_alone_turns_nothing():
    """Only EXIF tells how a picture lies; a TIFF's reader would listen to its XMP."""
    for kind in ("JPEG", "PNG", "TIFF"):
        if kind == "TIFF":
            data = saved(RGB, kind, tiffinfo={700: XMP % 6})
        elif kind == "PNG":
            data = png_with(saved(RGB, kind), png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6))
        else:
            data = saved(RGB, kind, xmp=XMP % 6)
        picture = decode(data)
        assert (picture.rgb.shape, picture.xmp) == (PHOTO.shape, XMP % 6), kind


@pytest.mark.parametrize(
    ("comment", "kind", "text"),
    [
        (b"plain", b"tEXt", "plain"),
        ("für".encode(), b"iTXt", "für"),
        ("für".encode("latin-1"), b"tEXt", "für"),
        (b"ends\0\0", b"tEXt", "ends"),
    ],
)
def test_a_comment_becomes_a_text(comment, kind, text):
    picture = decode(saved(RGB, "JPEG", comment=comment))
    assert picture.comment == comment
    assert decode(encode(picture, "jpeg")).comment == comment
    data = encode(picture)
    assert kind in dict(chunks(data))
    assert Image.open(io.BytesIO(data)).text == {"Comment": text}
    assert "comment left out" in not_kept(picture, "webp")


def test_all_comments_of_a_jpeg():
    data = saved(RGB, "JPEG", comment=b"one")
    at = data.index(b"\xff\xfe")
    assert decode(data[:at] + b"\xff\xfe\0\5two" + data[at:]).comment == b"two\none"


def test_a_png_has_a_profile_or_srgb():
    grey = [png_chunk(b"sRGB", b"\0"), png_chunk(b"gAMA", struct.pack(">I", 45455)), png_chunk(b"cICP", b"\1\13\0\1")]
    picture = decode(png_with(saved(RGB, "PNG"), *grey, grey[1]))
    assert [kind for kind, _ in picture.chunks] == [b"sRGB", b"gAMA", b"cICP"]
    kinds = [kind for kind, _ in chunks(encode(replace(picture, icc=ICC)))]
    assert kinds == [b"IHDR", b"gAMA", b"cICP", b"iCCP", b"IDAT", b"IEND"]
    assert "PNG colour chunks left out" in not_kept(picture, "tiff")
    assert not_kept(replace(picture, chunks=picture.chunks[:1]), "tiff") == ""


def test_what_an_output_leaves_out_is_told():
    text = ((b"tEXt", b"A\0b"),)
    picture = Picture(PHOTO, dpi=(300, 300), chunks=text, comment=b"x" * 70_000)
    assert not_kept(picture, "png") == ""
    assert not_kept(picture, "tiff") == "PNG texts left out; comment left out"
    assert not_kept(picture, "jpeg") == "PNG texts left out; comment left out"
    assert not_kept(picture, "webp") == "PNG texts left out; comment left out; resolution left out"
    assert not_kept(replace(picture, exif=exif_bytes(), comment=None, chunks=()), "webp") == ""
    assert decode(encode(picture, "jpeg")).comment is None
    long = Picture(PHOTO, xmp=XMP % 1 + bytes(70_000), exif=b"Exif\0\0" + bytes(70_000))
    told = f"EXIF of 70006 bytes left out; XMP of {len(long.xmp)} bytes left out"
    assert not_kept(long, "jpeg") == told
    again = decode(encode(long, "jpeg", record=RECORD))
    assert (again.xmp, again.exif) == (None, None)
    full = Picture(PHOTO, xmp=XMP % 1 + bytes(65_504 - len(XMP % 1)))
    assert not_kept(full, "jpeg") == ""
    assert decode(encode(full, "jpeg")).xmp == full.xmp
    assert not_kept(full, "jpeg", RECORD) == "no room in its XMP for the record"
    assert decode(encode(full, "jpeg", record=RECORD)).xmp == full.xmp
    opaque = Picture(PHOTO, "RGBA", np.full(PHOTO.shape[:2], 255, np.uint8))
    assert not_kept(opaque, "jpeg") == "opaque alpha left out"
    assert decode(encode(opaque, "jpeg")).mode == "RGB"


def test_left_out_parts_of_a_jpeg_are_noted():
    long = b"http://ns.adobe.com/xmp/extension/\0" + bytes(100)
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\4iptc"
    extra = b"".join(
        marker + struct.pack(">H", len(body) + 2) + body for marker, body in ((b"\xff\xe1", long), (b"\xff\xed", iptc))
    )
    assert decode(saved(RGB, "JPEG", extra=extra)).note == "the long part of its XMP left out"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", [b"<C:Directory>", b"<C:Directory", b"<C:Directory/>", b" ", b"\n", b"C:Directory="])
def test_claims_of_any_packet_are_taken_out_in_time(part: bytes):
    """A packet may be made so that a pattern looks through it again and again."""
    head, count = b"<x xmlns:C='http://ns.google.com/photos/1.0/container/'>", 2**20 // len(part)
    left = xmp.without_claims(head + part * count + b"</x>")
    assert (b"Directory/>" in left, left.startswith(head)) == (False, True)


@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
def test_iptc_goes_along_where_there_is_a_place(source: str):
    records = b"\x1c\x02\x78\0\7caption\x1c\x02\x19\0\3key"
    with_iptc = Picture(PHOTO, iptc=records)
    picture = decode(encode(with_iptc, source.lower()))
    assert picture.iptc == records
    for kind in ("png", "jpeg", "webp", "tiff"):
        kept = kind in ("jpeg", "tiff")
        assert decode(encode(picture, kind)).iptc == (records if kept else None)
        assert not_kept(picture, kind) == ("" if kept else "IPTC left out")
    image = Image.open(io.BytesIO(encode(picture, source.lower())))
    assert IptcImagePlugin.getiptcinfo(image)[2, 120] == b"caption"


def test_a_pil_image_carries_xmp_and_comment():
    picture = Picture(PHOTO, xmp=XMP % 1, comment=b"words", icc=ICC)
    again = from_pil(to_pil(picture))
    assert (again.xmp, again.comment, again.icc) == (XMP % 1, b"words", ICC)


def test_a_jpeg_is_written_no_coarser_than_it_came():
    for quality, expected in ((40, 95), (95, 95), (98, 98), (100, 100)):
        picture = decode(saved(RGB, "JPEG", quality=quality))
        assert picture.quality == quality
        told = inspect(encode(picture, "jpeg"))
        assert (told.quality, told.subsampling) == (expected, "4:4:4")
        assert inspect(encode(picture, "jpeg", jpeg_quality=70)).quality == 70
    assert decode(saved(RGB, "PNG")).quality is None


# --- EXIF's thumbnail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_thumbnail_goes_and_nothing_else(orientation):
    block, without, thumbnail = exif_with_thumbnail(orientation)
    picture = decode(saved(RGB, "JPEG", exif=block))
    assert picture.exif == without
    assert thumbnail[:100] not in picture.exif
    before, after = Image.Exif(), Image.Exif()
    before.load(block)
    after.load(picture.exif)
    assert after.get_ifd(1) == {}
    for directory in (0x8769, 0x8825):
        assert dict(after.get_ifd(directory)) == dict(before.get_ifd(directory)) != {}
    assert exif.without_thumbnail(without) == without


def test_a_thumbnail_in_the_middle_is_blackened_in_place():
    block, _, thumbnail = exif_with_thumbnail(1)
    behind = exif.without_thumbnail(block + b"more")
    assert len(behind) == len(block) + 4
    assert behind.endswith(bytes(len(thumbnail)) + b"more")


def test_a_thumbnail_that_claims_the_other_tags_takes_none_along():
    block, _, thumbnail = exif_with_thumbnail(1)
    order = "<" if block[6:8] == b"II" else ">"
    entry = struct.pack(order + "HHII", 0x0201, 4, 1, len(block) - 6 - len(thumbnail))
    lying = block.replace(entry, struct.pack(order + "HHII", 0x0201, 4, 1, 8))
    assert lying != block
    after = Image.Exif()
    after.load(exif.without_thumbnail(lying))
    assert after[0x010F] == "maker"
    assert after.get_ifd(1) == {}


@given(st.binary(max_size=120))
def test_any_exif_can_be_asked_for_its_thumbnail(noise):
    for data in (noise, exif.PREFIX + b"MM\0*\0\0\0\x08" + noise, exif.PREFIX + b"II*\0\x08\0\0\0\1\0" + noise):
        assert len(exif.without_thumbnail(data)) <= len(data)


def test_many_directories_take_no_time():
    entry = struct.pack("<HHII", exif.EXIF_DIRECTORY, 4, 1, 8)
    count = 60_000
    block = exif.PREFIX + b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entry * count + struct.pack("<I", 8)
    assert len(exif.without_thumbnail(block)) == len(block)


# --- further frames ------------------------------------------------------------------------------------------


def test_skipping_refuses_what_has_frames_and_nothing_else():
    for odd in odd_files():
        try:
            picture = decode(odd.data, odd.name, frames="skip")
        except BadImage as error:
            reason = error.reason
        else:
            reason = ""
            assert np.array_equal(picture.rgb, decode(odd.data, odd.name).rgb)
        skipped = odd.row in ("animation", "pages")
        assert reason == (Reason.animated if skipped else odd.reason), odd.name


def test_a_reduced_copy_is_no_page():
    tiff = saved(RGB, "TIFF", save_all=True, append_images=[RGBA])
    assert refused(tiff, frames="skip").reason == Reason.animated
    assert decode(tiff_with_reduced_copy(), frames="skip").rgb.shape == PHOTO.shape


def tiff_with_reduced_copy() -> bytes:
    """The second page says of itself that it is one."""
    small = RGB.resize((8, 8))
    small.encoderinfo = {"tiffinfo": {0x00FE: 1}}
    out = io.BytesIO()
    RGB.copy().save(out, "TIFF", save_all=True, append_images=[small])
    data = out.getvalue()
    if struct.pack("<HHI", 0x00FE, 4, 1) + struct.pack("<I", 1) not in data:
        raise AssertionError("the second page has no such tag")
    return data


def test_text_that_is_packed_stays_packed():
    body = b"Long\0\0" + zlib.compress(b"word " * 999)
    picture = decode(png_with(saved(RGB, "PNG"), png_chunk(b"zTXt", body)))
    assert picture.chunks == ((b"zTXt", body),)
    assert dict(chunks(encode(picture)))[b"zTXt"] == body
