"""QGAC as a model: from a JPEG file's coefficients to restored pixels, and the files of its weights.

The network is `driftrec.networks.qgac`. Its weights belong to the paper's authors and are not part of this package. Two
layouts are read: the names of the author's later public code, and, by `import_published`, any names in the same order.
The coefficients' statistics, by which they are normalised, are those of torchjpeg 0.9.33 (color.pt; MIT licence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from driftrec.bounds import shown
from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import TO_RGB
from driftrec.jpeg.constraint import Constraint
from driftrec.models import tensors as tensor_files
from driftrec.networks.block_dct import SIDE, doubled, to_samples
from driftrec.networks.qgac import FREQUENCIES, QGAC, QGACConfig

STATISTICS = Path(__file__).parent / "data" / "dct_statistics.safetensors"


class Coefficients(NamedTuple):
    """What JPEG files of one size say."""

    planes: tuple[Tensor, ...]  # Y (B, 1, H, W), and unless grey Cb and Cr at half of it: dequantised
    tables: tuple[Tensor, ...]  # of each plane: (B, 1, 8, 8), steps 1 to 255

    def to(self, device: torch.device) -> Coefficients:
        """There."""
        return Coefficients(*(tuple(part.to(device) for part in parts) for parts in self))


@dataclass(frozen=True)
class Weights:
    """A network read from a file."""

    network: QGAC
    sha256: str  # of the file
    sampling: dict[str, Any] = field(default_factory=lambda: {"fidelity": 1.0})  # in a sampler's terms: one evaluation

    @property
    def shape(self) -> dict[str, object]:
        """What two of them must share to be interpolated."""
        return asdict(self.network.config)

    def restore(self, said: Coefficients) -> Tensor:
        """(B, 3, H, W), about in [0, 1], filled up to whole MCUs, not clipped."""
        return restored(self.network, said.to(next(self.network.parameters()).device))


def of_file(known: Constraint) -> Coefficients:
    """What one file says, grey or 4:2:0."""
    planes = tuple(torch.from_numpy(known.coefficients(i))[None, None] for i in range(len(known.planes)))
    return Coefficients(planes, tuple(torch.from_numpy(steps)[None, None] for steps in known.steps))


def restored(network: QGAC, said: Coefficients) -> Tensor:
    """(B, 3, H, W), about in [0, 1], filled up to whole MCUs; gradients go through."""
    return to_rgb(restored_planes(network, said))


def restored_planes(network: QGAC, said: Coefficients) -> tuple[Tensor, ...]:
    """The coefficients of Y, and of Cb and Cr at the size of Y, each (B, 1, H, W).

    To chroma the network adds something at full size: to what nearest-neighbour doubling makes of its samples.
    """
    y, *chroma = (normalised(plane, i) for i, plane in enumerate(said.planes))
    luma_table, *tables = (table / 255 for table in said.tables)
    luma = network.luma(y, luma_table)
    result = [denormalised(luma, 0)]
    for i, (c, table) in enumerate(zip(chroma, tables, strict=True), start=1):
        added = network.chroma(c, luma, table, luma_table) * deviation(i, luma)
        result.append(doubled(said.planes[i]) + added)
    return tuple(result)


def to_rgb(planes: Sequence[Tensor]) -> Tensor:
    """Coefficients of Y, Cb and Cr, or of Y, at one size (B, 1, H, W) -> (B, 3, H, W) in about [0, 1]."""
    y, *chroma = (to_samples(plane) for plane in planes)
    grey = (y + 128).expand(-1, 3, -1, -1)
    if chroma:
        mix = torch.from_numpy(TO_RGB).to(y)[:, 1:]  # (3, 2)
        grey = grey + torch.einsum("rc,bchw->brhw", mix, torch.cat(chroma, dim=1))
    return grey / 255


def normalised(plane: Tensor, of: int) -> Tensor:
    """Coefficients (B, 1, H, W) by the mean and deviation of their frequency. of: 0, 1, 2 for Y, Cb, Cr."""
    return (plane - tiled(statistics()["mean"][of], plane)) / deviation(of, plane)


def denormalised(plane: Tensor, of: int) -> Tensor:
    """The inverse of `normalised`."""
    return plane * deviation(of, plane) + tiled(statistics()["mean"][of], plane)


def deviation(of: int, like: Tensor) -> Tensor:
    """Of each frequency, in its places: (H, W)."""
    return tiled(statistics()["variance"][of].sqrt(), like)


def tiled(block: Tensor, like: Tensor) -> Tensor:
    """(8, 8) -> (H, W), on the device of a plane (B, 1, H, W)."""
    return block.to(like).repeat(like.shape[-2] // SIDE, like.shape[-1] // SIDE)


@cache
def statistics() -> dict[str, Tensor]:
    """`mean` and `variance` of the coefficients of Y, Cb, Cr: (3, 8, 8) each."""
    return load_file(STATISTICS)


def load(path: str | Path) -> Weights:
    """Read weights whose names are those of the author's later code, as a .pth file, of which only tensors are taken
    and nothing is executed, or as .safetensors. Raises InvalidInput naming the file, what is wrong and the remedy.
    """
    path = Path(path)
    tensors = _read(path)
    try:
        config = config_of(tensors)
    except (KeyError, IndexError):
        told = "use `driftrec models import --kind qgac`, which compares order and shapes"
        raise InvalidInput(f"{path}: the names of its {len(tensors)} weights are not those of QGAC; {told}") from None
    with torch.device("meta"):
        network = QGAC(config)
    network.load_state_dict(tensor_files.fitting(path, tensors, network.state_dict()), assign=True)
    return Weights(network.eval().requires_grad_(False), tensor_files.file_sha256(path))


def config_of(tensors: Mapping[str, Tensor]) -> QGACConfig:
    """The shape of the network that tensors of our names are of. Raises KeyError or IndexError for other names."""

    def width(name: str) -> int:
        return tensors[name].shape[0]

    return QGACConfig(
        manifold=width("blocks_encode.block.manifold.0.weight"),
        width=width("blocks_encode.block.bias_transfrom.weight"),
        features=width("blocks_encode.unblock.bias_transfrom.weight"),
        frequency=width("frequencynet.net.1.filter.weight") // FREQUENCIES,
        chroma=width("color_net.block_c.bias_transfrom.weight"),
    )


def import_published(source: str | Path, target: str | Path, config: QGACConfig | None = None) -> dict[str, str]:
    """Write weights of any names, in the order and the shapes of the network, as a .safetensors file that `load` reads.

    The names in the authors' own files are not known here, so that nothing but order and shape can be compared: look at
    what is given back, their names and ours. Raises InvalidInput, naming the first that differs, unless all fit.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors" or not target.absolute().parent.is_dir():
        raise InvalidInput(f"{target}: the output must be a .safetensors file in a folder that exists")
    tensors = _read(source)
    with torch.device("meta"):
        expected = QGAC(config or QGACConfig()).state_dict()
    names = list(expected) if tensors.keys() == expected.keys() else list(tensors)
    _check_order(source, [(name, tensors[name]) for name in names], expected)
    matched = dict(zip(names, expected, strict=True))
    ours = tensor_files.fitting(source, {matched[name]: tensors[name] for name in names}, expected)
    partial = target.with_name(target.name + ".partial")
    save_file({name: value.contiguous() for name, value in ours.items()}, partial)
    partial.replace(target)
    return matched


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InvalidInput(f"QGAC weights {str(path)!r}: no such file; give the path of a .pth or .safetensors file")
    return tensor_files.read(path)


def _check_order(path: Path, found: Sequence[tuple[str, Tensor]], expected: Mapping[str, Tensor]) -> None:
    """Raise InvalidInput, naming the first, unless there are as many tensors and each is of the shape expected."""
    if len(found) != len(expected):
        raise InvalidInput(f"{path}: {len(found)} weights, and QGAC has {len(expected)}: not this network's")
    for place, ((name, value), (ours, like)) in enumerate(zip(found, expected.items(), strict=True)):
        if value.shape != like.shape:
            raise InvalidInput(
                f"{path}: weight {place}, {shown(name)}, is {tuple(value.shape)}, where QGAC has {ours} of "
                f"{tuple(like.shape)}: another order, or not this network's"
            )
