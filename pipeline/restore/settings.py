"""The settings of a restore."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from driftrec import plugins
from driftrec.errors import Reason
from driftrec.sampling_recipes import LOOKS, settings_of
from pipeline.settings import MIB, Allowance, Alone, Free, Place, ShardSettings


def _or_a_plugins(value: Any, ours: ValidatorFunctionWrapHandler, about: ValidationInfo) -> Any:
    """A name of ours, or of a plugin: what it takes to ask them is loaded only where there are some."""
    try:
        return ours(value)
    except ValidationError:
        if not plugins.exist():
            raise
    if about.field_name == "sampler":
        from driftrec.diffusion.sampling import SAMPLERS

        known = [*SAMPLERS]
    else:
        from driftrec.image.encoding import ENCODERS, SAME

        known = [*ENCODERS, SAME]
    if value not in known:
        raise ValueError(f"there is no such {about.field_name}; known: {', '.join(known)}")
    return value


OrAPlugins = WrapValidator(_or_a_plugins)
Name = PlainSerializer(str, return_type=str)  # no warning for what stands in no Literal
Sampler = Annotated[Literal["multistep", "cold", "euler-maruyama", "euler-heun", "ode"], OrAPlugins, Name]
Format = Annotated[Literal["png", "same", "jpeg", "webp", "tiff"], OrAPlugins, Name]
AsText = BeforeValidator(lambda value: "true" if value is True else value)  # as YAML reads the default's own name


class RestoreSettings(ShardSettings):
    """Settings of `driftrec restore`, named as the flags; the two groups say what a change does to an output."""

    input: Place[str]  # folder, tar, glob of tars, or Parquet; local or any fsspec URL; or files, or - for stdin
    output: Free[Place[str]]  # folder or URL prefix that this run owns; the same command again finishes what is missing

    # How it is restored:
    model: Place[str] = "tiny"  # embedded, .safetensors (path, URL), fbcnn:, qgac: or ddrm:PATH; identity: no network
    seed: int = Field(0, ge=0)  # seed of all noise
    look: Free[Literal["faithful", "natural"] | None] = None  # faithful: closest, smooth; natural: with texture
    recipe: Free[Literal["driftrec-paper"] | None] = None  # a name for settings, which stand where nothing else is said
    sampler: Sampler = "multistep"  # docs/explanation/samplers.md
    steps: int | None = Field(None, ge=1)  # steps of the sampler; None: as the model recommends
    samples: int = Field(1, ge=1)  # number of samples that are averaged
    fidelity: float | None = Field(None, ge=0, le=1)  # 0: a sample, 1: the mean; None: as the model recommends
    coarse_fidelity: float | None = Field(None, ge=0, le=1)  # fidelity of coarse structure, with a start below 1
    color_correction: bool = True  # give every channel the input's mean
    color_8bit: bool = False  # by the mean of values that are rounded to 8 bits before, as the paper's authors do it
    tile: int | None = Field(512, ge=128)  # pixels; images with a longer side are restored in tiles; null: whole
    projection: bool = True  # keep within the bounds that a JPEG file states, unless it shows older damage
    adaptive: bool = True  # adapt start, steps and strength to a JPEG file's quality
    start: float | None = Field(None, gt=0, le=1)  # time to start from, below 1 from the mean; None: by the model
    t_eps: float | None = Field(None, gt=0, lt=1)  # time to end at; None: as the process says
    grid: Literal["uniform", "quadratic", "lambda"] | None = None  # spacing of the times; None: as suits the sampler
    eta: float | None = Field(None, ge=0, le=2)  # multistep: from 0 (ODE) over 1 (SDE) to 2; None: by the model
    order: Literal[1, 2] | None = None  # multistep: order of its steps; None: by the model
    spacing: Annotated[Literal["true", "authors"], AsText] = "true"  # euler-maruyama, euler-heun: spacing of the steps
    corrector_steps: int = Field(0, ge=0)  # euler-maruyama: Langevin steps before each step
    corrector_ratio: float = Field(0.5, gt=0)  # euler-maruyama: ratio of the corrector's step to sigma
    tolerance: float = Field(1e-3, gt=0)  # ode: largest error of a step
    last_step: float = Field(0.0, ge=0, lt=1)  # ode: length of a step without noise at the end, one more evaluation
    denoise_last: bool = False  # all but multistep: end with an estimate of the clean image, one more evaluation
    float32: bool = False  # the network in float32 where bfloat16 is quicker
    noise: Literal["cpu", "device"] = "cpu"  # where it is drawn; device: by the network, the same values on every one

    # Which images:
    skip_above: int | None = Field(None, ge=1, le=100)  # leave JPEGs of this quality or more without older damage
    skipped: Literal["copy", "list"] = "copy"  # what becomes of skipped files: copied as they are, or only listed
    frames: Literal["first", "skip"] = "first"  # of animations and TIFFs: restore the first, or skip the file
    include: tuple[str, ...] = ()  # restore only keys that match this pattern, or another one given; may be repeated
    exclude: tuple[str, ...] = ()  # restore no key that matches this pattern; may be repeated
    only_listed: Place[str | None] = None  # only the keys in this text file, or in the column key of CSV or Parquet
    limit: int | None = Field(None, ge=1)  # only the first N images
    max_pixels: int = Field(100_000_000, ge=1)  # larger images become `too_large` rows
    max_file_bytes: Free[int] = Field(2**30, ge=1)  # largest file, or unpacked row group of Parquet, that is read

    # What is written:
    format: Format = "png"  # of outputs, or a plugin's; same: as the input's name says
    png_level: int = Field(4, ge=0, le=9)  # zlib level of PNG outputs: from fast to small
    jpeg_quality: int | None = Field(None, ge=1, le=100)  # of JPEG outputs; None: 95, or the input's if that is higher
    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:4:4"  # of JPEG outputs
    webp_quality: int | None = Field(None, ge=0, le=100)  # of WEBP outputs; None: lossless
    on_clash: Literal["refuse", "row", "suffix"] = "refuse"  # two on one name: row: one fails; suffix: all a.jpg.png
    layout: Literal["tree", "tar", "webdataset"] = "tree"  # as the input, or a tar per shard; webdataset: with captions
    copy_failed: bool = False  # copy files that failed, unchanged, to where their outputs would be
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files, or in a piece of a tar
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that holds bytes
    shard_images: int = Field(64, ge=1)  # most images in a shard of loose files, below 40,000 shards

    # Of single files:
    overwrite: Free[bool] = False  # replace a file that is there
    compare: Free[str | None] = None  # write what came and what was made of it side by side into this file
    device: Free[Literal["cuda", "mps", "cpu"] | None] = None  # where the network computes; None: a GPU if there is one

    # Free to change between two attempts at one output:
    max_failed: Free[Allowance] = "0"  # images that may fail: a number, or a share such as 5%
    # Free, for it changes only rows that say failed; and a second try gives the bytes that the first would have given.
    retry_failed: Free[Annotated[str | None, Alone("all")]] = None  # do again what failed, for this reason or any
    # Free, for they get the same bytes.
    repair: Free[bool] = False  # do images again whose output is missing or was changed
    # Free, as memory is: a result that came in time is the same under any limit.
    image_timeout_s: Free[float] = Field(3600.0, gt=0)  # time after which a step on one image counts as hung
    decode_s_per_megapixel: Free[float] = Field(10.0, gt=0)  # likewise a decoder, after a minute and so long
    actors: Free[int | None] = Field(None, ge=1)  # processes with a model; None: one per GPU, or else one per CPU
    batch_size: Free[int] = Field(4, ge=1)  # images given to the network together
    gpus_per_actor: Free[float | None] = Field(None, ge=0)  # GPUs of each actor; None: 1 where the cluster has GPUs
    cpus_per_actor: Free[float | None] = Field(None, gt=0)  # CPUs of each; None: what leaves room for the reading tasks
    codec_threads: Free[int] = Field(2, ge=1)  # threads of an actor that decode, and as many that encode and write
    encode_by: Free[Literal["actor", "task"]] = "actor"  # task: on any CPU of the cluster, not beside an actor's GPU
    report: Free[bool] = True  # write report.html at the end

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        recipe = values.get("recipe")
        filled = {} if recipe is None else settings_of(recipe)
        return filled | LOOKS.get(str(values.get("look")), {}) | values

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("retry_failed")
    @classmethod
    def _check_reason(cls, value: str | None) -> str | None:
        known = ("all", *Reason)
        if value is not None and value not in known:
            raise ValueError(f"unknown reason; known are {', '.join(known)}")
        return value
