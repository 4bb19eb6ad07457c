"""Restoring images: `Restorer` turns damaged pictures into clean ones, three lines for a person with one photo, one
call for a pipeline.

The result of an image depends on its pixels, its key, the seed, the sampling settings and the weights: not on what
else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from driftrec.checkpoint import Checkpoint, load
from driftrec.denoiser import Denoiser
from driftrec.image import Picture, from_pil, to_pil
from driftrec.noise import gaussian
from driftrec.sampling import SAMPLERS


@dataclass(frozen=True)
class Sampling:
    """How an image is restored. None means what the model's file recommends."""

    sampler: str = "multistep"  # a key of SAMPLERS
    steps: int | None = None  # evaluations of the network for a sample
    samples: int = 1  # posterior samples that are averaged
    # 0: a posterior sample; 1: the posterior mean (one evaluation); between: a mix of both
    fidelity: float | None = None
    color_correction: bool = True  # give every channel the JPEG's mean (paper, IV-H)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {', '.join(SAMPLERS)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise ValueError(f"fidelity must be in 0..1, got {self.fidelity}")

    def resolve(self, recommended: dict[str, Any]) -> Sampling:
        """Every None replaced by the model's recommendation, or else by 8 steps and fidelity 0."""
        steps = self.steps if self.steps is not None else int(recommended.get("steps", 8))
        fidelity = self.fidelity if self.fidelity is not None else float(recommended.get("fidelity", 0.0))
        return replace(self, steps=steps, fidelity=fidelity)


@dataclass(frozen=True)
class Restored:
    """A restored picture and what it cost."""

    picture: Picture
    nfe: int  # evaluations of the network for this image


class Restorer:
    """Restores pictures with one model on one device.

    restorer = Restorer.from_pretrained() clean = restorer(Image.open("photo.jpg"))
    """

    def __init__(self, checkpoint: Checkpoint | None, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoint = checkpoint
        self.fingerprint = checkpoint.sha256 if checkpoint else "identity"
        self._denoiser = _prepare(checkpoint.denoiser, self.device) if checkpoint else None

    @classmethod
    def from_pretrained(cls, source: str = "tiny", device: str | torch.device | None = None) -> Restorer:
        """An embedded model by name, or a .safetensors file. Raises InvalidInput naming what is wrong with it."""
        return cls(load(source), device)

    @classmethod
    def identity(cls) -> Restorer:
        """No network: gives back what it gets. Measures everything around the network."""
        return cls(None, "cpu")

    @overload
    def __call__(
        self, images: Image.Image, keys: str | None = None, seed: int = 0, *, steps: int | None = None, samples: int
        = 1,
        fidelity: float | None = None,
    ) -> Image.Image: ...  # fmt: skip

    @overload
    def __call__(
        self, images: Sequence[Image.Image], keys: Sequence[str] | None = None, seed: int = 0, *, steps: int | None =
        None,
        samples: int = 1, fidelity: float | None = None,
    ) -> list[Image.Image]: ...  # fmt: skip

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
        """PIL in, PIL out: same size, mode, ICC and EXIF, upright. `keys` (default "0", "1", ...) and `seed` choose
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
        """One result a picture, in order. On a GPU pictures of one size share the network's batch."""
        if len(pictures) != len(keys):
            raise ValueError(f"{len(pictures)} pictures, but {len(keys)} keys")
        if self._denoiser is None or self.checkpoint is None:
            return [Restored(picture, 0) for picture in pictures]
        settings = (sampling or Sampling()).resolve(self.checkpoint.sampling)
        results: dict[int, Restored] = {}
        for group in self._groups(pictures):
            y = torch.stack([_as_tensor(pictures[i].rgb) for i in group])
            pixels, nfe = self._restore_pixels(y, [keys[i] for i in group], seed, settings)
            results |= {i: Restored(pictures[i].with_rgb(rgb), nfe) for i, rgb in zip(group, pixels, strict=True)}
        return [results[i] for i in range(len(pictures))]

    def _groups(self, pictures: Sequence[Picture]) -> list[list[int]]:
        """Indices that go through the network together. On a CPU a batch gains nothing, and one by one no kernel can
        depend on it.
        """
        if self.device.type == "cpu":
            return [[i] for i in range(len(pictures))]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pictures):
            by_size.setdefault(picture.rgb.shape, []).append(i)
        return list(by_size.values())

    @torch.inference_mode()
    def _restore_pixels(
        self, y: Tensor, keys: list[str], seed: int, settings: Sampling
    ) -> tuple[list[NDArray[np.uint8]], int]:
        """(B, 3, H, W) in [0, 1] -> B arrays (H, W, 3) uint8, and the evaluations each took."""
        assert self._denoiser is not None and settings.steps is not None and settings.fidelity is not None
        denoiser, calls = self._denoiser, 0
        y = y.to(self.device).contiguous(memory_format=torch.channels_last)

        def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return denoiser(x, y, t)

        def noise(step: int, sample: int) -> Tensor:
            drawn = [gaussian(*y.shape[-2:], seed=seed, key=key, step=step, sample=sample) for key in keys]
            return torch.stack(drawn).to(self.device)

        process, weight = denoiser.process, settings.fidelity
        result = torch.zeros_like(y)
        if weight > 0:
            t = torch.ones((), dtype=torch.float64)
            result += weight * denoise(y + process.std(t).to(y) * noise(0, 0), y, t)
        if weight < 1:
            sampler, grid = SAMPLERS[settings.sampler]
            for sample in range(settings.samples):
                drawn = sampler(denoise, process, y, partial(noise, sample=sample), grid(settings.steps))
                result += (1 - weight) / settings.samples * drawn
        if settings.color_correction:
            result += (y - result).mean(dim=(2, 3), keepdim=True)
        pixels = (result.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [np.ascontiguousarray(image) for image in pixels], calls


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


def _as_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255
