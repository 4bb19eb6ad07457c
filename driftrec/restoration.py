"""Restoring images: `Restorer` turns damaged pictures into clean ones, three lines for a person with one photo, one
call for a pipeline.

The result of an image depends on its pixels, its key, the seed, the sampling settings and the weights: not on what
else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from driftrec import fbcnn
from driftrec.checkpoint import Checkpoint, load
from driftrec.denoiser import Denoiser
from driftrec.grids import GRIDS
from driftrec.image import Picture, Pixels, from_pil, to_pil
from driftrec.noise import gaussian
from driftrec.process import Process
from driftrec.projection import project
from driftrec.sampling import SAMPLERS, Spacing, check_diffusion, check_multistep
from driftrec.tiling import Canvas, Tile, check_side, tiles

Part = tuple[int, Tile]  # the number of a picture, and a part of it

ROWS = 256  # of an image that are finished together
FBCNN = "fbcnn:"  # before the path of FBCNN's weights
DEFAULTS = {"steps": 8, "fidelity": 0.0, "start": 1.0}  # of Sampling, for a model that recommends nothing


@dataclass(frozen=True)
class Sampling:
    """How an image is restored. None means what the model's file recommends, or else the sampler's own default."""

    sampler: str = "multistep"  # a key of SAMPLERS
    steps: int | None = None  # of the sampler; the multistep and Euler-Maruyama samplers take one evaluation a step
    samples: int = 1  # posterior samples that are averaged
    fidelity: float | None = (
        None  # 0: a posterior sample; 1: the posterior mean (one evaluation); between: a mix of both
    )
    color_correction: bool = True  # give every channel the JPEG's mean (paper, IV-H)
    tile: int | None = 512  # pixels; images with a longer side are restored in overlapping tiles; None: whole
    projection: bool = True  # keep to what a picture's JPEG file says, where `Picture.constraint` is known
    start: float | None = None  # time to start from; below 1 from the posterior mean with noise
    t_eps: float | None = None  # time to end at
    grid: str | None = None  # a key of GRIDS
    eta: float = 0.0  # multistep: from 0 (ODE) over 1 (reverse SDE) to 2
    order: int = 2  # multistep: 1 or 2
    spacing: Spacing = "true"  # Euler-Maruyama: or "authors"
    corrector_steps: int = 0  # Euler-Maruyama: Langevin steps after each step
    corrector_ratio: float = 0.5  # Euler-Maruyama: of the corrector's step to sigma
    tolerance: float = 1e-2  # ode: of one step's error
    denoise_last: bool = False  # all but multistep: end with x0hat, at one more evaluation

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {', '.join(SAMPLERS)}")
        if self.grid is not None and self.grid not in GRIDS:
            raise ValueError(f"unknown grid {self.grid!r}; known: {', '.join(GRIDS)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise ValueError(f"fidelity must be in 0..1, got {self.fidelity}")
        if not 0 < self._t_eps < self._start <= 1:
            raise ValueError(f"need 0 < t_eps < start <= 1, got t_eps = {self._t_eps}, start = {self._start}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")
        if self.corrector_steps < 0 or not self.corrector_ratio > 0:
            raise ValueError(
                "corrector_steps must not be negative and corrector_ratio must be positive, "
                f"got {self.corrector_steps} and {self.corrector_ratio}"
            )
        check_multistep(self.eta, self.order)
        if self.tile is not None:
            check_side(self.tile)

    @property
    def _t_eps(self) -> float:
        return self.t_eps if self.t_eps is not None else SAMPLERS[self.sampler].t_eps

    @property
    def _start(self) -> float:
        return DEFAULTS["start"] if self.start is None else self.start

    def resolve(self, recommended: dict[str, Any]) -> Sampling:
        """Steps, fidelity and start replaced, where None, by the model's recommendation, or else by DEFAULTS."""
        wanted = {name: recommended.get(name, value) for name, value in DEFAULTS.items() if getattr(self, name) is None}
        return replace(self, **wanted)

    def times(self, process: Process) -> Tensor:
        """The falling times of one sample."""
        assert self.steps is not None, "resolve first"
        method = SAMPLERS[self.sampler]
        points = self.steps if self.spacing == "authors" else method.points(self.steps)
        return GRIDS[self.grid or method.grid](process, points, self._t_eps, self._start)

    def check(self, process: Process) -> None:
        """Raises ValueError if this process cannot be sampled so."""
        if self.sampler != "multistep":
            check_diffusion(process)
        self.times(process)

    def draw(self) -> Callable[..., Tensor]:
        """The sampler with its options."""
        method = SAMPLERS[self.sampler]
        return partial(method.sample, **{name: getattr(self, name) for name in method.options})


