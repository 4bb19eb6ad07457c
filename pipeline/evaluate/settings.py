"""The settings of `driftrec evaluate`, `degrade` and `split`. Knows no Ray, no storage."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from driftrec.jpeg.codec import SUBSAMPLINGS
from driftrec.urls import redact
from pipeline.evaluate.presets import PRESETS
from pipeline.settings import MIB, Allowance, Free, Listed, Place, Settings, ShardSettings, Values

MAKING = ("quality", "second_quality")  # settings that say how JPEGs are made
NOTHING = (None, "none", ["none"], ("none",), (), [])  # what says of a quality that nothing is compressed
Texts = Annotated[tuple[str, ...], Listed]
Specs = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class DamageSettings(ShardSettings):
    """How clean images are damaged: all combinations of these."""

    # How images are damaged:
    quality: Texts = ("5", "10", "20", "30")  # JPEG qualities; 30/10 compresses at 30 and then at 10
    second_quality: Annotated[tuple[int, ...], Listed] = ()  # compress all a second time, at each of these qualities
    shift: int = Field(4, ge=0, le=7)  # before a second compression: crop by 0 to so many pixels at the top and left
    subsampling: Texts = ("4:2:0",)  # some of 4:2:0, 4:2:2 and 4:4:4
    seed: int = Field(0, ge=0)  # seed of all noise and of the crops

    @field_validator("quality")
    @classmethod
    def _check_quality(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            parts = item.split("/")
            if item != "none" and (len(parts) > 2 or not all(part.isdecimal() and int(part) <= 100 for part in parts)):
                raise ValueError("give numbers from 0 to 100, or pairs such as 30/10: first at 30, then at 10")
        if "none" in value and len(value) > 1:
            raise ValueError("none, which damages nothing, cannot be combined with other qualities")
        return value

    @field_validator("second_quality")
    @classmethod
    def _check_second(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 <= item <= 100 for item in value):
            raise ValueError("give numbers from 0 to 100")
        return value

    @field_validator("subsampling")
    @classmethod
    def _check_subsampling(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= SUBSAMPLINGS.keys():
            raise ValueError(f"give some of {', '.join(SUBSAMPLINGS)}; in YAML and --set in quotes")
        return value


class EvaluateSettings(DamageSettings):
    """Settings of `driftrec evaluate`, named as the flags; the two groups say what a change does to the ledger."""

    reference: Place[str]  # clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: Free[Place[str]]  # folder or URL prefix that this run owns

    # What is compared, and by what:
    preset: Free[str | None] = None  # a published table, say live1, whose settings hold where none are given
    damaged: Place[str | None] = None  # damaged files of the references' names, as they may be given; None: JPEGs made
    model: Place[Specs] = ()  # [NAME=]MODEL[?SETTING=VALUE&...], say mean=tiny?fidelity=1; may be repeated
    candidate: Place[Specs] = ()  # NAME=URL of files that another tool has restored; may be repeated
    metrics: Texts = ("psnr", "ssim", "psnrb", "bef")  # names of metrics: docs/explanation/metrics.md
    weights: Place[Specs] = ()  # NAME=PATH or NAME=URL of the weights of a metric; may be repeated
    classifier: str = "resnet50"  # of torchvision, for the metric accuracy
    labels: Place[str | None] = None  # CSV or Parquet with columns key and label; None: what it sees in the clean image
    kid_images: int = Field(2000, ge=2)  # images of each set whose features are kept for KID, precision and recall
    kid_subsets: int = Field(50, ge=1)  # random subsets of these; KID is their mean
    kid_subset_size: int = Field(1000, ge=2)  # most images in each subset
    bootstrap: int = Field(1000, ge=100)  # resamplings for the intervals

    # Which images:
    max_pixels: int = Field(100_000_000, ge=1)  # larger images become `too_large` rows
    max_file_bytes: Free[int] = Field(2**30, ge=1)  # largest file, or unpacked row group of Parquet, that is read
    limit: int | None = Field(None, ge=1)  # only the first N images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that holds bytes
    shard_images: int = Field(16, ge=1)  # most images in a shard of loose files, below 40,000 shards

    # Free to change between two attempts at one output:
    max_failed: Free[Allowance] = "0"  # images that may have a failed row: a number, or a share such as 5%
    actors: Free[int | None] = Field(None, ge=1)  # processes that restore; None: one per GPU, or else one per CPU
    scorers: Free[int | None] = Field(None, ge=1)  # that score; None: one per CPU, half of them beside CPU models
    batch_size: Free[int] = Field(4, ge=1)  # conditions of an image given to the network together
    threads: Free[int | None] = Field(None, ge=1)  # images that a scorer has in work at once; None: as restoring needs
    gpus_per_actor: Free[float | None] = Field(None, ge=0)  # GPUs of each actor; None: 1 where the cluster has GPUs
    gpus_per_scorer: Free[float] = Field(0.0, ge=0)  # GPUs of each scorer; worth it for lpips, fid and the like
    cpus_per_actor: Free[float | None] = Field(None, gt=0)  # CPUs of each actor; None: what leaves room for the others
    report: Free[bool] = True  # write report.html at the end

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """What is not given comes from the preset; where damaged files are given, none are made."""
        if not isinstance(values, dict):
            return values
        if values.get("damaged") is not None:
            made = [name for name in MAKING if values.get(name) not in NOTHING]
            if made:
                raise ValueError(f"damaged images are given: leave out {' and '.join(made)}, which would make them")
            values = {**values, "quality": "none"}
        if (preset := values.get("preset")) is None:
            return values
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        return {**PRESETS[preset].settings, **values}

    def public(self) -> Values:
        """All settings, without credentials; what stands behind a model's ? are settings, and stays."""
        return super().public() | {"model": [public_spec(text) for text in self.model]}


def public_spec(text: str) -> str:
    """A model's spec without credentials in its URL; the settings behind the ? stay."""
    head, mark, query = text.partition("?")
    return redact(head) + mark + query


class DegradeSettings(DamageSettings):
    """Settings of `driftrec degrade`, named as the flags."""

    input: Place[str]  # clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: Free[Place[str]]  # folder or URL prefix that this run owns

    # Which images:
    max_pixels: int = Field(100_000_000, ge=1)  # larger images become `too_large` rows
    max_file_bytes: Free[int] = Field(2**30, ge=1)  # largest file, or unpacked row group of Parquet, that is read
    limit: int | None = Field(None, ge=1)  # only the first N images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that holds bytes
    shard_images: int = Field(64, ge=1)  # most images in a shard of loose files, below 40,000 shards

    # Free to change between two attempts at one output:
    max_failed: Free[Allowance] = "0"  # images that may have a failed row: a number, or a share such as 5%
    repair: Free[bool] = False  # do images again of which an output is missing or was changed
    actors: Free[int | None] = Field(None, ge=1)  # processes; None: one per CPU
    threads: Free[int] = Field(2, ge=1)  # images that an actor has in work at once


class SplitSettings(Settings):
    """Settings of `driftrec split`."""

    input: Place[str]  # folder, tar, glob of tars, or Parquet with images; local or any fsspec URL
    output: Place[str]  # folder or URL for train.txt, validation.txt, test.txt and split.json
    allow_local: bool = False  # without effect: a split is made by this process alone
    seed: int = Field(102405, ge=0)  # seed of the division
    limit: int | None = Field(None, ge=1)  # only the first N images

