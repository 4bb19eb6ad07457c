"""Adaptive restoration: less to do where a file says that little is lost, and never more than was asked for."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from driftrec import Restorer
from driftrec.diffusion.baselines import I2SB, InDI
from driftrec.diffusion.drift import OUVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.image import Picture, Pixels
from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.models import load
from driftrec.restoration import adaptive
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Plan, Sampling

PHOTO = np.ascontiguousarray(astronaut()[20:276, 100:356])
WANTED = Sampling(steps=4, fidelity=0.0, start=0.3, adaptive=True).resolve({})


def opened(image: np.ndarray, quality: int) -> Picture:
    data = encode_jpeg(image, quality, "4:2:0")
    return open_picture(data)


def test_the_better_a_file_the_less_is_done() -> None:
    plans = [WANTED.adapted(opened(PHOTO, quality), OUVE()) for quality in (5, 10, 20, 50, 70)]
    starts, steps = ([getattr(sampling, name) for sampling, *_ in plans] for name in ("start", "steps"))
    assert starts[0] == starts[1] == 0.3
    assert all(a > b for a, b in pairwise(starts[1:]))
    assert steps == [4, 4, 3, 2, 2]
    assert WANTED.adapted(opened(PHOTO, 90), OUVE())[0].fidelity == 1
    strengths = [adaptive.strength(quality) for quality in range(1, 101)]
    assert strengths[:60] == [1] * 60
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[-1] == 0


def test_what_tells_nothing_of_its_damage_gets_everything() -> None:
    assert WANTED.adapted(Picture(PHOTO), OUVE()) == Plan(WANTED, 1.0, None)
    assert WANTED.adapted(opened(degrade(PHOTO, 10), 90), OUVE()) == Plan(WANTED, 1.0, 10)
    fine = opened(PHOTO, 90)
    assert replace(WANTED, adaptive=False).adapted(fine, OUVE())[1] == 1


def test_what_its_file_told_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [opened(PHOTO, 90), opened(degrade(PHOTO, 10), 90)]
    monkeypatch.setattr(adaptive, "older_compression", lambda *_: pytest.fail("looked for"))
    assert [adaptive.history(picture) for picture in pictures] == [(90, False, (0, 0)), (10, True, (0, 0))]


def test_a_file_without_a_constraint_goes_by_its_own_quality() -> None:
    picture = replace(opened(PHOTO, 90), constraint=None)
    assert WANTED.adapted(picture, OUVE()).strength == adaptive.strength(90)


@pytest.mark.parametrize(("offset", "earlier"), [(0, 30), (4, 30), (0, 50), (4, 85)])
def test_an_older_quality_that_can_be_told_counts(offset: int, earlier: int) -> None:
    picture = replace(opened(shifted(earlier, offset), 97), constraint=None)
    quality, older, at = adaptive.history(picture)
    assert at == (0, 0)  # the file has a grid of its own
    assert older
    assert abs((quality or 0) - earlier) <= 2
    strength = WANTED.adapted(picture, OUVE()).strength
    assert strength == pytest.approx(adaptive.strength(earlier), abs=0.05)


def test_one_that_cannot_be_told_does_not() -> None:
    picture = replace(opened(shifted(85, 0), 97), constraint=None)  # its steps are fine beside the second's
    assert adaptive.history(picture) == (97, False, (0, 0))


def shifted(quality: int, offset: int) -> Pixels:
    """A photograph, compressed and then cropped."""
    return np.ascontiguousarray(shift(degrade(PHOTO, quality), offset, offset))


@pytest.mark.parametrize("process", [OUVE(), CosVE(), I2SB()], ids=lambda process: process.name)
@pytest.mark.parametrize("wanted", [0.3, 1.0])
def test_the_noise_of_a_start_goes_with_the_damage(process: Process, wanted: float) -> None:
    def level(t: float) -> float:
        return float(process.std(t) / process.mean_coefficient(t))

    assert adaptive.start(process, wanted, 0.01, 1.0) == wanted
    assert adaptive.start(process, wanted, 0.01, 1e-9) == pytest.approx(0.011)
    begin = adaptive.start(process, wanted, 0.01, 0.5)
    assert 0.01 < begin < wanted
    if wanted < 1:
        assert level(begin) == pytest.approx(0.5 * level(wanted), rel=1e-3)


def test_a_process_without_noise_starts_where_it_was_told_to() -> None:
    assert adaptive.start(InDI(), 0.7, 0.01, 0.5) == 0.7


def test_a_share_of_the_change_is_applied(small_model: Path) -> None:
    restorer = Restorer.from_pretrained(str(small_model), device="cpu")
    picture = replace(opened(PHOTO[:64, :64], 90), constraint=None)
    settings = Sampling(fidelity=1.0, color_correction=False)
    whole = restorer.restore([picture], ["a"], 0, settings)[0]
    part = restorer.restore([picture], ["a"], 0, replace(settings, adaptive=True))[0]
    assert part.strength == adaptive.strength(90) < whole.strength == 1
    mixed = picture.rgb + part.strength * (whole.picture.rgb.astype(float) - picture.rgb)
    inside = (whole.picture.rgb > 0) & (whole.picture.rgb < 255)
    assert np.abs(part.picture.rgb - mixed)[inside].max() <= 1.01
    finest = replace(picture, quality=100)
    untouched = restorer.restore([finest], ["a"], 0, replace(settings, adaptive=True))[0]
    assert (untouched.nfe, untouched.strength) == (0, 0)
    assert np.array_equal(untouched.picture.rgb, finest.rgb)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("tile", [None, 128])
def test_a_turned_file_is_restored_as_it_is_stored(small_model: Path, orientation: int, tile: int | None) -> None:
    """The network, its noise, the tiles and the projection see the grid at the corner; then the result is turned."""
    from tests.driftrec.pictures import stored

    restorer = Restorer.from_pretrained(str(small_model), device="cpu")
    exif, results = Image.Exif(), []
    for tag in (1, orientation):
        exif[0x0112], out = tag, io.BytesIO()
        Image.fromarray(PHOTO[:139, :101]).save(out, "JPEG", quality=75, exif=exif)
        picture = open_picture(out.getvalue())
        assert picture.constraint is not None
        sampling = Sampling(steps=2, fidelity=0.5, tile=tile, adaptive=True)
        results.append(restorer.restore([picture], ["a"], 0, sampling)[0].picture.rgb)
    untouched, turned = results
    assert turned.shape[:2] == (untouched.shape[:2] if orientation < 5 else untouched.shape[1::-1])
    assert np.array_equal(stored(turned, orientation), untouched)


@pytest.mark.parametrize("knows_jpeg", [True, False])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_only_a_model_of_jpegs_goes_by_a_jpegs_quality(small_model: Path, form: str, knows_jpeg: bool) -> None:
    """One that was trained on other damage, of pairs, restores whatever it is given."""
    file = io.BytesIO()
    Image.fromarray(PHOTO[:48, :64]).save(file, form, quality=100)
    card = {} if knows_jpeg else {"data": {"set": "clean/", "corrupted": "webp/"}}
    restorer = Restorer(replace(load(small_model), card=card), "cpu")
    picture = open_picture(file.getvalue())
    (result,) = restorer.restore([picture], ["a"], sampling=Sampling(adaptive=True))
    assert (result.nfe > 0) == (not knows_jpeg)
