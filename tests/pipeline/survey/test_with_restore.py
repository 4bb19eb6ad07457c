"""A survey that decodes, and a restore: of one file they say the same, whatever it is and whatever holds it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import made
from tests.corpus.make import odd_files
from tests.pipeline import offline
from tests.pipeline.survey.test_survey import looked

KINDS = ("files", "tar", "parquet")


def source_of(kind: str, files: dict[str, bytes], folder: Path) -> Path:
    """The corpus as loose files, or in a container."""
    folder.mkdir(parents=True)
    if kind == "files":
        for name, data in files.items():
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(data)
    elif kind == "tar":
        (folder / "a.tar").write_bytes(made.tar(files))
    else:
        pq.write_table(pa.table({"key": list(files), "image": list(files.values())}), folder / "a.parquet")
    return folder


def said(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["status"], row["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_survey_says_of_a_file_what_a_restore_does(kind: str, tmp_path: Path) -> None:
    files = {f"{number:03}/{odd.name}": odd.data for number, odd in enumerate(odd_files())}  # no two on one output
    source = source_of(kind, files, tmp_path / "in")
    surveyed = {row["key"]: row for row in looked(source, tmp_path / "survey")}
    result = offline.restore(source, tmp_path / "out", max_failed=len(files))
    restored = offline.ledger(tmp_path / "out")
    assert sorted(surveyed) == sorted(restored)
    assert len(restored) == len(files)
    for key, row in restored.items():
        assert (key, *said(surveyed[key])) == (key, *said(row))
        if row["width"]:
            turned = surveyed[key]["orientation"] in (5, 6, 7, 8)  # a survey tells sides as they are stored
            sides = surveyed[key]["height"], surveyed[key]["width"]
            upright = sides if turned else sides[::-1]
            if surveyed[key]["format"] == "HEIC":  # whose box that turns it is no EXIF
                upright = upright if row["width"] == upright[0] else upright[::-1]
            assert (key, row["width"], row["height"]) == (key, *upright)
    assert sum(result["status"].values()) == len(restored)
