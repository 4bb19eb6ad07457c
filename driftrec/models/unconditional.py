"""Networks of unconditional diffusion, and the model that DDRM makes of one: those that others publish, ADM (ImageNet
256, and I2SB's, which was trained from it) and the DDPM of SDEdit (CelebA-HQ 256), and checkpoints of this package that
were trained on clean images alone.

Others' are of three layouts: a plain state dict; the same as .safetensors; and I2SB's, {"net": a state dict whose names
begin with `diffusion_model.`, "ema": {"shadow_params": moving averages without names, in the order of the net}, ...},
of which the averages are taken. No pickle is executed, and the `options.pkl` beside I2SB's file is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from driftrec.diffusion.baselines import Conditional
from driftrec.diffusion.ddrm import Code, ddrm, linear_levels, of_denoiser
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import InvalidInput
from driftrec.models import checkpoint
from driftrec.models import tensors as tensor_files
from driftrec.models.pickles import is_pickle, unpickle
from driftrec.networks.adm import ADM, ADMConfig
from driftrec.networks.ddpm import DDPM, DDPMConfig

PREFIX = "diffusion_model."
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """A network read from a file, by which DDRM restores what it never saw."""

    network: nn.Module
    sha256: str  # of the file
    denoiser: Denoiser | None = None  # of this package, around the network; without one it gives the noise in x
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])  # in a sampler's terms: nothing to recommend

    @property
    def shape(self) -> dict[str, object]:
        """What two of them must share to be interpolated."""
        of: Any = self.network.config
        process = asdict(self.denoiser.process) if self.denoiser else {}
        return {"network": type(self.network).__name__, **asdict(of), **process}

    @property
    def stride(self) -> int:
        """Of which both sides of an image must be multiples."""
        config: Any = self.network.config
        return config.stride

    def restore(self, y: Tensor, code: Code, noise: Callable[[int], Tensor], indices: Sequence[int]) -> Tensor:
        """y: decoded files, (B, 3, H, W) in [0, 1]; code: of these, of images in [-1, 1]; noise: by step, like y;
        indices: of the steps, as `ddrm.times` gives them. The same in [0, 1].
        """
        if self.denoiser:
            estimate, levels = of_denoiser(self.denoiser, self.denoiser.process, indices)
        else:
            estimate, levels = partial(self._noise, indices=indices), linear_levels(indices)
        return (ddrm(estimate, 2 * y - 1, code, noise, levels) + 1) / 2

    def _noise(self, x: Tensor, i: int, indices: Sequence[int]) -> Tensor:
        return self.network(x, torch.tensor(indices[i], device=x.device))[:, :3]  # ADM tells its variance, too


def load(path: str | Path) -> Weights:
    """Of an ADM or DDPM of the published shape, or of this package. Raises InvalidInput naming the file, what is wrong
    and the remedy.
    """
    path = Path(path)
    if checkpoint.is_one(path):
        ours = checkpoint.load(path)
        if not isinstance(ours.denoiser.process, Conditional):
            told = f"{path}: its process is {ours.denoiser.process.name}, and DDRM takes a model that never saw a JPEG"
            raise InvalidInput(f"{told}: process conditional, trained with grey as the damaged image")
        return Weights(ours.network, ours.sha256, ours.denoiser)
    tensors = _tensors(path)
    network = read_ddpm(path) if "conv_in.weight" in tensors else read_adm(path)
    if isinstance(network, ADM) and network.config.image_channels != 3:
        channels = network.config.image_channels
        raise InvalidInput(f"{path}: its network sees {channels} channels, and one that never saw a JPEG sees 3")
    return Weights(network, tensor_files.file_sha256(path))


def read_adm(path: str | Path, config: ADMConfig | None = None) -> ADM:
    """An ADM of this shape (default: ImageNet 256's), except that the channels of input and output, such as I2SB's 6
    and 3, are those of the file. Raises InvalidInput naming the file, what is wrong and the remedy.
    """
    tensors = _tensors(Path(path))
    first, last = tensors.get("input_blocks.0.0.weight"), tensors.get("out.2.weight")
    config = config or ADMConfig()
    if first is not None and first.ndim == 4 and last is not None and last.ndim == 4:
        config = replace(config, image_channels=first.shape[1], out_channels=last.shape[0])
    with torch.device("meta"):
        network = ADM(config)
    return _filled(Path(path), network, tensors)


def read_ddpm(path: str | Path, config: DDPMConfig | None = None) -> DDPM:
    """A DDPM of this shape (default: CelebA-HQ's). Raises InvalidInput as `read_adm`."""
    with torch.device("meta"):
        network = DDPM(config or DDPMConfig())
    return _filled(Path(path), network, _tensors(Path(path)))


def _filled(path: Path, network: Network, tensors: Mapping[str, Tensor]) -> Network:
    network.load_state_dict(tensor_files.fitting(path, tensors, network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    """By name, whichever layout it is."""
    if not path.is_file():
        raise InvalidInput(f"weights {str(path)!r}: no such file; give the path of the file that its authors publish")
    if not is_pickle(path):
        return tensor_files.read(path)
    content = unpickle(path)
    if isinstance(content, dict) and "net" in content:
        return _averages(path, content)
    return tensor_files.named(path, content)


def _averages(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """I2SB's moving averages by the names of its net, which stand in the same order."""
    net = tensor_files.named(path, content["net"])
    if foreign := [name for name in net if not name.startswith(PREFIX)]:
        raise InvalidInput(f"{path}: {foreign[0]!r} of its net does not begin with {PREFIX}: no file of I2SB's")
    ema: Any = content.get("ema")
    shadows = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadows, Sequence) or len(shadows) != len(net):  # pyright: ignore[reportUnknownArgumentType]
        count = len(shadows) if isinstance(shadows, Sequence) else "no"  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidInput(f"{path}: {count} moving averages do not fit the {len(net)} weights of its net")
    named = tensor_files.named(path, dict(zip(net, shadows, strict=True)))
    for place, (name, value) in enumerate(named.items()):
        if value.shape != net[name].shape:
            raise InvalidInput(
                f"{path}: moving average {place} is {tuple(value.shape)}, and {name}, which stands there in its net, "
                f"{tuple(net[name].shape)}: another order; fetch the file again"
            )
    return {name.removeprefix(PREFIX): value for name, value in named.items()}
