"""How a picture is to be restored: what may be given, and what it comes to once a model has recommended the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypedDict, get_args

from torch import Tensor

from driftrec.diffusion.grids import GRIDS
from driftrec.diffusion.process import Process
from driftrec.diffusion.sampling import SAMPLERS, Spacing, check_multistep
from driftrec.image import Picture
from driftrec.models.checkpoint import RECOMMENDED
from driftrec.noise import Noise
from driftrec.restoration import adaptive
from driftrec.restoration.finishing import Restored as Restored
from driftrec.restoration.tiling import check_side
from driftrec.sampling_recipes import settings_of

# Fields of Sampling by their kind.
WHOLE = ("steps", "samples", "tile", "order", "corrector_steps")
REAL = ("fidelity", "coarse_fidelity", "start", "t_eps", "eta", "corrector_ratio", "tolerance", "last_step")
SWITCHES = ("color_correction", "color_8bit", "projection", "adaptive", "denoise_last", "float32")
WORDS = ("sampler", "grid", "spacing", "noise")
LEFT_OPEN = (*RECOMMENDED, "t_eps", "grid")  # where None leaves the choice to model and process


def whole(name: str, value: Any) -> int:
    """A whole number, however it is given. Raises ValueError."""
    number = _real(name, value)
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _real(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: of a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def _switch(name: str, value: Any) -> bool:
    if _real(name, value) not in (0, 1):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a word, got {value!r}")
    return str(value)


@dataclass(frozen=True)
class Sampling:
    """How an image is to be restored, as a user says it. None in `steps`, `fidelity`, `coarse_fidelity`, `start`, `eta`
    or `order` means what the model's file recommends, and where it does not, as in `t_eps` and `grid`, the process's
    own, or the sampler's.

    Numbers are kept in one kind each, however they are given: they are written into outputs.
    """

    sampler: str = "multistep"  # a key of SAMPLERS
    steps: int | None = None  # of the sampler; the multistep and Euler-Maruyama samplers take one evaluation per step
    samples: int = 1  # samples that are averaged
    # 0: a sample, which is a posterior one if it starts at 1; 1: the posterior mean (one evaluation); between: a mix
    fidelity: float | None = None
    coarse_fidelity: float | None = None  # of a sample that starts below 1: the same for its coarse structure
    color_correction: bool = True  # give every channel the JPEG's mean (paper, IV-H)
    color_8bit: bool = False  # by the mean of values that are rounded to 8 bits before, as the authors' script does
    tile: int | None = 512  # pixels; images with a longer side are restored in overlapping tiles; None: whole
    projection: bool = True  # keep to what a picture's JPEG file says, where `Picture.constraint` is known
    adaptive: bool = False  # do as much as a JPEG file's quality asks for (driftrec.restoration.adaptive)
    start: float | None = None  # time to start from; below 1 from the posterior mean with noise
    t_eps: float | None = None  # time to end at
    grid: str | None = None  # a key of GRIDS
    eta: float | None = None  # multistep: from 0 (ODE) over 1 (reverse SDE) to 2
    order: int | None = None  # multistep: 1 or 2
    spacing: Spacing = "true"  # Euler-Maruyama and Euler-Heun: or "authors"
    corrector_steps: int = 0  # Euler-Maruyama: Langevin steps before each step
    corrector_ratio: float = 0.5  # Euler-Maruyama: of the corrector's step to sigma
    tolerance: float = 1e-3  # ode: of one step's error
    last_step: float = 0.0  # ode: length of a step without noise at the end, one more evaluation
    denoise_last: bool = False  # all but multistep: end with x0hat, at one more evaluation
    float32: bool = False  # the network in float32 where bfloat16 is quicker
    noise: Noise = "cpu"  # where it is drawn: there, or on the network's "device", with the same values on every one

    def __post_init__(self) -> None:
        self._make_plain()
        words = {"sampler": SAMPLERS, "spacing": get_args(Spacing), "grid": GRIDS, "noise": get_args(Noise)}
        for name, known in words.items():
            if (word := getattr(self, name)) not in known and (word is not None or name not in LEFT_OPEN):
                raise ValueError(f"unknown {name} {word!r}; known: {', '.join(known)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        for name in ("fidelity", "coarse_fidelity"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, got {value}")
        start = 1.0 if self.start is None else self.start
        if not 0 < self._last < start <= 1:
            raise ValueError(f"need 0 < t_eps < start <= 1, got t_eps = {self._last}, start = {start}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")
        if not 0 <= self.last_step < 1:
            raise ValueError(f"last_step must be in 0..1, got {self.last_step}")
        if self.corrector_steps < 0 or not self.corrector_ratio > 0:
            raise ValueError(
                "corrector_steps must not be negative and corrector_ratio must be positive, "
                f"got {self.corrector_steps} and {self.corrector_ratio}"
            )
        check_multistep(self.eta or 0.0, 2 if self.order is None else self.order)
        if self.tile is not None:
            check_side(self.tile)

    @classmethod
    def of(cls, recipe: str, **changes: Any) -> Sampling:
        """Those of a recipe, but for the changes. Raises ValueError with the known ones."""
        return cls(**(settings_of(recipe) | changes))

    def _make_plain(self) -> None:
        for names, plain in ((WHOLE, whole), (REAL, _real), (SWITCHES, _switch), (WORDS, _word)):
            for name in names:
                if (value := getattr(self, name)) is not None:
                    object.__setattr__(self, name, plain(name, value))

    @property
    def _last(self) -> float:
        """The time to end at."""
        return self.t_eps if self.t_eps is not None else SAMPLERS[self.sampler].t_eps

    def resolve(self, recommended: Mapping[str, Any]) -> Resolved:
        """With what a model recommends where nothing is said."""
        said: dict[str, Any] = {n: v for n, v in asdict(self).items() if v is not None or n not in LEFT_OPEN}
        return Resolved(**{**recommended, **said})


@dataclass(frozen=True)
class Resolved(Sampling):
    """How an image is restored: nothing is left to the model, and these are for one that recommends nothing."""

    steps: int = 8
    fidelity: float = 0.0
    coarse_fidelity: float = 0.0
    start: float = 1.0
    eta: float = 0.0
    order: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._authors and self.start != 1:
            raise ValueError(f"steps of spacing=authors lead down from 1, got start = {self.start:g}; give start=1")

    @property
    def _authors(self) -> bool:
        """Whether steps are spaced as theirs."""
        return self.spacing == "authors" and "spacing" in SAMPLERS[self.sampler].options

    def adapted(self, picture: Picture, process: Process) -> Plan:
        """What suits a picture."""
        if not self.adaptive or not (picture.quality or picture.source_format):  # an array says nothing
            return Plan(self, 1.0, picture.quality if picture.constraint else None)
        quality, older, offset = adaptive.history(picture)
        if quality is None:
            return Plan(self, 0.0, quality, "no JPEG damage shows: left as it is")
        if min(picture.height, picture.width) < adaptive.SMALLEST:
            return Plan(self, 0.0, quality, f"a side below {adaptive.SMALLEST} pixels: left as it is")
        plan = Plan(self, adaptive.strength(quality), quality, offset=offset)
        if older or self._authors:  # whose steps fit a start at 1 alone
            return plan
        part = adaptive.share(quality)
        if part < adaptive.MEAN_ONLY:
            return plan._replace(sampling=replace(self, fidelity=1.0))
        start = adaptive.start(process, self.start, self._last, part)
        return plan._replace(sampling=replace(self, start=start, steps=max(1, round(self.steps * part))))

    def times(self, process: Process) -> Tensor:
        """The falling times of one sample."""
        method = SAMPLERS[self.sampler]
        points = self.steps if self._authors else method.points(self.steps)
        return GRIDS[self.grid or method.grid](process, points, self._last, self.start)

    def check(self, process: Process) -> None:
        """Raises ValueError if this process cannot be sampled so."""
        SAMPLERS[self.sampler].check(process)
        self.times(process)

    def draw(self) -> Callable[..., Tensor]:
        """The sampler with its options."""
        method = SAMPLERS[self.sampler]
        return partial(method.sample, **{name: getattr(self, name) for name in method.options})


class Plan(NamedTuple):
    """What is done to one picture."""

    sampling: Resolved
    strength: float  # share of the network's change that is applied, 0 to 1
    quality: int | None  # the lowest that the picture has gone through as a JPEG; None where that is not known
    note: str = ""  # what a reader of the ledger should know
    offset: tuple[int, int] = (0, 0)  # rows and columns that the network sees beside the picture, for its JPEG's grid


class Options(TypedDict, total=False):
    """Settings of Sampling that a call takes; `adaptive` and `projection` are on unless told."""

    steps: int | None
    samples: int
    fidelity: float | None
    adaptive: bool
    projection: bool