@dataclass(frozen=True)
class Restored:
    """A restored picture and what it cost."""

    picture: Picture
    nfe: int  # evaluations of the network for this image


class Restorer:
    """Restores pictures with one model on one device.

    restorer = Restorer.from_pretrained() clean = restorer(Image.open("photo.jpg"))
    """

    def __init__(self, checkpoint: Checkpoint | fbcnn.Weights | None, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoint = checkpoint
        self.fingerprint = checkpoint.sha256 if checkpoint else "identity"
        self._denoiser = _prepare(checkpoint.denoiser, self.device) if isinstance(checkpoint, Checkpoint) else None
        if isinstance(checkpoint, fbcnn.Weights):  # float32, as published
            checkpoint.network.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_pretrained(cls, source: str = "tiny", device: str | torch.device | None = None) -> Restorer:
        """An embedded model by name, the path or URL of a .safetensors file, or "fbcnn:PATH" (public weights of FBCNN).
        Raises InvalidInput naming what is wrong with it.
        """
        if source.startswith(FBCNN):
            return cls(fbcnn.load(source.removeprefix(FBCNN)), device)
        return cls(load(source), device)

    @classmethod
    def identity(cls) -> Restorer:
        """No network: gives back what it gets. Measures everything around the network."""
        return cls(None, "cpu")

    @property
    def recommended(self) -> dict[str, Any]:
        """Settings of Sampling that the model's file recommends."""
        return self.checkpoint.sampling if self.checkpoint else {}

    @property
    def process(self) -> Process | None:
        """What is sampled; None for a model that is not."""
        return self._denoiser.process if self._denoiser else None

    @overload
    def __call__(
        self,
        images: Image.Image,
        keys: str | None = None,
        seed: int = 0,
        *,
        steps: int | None = None,
        samples: int = 1,
        fidelity: float | None = None,
    ) -> Image.Image: ...

    @overload
    def __call__(
        self,
        images: Sequence[Image.Image],
        keys: Sequence[str] | None = None,
        seed: int = 0,
        *,
        steps: int | None = None,
        samples: int = 1,
        fidelity: float | None = None,
    ) -> list[Image.Image]: ...

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image],
        keys: str | Sequence[str] | None = None,
        seed: int = 0,
        *,
        steps: int | None = None,
        samples: int = 1,
        fidelity: float | None = None,
    ) -> Image.Image | list[Image.Image]:
        """PIL in, PIL out: same size, mode, ICC and EXIF. `keys` (default "0", "1", ...) and `seed` choose
        each image's noise.
        """
        sampling = Sampling(steps=steps, samples=samples, fidelity=fidelity)
        if isinstance(images, Image.Image):
            return self(
                [images],
                [keys] if isinstance(keys, str) else keys,
                seed,
                steps=steps,
                samples=samples,
                fidelity=fidelity,
            )[0]
        names = [str(i) for i in range(len(images))] if keys is None else list(keys)
        return [to_pil(done.picture) for done in self.restore([from_pil(i) for i in images], names, seed, sampling)]

    def restore(
        self, pictures: Sequence[Picture], keys: Sequence[str], seed: int = 0, sampling: Sampling | None = None
    ) -> list[Restored]:
        """One result a picture, in order. On a GPU pictures of one size share the network's batch. FBCNN heeds nothing
        of `sampling`, so that its results are the published ones.
        """
        if len(pictures) != len(keys):
            raise ValueError(f"{len(pictures)} pictures, but {len(keys)} keys")
        if self.checkpoint is None:
            return [Restored(picture, 0) for picture in pictures]
        settings = (sampling or Sampling()).resolve(self.recommended)
        if isinstance(self.checkpoint, fbcnn.Weights):
            settings = replace(settings, tile=None, color_correction=False, projection=False)
        canvases, nfe = [Canvas(p.height, p.width, p.depth) for p in pictures], [0] * len(pictures)
        for parts in self._batches(pictures, settings):
            y = torch.stack([_as_tensor(pictures[i].rgb[tile.place]) for i, tile in parts])
            restored, calls = self._restore_parts(y, [(keys[i], tile) for i, tile in parts], seed, settings)
            for (i, tile), pixels in zip(parts, restored, strict=True):
                canvases[i].add(tile, pixels)
                nfe[i] = max(nfe[i], calls)
        finished = (_finish(*each, settings) for each in zip(pictures, canvases, strict=True))
        return [Restored(*each) for each in zip(finished, nfe, strict=True)]

    def _batches(self, pictures: Sequence[Picture], settings: Sampling) -> list[list[Part]]:
        """What goes through the network together: on a GPU as many tiles of one size as there are pictures. On a CPU a
        batch gains nothing, and one by one no kernel can depend on it; the ODE solver gives every image steps of its
        own, which only then are counted as its own.
        """
        parts = [(i, tile) for i, p in enumerate(pictures) for tile in tiles(p.height, p.width, settings.tile)]
        if self.device.type == "cpu" or settings.sampler == "ode":
            return [[part] for part in parts]
        by_size: dict[tuple[int, int], list[Part]] = {}
        for part in parts:
            by_size.setdefault(part[1].size, []).append(part)
        count = len(pictures)
        return [same[i : i + count] for same in by_size.values() for i in range(0, len(same), count)]

    @torch.inference_mode()
    def _restore_parts(
        self, y: Tensor, places: list[tuple[str, Tile]], seed: int, settings: Sampling
    ) -> tuple[NDArray[np.float32], int]:
        """(B, 3, H, W) in [0, 1] -> (B, H, W, 3), about in [0, 1], and the evaluations each took. places: of each its
        image's key, and where it lies.
        """
        y = y.to(self.device).contiguous(memory_format=torch.channels_last)
        if isinstance(self.checkpoint, fbcnn.Weights):
            result, nfe = self.checkpoint.restore(y), 1
        else:
            result, nfe = self._sample(y, places, seed, settings)
        return result.permute(0, 2, 3, 1).cpu().numpy(), nfe

    def _sample(
        self, y: Tensor, places: list[tuple[str, Tile]], seed: int, settings: Sampling
    ) -> tuple[Tensor, int]:
        """What the process and its network make of y (B, 3, H, W), and the evaluations it took."""
        assert self._denoiser is not None and settings.fidelity is not None and settings.start is not None
        denoiser, calls = self._denoiser, 0

        def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return denoiser(x, y, t)

        def noise(step: int, sample: int) -> Tensor:
            named = partial(gaussian, *y.shape[-2:], seed=seed, step=step, sample=sample)
            drawn = [named(key=key, top=tile.rows.start, left=tile.columns.start) for key, tile in places]
            return torch.stack(drawn).to(self.device)

        process, weight = denoiser.process, settings.fidelity
        mean = torch.zeros_like(y)
        if weight > 0 or settings.start < 1:
            t = torch.ones((), dtype=torch.float64)
            mean = denoise(process.centre(y, t) + process.std(t).to(y) * noise(0, 0), y, t)
        result = weight * mean
        if weight < 1:
            sampler, times = settings.draw(), settings.times(process)
            guess = mean if settings.start < 1 else None
            for sample in range(settings.samples):
                drawn = sampler(denoise, process, y, partial(noise, sample=sample), times, guess)
                result += (1 - weight) / settings.samples * drawn
        return result, calls


