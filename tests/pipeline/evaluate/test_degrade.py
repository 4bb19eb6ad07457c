"""The degrade job: JPEG copies and a ledger of them, through Ray and resumed as the restore job is."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import degrade
from driftrec.jpeg.headers import inspect
from pipeline.degrade import run_degrade
from pipeline.evaluate.settings import DegradeSettings
from pipeline.runs.verify import verify
from pipeline.settings import load
from tests.pipeline.evaluations import clean

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]


def run(source: Path, output: Path, **changes: Any) -> dict[str, Any]:
    given = {"input": str(source), "output": str(output), "progress_s": 3600.0, "actors": 1} | changes
    return run_degrade(load(DegradeSettings, flags=given))


def ledger(output: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(output.glob("ledger/*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_copies_and_their_rows(tmp_path: Path) -> None:
    source, output = clean(tmp_path / "in", 20), tmp_path / "out"
    (source / "a/broken.png").write_bytes(b"no")
    result = run(source, output, quality="10,30/10", subsampling="4:2:0,4:4:4", max_failed="1")
    assert (result["exit_code"], result["status"]) == (0, {"ok": 20, "failed": 1, "skipped": 0})
    assert result["reasons"] == {"not_an_image": 1}  # of an image, whatever the conditions
    slugs = ["q10-420", "q10-444", "q30-q10-shift4-420", "q30-q10-shift4-444"]
    assert result["conditions"] == slugs
    rows = ledger(output)
    assert len(rows) == 21 * 4
    for row in rows:
        if row["status"] == "failed":
            assert row["key"] == "a/broken.png"
            continue
        assert row["output"] == f"images/{row['condition']}/{row['key'][:-4]}.jpg"
        data = (output / row["output"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (row["output_sha256"], row["bytes"])
        info = inspect(data)
        assert (info.width, info.height, info.quality) == (row["width"], row["height"], 10)
        assert info.subsampling == row["subsampling"]
        if row["second_quality"] is None:
            pixels = np.array(Image.open(source / row["key"]))
            assert np.array_equal(np.array(Image.open(output / row["output"])), degrade(pixels, 10, row["subsampling"]))
        else:
            assert row["width"] == 56 - row["crop_x"]
    assert len(list((output / "images").rglob("*.jpg"))) == 80


@pytest.mark.slow
def test_one_condition_needs_no_folder_and_resume_makes_what_is_missing(tmp_path: Path) -> None:
    source, output = clean(tmp_path / "in", 32), tmp_path / "out"
    run(source, output, quality="10")
    whole = {path: path.read_bytes() for path in (output / "images").rglob("*.jpg")}
    assert output / "images/a/0000.jpg" in whole
    (output / "_RESULT.json").unlink()
    parts = sorted((output / "ledger").iterdir())
    for part in parts[::2]:
        part.unlink()
    (output / "images/a/0000.jpg").write_bytes(b"half")
    (output / "images/orphan.jpg").write_bytes(b"of an attempt that was killed")
    result = run(source, output, quality="10", actors=2)
    assert result["shards"]["resumed"] == len(parts) // 2
    expected = {path: data for path, data in whole.items() if path.read_bytes() != b"half"}
    assert expected.items() <= {path: path.read_bytes() for path in (output / "images").rglob("*.jpg")}.items()
    assert not (output / "images/orphan.jpg").exists()
    (output / "images/a/0000.jpg").write_bytes(whole[output / "images/a/0000.jpg"])  # if its part was kept
    assert verify(str(output))["state"] == "sound"
    lost, changed = list(expected)[:2]
    lost.unlink()
    changed.write_bytes(expected[changed][:-1] + b"?")
    assert (run(source, output, quality="10")["state"], verify(str(output))["found"]["changed"]) == ("incomplete", 1)
    result = run(source, output, quality="10", repair=True)
    assert (result["state"], result["images_this_attempt"], verify(str(output))["state"]) == ("done", 2, "sound")
    assert expected.items() <= {path: path.read_bytes() for path in (output / "images").rglob("*.jpg")}.items()
    with pytest.raises(InvalidInput, match=r"quality is \['10'\] there, \['20'\] here"):
        run(source, output, quality="20")
    assert json.loads((output / "_RESULT.json").read_text()) == result


def test_what_cannot_be_degraded_is_refused(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 2)
    with pytest.raises(InvalidInput, match="--quality none damages nothing"):
        run(source, tmp_path / "out", quality="none")
    (source / "a/0000.jpg").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot both be written"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
