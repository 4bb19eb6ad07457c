"""The settings of `driftrec train`. They need PyTorch, unlike those of other jobs; hence a file of their own."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_type_hints

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from driftrec.diffusion.denoiser import Denoiser, Form
from driftrec.diffusion.denoiser import check as check_denoiser
from driftrec.diffusion.drift import PROCESSES
from driftrec.diffusion.process import Process
from driftrec.diffusion.sampling import check_diffusion as check_reversible
from driftrec.models.checkpoint import RECOMMENDED
from driftrec.networks import architectures
from driftrec.networks.architectures import NETWORKS
from driftrec.networks.config import NetworkConfig
from driftrec.networks.initialisation import initialise
from driftrec.networks.ncsnpp import NCSNpp
from driftrec.networks.network import Network
from driftrec.restoration.options import Sampling
from driftrec.training.learner import Optimisation
from driftrec.training.loss import Loss, TimeDensity
from driftrec.training.patches import PatchConfig
from pipeline.settings import MIB, Allowance, Free, Place, Settings, Values

PRESETS = {"tiny": NetworkConfig.tiny, "paper": NetworkConfig.paper}


D = TypeVar("D")  # one of driftrec's dataclasses


class Mirror(Settings, Generic[D]):
    """Mirror[D] has the fields, defaults and checks of D."""

    source: ClassVar[type]

    @classmethod
    def of(cls, source: type) -> "type[Mirror[Any]]":
        """A settings model of the dataclass `source`."""
        hints = get_type_hints(source)
        fields: dict[str, Any] = {f.name: (hints[f.name], f.default) for f in dataclasses.fields(source)}
        model = create_model(f"{source.__name__}Settings", __base__=Mirror, __doc__=source.__doc__, **fields)
        model.source = source
        return model

    def __class_getitem__(cls, typevar_values: Any) -> Any:
        return cls.of(typevar_values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # a field of D

    def build(self) -> D:
        """The dataclass itself."""
        return self.source(**dict(self))

    @model_validator(mode="after")
    def _check(self) -> "Mirror[D]":
        self.build()
        return self


NetworkSettings = Mirror[NetworkConfig]
OptimizerSettings = Mirror[Optimisation]
DensitySettings = Mirror[TimeDensity]
PatchSettings = Mirror[PatchConfig]


def complete_process(value: Any) -> Values:
    """{name: tsdve, gamma: 3} with all the other settings of that process. Raises ValueError naming a wrong one."""
    return _completed("process", {"name": "ouve"} | _named(value), PROCESSES)


def _named(value: Any) -> Values:
    return {"name": value} if isinstance(value, str) else dict(value)


def _completed(kind: str, value: Values, known_ones: Mapping[str, type]) -> Values:
    """{name: one of these, ...} with all other settings of it. Raises ValueError naming a wrong one."""
    given = dict(value)
    name = given.pop("name", "")
    if name not in known_ones:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known_ones)}")
    try:
        return {"name": name} | Mirror.of(known_ones[name]).model_validate(given).model_dump()
    except ValidationError as error:
        (problem, *_), known = error.errors(), [field.name for field in dataclasses.fields(known_ones[name])]
        wrong = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{wrong} {problem['msg']}; {name} has {', '.join(known) or 'no settings'}".strip()) from None


class TrainSettings(Settings):
    """Settings of `driftrec train`; the groups say what a change of them does."""

    shortcuts: ClassVar[dict[str, str]] = {"optimizer.steps": "--steps", "init_from": "--init"}

    data: Free[Place[str]]  # clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: Free[Place[str]]  # folder or URL prefix that this run owns
    corrupted: Free[Place[str | None]] = None  # the same images damaged, found by name, in place of JPEGs

    # What determines the weights:
    network: NetworkSettings = NetworkSettings()  # its shape; also by name, as {preset: tiny, width: 48}
    architecture: Values | None = None  # a plugin's network in place of that, as {name: mine, depth: 3}
    initialisation: Literal["pytorch", "ncsnpp"] = "pytorch"  # of its weights; the authors' is NCSN++'s
    process: Values = Field({"name": "ouve"})  # forward process and its settings, as {name: ouve, gamma: 1}
    form: Form = "x0"  # what the network estimates, see driftrec.diffusion.denoiser; the paper's is noise
    residual_std: float = Field(0.05, gt=0)  # standard deviation of clean minus JPEG, pixels in [0, 1]; for form x0
    density: DensitySettings = DensitySettings()  # of the times that are trained
    loss: Loss = "mean"  # of squared errors: mean, the authors' half-sum, log of an image's; or IR-SDE's matching
    blocking: float = Field(0.0, ge=0)  # weight of a penalty for blocks that the clean image does not have
    optimizer: OptimizerSettings = OptimizerSettings()  # how the weights are trained
    patches: PatchSettings = PatchSettings()  # what is drawn from each photograph, and how it is damaged
    batch_size: int = Field(8, ge=1)  # patches that go through a worker's network together
    shuffle_buffer: int = Field(1024, ge=1)  # patches that are mixed with each other
    seed: int = Field(0, ge=0, lt=2**20)  # seed of weights, patches and noise
    init_from: Place[str | None] = None  # training state to go on from, its step count and optimizer included
    limit: int | None = Field(None, ge=1)  # only the first N images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that holds bytes
    shard_images: int = Field(256, ge=1)  # most images in a shard of loose files
    max_pixels: int = Field(100_000_000, ge=1)  # larger images are skipped

    # Another number of workers is another batch size: the run goes on, but not bit for bit as it would have.
    # Free to change between two attempts at one output:
    allow_local: Free[bool] = False  # paths are the same folder on all nodes of the cluster
    workers: Free[int] = Field(1, ge=1)  # training processes
    min_workers: Free[int | None] = Field(None, ge=1)  # fewest to go on with where there is no room for all
    gpus_per_worker: Free[int | None] = Field(None, ge=0, le=1)  # GPUs of each; None: 1 where the cluster has GPUs
    cpus_per_worker: Free[float | None] = Field(None, gt=0)  # CPUs of each; None: what leaves room for reading
    threads: Free[int | None] = Field(None, ge=1)  # of PyTorch in a worker; None: its share of the cores it may use
    checkpoint_every: Free[int] = Field(500, ge=1)  # steps between two checkpoints
    keep: Free[int] = Field(3, ge=1)  # newest checkpoints that are kept
    log_every: Free[int] = Field(50, ge=1)  # steps between two lines of metrics
    halt_s: Free[float] = Field(30.0, ge=0)  # time that a checkpoint may take before workers are ended on purpose
    max_failures: Free[int] = Field(10, ge=0)  # deaths of workers after which the run is given up
    max_skipped: Free[Allowance] = "10%"  # images that may be unusable before the run is given up: a number or a share
    validation: Free[Place[str | None]] = None  # clean images that are restored and scored at intervals
    validation_corrupted: Free[Place[str | None]] = None  # the same images damaged, instead of their JPEGs
    validation_images: Free[int] = Field(16, ge=1)  # how many images, the first ones; of each the middle
    validation_quality: Free[int] = Field(10, ge=0, le=100)  # of their JPEGs, which are 4:2:0
    validate_every: Free[int] = Field(1000, ge=1)  # steps between two validations
    track: Free[tuple[Literal["wandb", "mlflow"], ...]] = ()  # where else the metrics go; needs wandb or mlflow-skinny
    weights_dtype: Free[Literal["float32", "bfloat16"]] = "bfloat16"  # dtype of model.safetensors
    recommend: Free[Values | None] = None  # settings of a restore unless it says otherwise: steps, fidelity, ...
    data_licence: Free[str | None] = None  # licence of the data, for the model card

    @model_validator(mode="after")
    def _check_together(self) -> "TrainSettings":
        patches = self.patches.build()
        changed = patches.share_reduced or patches.share_scaled or patches.share_recoloured
        if self.corrupted and (patches.crop != "native" or changed):
            raise ValueError(
                "corrupted images are cut as they are: set patches.crop=native, and share_reduced, share_scaled and "
                "share_recoloured to 0"
            )
        check_denoiser(self.build_process(), self.form, self.residual_std)
        if self.loss == "matching":
            check_reversible(self.build_process())
        if self.blocking and (self.corrupted or self.form == "noise"):
            raise ValueError("blocking needs JPEG's grid and an estimated image: not with corrupted, nor form=noise")
        if self.validation_corrupted and not self.validation:
            raise ValueError("validation_corrupted needs the clean images too: set validation")
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers must not be above workers, got {self.min_workers} and {self.workers}")
        return self

    @field_validator("recommend")
    @classmethod
    def _check_recommend(cls, value: Values | None) -> Values | None:
        if unknown := set(value or {}) - set(RECOMMENDED):
            raise ValueError(f"recommend takes {', '.join(RECOMMENDED)}, not {', '.join(sorted(unknown))}")
        Sampling(**(value or {}))
        return value

    @field_validator("network", mode="before")
    @classmethod
    def _resolve_preset(cls, value: Any) -> Any:
        """{preset: tiny, width: 48} is the tiny network with another width."""
        value = {"preset": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or "preset" not in value:
            return value
        changes = {name: setting for name, setting in value.items() if name != "preset"}
        if value["preset"] not in PRESETS:
            raise ValueError(f"unknown preset {value['preset']!r}; known: {', '.join(PRESETS)}")
        return dataclasses.asdict(PRESETS[value["preset"]]()) | changes

    @field_validator("architecture", mode="before")
    @classmethod
    def _complete_architecture(cls, value: Any) -> Values | None:
        known = {name: kind.config for name, kind in NETWORKS.items()}
        return value and _completed("network", _named(value), known)

    @field_validator("process", mode="before")
    @classmethod
    def _complete_process(cls, value: Any) -> Values:
        return complete_process(value)

    def build_process(self) -> Process:
        """The forward process."""
        settings = dict(self.process)
        return PROCESSES[settings.pop("name")](**settings)

    def build_network(self) -> Network:
        """A new one; the weights come from PyTorch's global generator."""
        network = architectures.create(
            architectures.config_from(self.architecture) if self.architecture else self.network.build()
        )
        if self.initialisation == "ncsnpp" and isinstance(network, NCSNpp):
            initialise(network)
        return network

    def denoiser(self) -> Denoiser:
        """A new network in its process."""
        return Denoiser(self.build_network(), self.build_process(), self.form, self.residual_std)


def flat(values: Mapping[str, Any], prefix: str = "") -> Values:
    """Nested settings by their dotted names."""
    found: Values = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
