"""Files of the wild that other decoders show: with something missing, broken or behind them that no pixel needs."""

import struct
from collections.abc import Iterator

import numpy as np

from tests.corpus.made import ICC, PHOTO, RGB, XMP, Odd, tiff
from tests.driftrec.pictures import GREY, GREY_ICC, png_chunk, png_with, saved

END = b"\xff\xd9"
VIDEO = struct.pack(">I", 24) + b"ftypmp42\0\0\0\0mp42isom" + bytes(i * 37 % 251 for i in range(3000))
SAMSUNG = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + VIDEO + b"SEFT"
CLAIMS = (
    b"<rdf:Description rdf:about='' xmlns:Cam='http://ns.google.com/photos/1.0/camera/'\n"
    b" xmlns:C='http://ns.google.com/photos/1.0/container/' xmlns:hdrgm=\"http://ns.adobe.com/hdr-gain-map/1.0/\"%s>%s"
    b"</rdf:Description></rdf:RDF>"
)
SAID = (
    b" Cam:MotionPhoto='1' Cam:MicroVideoOffset=\"3024\" hdrgm:Version='1.0'",
    b"<hdrgm:GainMapMax>2</hdrgm:GainMapMax><C:Directory><rdf:Seq><rdf:li/></rdf:Seq></C:Directory>",
)


def broken(chunk: bytes) -> bytes:
    """A PNG chunk with another checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def mended() -> Iterator[Odd]:
    """Every pixel is there."""
    for name, options in {"baseline": {}, "progressive": {"progressive": True}, "444": {"subsampling": 0}}.items():
        data = saved(RGB, "JPEG", quality=95, **options)
        assert data.endswith(END)
        note = "no end marker; its last scan is whole"
        yield Odd(f"no-end-{name}.jpg", "mended", data[:-2], rgb=PHOTO, within=60, words=note)
    data = saved(RGB, "JPEG", quality=95)
    at = data.index(b"\xff\xc0") + 5
    tall = data[:at] + b"\0\0" + data[at + 2 : -2] + b"\xff\xdc\0\4" + data[at : at + 2] + END
    yield Odd("dnl.jpg", "mended", tall, rgb=PHOTO, within=60, words="its height stands behind its first scan")
    for name, chunk in {
        "text": png_chunk(b"tEXt", b"Comment\0words"),
        "profile": png_chunk(b"iCCP", b"ICC\0\0broken"),
        "time": png_chunk(b"tIME", bytes(7)),
    }.items():
        data = png_with(saved(RGB, "PNG"), broken(chunk))
        words = f"PNG chunks with a wrong checksum left out: {chunk[4:8].decode()}"
        yield Odd(f"broken-{name}.png", "mended", data, rgb=PHOTO, words=words)
    bytes_ = PHOTO.nbytes
    yield Odd("too-many-bytes.tif", "mended", tiff(PHOTO, {279: (bytes_ + 5000,)}), rgb=PHOTO)


def behind() -> Iterator[Odd]:
    """Motion photos, gain maps: the picture, without the claims that more is there."""
    packet = (XMP % 1).replace(b"</rdf:RDF>", CLAIMS % SAID)
    left = (XMP % 1).replace(b"</rdf:RDF>", CLAIMS % (b"", b""))
    data = saved(RGB, "JPEG", quality=95, xmp=packet)
    for name, more, words in (
        ("motion.jpg", VIDEO, ""),
        ("samsung.jpg", SAMSUNG, ""),
        ("gain-map.jpg", saved(GREY, "JPEG"), "further pictures in it left out"),
        ("trailer.jpg", b"words " * 200, "1199 bytes behind its end left out"),
        ("padded.jpg", bytes(4096), ""),
    ):
        yield Odd(name, "behind", data + more, rgb=PHOTO, within=60, xmp=left, words=words)


def misfits() -> Iterator[Odd]:
    """Profiles that are not of such pixels."""
    for name, image, icc, rgb, words in (
        ("grey-with-rgb", GREY, ICC, np.array(GREY), "ICC profile of RGB left out of a grey picture"),
        ("rgb-with-grey", RGB, GREY_ICC, PHOTO, "ICC profile of GRAY left out of a colour picture"),
        ("cut-profile", RGB, ICC[:-100], PHOTO, "incomplete ICC profile left out"),
        ("no-profile", RGB, b"x" * 500, PHOTO, "incomplete ICC profile left out"),
    ):
        for kind in ("png", "tif"):
            data = saved(image, kind.upper().replace("TIF", "TIFF"), icc_profile=icc)
            mode = "L" if image is GREY else "RGB"
            yield Odd(f"{name}.{kind}", "profile-misfit", data, mode=mode, rgb=rgb, words=words)


def codecs() -> Iterator[Odd]:
    """TIFFs of compressions that are not read."""
    for number, name in {
        34712: "JPEG 2000",
        33003: "JPEG 2000",
        34661: "JBIG",
        34887: "LERC",
        32909: "PixarLog",
    }.items():
        data = tiff(PHOTO, {259: number})
        yield Odd(f"compression-{number}.tif", "tiff-codec", data, reason="unsupported", words=f"{name} ({number})")
    yield Odd("compression-1234.tif", "tiff-codec", tiff(PHOTO, {259: 1234}), reason="unsupported", words="(1234)")
