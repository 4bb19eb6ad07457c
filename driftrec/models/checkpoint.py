"""Weights and everything needed to use them, in one safetensors file: the config is JSON in its header. No pickle is
ever executed.

Header `driftrec`: {"format": 1, "network": {...}, "process": {"name": "ouve", ...}, "form": "x0", "residual_std":
0.05, "sampling": {"steps": 8, ...}, "card": {...}}. Weights may be stored in bfloat16; they are loaded as float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from driftrec import bounds
from driftrec.diffusion.denoiser import Denoiser, Form
from driftrec.diffusion.drift import PROCESSES
from driftrec.diffusion.process import Process
from driftrec.errors import InvalidInput, one_line
from driftrec.models import download, lightning
from driftrec.models.pickles import is_pickle, unreadable
from driftrec.models.tensors import LARGEST, check_shapes, file_sha256, fitting
from driftrec.networks import architectures
from driftrec.networks.ncsnpp import parameter_count
from driftrec.networks.network import Network
from driftrec.urls import holds_credentials

FORMAT = 1
HEADER = "driftrec"
EXACT = "embedding.frequencies"  # always stored in float32: rounded, the highest are off by a part of a radian
DTYPES = ("F32", "BF16", "F16")
LONGEST_HEADER = 2**22  # bytes, of the whole safetensors header, the card included
MOST_STEPS = 10_000
WHOLE = {"steps": (1, MOST_STEPS), "order": (1, 2)}  # whole numbers that a file may recommend, and their ranges
REAL = {  # and other numbers
    "fidelity": (0.0, 1.0),
    "coarse_fidelity": (0.0, 1.0),
    "start": (0.01, 1.0),
    "eta": (0.0, 2.0),
}
RECOMMENDED = (*WHOLE, *REAL)
EMBEDDED = Path(__file__).parent


@dataclass(frozen=True)
class Checkpoint:
    """A denoiser read from a file, and what the file says of it."""

    denoiser: Denoiser
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])  # what it recommends, of RECOMMENDED
    card: dict[str, Any] = field(default_factory=dict[str, Any])  # on what and for how long it was trained
    sha256: str = ""  # of the file

    @property
    def network(self) -> Network:
        """The denoiser's."""
        return self.denoiser.network

    @property
    def shape(self) -> dict[str, object]:
        """What two of them must share to be interpolated."""
        process = self.denoiser.process
        return {
            **architectures.as_values(self.network.config),
            "process": process.name,
            **asdict(process),
            "form": self.denoiser.form,
            "residual_std": self.denoiser.residual_std,
            "knows_jpeg": self.knows_jpeg,
        }

    @property
    def knows_jpeg(self) -> bool:
        """Whether it was trained on JPEG damage, and not on that of pairs of the user's own."""
        data = self.card.get("data")
        return not (isinstance(data, dict) and "corrupted" in data)


