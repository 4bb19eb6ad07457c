"""The settings of `driftrec train`. They need PyTorch, unlike those of other jobs; hence a file of their own."""

import dataclasses
from typing import Any, ClassVar, get_type_hints

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from driftrec.denoiser import Denoiser, Form
from driftrec.learner import Optimisation
from driftrec.network import NCSNpp, NetworkConfig
from driftrec.objective import TimeDensity
from driftrec.patches import PatchConfig
from driftrec.process import Process
from driftrec.sde import PROCESSES
from pipeline.settings import MIB, Settings

PRESETS = {"tiny": NetworkConfig.tiny, "paper": NetworkConfig.paper}


class Mirror(Settings):
    """Settings with the fields, defaults and checks of one of driftrec's dataclasses."""

    source: ClassVar[type]

    def build(self) -> Any:
        """The dataclass itself."""
        return self.source(**dict(self))

    @model_validator(mode="after")
    def _check(self) -> "Mirror":
        self.build()
        return self


def mirror(source: type) -> type[Mirror]:
    """A settings model of the dataclass `source`."""
    hints = get_type_hints(source)
    fields: dict[str, Any] = {f.name: (hints[f.name], f.default) for f in dataclasses.fields(source)}
    model = create_model(f"{source.__name__}Settings", __base__=Mirror, __doc__=source.__doc__, **fields)
    model.source = source
    return model


NetworkSettings = mirror(NetworkConfig)
OptimizerSettings = mirror(Optimisation)
DensitySettings = mirror(TimeDensity)
PatchSettings = mirror(PatchConfig)


def complete_process(value: Any) -> dict[str, Any]:
    """{name: tsdve, gamma: 3} with all the other settings of that process. Raises ValueError naming a wrong one."""
    given = {"name": value} if isinstance(value, str) else dict(value)
    name = given.pop("name", "ouve")
    if name not in PROCESSES:
        raise ValueError(f"unknown process {name!r}; known: {', '.join(PROCESSES)}")
    try:
        return {"name": name} | mirror(PROCESSES[name]).model_validate(given).model_dump()
    except ValidationError as error:
        (problem, *_), known = error.errors(), [field.name for field in dataclasses.fields(PROCESSES[name])]
        wrong = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{wrong} {problem['msg']}; {name} has {', '.join(known) or 'no settings'}".strip()) from None


class TrainSettings(Settings):
    """Settings of `driftrec train`; the groups say what a change of them does."""

    data: str  # clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: str  # folder or URL prefix that this run owns

    # These determine the weights: another value needs another output.
    network: NetworkSettings = NetworkSettings()  # also by name: {preset: tiny, width: 48}
    process: dict[str, Any] = Field({"name": "ouve"})  # and the settings of that process
    form: Form = "x0"  # what the network says, see driftrec.denoiser; the paper's is noise
    residual_std: float = Field(0.05, gt=0)  # of clean minus JPEG over the training data, pixels in [0, 1]; for form x0
    density: DensitySettings = DensitySettings()  # of the times that are trained
    optimizer: OptimizerSettings = OptimizerSettings()
    patches: PatchSettings = PatchSettings()
    batch_size: int = Field(8, ge=1)  # patches a worker takes in one step
    shuffle_buffer: int = Field(1024, ge=1)  # patches that are mixed with each other
    seed: int = Field(0, ge=0, lt=2**20)
    init_from: str | None = None  # training state to go on from, its step count and optimizer included
    limit: int | None = Field(None, ge=1)  # only the first so many images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files
    shard_images: int = Field(256, ge=1)  # images in a shard of loose files, at most
    max_pixels: int = Field(100_000_000, ge=1)  # larger images are skipped

    # These do not: they may change between two attempts at one output. Another number of workers is another batch size,
    # though: the run goes on, but not bit for bit as it would have.
    workers: int = Field(1, ge=1)
    gpus_per_worker: int | None = Field(None, ge=0, le=1)  # None: 1 where the cluster has GPUs
    cpus_per_worker: float | None = Field(None, gt=0)  # None: what leaves room for the reading tasks
    threads: int | None = Field(None, ge=1)  # of PyTorch in a worker; None: its share of the machine's cores
    checkpoint_every: int = Field(500, ge=1)  # steps
    keep: int = Field(3, ge=1)  # checkpoints
    log_every: int = Field(50, ge=1)  # steps
    max_failures: int = Field(10, ge=0)  # deaths of workers after which the run is given up

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

    @field_validator("process", mode="before")
    @classmethod
    def _complete_process(cls, value: Any) -> dict[str, Any]:
        return complete_process(value)

    def build_process(self) -> Process:
        """The forward process."""
        settings = dict(self.process)
        return PROCESSES[settings.pop("name")](**settings)

    def denoiser(self) -> Denoiser:
        """A new network in its process; the weights come from PyTorch's global generator."""
        return Denoiser(NCSNpp(self.network.build()), self.build_process(), self.form, self.residual_std)


# Fields of TrainSettings that may differ between two attempts at the same output.
FREE_FIELDS = frozenset(
    "data output workers gpus_per_worker cpus_per_worker threads checkpoint_every keep log_every max_failures".split()
)
