"""Metrics as people read them on a page: names, scales, decimals, directions."""

from collections.abc import Mapping

from driftrec.metrics import higher_is_better, label_of
from pipeline.reports.page import GREY_LEVELS

# (factor, decimals, what to say of the factor) of a metric in tables, by its first letters
FORMATS: Mapping[str, tuple[float, int, str]] = {
    "psnr": (1, 2, ""),
    "ssim": (1, 4, ""),
    "bef": (GREY_LEVELS, 1, "squared levels of 255"),
    "brisque": (1, 1, ""),
    "fid": (1, 1, ""),
    "kid": (1e3, 2, "×10³"),
    "accuracy": (100, 1, "%"),
    "": (1, 4, ""),
}


def scale_of(metric: str) -> tuple[float, int, str]:
    """(factor, decimals, what to say of the factor) of a metric on a page; files hold raw values."""
    return next(form for start, form in FORMATS.items() if metric.startswith(start))


def shown(value: float, metric: str) -> str:
    """A value as tables show it: scaled, with fixed decimals."""
    factor, decimals, _ = scale_of(metric)
    return f"{factor * value:,.{decimals}f}".replace("-", "−")


def signed(value: float, metric: str) -> str:
    """A difference as tables show it, with its sign."""
    factor, decimals, _ = scale_of(metric)
    return f"{factor * value:+,.{decimals}f}".replace("-", "−")


def header_of(metric: str) -> dict[str, str]:
    """The head of a column: name, what qualifies it, and which way is better."""
    name, _, rest = label_of(metric).partition(" (")
    scale = scale_of(metric)[2]
    small = ", ".join(filter(None, (rest.removesuffix(")"), scale)))
    arrow, told = ("↑", "higher is better") if higher_is_better(metric) else ("↓", "lower is better")
    return {"name": name, "small": small, "arrow": arrow, "told": told}


def title_of(metric: str) -> str:
    """A metric as the title of a chart, with the direction in which it is better."""
    header = header_of(metric)
    small = f" ({header['small']})" if header["small"] else ""
    return f"{header['name']}{small} {header['arrow']}"
