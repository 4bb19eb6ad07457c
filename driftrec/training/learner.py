"""One training run's state, and one step of it: network, optimiser, schedule, EMA. Knows nothing of Ray, files of
images or epochs.

The state is saved as one safetensors file (tensors, and a JSON header with the numbers): nothing here is ever
pickled.
"""

from __future__ import annotations

import contextlib
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
from torch.nn.parallel import DistributedDataParallel

from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import InvalidInput
from driftrec.training.adversarial import Discriminator
from driftrec.training.ema import EMA
from driftrec.training.loss import Loss, Objective, TimeDensity
from driftrec.training.muon import Muon


@dataclass(frozen=True)
class Optimisation:
    """How the weights are moved."""

    steps: int = 10_000  # length of the run and of the learning rate's schedule
    lr: float = 6e-4  # peak learning rate
    muon: bool = False  # Muon instead of AdamW
    warmup: int = 200  # steps of linear rise
    decay_steps: int | None = None  # steps at the end over which the rate falls; None, or more than there are: all
    final_lr: float = 0.0  # the fall ends here, as a share of lr
    weight_decay: float = 0.01  # decoupled, as AdamW has it
    betas: tuple[float, float] = (0.9, 0.99)  # of the two running means
    clip: float | None = 1.0  # largest gradient norm; None: any
    ema_decay: float = 0.999  # of the averaged weights, per step
    accumulate: int = 1  # parts of a batch that go through the network one after the other, for less memory
    bf16: bool = True  # autocast to bfloat16
    compile: bool = False  # torch.compile the network: minutes at the start, faster steps

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.steps < 1 or not self.lr > 0 or self.warmup < 0 or self.accumulate < 1:
            raise ValueError(f"need steps >= 1, lr > 0, warmup >= 0, accumulate >= 1, got {self}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or null for none, got {self.clip}")
        if self.decay_steps is not None and self.decay_steps < 0:
            raise ValueError(f"need decay_steps >= 0, got {self.decay_steps}")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, a constant rate, and over the last decay_steps half a cosine from lr to final_lr * lr."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        length = self.steps if self.decay_steps is None else min(self.steps, self.decay_steps)
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
    """Trains a denoiser. `objective` may be wrapped in DDP; the noise of a step is drawn from (seed, rank, step)."""

    def __init__(
        self,
        denoiser: Denoiser,
        density: TimeDensity,
        optimisation: Optimisation,
        seed: int = 0,
        rank: int = 0,
        blocking: float = 0.0,
        loss: Loss = "mean",
        discriminator: Discriminator | None = None,
    ) -> None:
        self.denoiser = denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if optimisation.compile:
            denoiser.network.compile()  # in place: the names of its weights stay
        self.optimisation = optimisation
        self.seed, self.rank, self.step_count = seed, rank, 0
        self._undistributed = Objective(self.denoiser, density, blocking, loss, discriminator)
        self.objective: Objective | DistributedDataParallel = self._undistributed
        kind = Muon if optimisation.muon else torch.optim.AdamW
        self.optimiser = kind(
            denoiser.parameters(), lr=optimisation.lr, betas=optimisation.betas, weight_decay=optimisation.weight_decay
        )
        self.ema = EMA(denoiser.network, optimisation.ema_decay)

    def step(self, clean: Tensor, damaged: Tensor) -> StepResult:
        """One optimiser step on a batch: both (B, 3, H, W) uint8, or float in [0, 1]; B a multiple of `accumulate`."""
        x0, y = (_as_float(images, next(self.denoiser.parameters()).device) for images in (clean, damaged))
        lr = self.optimisation.lr_at(self.step_count)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        loss = self._gradient(x0, y)
        norm = nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.optimisation.clip or math.inf)
        self.optimiser.step()
        if discriminator := self._undistributed.discriminator:
            discriminator.step()
        self.ema.update(self.denoiser.network, self.step_count)
        self.step_count += 1
        return StepResult(self.step_count, loss, norm.item(), lr)

    def _gradient(self, x0: Tensor, y: Tensor) -> float:
        """Leave the gradient of the batch's mean loss in the parameters, part by part; that loss."""
        count = self.optimisation.accumulate
        if len(x0) % count:
            raise ValueError(f"a batch of {len(x0)} cannot be taken in {count} equal parts: see accumulate")
        drawn = self._draw(x0)
        parts = list(zip(*(tensor.chunk(count) for tensor in (x0, y, *drawn)), strict=True))
        total = 0.0
        for number, part in enumerate(parts, start=1):
            with contextlib.nullcontext() if number == count else self._without_exchange():
                with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.optimisation.bf16):
                    loss: Tensor = self.objective(*part)
                (loss / count).backward()  # pyright: ignore[reportUnknownMemberType]
            total += loss.item() / count
        return total

    def _draw(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times and noise of this step, from (seed, rank, step), as are the network's own draws if it has any."""
        digest = hashlib.sha256(f"{self.seed} {self.rank} {self.step_count}".encode()).digest()
        number = int.from_bytes(digest[:4], "little")  # a generator keeps 32 bits
        if getattr(self.denoiser.network.config, "dropout", 0):
            torch.manual_seed(number)
        return self._undistributed.draw(x0, torch.Generator().manual_seed(number))

    def _without_exchange(self) -> contextlib.AbstractContextManager[Any]:
        """Gradients stay with this worker: they go round with the last part."""
        if isinstance(self.objective, DistributedDataParallel):
            return self.objective.no_sync()
        return contextlib.nullcontext()

    def save(self, path: Path, extra: dict[str, Any] | None = None) -> None:
        """Write everything that `load` needs; `extra` (JSON values) comes back from `load`."""
        tensors: dict[str, Tensor] = {}
        tensors |= {f"network.{k}": v for k, v in self.denoiser.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.weights.items()}
        for name, parameter in self.denoiser.network.named_parameters():
            for slot, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{slot}.{name}"] = value
        if discriminator := self._undistributed.discriminator:
            tensors |= {f"discriminator.{k}": v for k, v in discriminator.state().items()}
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
                self.optimiser.state[parameter] = {
                    slot: _placed(tensors[f"optimiser.{slot}.{name}"], parameter)
                    for slot in self._slots(parameter, header["step"])
                }
            if discriminator := self._undistributed.discriminator:
                discriminator.load_state(_under(tensors, "discriminator."))
        except Exception as error:
            raise InvalidInput(
                f"{path}: not a training state of this network ({error}); choose another OUTPUT"
            ) from error
        self.step_count = header["step"]
        return header["extra"]

    def _slots(self, parameter: Tensor, step: int) -> tuple[str, ...]:
        """What the optimiser keeps of a parameter after so many steps: of one that is not trained, nothing."""
        if not step or not parameter.requires_grad:
            return ()
        return Muon.slots(parameter) if self.optimisation.muon else ("step", "exp_avg", "exp_avg_sq")


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
