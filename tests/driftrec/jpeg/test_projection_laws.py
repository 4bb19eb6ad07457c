"""A projection never moves an image away from its clean original, whatever kind of JPEG its file is.

Over the product of sampling, scans, sides, quality, restart markers, tables and fill beyond the edges, on files of an
encoder of the tests' own (tests/jpegs.py), which knows the levels that it wrote.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from driftrec.image import decode
from driftrec.jpeg.constraint import Constraint, Unconstrained, constraint, project
from tests.jpegs import SCRIPTS, Made, encode

PHOTO = np.asarray(Image.fromarray(astronaut()[80:420, 80:420]).resize((128, 128)))
QUALITIES = (5, 10, 20, 30, 50, 60, 75, 90, 95, 100)
USUAL = ((1, 1), (1, 2), (2, 2))  # luma samples a chroma sample, down and across


@dataclass(frozen=True)
class Case:
    """A picture, its file, and what tells them apart from others."""

    told: str
    clean: np.ndarray
    made: Made
    quality: int


def cases(seed: int, count: int, least: int, most: int, edge: str) -> Iterator[Case]:
    """So many of the product, each of its dimensions drawn alone; scans and sides in turn, so that all meet."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        script = list(SCRIPTS)[number % len(SCRIPTS)]
        height, width = (int(rng.integers(least, most)) for _ in "hw")
        quality, factors = int(rng.choice(QUALITIES)), USUAL[int(rng.integers(3))]
        restart, wide, grey = int(rng.choice([0, 0, 1, 3])), bool(rng.random() < 0.2), bool(rng.random() < 0.15)
        clean = np.ascontiguousarray(PHOTO[:height, :width])
        clean = clean[..., 1] if grey else clean
        made = encode(clean, quality, factors, SCRIPTS[script], restart, wide, edge)
        clean = np.repeat(clean[..., None], 3, axis=2) if grey else clean
        told = f"{script}, {height}x{width}, q{quality}, {factors}, {restart=} {wide=} {grey=} {edge}"
        yield Case(told, clean, made, quality)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-6, np.mean((a.astype(float) - b) ** 2))))


def worst_gain(case: Case, known: Constraint) -> float:
    """Of the picture with noise, with a colour shift, and of what libjpeg makes of the file, dB."""
    noise = np.random.default_rng(len(case.told)).normal(0, 8, case.clean.shape)
    others = [case.clean + noise, case.clean + np.array([9.0, -6, 8]), decode(case.made.data).rgb]
    restored = [other.clip(0, 255).round().astype(np.uint8) for other in others]
    return min(psnr(project(one, known), case.clean) - psnr(one, case.clean) for one in restored)


@pytest.mark.parametrize("edge", ["edge", "constant", "mean", "reflect", "wrap"])
@pytest.mark.parametrize(("count", "least", "most"), [(120, 1, 16), (120, 16, 49), (30, 81, 129)])
def test_no_file_moves_a_picture_away_from_its_original(count: int, least: int, most: int, edge: str) -> None:
    """All widths and heights mod 16 meet all kinds of scans, however an encoder fills its blocks beyond the edge."""
    for seed in range(2):
        for case in cases(seed, count, least, most, edge):
            known = constraint(case.made.data)
            assert isinstance(known, Constraint), case.told
            assert worst_gain(case, known) > -0.05, case.told
            assert np.abs(project(case.clean, known).astype(int) - case.clean).max() <= 2, case.told


@pytest.mark.parametrize("factors", USUAL)
def test_steps_that_are_not_the_files_own_do_not_agree(factors: tuple[int, int]) -> None:
    known = constraint(encode(PHOTO, 30, factors).data)
    assert isinstance(known, Constraint) and known.agrees()
    for plane in range(3):
        steps = list(known.steps)
        steps[plane] = steps[plane] * 1.5
        assert not replace(known, steps=tuple(steps)).agrees()


def test_levels_are_those_that_the_encoder_wrote() -> None:
    seen = wrong = 0
    for case in cases(2, 200, 17, 65, "edge"):
        known = constraint(case.made.data)
        assert isinstance(known, Constraint), case.told
        if case.quality > 75:
            continue
        for plane, written in enumerate(case.made.levels):
            levels = known.levels(plane, 0, len(written))
            wrong += int((levels != written[: levels.shape[0], : levels.shape[1]]).sum())
            seen += levels.size
    assert seen > 200_000
    assert wrong <= 1e-5 * seen


@pytest.mark.parametrize("factors", [(2, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_other_samplings_say_why_they_are_left_alone(script: str, factors: tuple[int, int]) -> None:
    assert constraint(encode(PHOTO, 75, factors, SCRIPTS[script]).data) == Unconstrained.other_kind


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("width", range(113, 129))
def test_what_libjpeg_writes(width: int, options: dict[str, object], subsampling: int) -> None:
    clean = np.ascontiguousarray(PHOTO[: 128 - width % 5, :width])
    for quality in (10, 30, 60, 90):
        file = io.BytesIO()
        Image.fromarray(clean).save(file, "JPEG", quality=quality, subsampling=subsampling, **options)
        known = constraint(file.getvalue())
        assert isinstance(known, Constraint)
        assert worst_gain(Case("libjpeg", clean, Made(file.getvalue(), []), quality), known) > -0.05
        assert np.abs(project(clean, known).astype(int) - clean).max() <= 2
