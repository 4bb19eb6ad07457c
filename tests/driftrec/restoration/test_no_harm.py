"""What was not damaged, or is of no kind that the model knows, is not smeared: drawings, lossless files, slivers."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut, chelsea, coffee

from driftrec import Restorer
from driftrec.jpeg import degrade
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration.finishing import Restored
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling
from tests.driftrec.drawings import DRAWINGS

Pixels = NDArray[np.uint8]
PHOTOS = {
    "astronaut": astronaut()[:160, 140:300],
    "coffee": coffee()[100:260, 200:360],
    "cat": chelsea()[60:220, 90:250],
}
REFUSED = ("squares of 16", "pixel art of 16")  # what the model makes of these the guard lets nobody write


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained()


def restored(restorer: Restorer, data: bytes) -> Restored:
    (done,) = restorer.restore([open_picture(data)], ["k"], 0, Sampling(adaptive=True))
    return done


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def stored(pixels: Pixels, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_at_high_quality_stays_one(restorer: Restorer, name: str, subsampling: str) -> None:
    clean = DRAWINGS[name]
    data = encode_jpeg(clean, 96, subsampling)
    done = restored(restorer, data)
    assert bool(done.fault) == (name in REFUSED), done.fault
    if name not in REFUSED:
        before = psnr(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), clean)
        assert psnr(done.picture.rgb, clean) >= min(before - 0.5, 42)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("name", ["table of 16", "pixel art of 8", "squares of 6", "dithered", "terminal"])
def test_a_lossless_drawing_is_left_as_it_is(restorer: Restorer, name: str, kind: str) -> None:
    done = restored(restorer, stored(DRAWINGS[name], kind))
    assert (done.strength, done.nfe) == (0.0, 0)
    assert "no JPEG damage shows" in done.picture.note
    assert psnr(done.picture.rgb, DRAWINGS[name]) > 40  # a GIF's palette apart


@pytest.mark.parametrize("name", PHOTOS)
def test_a_lossless_photograph_is_left_as_it_is_unless_a_jpeg_shows_in_it(restorer: Restorer, name: str) -> None:
    clean = np.ascontiguousarray(PHOTOS[name])
    done = restored(restorer, stored(clean, "png"))
    assert np.array_equal(done.picture.rgb, clean)
    for off in (0, 3):
        damaged = np.ascontiguousarray(degrade(clean, 10)[off:, off:])
        done = restored(restorer, stored(damaged, "png"))
        assert psnr(done.picture.rgb, clean[off:, off:]) > psnr(damaged, clean[off:, off:]) + 0.2


@pytest.mark.parametrize("off", [(0, 3), (5, 2), (7, 7), (3, 4)])
@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_a_cropped_jpeg_that_was_stored_without_loss_gains_as_one_that_was_not(
    restorer: Restorer, off: tuple[int, int], fidelity: float
) -> None:
    clean = np.ascontiguousarray(PHOTOS["coffee"])
    gains = []
    for rows, columns in ((0, 0), off):
        damaged, truth = (np.ascontiguousarray(image[rows:, columns:]) for image in (degrade(clean, 10), clean))
        settings = Sampling(adaptive=True, fidelity=fidelity, tile=None)
        (done,) = restorer.restore([open_picture(stored(damaged, "png"))], ["k"], 0, settings)
        assert done.picture.rgb.shape == damaged.shape
        gains.append(psnr(done.picture.rgb, truth) - psnr(damaged, truth))
    assert gains[1] > gains[0] - 0.15


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (1, 200), (200, 1), (2, 2), (3, 200), (15, 40)])
@pytest.mark.parametrize("quality", [10, 50, 80, 95])
def test_a_sliver_is_left_as_it_is(restorer: Restorer, size: tuple[int, int], quality: int) -> None:
    clean = np.ascontiguousarray(coffee()[100 : 100 + size[0], 200 : 200 + size[1]])
    data = encode_jpeg(clean, quality, "4:2:0")
    done = restored(restorer, data)
    assert np.array_equal(done.picture.rgb, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert done.nfe == 0


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("second", [90, 95])
@pytest.mark.parametrize("off", [0, 4])
def test_a_photograph_saved_again_is_restored_as_what_it_was(
    restorer: Restorer, name: str, second: int, off: int
) -> None:
    clean = np.ascontiguousarray(PHOTOS[name])
    damaged = np.ascontiguousarray(degrade(clean, 10)[off:, off:])
    data = encode_jpeg(damaged, second, "4:2:0")
    done = restored(restorer, data)
    before = psnr(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), clean[off:, off:])
    assert psnr(done.picture.rgb, clean[off:, off:]) > before + 0.2
