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
from driftrec.errors import InvalidInput
from driftrec.models import checkpoint
from driftrec.models import tensors as tensor_files
from driftrec.models.checkpoint import Checkpoint
from driftrec.models.pickles import is_pickle, unpickle
from driftrec.networks.adm import ADM, ADMConfig
from driftrec.networks.ddpm import DDPM, DDPMConfig

PREFIX = "diffusion_model."
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """A network read from a file, by which DDRM restores what it never saw."""

    network: nn.Module  # gives the noise in x, unless it is one of ours
    sha256: str  # of the file and the method
    ours: Checkpoint | None = None  # of this package, with the same network
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])  # in a sampler's terms: nothing to recommend

    @property
    def shape(self) -> dict[str, object]:
        """What two of them must share to be interpolated."""
        if self.ours:
            return self.ours.shape
        config: Any = self.network.config
        return {"network": type(self.network).__name__, **asdict(config)}

    @property
    def stride(self) -> int:
        """Of which both sides of an image must be multiples."""
        return getattr(self.network.config, "stride", 1)

    def restore(self, y: Tensor, code: Code, noise: Callable[[int], Tensor], indices: Sequence[int]) -> Tensor:
        """y: a decoded file, (1, 3, H, W) in [0, 1]; code: the file's, of images in [-1, 1]; noise: by step, like y;
        indices: of the steps, as `ddrm.times` gives them. The same in [0, 1].
        """
        if self.ours:
            estimate, levels = of_denoiser(self.ours.denoiser, self.ours.denoiser.process, indices)
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
        _check_never_saw_a_jpeg(path, ours)
        return Weights(ours.network, tensor_files.derived_sha256(f"ddrm:{ours.sha256}"), ours)
    tensors, bridge = _tensors(path)
    network = _ddpm(path, tensors) if "conv_in.weight" in tensors else _adm(path, tensors)
    channels = network.config.image_channels, getattr(network.config, "out_channels", 3)
    if bridge or channels not in ((3, 3), (3, 6)):
        told = "a network of I2SB's" if bridge else f"a network from {channels[0]} channels to {channels[1]}"
        raise InvalidInput(f"{path}: {told}, and DDRM takes one that gives the noise in an image: ADM's or DDPM's file")
    return Weights(network, tensor_files.derived_sha256(f"ddrm:{tensor_files.file_sha256(path)}"))


def _check_never_saw_a_jpeg(path: Path, ours: Checkpoint) -> None:
    """Raise InvalidInput unless it was trained as DDRM takes it, as far as its file tells."""
    process, data = ours.denoiser.process, ours.card.get("data")
    if not isinstance(process, Conditional):
        wrong = f"its process is {process.name}"
    elif (process.grey, process.noise) != (0.5, 0.5):
        wrong = f"its process has grey {process.grey:g} and noise {process.noise:g}"
    elif isinstance(data, dict) and "corrupted" not in data:
        wrong = "it was trained on JPEGs"
    else:
        return
    remedy = "process conditional with grey and noise of 0.5, trained with --corrupted on pictures that are grey (127)"
    raise InvalidInput(f"{path}: {wrong}, and DDRM takes a model that never saw a JPEG: {remedy}")


def read_adm(path: str | Path, config: ADMConfig | None = None) -> ADM:
    """An ADM of this shape (default: ImageNet 256's), except that the channels of input and output, such as I2SB's 6
    and 3, are those of the file. Raises InvalidInput naming the file, what is wrong and the remedy.
    """
    return _adm(Path(path), _tensors(Path(path))[0], config)


def read_ddpm(path: str | Path, config: DDPMConfig | None = None) -> DDPM:
    """A DDPM of this shape (default: CelebA-HQ's). Raises InvalidInput as `read_adm`."""
    return _ddpm(Path(path), _tensors(Path(path))[0], config)


def _adm(path: Path, tensors: Mapping[str, Tensor], config: ADMConfig | None = None) -> ADM:
    first, last = tensors.get("input_blocks.0.0.weight"), tensors.get("out.2.weight")
    config = config or ADMConfig()
    if first is not None and first.ndim == 4 and last is not None and last.ndim == 4:
        config = replace(config, image_channels=first.shape[1], out_channels=last.shape[0])
    with torch.device("meta"):
        network = ADM(config)
    return _filled(path, network, tensors)


def _ddpm(path: Path, tensors: Mapping[str, Tensor], config: DDPMConfig | None = None) -> DDPM:
    with torch.device("meta"):
        network = DDPM(config or DDPMConfig())
    return _filled(path, network, tensors)


def _filled(path: Path, network: Network, tensors: Mapping[str, Tensor]) -> Network:
    network.load_state_dict(tensor_files.fitting(path, tensors, network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def _tensors(path: Path) -> tuple[dict[str, Tensor], bool]:
    """By name, whichever layout it is; and whether it is I2SB's."""
    if not path.is_file():
        raise InvalidInput(f"weights {str(path)!r}: no such file; give the path of the file that its authors publish")
    if not is_pickle(path):
        return tensor_files.read(path), False
    content = unpickle(path)
    if isinstance(content, dict) and "net" in content:
        return _averages(path, content), True
    return tensor_files.named(path, content), False


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
