"""What others have published: means of their restorations, by condition. A row is written here and nowhere else.

Scores are raw, as ours are: what a paper multiplies by 100 is divided here. Knows no settings, no images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True)
class PublishedRow:
    """One method in one table."""

    name: str
    source: str  # the paper that gives these numbers
    scores: Mapping[str, Mapping[str, float]]  # by the condition's slug, by metric


class PublishedTold(TypedDict):
    """What a summary says of it under one condition."""

    name: str
    source: str
    metrics: dict[str, float]  # by column


def _live1(*qualities: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """(PSNR, SSIM, PSNR-B) at quality 10, 20 and 40, as far as a paper goes, by condition."""
    names = ("psnr", "ssim_gaussian", "psnrb")
    slugs = ("q10-420", "q20-420", "q40-420")
    return {slug: dict(zip(names, found, strict=False)) for slug, found in zip(slugs, qualities, strict=False)}


GRL = "Li et al. 2023 (GRL)"
LIVE1: Sequence[PublishedRow] = (  # 29 images in colour, Pillow's JPEG, scores on RGB
    PublishedRow("JPEG", "these papers", _live1((25.69, 0.743), (28.06, 0.826), (30.28, 0.882))),
    PublishedRow("QGAC", f"Ehrlich et al. 2020, as {GRL} give it", _live1((27.62, 0.804), (29.88, 0.868))),
    PublishedRow("FBCNN 71.9 M", f"Jiang et al. 2021, as {GRL} give it", _live1((27.77, 0.803), (30.11, 0.868))),
    PublishedRow("SwinIR", f"as trained by {GRL}", _live1((28.06, 0.809, 27.76), (30.45, 0.874, 29.97), (32.75,))),
    PublishedRow("GRL-S 3.12 M", GRL, _live1((28.13, 0.814), (30.49, 0.878), (32.79,))),
)


def _celeba_hq(ssim: float, psnr: float, lpips: float, kid: float, fid: float) -> dict[str, dict[str, float]]:
    """As the paper's table has them at quality 10: LPIPS and KID times 100."""
    scores = {"ssim9": ssim, "psnr": psnr, "lpips": lpips / 100, "kid": kid / 100, "fid": fid}
    return {"q10-420": scores}


DRIFTREC = "Welker et al. 2024 (DriftRec)"
CELEBA_HQ: Sequence[PublishedRow] = (  # 4,500 images of 256x256
    PublishedRow("QGAC", DRIFTREC, _celeba_hq(0.88, 30.43, 17.0, 4.61, 55.4)),
    PublishedRow("QGAC-GAN", DRIFTREC, _celeba_hq(0.87, 30.10, 12.2, 1.49, 27.8)),
    PublishedRow("DDRM", DRIFTREC, _celeba_hq(0.86, 29.98, 11.4, 2.24, 33.4)),
)
