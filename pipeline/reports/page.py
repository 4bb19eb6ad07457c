"""How reports are made into pages: numbers as people read them, and one self-contained HTML file from a template.

Everything that a template puts in is escaped by the engine. A page refers to nothing outside itself, and its
Content-Security-Policy lets it load and run nothing else.
"""

import base64
import hashlib
import math
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.inputs.names import printable

Part = dict[str, Any]  # of what a template shows, by the names that it uses
GREY_LEVELS = 255**2  # from raw BEF, for pixels in [0, 1], to squared grey levels of 0 to 255



def render(template: str, contents: Part) -> str:
    """The page of `template` (a file of templates/), with the shared style and script inside, and its own style."""
    folder = files("pipeline.reports") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    own = folder / template.replace(".html", ".css")
    if own.is_file():
        style += own.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("pipeline.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(template).render(
        contents, style=Markup(style), script=Markup(script), script_sha256=digest
    )


def whole(number: int) -> str:
    """1234567 -> "1,234,567"."""
    return f"{number:,}"


def figure(number: float) -> str:
    """Three significant digits, without an exponent: 0.01234 -> "0.0123", 4.0 -> "4", 1234.5 -> "1,234"."""
    if number == 0 or abs(number) < 5e-4:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rough(number: float) -> str:
    """Two significant digits, for the ticks of an axis: 0.0832 -> "0.083"."""
    return figure(float(f"{number:.2g}"))


def decimal(number: float) -> str:
    """Two decimals, for columns that are compared: 2.7549 -> "2.75"."""
    return f"{number:,.2f}"


def share(number: float) -> str:
    """A share as a percentage with one decimal; a small one is not rounded to none, a large one not to all."""
    if 0 < number < 0.001:
        return "< 0.1 %"
    if 0.999 < number < 1:
        return "> 99.9 %"
    return f"{100 * number:.1f} %"


def duration(seconds: float) -> str:
    """41.23 -> "41 s", 191 -> "3 min 11 s", 7500 -> "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def tile(label: str, value: str, unit: str = "", tone: str = "") -> dict[str, str]:
    """A headline number."""
    return {"label": label, "value": value, "unit": unit, "tone": tone}


FILTERS = {
    "whole": whole,
    "figure": figure,
    "rough": rough,
    "decimal": decimal,
    "share": share,
    "visible": printable,
}
