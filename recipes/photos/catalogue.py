"""The photographs: package, file inside it, licence, author, and what each is for; all were looked at.

catalogue.csv has a row for each. Licences are the file's where the package names one (Debian copyright files,
`metadata.json` for Plasma, `.desktop` files for Palapeli), else the package's: the npm packages say nothing of single
photographs.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Use = Literal["train", "held_out", "devtest", "example"]

DEBIAN_PACKAGES = (
    "digikam-data",
    "enlightenment-data",
    "gcompris-qt-data",
    "gimp-help-en",
    "gnome-control-center-data",
    "libelementary-data",
    "libjxl-testdata",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "lxqt-themes",
    "mate-backgrounds",
    "opencv-doc",
    "palapeli-data",
    "plasma-workspace-data",
    "plasma-workspace-wallpapers",
    "python-kivy-examples",
    "qtmultimedia5-examples",
    "sddm-theme-maldives",
    "tuxpaint-data",
)
PYPI_PACKAGES = {"ai-benchmark": "0.1.2"}
NPM_PACKAGES = {
    "admin-lte": "4.10.0",
    "argon-design-system-free": "1.2.0",
    "argon-design-system-react": "1.1.0",
    "flexslider": "2.7.2",
    "gentelella": "4.2.0",
    "material-dashboard": "3.1.0",
    "material-kit": "2.0.4",
    "material-kit-react": "1.10.0",
    "notus-react": "1.1.0",
    "paper-kit-2": "2.1.0",
    "soft-ui-design-system": "1.0.4",
    "startbootstrap-agency": "7.0.12",
    "startbootstrap-business-casual": "7.0.9",
    "startbootstrap-clean-blog": "6.0.9",
    "startbootstrap-creative": "7.0.7",
    "startbootstrap-landing-page": "6.0.6",
    "startbootstrap-one-page-wonder": "6.0.6",
    "startbootstrap-stylish-portfolio": "6.0.6",
}


@dataclass(frozen=True)
class Photograph:
    """One source photograph; `file` is relative to the unpacked package."""

    package: str
    file: str
    licence: str  # SPDX identifier, or "public domain"
    author: str
    use: Use = "train"
    reduction: int = 2  # smallest factor by which it is reduced, so that its own compression no longer shows

    def __post_init__(self) -> None:
        if self.use not in get_args(Use) or self.reduction < 1:
            raise ValueError(f"{self.file}: need a use of {get_args(Use)} and reduction >= 1, got {self}")


def _read(path: Path) -> tuple[Photograph, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(Photograph(**row | {"reduction": int(row["reduction"])}) for row in csv.DictReader(file))


CATALOGUE = _read(Path(__file__).with_name("catalogue.csv"))
