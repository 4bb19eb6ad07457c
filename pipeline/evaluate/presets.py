"""Published tables as settings of an evaluation: conditions, metrics, and the rows that stand beside ours.

A table is added here, its rows in `published`. Of the DriftRec paper's tables there are those whose conditions are
known for sure. Knows no Ray, no storage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluate.published import CELEBA_HQ, LIVE1, PublishedRow, PublishedTold

PAPER = "psnr,ssim9,lpips,bef_torchjpeg,kid,fid"  # what the paper's authors compute with their public scripts


@dataclass(frozen=True)
class Preset:
    """One table."""

    about: str  # the images that it is of, and what is scored
    settings: Mapping[str, str]
    images: int | None = None  # that the published rows are means of
    published: Sequence[PublishedRow] = ()


PRESETS: dict[str, Preset] = {
    "live1": Preset(
        "LIVE1 in colour (Sheikh et al. 2005), JPEG by Pillow, scores on RGB",
        {"quality": "10,20,40", "subsampling": "4:2:0", "metrics": "psnr,ssim_gaussian,psnrb"},
        29,
        LIVE1,
    ),
    "paper-celebahq": Preset(
        "CelebA-HQ at 256x256, the test set of the DriftRec paper (Welker et al. 2024), quality 10",
        {"quality": "10", "subsampling": "4:2:0", "metrics": PAPER},
        4500,
        CELEBA_HQ,
    ),
    "paper-table-4": Preset(
        "two compressions on grids that do not agree, the DriftRec paper's Table IV (Welker et al. 2024)",
        {"quality": "30/10,10/30,30/30,50/30,30/50", "subsampling": "4:2:0", "metrics": PAPER},
    ),
}


def published_under(preset: str | None, condition: str, column_of: Mapping[str, str]) -> list[PublishedTold]:
    """What the preset's methods reached under a condition, in the metrics of `column_of`, by their columns."""
    told: list[PublishedTold] = []
    for row in PRESETS[preset].published if preset else ():
        scores = row.scores.get(condition, {})
        if known := {column_of[metric]: score for metric, score in scores.items() if metric in column_of}:
            told.append({"name": row.name, "source": row.source, "metrics": known})
    return told
