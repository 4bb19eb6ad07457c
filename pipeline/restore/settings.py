"""The settings of a restore."""

from typing import Any, Literal

from pydantic import Field, field_validator

from driftrec.errors import Reason
from pipeline.settings import MIB, Allowance, Free, Place, Settings


class RestoreSettings(Settings):
    """Settings of `driftrec restore`, named as the flags; the two groups say what a change does to an output."""

    input: Place[str]  # folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: Free[Place[str]]  # folder or URL prefix that this run owns

    # These determine the bytes or the shards: another value needs another output.
    model: Place[str] = "tiny"  # embedded; path or URL of a .safetensors; fbcnn:PATH; or "identity": no network at all
    seed: int = Field(0, ge=0)
    sampler: Literal["multistep", "euler-maruyama", "euler-heun", "ode"] = "multistep"
    steps: int | None = Field(None, ge=1)  # None: as the model says
    samples: int = Field(1, ge=1)  # so many are drawn and averaged
    fidelity: float | None = Field(
        None, ge=0, le=1
    )  # 0: a posterior sample, 1: its mean; None: as the model says
    color_correction: bool = True  # give every channel the input's mean
    tile: int | None = Field(512, ge=128)  # pixels; images with a longer side are restored in tiles; None: whole
    projection: bool = True  # keep to what the input says if it is a JPEG file that shows no older damage
    adaptive: bool = True  # do as much as a JPEG file's quality asks for: start, steps, share of the change
    skip_above: int | None = Field(None, ge=1, le=100)  # leave JPEGs of this quality or more, without older damage
    skipped: Literal["copy", "list"] = "copy"  # what becomes of skipped files: copied as they are, or only listed
    frames: Literal["first", "skip"] = "first"  # of animations, and pages of TIFFs: restore the first, or skip the file
    start: float | None = Field(None, gt=0, le=1)  # time to start from, below 1 from the mean; None: as the model says
    t_eps: float | None = Field(None, gt=0, lt=1)  # time to end at
    grid: Literal["uniform", "quadratic", "lambda"] | None = None  # how the times lie; None: as suits the sampler
    eta: float = Field(0.0, ge=0, le=2)  # multistep: from 0 (ODE) over 1 (reverse SDE) to 2
    order: Literal[1, 2] = 2  # multistep
    spacing: Literal["true", "authors"] = "true"  # euler-maruyama: of its steps
    corrector_steps: int = Field(0, ge=0)  # euler-maruyama: Langevin steps after each step
    corrector_ratio: float = Field(0.5, gt=0)  # euler-maruyama: of the corrector's step to sigma
    tolerance: float = Field(1e-2, gt=0)  # ode: largest error of a step
    denoise_last: bool = False  # all but multistep: end with an estimate of the clean image, one more evaluation
    format: Literal["png", "same", "jpeg", "webp", "tiff"] = "png"
    png_level: int = Field(4, ge=0, le=9)  # zlib's: from fast to small
    jpeg_quality: int | None = Field(None, ge=1, le=100)  # None: 95, or the input's if that is higher
    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:4:4"
    webp_quality: int | None = Field(None, ge=0, le=100)  # None: lossless
    layout: Literal["tree", "tar"] = "tree"  # outputs as files below images/, or as a tar a shard below shards/
    copy_failed: bool = False  # put the files that failed, as they are, where their outputs would be
    include: tuple[str, ...] = ()  # patterns of keys; only what matches one of them is restored
    exclude: tuple[str, ...] = ()  # patterns of keys; what matches one of them is not
    only_listed: Place[str | None] = None  # file of keys: text, or the column key of CSV or Parquet. Its content counts
    max_pixels: int = Field(100_000_000, ge=1)  # larger images become `too_large` rows
    max_file_bytes: Free[int] = Field(2**30, ge=1)  # of one file, or that a row group of Parquet unpacks to
    limit: int | None = Field(None, ge=1)  # only the first so many images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files, or in a piece of a tar
    shard_images: int = Field(64, ge=1)  # images in a shard of loose files, at most

    # These do not: they may change between two attempts at one output.
    allow_local: Free[bool] = False  # paths are the same folder on all nodes of the cluster
    max_failed: Free[Allowance] = "0"  # failed images that are still a success: a number or "5%"
    # Images with this reason (or "all") are done again. Free, for it changes only rows that say failed; and an image
    # that is restored on a second try has the bytes that it would have had on the first.
    retry_failed: Free[str | None] = None
    # Images whose output is missing, or is not what the ledger says, are done again. Free, for they get the same bytes.
    repair: Free[bool] = False
    # Seconds that an image may take in one step before its worker counts as hung. Free, as memory is: a result that
    # came in time is the same under any limit.
    image_timeout_s: Free[float] = Field(3600.0, gt=0)
    actors: Free[int | None] = Field(None, ge=1)  # None: one per GPU, or one per CPU where there is no GPU
    batch_size: Free[int] = Field(4, ge=1)  # images given to the network together
    gpus_per_actor: Free[float | None] = Field(None, ge=0)  # None: 1 where the cluster has GPUs
    cpus_per_actor: Free[float | None] = Field(None, gt=0)  # None: what leaves room for the reading tasks
    codec_threads: Free[int] = Field(2, ge=1)  # threads of an actor that decode, and as many that encode and write
    report: Free[bool] = True  # write report.html at the end
    progress_s: Free[float] = Field(10.0, gt=0)  # seconds between two progress lines where stderr is no terminal

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("retry_failed")
    @classmethod
    def _check_reason(cls, value: str | None) -> str | None:
        known = ("all", *Reason)
        if value is not None and value not in known:
            raise ValueError(f"no image fails so; known are {', '.join(known)}")
        return value

