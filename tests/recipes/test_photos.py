"""The photographs recipe, offline: EET containers, tiles, shards, and what the catalogue promises."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from recipes.photos import eet, fetch, rcc, tiles
from recipes.photos.__main__ import main, name_of
from recipes.photos.catalogue import CATALOGUE, DEBIAN_PACKAGES, NPM_PACKAGES, PYPI_PACKAGES, Photograph


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def container(members: dict[str, bytes]) -> bytes:
    """An EET file written by hand: header, table of entries, names, then the data."""
    names = [name.encode() + b"\0" for name in members]
    name_at = 12 + 24 * len(members)
    at = name_at + sum(map(len, names))
    table, body = b"", b""
    for name, stored in zip(names, members.values(), strict=True):
        table += struct.pack(">IIIIII", at + len(body), len(stored), len(stored), name_at, len(name), 0)
        name_at += len(name)
        body += stored
    head = struct.pack(">III", 0x1EE70F42, len(members), sum(map(len, names)))
    return head + table + b"".join(names) + body


def test_eet_gives_every_entry_and_the_largest_jpeg_image():
    small, large = jpeg(noise(16, 16)), jpeg(noise(64, 64))
    members = {
        "edje/images/0": small,
        "edje/images/1": large,
        "edje/images/2": b"\0" * 90_000,  # an image that is not a JPEG
        "other": large + large,
    }
    assert eet.entries(container(members)) == members
    assert eet.photograph(container(members)) == large


@pytest.mark.parametrize("cut", [0, 11, 30, -1])
def test_a_cut_eet_is_an_error_and_not_a_wrong_photograph(cut):
    with pytest.raises(ValueError, match="EET"):
        eet.photograph(container({"edje/images/0": jpeg(noise(16, 16))})[:cut])


def test_an_eet_without_a_photograph_is_an_error():
    with pytest.raises(ValueError, match="no JPEG"):
        eet.photograph(container({"edje/file": b"settings"}))


@pytest.mark.parametrize("width", range(180, 1400, 37))
def test_boxes_are_disjoint_whole_macroblocks_inside_the_image(width):
    height = 1511 - width
    seen = np.zeros((height, width), dtype=int)
    for left, top, right, bottom in tiles.boxes(width, height):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for side in (right - left, bottom - top):
            assert side % 16 == 0
            assert 192 <= side <= 512
        seen[top:bottom, left:right] += 1
    assert seen.max(initial=0) <= 1
    if min(width, height) >= 192:
        assert width - seen.any(axis=0).sum() < 192  # no remainder that is large enough is lost
        assert height - seen.any(axis=1).sum() < 192


def test_tiles_are_the_reduced_photograph_pixel_for_pixel():
    photograph = noise(1500, 1100)
    pixels = np.asarray(photograph, dtype=float)
    (tile, *_) = tiles.cut(photograph, "a.b/c")
    assert tile.key == "a-b-c-2x-0000-0000"
    got = np.asarray(Image.open(io.BytesIO(tile.png)))
    assert got.shape == (512, 512, 3) == (tile.height, tile.width, 3)
    means = pixels[:1024, :1024].reshape(512, 2, 512, 2, 3).mean(axis=(1, 3))
    assert np.abs(got - means).max() <= 0.5


def test_four_times_smaller_only_where_the_photograph_stays_large_enough():
    def factors(image: Image.Image) -> set[str]:
        return {tile.key.split("-")[1] for tile in tiles.cut(image, "p")}

    assert factors(checks(1536, 1536)) == {"2x", "4x"}
    assert factors(checks(1536, 1532)) == {"2x"}


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_a_photograph_is_reduced_by_no_less_than_its_compression_needs(reduction):
    cut = list(tiles.cut(checks(1600, 1600), "p", reduction))
    factors = {int(tile.key.split("-")[1].removesuffix("x")) for tile in cut}
    assert min(factors) == reduction
    assert factors <= {reduction, 2 * reduction}


def checks(width: int, height: int) -> Image.Image:
    rows, columns = np.indices((height, width)) // 32 % 2
    return Image.fromarray(((rows ^ columns) * 255).astype(np.uint8)).convert("RGB")


def test_flat_tiles_are_left_out():
    image = np.asarray(checks(2048, 1024)).copy()
    image[:, 1024:] = 128 + (image[:, 1024:] > 0) * 15  # standard deviation of the luma: 7.5, below 8
    keys = [tile.key for tile in tiles.cut(Image.fromarray(image), "p")]
    assert "p-2x-0000-0000" in keys
    assert "p-2x-0000-0512" not in keys


def test_odd_modes_and_orientation_become_upright_rgb():
    grey = Image.new("L", (40, 20), 9)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = tiles.open_upright(jpeg(grey, exif=exif))
    assert (upright.mode, upright.size) == ("RGB", (20, 40))


def test_shards_hold_every_tile_once_and_are_the_same_bytes_whatever_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "SHARD_BYTES", 1_500_000)
    cut = [tile for seed in range(3) for tile in tiles.cut(noise(1100, 1100, seed), f"photo {seed}")]
    shards = tiles.write_shards(cut, tmp_path / "one")
    assert shards == tiles.write_shards(cut[::-1], tmp_path / "two")
    paths = sorted((tmp_path / "one").iterdir())
    assert [path.name for path in paths] == [f"photos-{number:05d}.tar" for number in range(len(paths))]
    assert len(paths) > 1
    assert all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in paths)

    stored = {}
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                assert member.name.count(".") == 1
                stored[member.name.removesuffix(".png")] = archive.extractfile(member).read()
    assert stored == {tile.key: tile.png for tile in cut}
    assert list(stored) != sorted(stored)  # shards mix photographs


def test_a_key_used_twice_is_refused(tmp_path):
    cut = list(tiles.cut(noise(500, 500), "p"))
    with pytest.raises(ValueError, match="share a key"):
        tiles.write_shards(cut + cut, tmp_path)


def test_the_pixel_hash_ignores_order_and_compressor_and_sees_a_pixel():
    cut = list(tiles.cut(noise(1100, 500), "p"))
    packed = []
    for tile in cut:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(tile.png)).save(buffer, "PNG", compress_level=1)
        packed.append(tiles.Tile(tile.key, buffer.getvalue(), tile.width, tile.height))
    assert tiles.pixels_sha256(cut) == tiles.pixels_sha256(packed[::-1])
    changed = Image.open(io.BytesIO(cut[0].png))
    changed.putpixel((5, 5), tuple(255 - value for value in changed.getpixel((5, 5))))
    other = tiles.Tile(cut[0].key, tiles.encode(changed), cut[0].width, cut[0].height)
    assert tiles.pixels_sha256([other, *cut[1:]]) != tiles.pixels_sha256(cut)


def test_the_catalogue_names_each_photograph_once_with_licence_and_author():
    assert len({(entry.package, entry.file) for entry in CATALOGUE}) == len(CATALOGUE)
    assert {entry.package for entry in CATALOGUE} == {*DEBIAN_PACKAGES, *PYPI_PACKAGES, *NPM_PACKAGES}
    assert all(entry.licence and entry.author for entry in CATALOGUE)
    assert len({name_of(entry) for entry in CATALOGUE}) == len(CATALOGUE)


def resources(files: dict[str, bytes], compressed: bool) -> bytes:
    """A Qt resource file written by hand: a root, and under it a folder "in" that holds the files."""
    names, contents = b"", b""
    places = {}
    for name in ("in", *files):
        places[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHIIQ", places["in"], 2, len(files), 2, 0)
    for name, content in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
        tree += struct.pack(">IHHHIQ", places[name], int(compressed), 0, 0, len(contents), 0)
        contents += struct.pack(">I", len(stored)) + stored
    head = 20
    places_of = (head, head + len(tree), head + len(tree) + len(contents))
    return struct.pack(">4s4i", b"qres", 2, *places_of) + tree + contents + names


@pytest.mark.parametrize("compressed", [False, True])
def test_qt_resources_give_every_file(compressed):
    files = {"a.webp": b"one" * 50, "ü.png": bytes(range(256))}
    assert dict(rcc.entries(resources(files, compressed))) == {f"in/{name}": data for name, data in files.items()}


@pytest.mark.parametrize("cut", [0, 10, 40, 100, 160])
def test_a_cut_qt_resource_file_is_an_error(cut):
    with pytest.raises(ValueError, match="Qt resource file"):
        dict(rcc.entries(resources({"a.webp": b"one" * 50}, False)[:cut]))


def test_development_test_and_examples_are_never_cut_into_tiles(tmp_path, monkeypatch):
    """The whole recipe on four small photographs, with the download left out."""
    file = "usr/share/backgrounds/{}.jpg"
    uses = {"a": "train", "b": "example", "c": "train", "d": "held_out"}
    found = [
        (
            Photograph("pictures", file.format(stem), "CC0-1.0", "A. Nyone", use),
            jpeg(noise(1600 if use == "held_out" else 600, 600, seed), quality=90),
        )
        for seed, (stem, use) in enumerate(uses.items())
    ]
    devtest = Photograph("pictures", file.format("7"), "CC0-1.0", "A. Nyone", "devtest")
    found.append((devtest, jpeg(noise(512, 513, 9), quality=90)))
    monkeypatch.setattr(fetch, "fetch", lambda folder: {"pictures": "1.0"})
    monkeypatch.setattr(fetch, "photographs", lambda folder: iter(found))

    assert main([str(tmp_path)]) == 0
    with tarfile.open(tmp_path / "train" / "photos-00000.tar") as archive:
        assert sorted(archive.getnames()) == [
            f"pictures-backgrounds-{stem}-2x-0000-0000.png" for stem in "ac"
        ]
    with tarfile.open(tmp_path / "held_out" / "photos-00000.tar") as archive:
        assert archive.getnames() == ["pictures-backgrounds-d-2x-0000-0000.png"]  # one tile a photograph
    assert [path.name for path in (tmp_path / "devtest").iterdir()] == ["007.png"]
    assert Image.open(tmp_path / "devtest" / "007.png").size == (256, 256)
    assert (tmp_path / "photos.json").exists()
    assert (tmp_path / "READY").exists()
