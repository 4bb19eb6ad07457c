"""Weights and everything needed to use them, in one safetensors file: the config is JSON in its header. No pickle is
ever executed.

Header `driftrec`: {"format": 1, "network": {...}, "process": {"name": "ouve", ...}, "form": "x0", "residual_std":
0.05, "sampling": {"steps": 8, ...}, "card": {...}}. Weights may be stored in bfloat16; they are loaded as float32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from driftrec import authors, download
from driftrec.denoiser import Denoiser
from driftrec.errors import InvalidInput
from driftrec.network import config_from_dict, parameter_count
from driftrec.process import Process
from driftrec.sde import PROCESSES
from driftrec.weights import check_weights as check_weights

FORMAT = 1
HEADER = "driftrec"
EXACT = "embedding.frequencies"  # always stored in float32: rounded, the highest are off by a part of a radian
EMBEDDED = Path(__file__).parent / "models"
# torch.save (zip or legacy), plain pickles
PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Checkpoint:
    """A denoiser read from a file, and what the file says of it."""

    denoiser: Denoiser
    # recommended defaults, e.g. {"steps": 8, "fidelity": 0.5}
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    card: dict[str, Any] = field(default_factory=dict[str, Any])  # on what and for how long it was trained
    sha256: str = ""  # of the file


def save(
    path: str | Path,
    denoiser: Denoiser,
    weights: dict[str, Tensor] | None = None,
    sampling: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a denoiser, whole or not at all; `weights` (say, of an EMA) replace the network's own. Returns the file's
    sha256.
    """
    process = denoiser.process
    header: dict[str, Any] = {
        "format": FORMAT,
        "network": asdict(denoiser.network.config),
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
    partial.replace(path)
    return hashlib.sha256(data).hexdigest()


def load(path: str | Path) -> Checkpoint:
    """Read a file of `save`, or an embedded model by its name ("tiny"). Raises InvalidInput naming the file, what is
    wrong and the remedy.
    """
    path = resolve(path)
    header = _read_header(path)
    try:
        process = dict(header["process"])
        network_config = config_from_dict(header["network"])
        drift = _process(process.pop("name"), process)
        denoiser = Denoiser.create(network_config, drift, header["form"], header["residual_std"])
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InvalidInput(f"{path}: the file's description of its model is not valid: {error}") from error
    check_weights(path, tensors, denoiser.network.state_dict())
    denoiser.network.load_state_dict(tensors)
    denoiser.eval().requires_grad_(False)
    return Checkpoint(denoiser, header.get("sampling", {}), header.get("card", {}), file_sha256(path))


def import_authors(source: str | Path, target: str | Path) -> str:
    """Write a checkpoint of the authors' implementation (a Lightning .ckpt, whose pickle is not executed) as a file of
    `save`. Returns its sha256. Raises InvalidInput naming the file and what is wrong.
    """
    target = Path(target)
    if target.suffix != ".safetensors" or not target.absolute().parent.is_dir():
        raise InvalidInput(f"{target}: the output must be a .safetensors file in a folder that exists")
    found = authors.read(source)
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
    if "://" in str(source):
        return download.fetch(str(source))
    path = Path(source)
    if not path.is_file():
        names = ", ".join(embedded())
        raise InvalidInput(f"model {str(source)!r}: no such file, and not an embedded model (those are: {names})")
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _process(name: str, settings: dict[str, Any]) -> Process:
    if name not in PROCESSES:
        raise ValueError(f"unknown process {name!r}; known: {', '.join(PROCESSES)}")
    return PROCESSES[name](**settings)


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLE_MAGIC):
        raise InvalidInput(
            f"{path}: this is a pickle (a PyTorch .pt or .ckpt file), which could run code and is never opened; "
            "use a .safetensors file"
        )
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            metadata: dict[str, str] = file.metadata() or {}
        header: dict[str, Any] = json.loads(metadata[HEADER])
    except SafetensorError as error:
        raise InvalidInput(f"{path}: not a whole safetensors file ({error}); fetch it again") from error
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{path}: a safetensors file, but not one of DriftRec: no valid {HEADER!r} header"
        ) from error
    if header.get("format") != FORMAT:
        raise InvalidInput(f"{path}: format {header.get('format')!r}, this version reads {FORMAT}; update driftrec")
    return header
