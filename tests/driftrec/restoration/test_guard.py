"""The guard: what cannot be a restoration of its picture is refused, whatever made it; what can be one never is."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as photographs

from driftrec import Restorer
from driftrec.diffusion.process import Process
from driftrec.image import Picture, decode
from driftrec.image.picture import ROWS
from driftrec.jpeg.codec import encode_jpeg
from driftrec.models.checkpoint import load
from driftrec.restoration.guard import Change
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling

QUALITIES = (1, 5, 10, 30, 50, 75, 90, 95, 100)
PHOTOS = {
    "astronaut": photographs.astronaut()[:176, 150:310],
    "coffee": photographs.coffee()[100:260, 150:310],
    "cat": photographs.chelsea()[60:220, 100:260],
    "camera": np.dstack([photographs.camera()[80:240, 150:310]] * 3),
}
rng = np.random.default_rng(0)
y, x = np.mgrid[:96, :96]
OTHERS = {
    "flat": np.full((40, 56, 3), (40, 120, 200), np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "one": np.full((1, 1, 3), 9, np.uint8),
    "ramp": np.dstack([x * 2 + 20] * 3).astype(np.uint8),
    "noise": rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
    "black and white": np.where(rng.random((96, 96, 1)) < 0.5, 0, 255).repeat(3, 2).astype(np.uint8),
    "lines": np.dstack([np.where((x % 7 == 0) | (y % 11 == 0), 0, 255)] * 3).astype(np.uint8),
    "text": np.dstack([photographs.text()[:100, :160]] * 3),
}
GARBAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # pixels in [0, 1] to pixels that are no restoration
    "nan": lambda a: np.where(np.arange(a.shape[1])[:, None] == 7, np.nan, a),
    "inf": lambda a: np.where(np.arange(a.shape[1])[:, None] == 7, np.inf, a),
    "all nan": lambda a: np.full_like(a, np.nan),
    "flat": lambda a: np.broadcast_to(a.mean(axis=(0, 1)), a.shape),
    "grey": lambda a: np.full_like(a, 0.5),
    "black": np.zeros_like,
    "inverted": lambda a: 1 - a,
    "shifted": lambda a: np.roll(a, 8, axis=1),
    "shifted down": lambda a: np.roll(a, 8, axis=0),
    "another": lambda a: np.resize(PHOTOS["coffee"][::-1], a.shape) / 255,
    "noise": lambda a: np.random.default_rng(1).random(a.shape),
}


def implausible(before: np.ndarray, after: np.ndarray, quality: int | None = None) -> str | None:
    """Why `after`, in unsigned integers or floats in [0, 1], is no restoration of `before`; None if it may be one."""
    peak = np.iinfo(after.dtype).max if after.dtype.kind == "u" else 1
    change = Change(quality)
    for top in range(0, len(before), ROWS):
        change.add(before[top : top + ROWS], after[top : top + ROWS].astype(np.float32) / np.float32(peak))
    return change.fault


def jpeg(clean: np.ndarray, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    return decode(encode_jpeg(clean, quality, subsampling)).rgb


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_refused_at_every_quality(kind: str) -> None:
    for name, clean in PHOTOS.items():
        for quality in QUALITIES:
            before = jpeg(clean, quality)
            after = GARBAGE[kind](before / 255.0)
            for known in (quality, None):
                assert implausible(before, after, known), (name, quality, known)
        if np.isfinite(after).all():
            assert implausible(clean, np.rint(255 * after).astype(np.uint8))
            assert implausible(clean.astype(np.uint16) * np.uint16(257), after)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_the_clean_image_is_a_restoration_of_every_jpeg(subsampling: str) -> None:
    for name, clean in (PHOTOS | OTHERS).items():
        for quality in QUALITIES:
            before = jpeg(clean, quality, subsampling)
            assert implausible(before, clean, quality) is None, (name, quality)
            assert implausible(before, before, quality) is None


@pytest.mark.parametrize("adaptive", [False, True])
def test_what_the_embedded_model_does_is_a_restoration(adaptive: bool) -> None:
    restorer = Restorer.from_pretrained(device="cpu")
    pictures = {**{name: a[:96, :96] for name, a in PHOTOS.items()}, **{n: a[:64, :64] for n, a in OTHERS.items()}}
    for name, clean in pictures.items():
        for quality, fidelity in ((5, 1.0), (30, 0.0), (90, 1.0)):
            picture = open_picture(encode_jpeg(clean, quality, "4:2:0"))
            sampling = Sampling(steps=2, fidelity=fidelity, adaptive=adaptive)
            (done,) = restorer.restore([picture], [name], 0, sampling)
            assert done.fault is None, (name, quality)
        assert restorer.restore([Picture(clean)], [name], 0, Sampling(fidelity=1.0))[0].fault is None


class Broken(torch.nn.Module):
    """Takes a denoiser's place, and says what is no restoration of y."""

    def __init__(self, process: Process, kind: str) -> None:
        super().__init__()
        self.process, self.kind = process, kind

    def forward(self, x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        made = [GARBAGE[self.kind](one.permute(1, 2, 0).double().numpy()) for one in y]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(y)


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_broken_model_is_seen_whatever_is_done_with_its_output(small_model: Path, kind: str) -> None:
    """Adaptive strength and projection bring garbage near to a good file: what the model proposed is judged."""
    checkpoint = load(small_model)
    restorer = Restorer(checkpoint, "cpu")
    restorer.checkpoint = replace(checkpoint, denoiser=Broken(checkpoint.denoiser.process, kind))  # type: ignore[arg-type]
    clean = PHOTOS["astronaut"]
    pictures = [open_picture(encode_jpeg(clean, quality)) for quality in (5, 30, 75, 90, 95)]
    for picture in [*pictures, Picture(clean), Picture(clean.astype(np.uint16) * np.uint16(257))]:
        for sampling in (Sampling(), Sampling(adaptive=True), Sampling(adaptive=True, projection=False, tile=128)):
            for fidelity in (0.0, 1.0):
                (done,) = restorer.restore([picture], ["a"], 0, replace(sampling, fidelity=fidelity))
                assert done.fault, (picture.quality, sampling)
                assert done.finite == ("nan" not in kind and "inf" not in kind)


def test_the_words_tell_the_numbers() -> None:
    before = jpeg(PHOTOS["cat"], 30)
    told = implausible(before, np.roll(before, 8, axis=1), 30) or ""
    assert re.search(r"changes the luma by 1\.\d\d of .* quality 30 .* at most 0\.42", told)
    assert "nan" in (implausible(before, np.full(before.shape, np.nan)) or "")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_refusal_needs_detail(share: float) -> None:
    """Of a picture of one colour everything that is near is a restoration."""
    flat = OTHERS["flat"]
    assert implausible(flat, flat + np.uint8(4 * share), 50) is None
    assert implausible(flat, flat + np.uint8(50 * share), 50)
