"""Restoring images: `Restorer` turns damaged pictures into clean ones, three lines for a person with one photo, one
call for a pipeline.

The result of an image depends on its pixels, its key, the seed, the sampling settings and the weights: not on what
else is in the batch.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from driftrec import __version__
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.detail import on_coarse_mean
from driftrec.diffusion.process import Process
from driftrec.errors import InvalidInput
from driftrec.image import Picture, Pixels, encode, format_of
from driftrec.models import fbcnn, qgac, unconditional
from driftrec.models.checkpoint import Checkpoint
from driftrec.models.interpolation import Model
from driftrec.models.loading import load
from driftrec.networks.precision import bfloat16_is_faster
from driftrec.noise import gaussian
from driftrec.restoration import coefficients, opening
from driftrec.restoration.finishing import Arriving, Unfinished
from driftrec.restoration.finishing import Restored as Restored
from driftrec.restoration.opening import Array, File, Source
from driftrec.restoration.options import Options, Plan, Resolved, Sampling, whole
from driftrec.restoration.tiling import Tile, tiles

Part = tuple[int, Tile]  # the number of a picture, and a part of it
Place = tuple[str, Tile]  # an image's key, and a part of it

S = TypeVar("S", Image.Image, Array, Tensor)
T = TypeVar("T")
U = TypeVar("U")


class Restorer:
    """Restores pictures with one model on one device.

        restorer = Restorer.from_pretrained()
        restorer("photo.jpg").save("restored.png")

    It does what the command `driftrec restore` does.
    """

    def __init__(self, checkpoint: Model | None, device: str | torch.device | None = None) -> None:
        self.device = _found(device)
        self.checkpoint = checkpoint
        self.fingerprint = checkpoint.sha256 if checkpoint else "identity"
        self.threads = 1  # on a CPU: tiles that go through the network at a time; bytes do not depend on it
        # Told how many parts of a call have been through the network, and of how many.
        self.tell: Callable[[int, int], None] = lambda done, of: None
        self._exact: Denoiser | None = None  # in float32, once it is asked for
        self._making_exact = threading.Lock()
        self._as_loaded: dict[str, Tensor] = {}
        if isinstance(checkpoint, Checkpoint):
            self._as_loaded = dict(checkpoint.denoiser.network.state_dict())  # what `_prepare` rounds
            _prepare(checkpoint.denoiser, self.device)
        elif checkpoint:  # float32, as published
            checkpoint.network.to(self.device)
        if isinstance(checkpoint, fbcnn.Weights):
            checkpoint.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_pretrained(cls, source: str = "tiny", device: str | torch.device | None = None) -> Restorer:
        """An embedded model by name, the path or URL of a .safetensors file, "fbcnn:PATH" (public weights of FBCNN),
        "qgac:PATH", "ddrm:PATH", or "interpolate:A,B?alpha=0.7" (see `driftrec.models.source`). Raises InvalidInput
        naming what is wrong with it.
        """
        return cls(load(source), device)

    @classmethod
    def identity(cls) -> Restorer:
        """No network: gives back what it gets. Measures everything around the network."""
        return cls(None, "cpu")

    @property
    def recommended(self) -> dict[str, Any]:
        """Settings of Sampling that the model's process has of its own, and that its file recommends."""
        own = self.process.sampling if self.process else {}
        return {**own, **(self.checkpoint.sampling if self.checkpoint else {})}

    @property
    def process(self) -> Process | None:
        """What is sampled; None for a model that is not."""
        return self.checkpoint.denoiser.process if isinstance(self.checkpoint, Checkpoint) else None

    @property
    def _held(self) -> bool:
        """Whether DDRM holds it to what the file's encoder makes of an image."""
        return isinstance(self.checkpoint, unconditional.Weights)

    @overload
    def __call__(
        self, images: File, keys: str | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> Image.Image: ...

    @overload
    def __call__(
        self, images: Tensor, keys: str | Sequence[str] | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> Tensor: ...

    @overload
    def __call__(self, images: S, keys: str | None = None, seed: int = 0, **options: Unpack[Options]) -> S: ...

    @overload
    def __call__(
        self, images: Sequence[File], keys: Sequence[str] | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> list[Image.Image]: ...

    @overload
    def __call__(
        self, images: Sequence[S], keys: Sequence[str] | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> list[S]: ...

    def __call__(
        self,
        images: Source | Sequence[Source],
        keys: str | Sequence[str] | None = None,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> Any:
        """What is given comes back restored, and as the same kind; a list as a list.

        A path or the bytes of a file give an upright PIL image, which is saved with profile, EXIF and resolution. A PIL
        image keeps size, mode, profile and EXIF, a uint8 or uint16 array (H, W, 3) its type, a tensor (3, H, W) or (B,
        3, H, W) with pixels in [0, 1] its dtype and device. Files, and PIL images as `Image.open` gives them, are
        treated as `driftrec restore` does it: as much as a JPEG's quality asks for (`adaptive`), within what it says
        (`projection`). Arrays, and PIL images that were made anew (`copy`, `convert`), say nothing of their file.

        Args:
            images: what to restore.
            keys: they choose, with the seed, an image's noise; by default a path's name, and of all else "0", "1", ...
            seed: of the noise.
            options: steps, samples, fidelity, adaptive, projection: see Sampling.

        Raises:
            BadImage: a file that is no sound image, or (`implausible`) a result that is no restoration.
            OSError, TypeError, ValueError: a path that cannot be read, a wrong kind, shape, range or setting.
        """
        if isinstance(images, Tensor) and images.ndim == 4:
            return torch.stack(self(list(images), None if keys is None else list(keys), seed, **options))
        if isinstance(images, str | Path | bytes | Image.Image | np.ndarray | Tensor):
            return self._call([images], None if keys is None else [str(keys)], seed, options)[0]
        return self._call(images, keys, seed, options)

    def _call(self, images: Sequence[Source], keys: Sequence[str] | None, seed: int, options: Options) -> list[Any]:
        """A list of any kinds, each as it came."""
        sampling, seed = _sampling(options), whole("seed", seed)
        known = [Path(one).name if isinstance(one, str | Path) else str(i) for i, one in enumerate(images)]
        names = known if keys is None else list(keys)
        opened = [opening.opened(image, sampling.projection) for image in images]
        done = self.restore([one.picture for one in opened], names, seed, sampling)
        return [one.back(result.checked(name)) for one, name, result in zip(opened, names, done, strict=True)]

    def restore_file(
        self, source: str | Path, target: str | Path, key: str | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> Restored:
        """One file in, one file out, in the format that the target's name promises: PNG, JPEG, WEBP, TIFF, a plugin's.

        The bytes are those that `driftrec restore` writes with the same settings, where PyTorch uses one thread as its
        workers do (`torch.set_num_threads(1)`). `key` is the file's name below INPUT; by default it lies right there.

        Raises:
            BadImage: a file that is no sound image, that the format cannot hold, or whose result is no restoration.
            InvalidInput: a target of another format.
            OSError: a file that cannot be read or written.
        """
        source, target, sampling, seed = Path(source), Path(target), _sampling(options), whole("seed", seed)
        kind, key = format_of(target.name), source.name if key is None else key
        picture = opening.open_picture(source.read_bytes(), key, projection=sampling.projection)
        (done,) = self.restore([picture], [key], seed, sampling)
        data = encode(done.checked(key), kind, record=self.record(done, seed))
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(data)
        partial.replace(target)
        return done

    def record(self, done: Restored, seed: int) -> dict[str, Any]:
        """What was done to a picture, for its own metadata. Names content, not places: bytes go by it."""
        known: dict[str, Any] = {"version": __version__, "model": self.fingerprint[:16]}
        if done.sampling is None:
            return known
        drawn = {"seed": seed} | ({} if done.sampling.noise == "cpu" else {"noise": done.sampling.noise})
        if not isinstance(self.checkpoint, Checkpoint):
            return known | (drawn | {"method": "ddrm", "steps": done.nfe} if self._held else {})
        names = ("sampler", "steps", "start", "samples", "fidelity")
        known |= drawn | {name: getattr(done.sampling, name) for name in names}
        if coarse := done.sampling.coarse_fidelity:
            known["coarse_fidelity"] = coarse
        return known | {"strength": round(done.strength, 4), "projection": bool(done.picture.constraint)}

    def restore(
        self, pictures: Sequence[Picture], keys: Sequence[str], seed: int = 0, sampling: Sampling | None = None
    ) -> list[Restored]:
        """One result a picture, in order. Each is restored as its file stores it, so that the network sees a JPEG's
        grid at the corner, and comes back upright. On a GPU pictures of one size share the network's batch. FBCNN
        and QGAC heed nothing of `sampling`, so that their results are the published ones, DDRM `tile` and `noise`.
        """
        return [finish() for finish in self.begin(pictures, keys, seed, sampling)]

    def begin(
        self, pictures: Sequence[Picture], keys: Sequence[str], seed: int = 0, sampling: Sampling | None = None
    ) -> list[Callable[[], Restored]]:
        """The network's part of `restore`, and of each picture what is left to do, on any thread. A GPU may still be at
        work on it then, so that one that is given the next pictures meanwhile need not wait for a CPU.
        """
        if len(pictures) != len(keys):
            raise ValueError(f"{len(pictures)} pictures, but {len(keys)} keys")
        model = self.checkpoint
        if model is None:
            return [partial(Restored, picture, 0) for picture in pictures]
        for picture in pictures:  # before any has cost something
            coefficients.check(model, picture)
        settings = (sampling or Sampling()).resolve(self.recommended)
        if not isinstance(model, Checkpoint):
            tile = settings.tile if self._held else None
            settings = replace(settings, tile=tile, color_correction=False, projection=False, adaptive=False)
        elif not model.knows_jpeg:  # a JPEG's quality tells nothing of what it restores
            settings = replace(settings, adaptive=False)
        plans = [settings.adapted(p, self.process) if self.process else Plan(settings, 1.0, None) for p in pictures]
        shown = [_on_grid(p.stored, plan.offset) for p, plan in zip(pictures, plans, strict=True)]
        sizes = [_size(pixels) for pixels in shown]
        unfinished = [Unfinished(*one) for one in zip(pictures, plans, sizes, strict=True)]

        def through(parts: list[Part]) -> tuple[Arriving, int]:
            y = _sent(torch.stack([_as_tensor(shown[i][tile.place]) for i, tile in parts]), self.device)
            y = y.contiguous(memory_format=torch.channels_last)
            places, of = [(keys[i], tile) for i, tile in parts], [pictures[i] for i, _ in parts]
            return self._restored(model, y, of, places, seed, plans[parts[0][0]].sampling)

        batches = self._batches(sizes, plans)
        with closing(self._each(through, batches)) as results:  # what it has not begun is not done, if `tell` raises
            for number, (parts, (batch, nfe)) in enumerate(zip(batches, results, strict=True), start=1):
                for place, (i, tile) in enumerate(parts):
                    unfinished[i].expect(tile, batch, place, nfe)
                self.tell(number, len(batches))
        return [one.finish for one in unfinished]

    def _each(self, work: Callable[[T], U], things: Sequence[T]) -> Generator[U]:
        """What becomes of each, in order: on `threads` threads, each result when it is there."""
        if self.threads == 1 or len(things) < 2 or self.device.type != "cpu":
            yield from map(work, things)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(work, things)

    @torch.inference_mode()
    def _restored(
        self, model: Model, y: Tensor, pictures: list[Picture], places: list[Place], seed: int, settings: Resolved
    ) -> tuple[Arriving, int]:
        """What a network makes of parts of pictures, as pixels (B, 3, H, W) in [0, 1], and the evaluations each took.
        Raises BadImage for pictures that it does not take.
        """
        if isinstance(model, fbcnn.Weights):
            return Arriving(*model.restore(y)), 1
        if isinstance(model, qgac.Weights):
            restored = [coefficients.restore(model, picture) for picture in pictures]  # tables differ: one by one
            return Arriving(torch.cat(restored)), 1
        if isinstance(model, unconditional.Weights):
            noise = partial(_noise, y.device, places, seed, settings)
            results, nfe = coefficients.restore_held(model, y, pictures[0], noise)
            return Arriving(results), nfe
        denoiser = self._in_float32(model.denoiser) if settings.float32 else model.denoiser
        results, nfe = _sampled(denoiser, y, places, seed, settings)
        return Arriving(results), nfe

    def _in_float32(self, denoiser: Denoiser) -> Denoiser:
        """The same with the weights as they were loaded."""
        with self._making_exact:
            if self._exact is None:
                exact = copy.deepcopy(denoiser)
                exact.network.float().load_state_dict(self._as_loaded)
                self._exact = exact
            return self._exact

    def _batches(self, sizes: Sequence[tuple[int, int]], plans: Sequence[Plan]) -> list[list[Part]]:
        """What goes through the network together: on a GPU as many tiles of one size and one plan as there are
        pictures. On a CPU a batch gains nothing, and one by one no kernel can depend on it; the ODE solver gives every
        image steps of its own, which only then are counted as its own, and DDRM rounds at every step. Pictures of
        strength 0 are left out.
        """
        parts: list[Part] = []
        alike: dict[tuple[Resolved, tuple[int, int]], list[Part]] = {}
        for i, (size, (sampling, strength, *_)) in enumerate(zip(sizes, plans, strict=True)):
            for tile in tiles(*size, sampling.tile) if strength > 0 else []:
                parts.append((i, tile))
                alike.setdefault((sampling, tile.size), []).append((i, tile))
        if self.device.type == "cpu" or self._held or any(plan.sampling.sampler == "ode" for plan in plans):
            return [[part] for part in parts]
        count = len(sizes)
        return [same[i : i + count] for same in alike.values() for i in range(0, len(same), count)]


def _sampled(denoiser: Denoiser, y: Tensor, places: list[Place], seed: int, settings: Resolved) -> tuple[Tensor, int]:
    """What the process and its network make of y (B, 3, H, W), and the evaluations it took."""
    process, weight, calls = denoiser.process, settings.fidelity, 0

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return denoiser(x, y, t)

    noise = partial(_noise, y.device, places, seed, settings, *y.shape[-2:])
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
            if guess is not None and settings.coarse_fidelity > 0:
                drawn = on_coarse_mean(drawn, guess, settings.coarse_fidelity)
            result += (1 - weight) / settings.samples * drawn
    return result, calls


def _noise(
    device: torch.device,
    places: Sequence[Place],
    seed: int,
    settings: Resolved,
    height: int,
    width: int,
    step: int,
    sample: int = 0,
) -> Tensor:
    """Of parts of images, from their corners on: (B, 3, height, width) on the device."""
    there = device if settings.noise == "device" else None
    named = partial(gaussian, height, width, seed=seed, step=step, sample=sample, device=there)
    drawn = [named(key=key, top=tile.rows.start, left=tile.columns.start) for key, tile in places]
    return _sent(torch.stack(drawn), device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a GPU fetches it when its turn has come, and nobody waits for that."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _sampling(options: Options) -> Sampling:
    """As the command takes it."""
    return Sampling(**(Options(adaptive=True) | options))


def _found(wanted: str | torch.device | None) -> torch.device:
    """The device that is meant; None: a GPU where there is one. Raises InvalidInput where PyTorch does not find it."""
    device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(device.type, lambda: True)
    if not there():
        raise InvalidInput(f"device {device}: PyTorch finds none here; leave it out, or take cpu")
    return device


def _prepare(denoiser: Denoiser, device: torch.device) -> None:
    """In bfloat16 and channels_last where the device computes faster so; the arithmetic around the network stays in
    float32.
    """
    dtype = torch.bfloat16 if bfloat16_is_faster(device) else torch.float32
    denoiser.network.to(device=device, dtype=dtype)
    denoiser.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _size(stored: Pixels) -> tuple[int, int]:
    """Height and width."""
    return stored.shape[0], stored.shape[1]


def _on_grid(stored: Pixels, offset: tuple[int, int]) -> Pixels:
    """With so many rows and columns mirrored before it, so that its JPEG's grid begins at the corner."""
    return np.pad(stored, [(offset[0], 0), (offset[1], 0), (0, 0)], mode="symmetric") if any(offset) else stored


def _as_tensor(rgb: Pixels) -> Tensor:
    peak = np.iinfo(rgb.dtype).max
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / peak
