"""The photographs: package, file inside it, licence, author, and what each is for. All were looked at.

Licences are the file's where the package names one (Debian copyright files; `metadata.json` for Plasma),
else the package's.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Photograph:
    """One source photograph; `file` is relative to the unpacked package and may be a pattern."""

    package: str
    file: str
    licence: str  # SPDX identifier
    author: str
    use: Literal["train", "devtest", "example"] = "train"


DEBIAN_PACKAGES = (
    "enlightenment-data",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "lxqt-themes",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
)
PYPI_PACKAGES = {"ai-benchmark": "0.1.2"}


def _enlightenment() -> list[Photograph]:
    names = (
        "Bamboo Foggy-Trees God-Rays Green-Maple Lichen-Branches Mountain Peaks Red-Maple Sea-of-Lanterns "
        "Snow-Trees Spruce-Needles Sunset-Clouds Sunset-Hills White-Flower Yellow-Flower"
    )
    folder = "usr/share/enlightenment/data/backgrounds"
    author = "Carsten Haitzler and the Enlightenment contributors"
    return [
        Photograph("enlightenment-data", f"{folder}/{name}.edj", "BSD-2-Clause", author)
        for name in names.split()
    ]


def _lomiri() -> list[Photograph]:
    by, by_sa, peter = "CC-BY-4.0", "CC-BY-SA-4.0", "Peter Nerlich"
    aitzol, trevor = "Aitzol Berasategi", 'Trevor "Freespace"'
    rows: list[tuple[str, str, str, Literal["train", "example"]]] = [
        ("aitzgorri_by_Aitzol_Berasategi.jpg", by, aitzol, "example"),
        ("Bridge_by_Sander_Klootwijk.jpg", by_sa, "Sander Klootwijk", "example"),
        ("Dragonfly_by_Bolly.jpg", by_sa, '"Bolly"', "train"),
        ("free_by_Peter_Nerlich.jpg", by_sa, peter, "train"),
        ("friends_by_Aitzol_Berasategi.jpg", by, aitzol, "example"),
        ("greentock_by_Peter_Nerlich.jpg", by_sa, peter, "example"),
        ("life_by_Aitzol_Berasategi.jpg", by, aitzol, "train"),
        ("picosdeeuropa_by_Aitzol_Berasategi.jpg", by, aitzol, "train"),
        ("Picture_0B_by_freespace.jpg", by, trevor, "example"),
        ("Picture_1A_by_freespace.jpg", by, trevor, "example"),
        ("seeding_by_Clements_Engelhardt.jpg", "CC0-1.0", "Clemens Engelhardt", "train"),
        ("sunset_by_Aitzol_Berasategi.jpg", by, aitzol, "train"),
        ("Wine_by_Jakkub_Mede.jpg", by, "Jakub Mede", "train"),
    ]
    folder = "usr/share/backgrounds"
    kleiber = f"{folder}/Kleiber_by_Lukas_Baubkus.jpg"
    return [
        *(
            Photograph("lomiri-wallpapers-16.04", f"{folder}/{name}", licence, author, use)
            for name, licence, author, use in rows
        ),
        Photograph("lomiri-wallpapers-20.04", kleiber, "CC-BY-SA-3.0", "Lukas Baubkus"),
    ]


def _lxqt() -> list[Photograph]:
    names = (
        "Butterfly-Kenneth-Wimer.jpg Valendas.png after-the-rain.jpg appleflower.png beam.png butterfly.png "
        "cloud.png drop.png flowers.png fog.jpg this-is-not-windows.jpg"
    )
    folder = "usr/share/lxqt/wallpapers"
    return [
        Photograph("lxqt-themes", f"{folder}/{name}", "LGPL-2.1-or-later", "the Razor and LXQt teams")
        for name in names.split()
    ]


def _mate() -> list[Photograph]:
    barbin, bons = "Charles Barbin", "Hylke Bons"
    rows: list[tuple[str, str, Literal["train", "example"]]] = [
        ("Aqua", barbin, "train"),
        ("Blinds", "Lennart Poettering, Andrea Cimitan", "train"),
        ("Dune", f"Marco Cogoni, {bons}", "example"),
        ("FreshFlower", "Jens Ansorg", "example"),
        ("Garden", barbin, "example"),
        ("GreenMeadow", "Timothy Schellhase, Lapo Calamandrei", "train"),
        ("LadyBird", barbin, "example"),
        ("RainDrops", '"blackcombwhistler07"', "train"),
        ("Storm", "Sergey Nazarov", "train"),
        ("TwoWings", f"{barbin}, {bons}", "train"),
        ("Wood", "Jean-François Fortin Tam", "train"),
        ("YellowFlower", barbin, "train"),
    ]
    folder = "usr/share/backgrounds/mate/nature"
    return [
        Photograph("mate-backgrounds", f"{folder}/{name}.jpg", "GPL-2.0-or-later", author, use)
        for name, author, use in rows
    ]


def _plasma() -> list[Photograph]:
    risto = "Risto Saukonpää"
    rows: list[tuple[str, str, Literal["train", "example"]]] = [
        ("BytheWater", "Maciej Wiklo", "train"),
        ("ColdRipple", risto, "example"),
        ("ColorfulCups", "Dmitri Popov", "train"),
        ("DarkestHour", risto, "train"),
        ("EveningGlow", "Ian Hex", "example"),
        ("FallenLeaf", "Martin Klapetek", "train"),
        ("Grey", "Sigi Sagi", "train"),
        ("Kite", risto, "train"),
        ("OneStandsOut", risto, "train"),
        ("Path", risto, "train"),
        ("summer_1am", risto, "train"),
    ]
    package, path = "plasma-workspace-wallpapers", "usr/share/wallpapers/{}/contents/images/2560x1600.jpg"
    return [
        Photograph(package, path.format(name), "LGPL-3.0-only", author, use) for name, author, use in rows
    ]


def _ai_benchmark() -> list[Photograph]:
    folder, author = "ai_benchmark/data", "Andrey Ignatov and the AI Benchmark authors"
    return [
        Photograph("ai-benchmark", f"{folder}/enhancement/*.jpg", "Apache-2.0", author),
        Photograph("ai-benchmark", f"{folder}/segmentation/*[0-9].jpg", "Apache-2.0", author),
        Photograph("ai-benchmark", f"{folder}/classification/*.jpg", "Apache-2.0", author, "devtest"),
    ]


CATALOGUE = (*_enlightenment(), *_lomiri(), *_lxqt(), *_mate(), *_plasma(), *_ai_benchmark())
