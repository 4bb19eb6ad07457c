"""One training run's state, and one step of it: network, optimiser, schedule, EMA. Knows nothing of Ray, files of
images or epochs.

The state is saved as one safetensors file (tensors, and a JSON header with the numbers): nothing here is ever
pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from driftrec.denoiser import Denoiser
from driftrec.ema import EMA
from driftrec.errors import InvalidInput
from driftrec.objective import Objective, TimeDensity


@dataclass(frozen=True)
class Optimisation:
    """How the weights are moved."""

    steps: int = 10_000  # length of the run and of the learning rate's schedule
    lr: float = 6e-4  # peak learning rate of AdamW
    warmup: int = 200  # steps of linear rise
    decay_steps: int | None = None  # the last so many steps let the rate fall; None: all of them
    final_lr: float = 0.0  # the fall ends here, as a share of lr
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # largest gradient norm
    ema_decay: float = 0.999
    bf16: bool = True  # autocast to bfloat16

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.steps < 1 or not self.lr > 0 or self.warmup < 0 or not self.clip > 0:
            raise ValueError(f"need steps >= 1, lr > 0, warmup >= 0, clip > 0, got {self}")
        if self.decay_steps is not None and not 0 <= self.decay_steps <= self.steps:
            raise ValueError(f"need 0 <= decay_steps <= steps ({self.steps}), got {self.decay_steps}")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, a constant rate, and over the last decay_steps half a cosine from lr to final_lr * lr."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        length = self.steps if self.decay_steps is None else self.decay_steps
        progress = min(1.0, max(0, step - (self.steps - length)) / max(1, length))
        fall = self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
        return self.lr * rise * fall


@dataclass(frozen=True)
class StepResult:
    """What one step reports."""

    step: int  # steps done, this one included
    loss: float
    gradient_norm: float  # before clipping
    lr: float


class Learner:
    """Trains a denoiser. `wrap` makes the objective distributed (DDP); the noise of a step is drawn from (seed, step,
    rank).
    """

    def __init__(
        self, denoiser: Denoiser, density: TimeDensity, optimisation: Optimisation, seed: int = 0, rank: int = 0
    ) -> None:
        self.denoiser = denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimisation = optimisation
        self.seed, self.rank, self.step_count = seed, rank, 0
        self.objective: nn.Module = Objective(self.denoiser, density)
        self.optimiser = torch.optim.AdamW(
            denoiser.parameters(), lr=optimisation.lr, betas=optimisation.betas, weight_decay=optimisation.weight_decay
        )
        self.ema = EMA(denoiser.network, optimisation.ema_decay)

    def step(self, clean: Tensor, damaged: Tensor) -> StepResult:
        """One optimiser step on a batch: both (B, 3, H, W) uint8, or float in [0, 1]."""
        x0, y = (_as_float(images, next(self.denoiser.parameters()).device) for images in (clean, damaged))
        lr = self.optimisation.lr_at(self.step_count)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.optimisation.bf16):
            loss: Tensor = self.objective(x0, y, self._generator())
        self.optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        norm = nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.optimisation.clip)
        self.optimiser.step()
        self.ema.update(self.denoiser.network, self.step_count)
        self.step_count += 1
        return StepResult(self.step_count, loss.item(), norm.item(), lr)

    def _generator(self) -> torch.Generator:
        name = f"{self.seed} {self.rank} {self.step_count}".encode()
        # it keeps 32 bits
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:4], "little"))

    def save(self, path: Path, extra: dict[str, Any] | None = None) -> None:
        """Write everything that `load` needs; `extra` (JSON values) comes back from `load`."""
        tensors: dict[str, Tensor] = {}
        tensors |= {f"network.{k}": v for k, v in self.denoiser.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.weights.items()}
        for name, parameter in self.denoiser.network.named_parameters():
            for slot, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{slot}.{name}"] = value
        header = {
            "step": self.step_count,
            "seed": self.seed,
            "optimisation": asdict(self.optimisation),
            "extra": extra or {},
        }
        contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(contiguous, path, metadata={"learner": json.dumps(header)})

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a file of `save`; returns its `extra`. Raises InvalidInput naming the file if it does not
        fit.
        """
        try:
            with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                header: dict[str, Any] = json.loads(file.metadata()["learner"])
                tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            self.denoiser.network.load_state_dict(_under(tensors, "network."))
            averages = _under(tensors, "ema.")
            for name, parameter in self.denoiser.network.named_parameters():
                self.ema.weights[name] = averages[name].to(parameter.device)
                slots = ("step", "exp_avg", "exp_avg_sq") if header["step"] else ()
                self.optimiser.state[parameter] = {
                    slot: _placed(tensors[f"optimiser.{slot}.{name}"], parameter) for slot in slots
                }
        except Exception as error:
            raise InvalidInput(
                f"{path}: not a training state of this network ({error}); choose another OUTPUT"
            ) from error
        self.step_count = header["step"]
        return header["extra"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """An optimiser slot where AdamW keeps it: the step count on the CPU, the moments beside their parameter and laid
    out like it.
    """
    if not value.ndim:
        return value
    memory_format = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return value.to(parameter.device).contiguous(memory_format=memory_format)


def _as_float(images: Tensor, device: torch.device) -> Tensor:
    images = images.to(device)
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    return images.contiguous(memory_format=torch.channels_last)
