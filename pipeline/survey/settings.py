"""The settings of `driftrec survey`. Knows no Ray, no storage."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from pipeline.settings import MIB, Allowance, Free, Place, ShardSettings

ENOUGH, LEAST_SHARE = 500, 0.01  # files that "auto" decodes, about; of large archives this share
USUAL_BYTES = 200_000  # of a file, to guess how many a tar holds


class SurveySettings(ShardSettings):
    """Settings of `driftrec survey`, named as the flags; the two groups say what a change does to the ledger."""

    input: Place[str]  # folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: Free[Place[str]]  # folder or URL prefix that this run owns

    # What is looked at:
    pixels: str = "auto"  # files that are decoded: auto, all, none, or a share such as 0.1 or 10%
    seed: int = Field(0, ge=0)  # seed of the choice of these files
    max_pixels: int = Field(100_000_000, ge=1)  # larger images have the reason `too_large`
    limit: int | None = Field(None, ge=1)  # only the first N images
    shard_bytes: int = Field(256 * MIB, ge=1)  # compressed bytes in a shard, of a tar read together
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that holds bytes
    shard_images: int = Field(1024, ge=1)  # most images in a shard of loose files, below 40,000 shards

    # What a restore would cost, free to change between two attempts:
    model: Free[Place[str]] = "tiny"  # model whose cost is measured
    steps: Free[int | None] = Field(None, ge=1)  # steps of the sampler; None: as the model recommends
    samples: Free[int] = Field(1, ge=1)  # number of samples that are averaged
    fidelity: Free[float | None] = Field(None, ge=0, le=1)  # 0: a sample, 1: the mean; None: as the model recommends
    calibration_s: Free[float] = Field(10.0, ge=0)  # time for which it is measured; 0: not at all
    gpu_megapixels_per_s: Free[float | None] = Field(None, gt=0)  # speed of one GPU, if you know it
    gpu_price_per_hour: Free[float | None] = Field(None, gt=0)  # money that this GPU's machine costs per hour and GPU

    # Free to change between two attempts at one output:
    max_failed: Free[Allowance] = "0"  # damaged images that are allowed: a number, or a share such as 5%
    report: Free[bool] = True  # write report.html at the end

    @field_validator("pixels", mode="before")
    @classmethod
    def _check_pixels(cls, value: Any) -> str:
        text = str(value).strip()
        if text not in ("auto", "all", "none"):
            _share(text)
        return text

    @model_validator(mode="after")
    def _check_gpu(self) -> "SurveySettings":
        if self.gpu_price_per_hour is not None and self.gpu_megapixels_per_s is None:
            raise ValueError("gpu_price_per_hour needs gpu_megapixels_per_s, the speed of that GPU")
        return self

    def share(self, images: int | None, size: int) -> float:
        """Share of the files that are decoded, of an input of so many images (None: not known) and bytes."""
        if self.pixels == "auto":
            return min(1.0, max(LEAST_SHARE, ENOUGH / max(1, images or size // USUAL_BYTES)))
        return _share({"all": "1", "none": "0"}.get(self.pixels, self.pixels))


def _share(text: str) -> float:
    """ "0.1" or "10%" as a number. Raises ValueError for anything that is no share."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("give auto, all, none, or a share such as 0.1 or 10%")
    return number


# What the cost is asked of.
COST_FIELDS = (
    *("model", "steps", "samples", "fidelity", "calibration_s"),
    *("price_per_hour", "gpu_megapixels_per_s", "gpu_price_per_hour"),
)