def save(
    path: str | Path,
    denoiser: Denoiser,
    weights: dict[str, Tensor] | None = None,
    sampling: dict[str, Any] | None = None,
    card: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a denoiser, whole or not at all; `weights` (say, of an EMA) replace the network's own. Returns the file's
    sha256. Raises InvalidInput, naming the file, for what `load` would refuse; then nothing is written.
    """
    process = denoiser.process
    header: dict[str, Any] = {
        "format": FORMAT,
        "network": architectures.as_values(denoiser.network.config),
        "process": {"name": process.name} | asdict(process),
        "form": denoiser.form,
        "residual_std": denoiser.residual_std,
        "sampling": sampling or {},
        "card": card or {},
    }
    tensors = weights if weights is not None else denoiser.network.state_dict()
    tensors = {
        name: value.detach().cpu().to(torch.float32 if name == EXACT else dtype).contiguous()
        for name, value in tensors.items()
    }
    data = serialise(tensors, metadata={HEADER: json.dumps(header)})
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    try:
        with torch.random.fork_rng(devices=[]):  # the network that is made to be filled draws its first weights
            load(partial)
        partial.replace(path)
    except InvalidInput as error:
        raise InvalidInput(str(error).replace(str(partial), str(path))) from None
    finally:
        partial.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def is_one(path: Path) -> bool:
    """Whether a file says that it is of this package."""
    if not path.is_file() or is_pickle(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            return HEADER in (file.metadata() or {})
    except SafetensorError:
        return False


def load(path: str | Path) -> Checkpoint:
    """Read a file of `save`, or an embedded model by its name ("tiny"). Raises InvalidInput naming the file, what is
    wrong and the remedy.
    """
    path = resolve(path)
    header = _read_header(path)
    try:
        config, create = _described(header)
        with torch.device("meta"):  # takes no memory, whatever size the file claims
            expected = architectures.create(config).state_dict()
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            _check_tensors(path, file, expected)
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors = fitting(path, tensors, expected, LARGEST)
        denoiser = create()
    except (KeyError, TypeError, ValueError, ArithmeticError, SafetensorError) as error:
        problem = one_line(error)
        raise InvalidInput(f"{path}: the file's description of its model is not valid: {problem}") from error
    denoiser.network.load_state_dict(tensors)
    denoiser.eval().requires_grad_(False)
    _check_output(path, denoiser)
    return Checkpoint(denoiser, header.get("sampling", {}), header.get("card", {}), file_sha256(path))


def import_authors(source: str | Path, target: str | Path) -> str:
    """Write a checkpoint of the authors' implementation (a Lightning .ckpt, whose pickle is not executed) as a file of
    `save`. Returns its sha256. Raises InvalidInput naming the file and what is wrong.
    """
    target = Path(target)
    if target.suffix != ".safetensors" or not target.absolute().parent.is_dir():
        raise InvalidInput(f"{target}: the output must be a .safetensors file in a folder that exists")
    found = lightning.read(source)
    return save(target, found.denoiser, sampling=found.sampling, card=found.card)


def embedded() -> list[str]:
    """Names of the embedded models."""
    return sorted(path.stem for path in EMBEDDED.glob("*.safetensors"))


def describe(source: str | Path) -> dict[str, Any]:
    """What a model is and where it comes from, as JSON types. Reads and checks the whole file, as `load`."""
    path, checkpoint = resolve(source), load(source)
    return {
        "model": str(source),
        "bytes": path.stat().st_size,
        "sha256": checkpoint.sha256,
        "parameters": parameter_count(checkpoint.denoiser.network),
    } | {name: value for name, value in _read_header(path).items() if name != "format"}


def resolve(source: str | Path) -> Path:
    """The file of an embedded model's name, of a URL, or the path itself. Raises InvalidInput if there is none."""
    if str(source) in embedded():
        return EMBEDDED / f"{source}.safetensors"
    if "://" in str(source) or holds_credentials(str(source)):
        return download.fetch(str(source))
    path = Path(source)
    if not path.is_file():
        names = ", ".join(embedded())
        raise InvalidInput(f"model {str(source)!r}: no such file, and not an embedded model (those are: {names})")
    return path


def _described(header: dict[str, Any]) -> tuple[Any, Callable[[], Denoiser]]:
    """The network's config, and how to make the denoiser. Raises ValueError or KeyError; nothing large is made yet."""
    config = architectures.config_from(bounds.mapping("network", header["network"]))
    settings = dict(bounds.mapping("process", header["process"]))
    process = _process(settings.pop("name"), settings)
    form, residual_std = header["form"], header["residual_std"]
    bounds.choice("form", form, get_args(Form))
    bounds.number("residual_std", residual_std, 1e-4, 10)
    _check_sampling(bounds.mapping("sampling", header.get("sampling", {})))
    bounds.mapping("card", header.get("card", {}))
    return config, lambda: Denoiser.create(config, process, form, residual_std)


def _process(name: object, settings: dict[str, Any]) -> Process:
    bounds.choice("process name", name, tuple(PROCESSES))
    kind = PROCESSES[str(name)]
    known = {field.name: field.default for field in fields(kind)}
    for key, value in settings.items():
        bounds.choice("process setting", key, tuple(known))
        if not isinstance(known[key], str):
            bounds.number(key, value, 0, 1000)
    with np.errstate(all="ignore"):
        process = kind(**settings)
        coefficients = (process.mean_coefficient, process.jpeg_coefficient, process.std)
        if not all(of(torch.linspace(0, 1, 11)).isfinite().all() for of in coefficients):
            raise ValueError(f"process {name} with {bounds.shown(settings)} has coefficients that are not finite")
    return process


def _check_sampling(sampling: dict[str, Any]) -> None:
    for name, value in sampling.items():
        bounds.choice("sampling setting", name, RECOMMENDED)
        if name in WHOLE:
            bounds.integer(name, value, *WHOLE[name])
        else:
            bounds.number(name, value, *REAL[name])


def _check_tensors(path: Path, file: Any, expected: dict[str, Tensor]) -> None:
    """Raise InvalidInput unless what the file says of its tensors fits, before one of them is read."""
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    check_shapes(path, {name: tuple(part.get_shape()) for name, part in parts.items()}, expected)
    for name, part in parts.items():
        if part.get_dtype() not in DTYPES:
            raise InvalidInput(
                f"{path}: {name} is of type {part.get_dtype()}, and those read are {', '.join(DTYPES)}; save it again"
            )


@torch.no_grad()
def _check_output(path: Path, denoiser: Denoiser) -> None:
    """Raise InvalidInput if the numbers run over on a grey picture of the smallest size."""
    side = max(16, getattr(denoiser.network.config, "stride", 1))
    grey = torch.full((1, 3, side, side), 0.5)
    if not denoiser(grey, grey, 0.5).isfinite().all():
        raise InvalidInput(f"{path}: its network's output is not finite: the weights are too large; train it again")


def _read_header(path: Path) -> dict[str, Any]:
    if is_pickle(path):
        raise InvalidInput(
            f"{path}: this is a pickle (a PyTorch .pt or .ckpt file), which could run code and is never opened; "
            "use a .safetensors file"
        )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        raise InvalidInput(
            f"{path}: not a safetensors file of DriftRec: its header is said to be of {length} bytes, "
            f"{LONGEST_HEADER} are the most; fetch it again"
        )
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            metadata: dict[str, str] = file.metadata() or {}
        header = bounds.mapping(HEADER, bounds.parse(metadata[HEADER]))
    except SafetensorError as error:
        raise unreadable(path, error) from error
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{path}: a safetensors file, but not one of DriftRec: no valid {HEADER!r} header: {one_line(error)}"
        ) from error
    known = header.get("format")
    if type(known) is not int or known != FORMAT:  # True and 1.0 equal 1
        raise InvalidInput(f"{path}: format {bounds.shown(known)}, this version reads {FORMAT}; update driftrec")
    return header