def _prepare(denoiser: Denoiser, device: torch.device) -> Denoiser:
    """In bfloat16 and channels_last where the device computes faster so; the arithmetic around the network stays in
    float32.
    """
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    dtype = torch.bfloat16 if fast else torch.float32
    # pyright: ignore[reportCallIssue]
    denoiser.network.to(device=device, dtype=dtype)
    denoiser.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return denoiser


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _finish(picture: Picture, canvas: Canvas, settings: Sampling) -> Picture:
    """The picture with the pixels of its canvas. By rows, so that a large one needs no second copy in floats."""
    shift = np.zeros(3)
    if settings.color_correction:
        shift = picture.rgb.mean(axis=(0, 1), dtype=np.float64) / picture.peak - canvas.mean()
    rgb = np.empty_like(picture.rgb)
    for top in range(0, len(rgb), ROWS):
        restored = canvas.rows(top, top + ROWS) + shift.astype(np.float32)
        rgb[top : top + ROWS] = (restored.clip(0, 1) * picture.peak).round()
    if settings.projection and picture.constraint:
        rgb = project(rgb, picture.constraint)
    return picture.with_rgb(rgb)


def _as_tensor(rgb: Pixels) -> Tensor:
    peak = np.iinfo(rgb.dtype).max
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / peak
