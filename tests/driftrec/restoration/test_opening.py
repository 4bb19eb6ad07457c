"""The library does what the command does: for paths, bytes and PIL images, and as README prints it."""

import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from skimage import data as photographs

from driftrec import Restorer
from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import Picture, decode, from_pil, jxl
from driftrec.image.picture import UPRIGHT
from driftrec.restoration.opening import open_picture, opened
from tests.corpus.make import odd_files
from tests.pipeline import offline

README = Path(__file__).parents[3] / "README.md"
QUALITIES = (30, 75, 90, 95)
ORIENTATION, MAKER = 0x0112, 0x010F
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(quality: int, orientation: int = 1, clean: np.ndarray | None = None) -> bytes:
    """A JPEG with profile, EXIF and resolution."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "ACME"
    out = io.BytesIO()
    image = Image.fromarray(clean if clean is not None else photographs.astronaut()[:72, 200:296])
    image.save(out, "JPEG", quality=quality, exif=exif.tobytes(), icc_profile=ICC, dpi=(300, 200))
    return out.getvalue()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # as the command's workers


@pytest.fixture(scope="module")
def restorer(small_model: Path) -> Restorer:
    return Restorer.from_pretrained(str(small_model), device="cpu")


@cache
def embedded() -> Restorer:
    return Restorer.from_pretrained(device="cpu")


def test_path_bytes_image_and_command_give_the_same_pixels(
    restorer: Restorer, small_model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    cases = {f"{q}-{o}.jpg": (q, o) for q in QUALITIES for o in range(1, 9)}
    for key, case in cases.items():
        (source / key).write_bytes(photo(*case))
    offline.restore(source, tmp_path / "out", model=str(small_model), seed=3)
    for key, (_, orientation) in cases.items():
        path = source / key
        command = (tmp_path / "out/images" / key).with_suffix(".png")
        expected = np.asarray(Image.open(command))
        assert not np.array_equal(expected, decode(path.read_bytes()).rgb)
        assert np.array_equal(np.asarray(restorer(path, seed=3)), expected)
        assert np.array_equal(np.asarray(restorer(path.read_bytes(), key, 3)), expected)
        loaded = Image.open(path)
        loaded.load()  # Pillow closes its file
        for image in (Image.open(path), loaded, Image.open(io.BytesIO(path.read_bytes()))):
            done = restorer(image, key, 3)
            assert (done.size, done.mode) == (image.size, image.mode)
            assert np.array_equal(UPRIGHT[orientation](np.asarray(done)), expected)
        restorer.restore_file(path, tmp_path / "one.png", seed=3)
        assert (tmp_path / "one.png").read_bytes() == command.read_bytes()
        assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff"])
def test_restore_file_writes_what_the_command_writes(
    restorer: Restorer, small_model: Path, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "in/a"
    source.mkdir(parents=True)
    (source / "photo.jpg").write_bytes(photo(90, 6))
    settings = {"adaptive": False, "projection": False, "fidelity": 0.5, "samples": 2}
    offline.restore(tmp_path / "in", tmp_path / "out", model=str(small_model), seed=7, format=kind, **settings)
    (command,) = (tmp_path / "out/images/a").iterdir()
    restorer.restore_file(source / "photo.jpg", tmp_path / command.name, "a/photo.jpg", 7, **settings)
    assert (tmp_path / command.name).read_bytes() == command.read_bytes()


@pytest.mark.parametrize("quality", [90, 95, 98])
def test_good_photographs_take_no_harm(quality: int, tmp_path: Path) -> None:
    for clean in (photographs.astronaut()[:128, 150:278], photographs.chelsea()[60:188, 100:228]):
        path = tmp_path / "photo.jpg"
        path.write_bytes(photo(quality, 1, clean))

        def psnr(pixels: np.ndarray, clean: np.ndarray = clean) -> float:
            return float(10 * np.log10(255**2 / np.square(pixels.astype(float) - clean).mean()))

        before = psnr(decode(path.read_bytes()).rgb)
        for source in (path, path.read_bytes(), Image.open(path)):
            assert psnr(np.asarray(embedded()(source))) > before - 0.1
        gone = Image.open(io.BytesIO(path.read_bytes()))
        gone.load()  # its file cannot be read any more, its tables can
        assert psnr(np.asarray(embedded()(gone))) > before - 0.1


def printed() -> str:
    """The Python lines of README."""
    (block,) = re.findall(r"## Three lines\n\n((?:    .*\n)+)", README.read_text(encoding="utf-8"))
    return re.sub("^    ", "", block, flags=re.MULTILINE)


def test_the_printed_lines_run_and_keep_what_the_command_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo(40, 6)
    (tmp_path / "photo.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    exec(printed(), {})
    kept, upright = Image.open("restored.png"), decode(data).rgb
    assert kept.size == (72, 96)
    near, turned = (np.abs(np.asarray(kept).astype(int) - other).mean() for other in (upright, upright[::-1]))
    assert near < 10 < turned
    assert (kept.getexif().get(ORIENTATION, 1), kept.getexif()[MAKER]) == (1, "ACME")
    assert kept.info["icc_profile"] == ICC
    assert kept.info["dpi"] == pytest.approx((200, 300), abs=0.01)  # turned with the picture


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_image_keeps_its_exif_as_it_lies(restorer: Restorer, tmp_path: Path, suffix: str) -> None:
    image = Image.open(io.BytesIO(photo(40, 6)))
    image.info["xmp"] = packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    done = restorer(image)
    done.save(tmp_path / f"a.{suffix}")
    done.save(tmp_path / "b.png", exif=b"", icc_profile=None)  # what is given counts
    kept, bare = Image.open(tmp_path / f"a.{suffix}"), Image.open(tmp_path / "b.png")
    assert done.size == kept.size == (96, 72)
    assert (kept.getexif()[ORIENTATION], kept.getexif()[MAKER]) == (6, "ACME")
    assert kept.info["icc_profile"] == ICC
    assert suffix == "webp" or kept.info["dpi"] == pytest.approx((300, 200), abs=0.01)
    assert kept.info["xmp"] == packet
    assert "exif" not in bare.info and "icc_profile" not in bare.info


def test_arrays_and_tensors_come_back_as_they_came(restorer: Restorer) -> None:
    pixels = decode(photo(30)).rgb
    plain = restorer.restore([Picture(pixels)], ["0"])[0].picture.rgb
    done = restorer(pixels)
    assert isinstance(done, np.ndarray) and done.dtype == np.uint8
    assert np.array_equal(done, plain)
    assert restorer(pixels.astype(np.uint16) * np.uint16(257)).dtype == np.uint16
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(dtype) / 255
        one, batch = restorer(tensor), restorer(torch.stack([tensor, tensor]), keys=["0", "1"])
        assert one.dtype == batch.dtype == dtype
        assert (one.shape, batch.shape) == (tensor.shape, (2, *tensor.shape))
        assert torch.equal(batch[0], one) and not torch.equal(batch[1], one)
        assert dtype == torch.bfloat16 or np.abs(255 * one.permute(1, 2, 0).numpy() - plain).max() < 1.6  # a rounding
    both = restorer([Image.fromarray(pixels), Image.fromarray(pixels)])
    assert [type(one) for one in both] == [type(restorer(Image.fromarray(pixels)))] * 2


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (torch.full((3, 8, 8), 1.5), "divide by 255"),
        (torch.full((3, 8, 8), torch.nan), "divide by 255"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "floating"),
        (torch.zeros(8, 8), "floating"),
        (np.zeros((8, 8, 3)), "uint8"),
        (np.zeros((8, 8), np.uint8), "uint8"),
        (7, "cannot restore a int"),
    ],
)
def test_what_cannot_be_restored_is_named(restorer: Restorer, source: object, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        restorer([source])  # type: ignore[list-item]


def test_an_image_that_is_not_its_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo(90))
    assert opened(Image.open(path)).picture.constraint is not None
    for change in ("drawn", "replaced", "removed"):
        path.write_bytes(photo(90))
        image = Image.open(path)
        image.load()
        if change == "drawn":
            image.putpixel((3, 3), (255, 0, 0))
        elif change == "replaced":
            path.write_bytes(photo(90, 1, photographs.coffee()[:72, :96]))
        else:
            path.unlink()
        picture = opened(image).picture
        assert picture.constraint is None
        assert picture.quality == 90  # its tables are still there
        assert np.array_equal(picture.rgb, from_pil(image).rgb)


def test_what_is_no_restoration_is_not_written(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo(30))
    monkeypatch.setattr("driftrec.restoration.restorer._sampled", lambda _, y, *__: (1 - y, 1))
    with pytest.raises(BadImage, match=r"photo\.jpg: the model changes") as caught:
        restorer(tmp_path / "photo.jpg")
    assert caught.value.reason == Reason.implausible
    with pytest.raises(BadImage, match="the model changes"):
        restorer.restore_file(tmp_path / "photo.jpg", tmp_path / "restored.png")
    with pytest.raises(InvalidInput, match=r"restored\.gif"):
        restorer.restore_file(tmp_path / "photo.jpg", tmp_path / "restored.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_jpeg_within_jpeg_xl_is_as_good_as_itself() -> None:
    """What the file says of the clean image is known, and the bytes are the JPEG's own."""
    pytest.importorskip("pillow_jxl")
    data = next(odd.data for odd in odd_files() if odd.name == "jpeg.jxl")
    jpeg = jxl.jpeg_within(data)
    assert jpeg is not None and jpeg.startswith(b"\xff\xd8")
    assert jxl.jpeg_within(jpeg) is None
    ours, theirs = open_picture(data, "a.jxl"), open_picture(jpeg, "a.jpg")
    assert np.array_equal(ours.rgb, theirs.rgb)
    assert ours.constraint is not None and theirs.constraint is not None
    assert (ours.quality, ours.steps, ours.source_format) == (30, theirs.steps, "JPEG")
    assert ours.note == jxl.WITH_JPEG
    assert open_picture(data, "a.png").note == f"named .png, holds JXL; {jxl.WITH_JPEG}"
