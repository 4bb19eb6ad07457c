"""What other programs think of the files that are written: ExifTool and pngcheck warn of nothing new.

Debian's packages libimage-exiftool-perl and pngcheck; without them the tests are skipped.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from driftrec.errors import BadImage
from driftrec.image import decode, encode
from tests.corpus.make import odd_files

KINDS = ("png", "jpeg", "webp", "tiff")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the corpus (in/), and one a format of what is made of it: the input's name and the format's."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("in", *KINDS):
        (folder / name).mkdir()
    for odd in odd_files():
        (folder / "in" / odd.name).write_bytes(odd.data)
        for kind in KINDS:
            try:
                data = encode(decode(odd.data, odd.name), kind, record={"version": "1"})
            except BadImage:
                continue
            (folder / kind / f"{odd.name}.{kind}").write_bytes(data)
    return folder


def warnings(folder: Path) -> dict[str, set[str]]:
    """Of each file, what ExifTool warns of, and its errors."""
    command = ["exiftool", "-json", "-warning", "-error", "-a", "-G1:4", str(folder)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    told = ("Warning", "Error")
    return {
        Path(row["SourceFile"]).name: {str(row[key]) for key in row if key.rpartition(":")[2].startswith(told)}
        for row in found
    }


@pytest.mark.skipif(not shutil.which("exiftool"), reason="libimage-exiftool-perl is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_exiftool_warns_of_nothing_new(written: Path, kind: str) -> None:
    before, after = warnings(written / "in"), warnings(written / kind)
    assert len(after) == len(list((written / kind).iterdir())) > 100
    new = {name: of - before.get(name.removesuffix(f".{kind}"), set()) for name, of in after.items()}
    assert not {name: of for name, of in new.items() if of}


@pytest.mark.skipif(not shutil.which("pngcheck"), reason="pngcheck is not installed")
def test_pngcheck_finds_no_fault(written: Path) -> None:
    files = sorted(map(str, (written / "png").iterdir()))
    checked = subprocess.run(["pngcheck", "-q", *files], capture_output=True, text=True, check=False)
    assert (checked.stdout, checked.returncode) == ("", 0)
    cut = written / "cut.png"
    cut.write_bytes(Path(files[0]).read_bytes()[:-9])
    assert subprocess.run(["pngcheck", "-q", str(cut)], capture_output=True, check=False).returncode != 0
