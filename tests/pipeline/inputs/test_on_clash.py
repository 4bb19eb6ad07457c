"""Two inputs on one output name: refused, told by a row, or kept apart by their suffixes."""

import json
from pathlib import Path

import pytest

from driftrec.errors import InvalidInput
from pipeline.restore.estimate import estimate_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.verify import verify
from pipeline.survey.job import run_survey
from pipeline.survey.settings import SurveySettings
from tests import made
from tests.pipeline.offline import files, ledger, no_ray, restore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six images; of the pairs a/0000 and b/0001 each has two suffixes."""
    source = made.folder(tmp_path / "in", 4)
    for name in ("a/0000.jpeg", "b/0001.jpeg"):
        (source / name).write_bytes(made.jpeg(9))
    return source


def test_refused_all_at_once(source: Path, tmp_path: Path) -> None:
    told = r"a/0000\.jpeg and a/0000\.jpg, b/0001\.jpeg and b/0001\.jpg cannot both be written.*--on-clash"
    with pytest.raises(InvalidInput, match=told):
        restore(source, tmp_path / "out")
    with pytest.raises(InvalidInput, match=told):
        estimate_restore(RestoreSettings(input=str(source), output=str(tmp_path / "out"), model="identity"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_as_a_row(source: Path, tmp_path: Path, layout: str) -> None:
    result = restore(source, tmp_path / "out", on_clash="row", layout=layout, max_failed="2")
    assert (result["status"]["ok"], result["reasons"]) == (4, {"duplicate_name": 2})
    rows = ledger(tmp_path / "out")
    assert {key for key, row in rows.items() if row["reason"]} == {"a/0000.jpg", "b/0001.jpg"}
    assert rows["a/0000.jpeg"]["output"].endswith("a/0000.png")
    assert verify(str(tmp_path / "out"))["state"] == "sound"


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_by_suffix(source: Path, tmp_path: Path, layout: str) -> None:
    (source / "t.tar").write_bytes(made.tar({"x.jpg": made.jpeg(1), "x.png": made.jpeg(2)}))
    restore(source, tmp_path / "out", on_clash="suffix", layout=layout)
    outputs = {key: row["output"] for key, row in ledger(tmp_path / "out").items()}
    assert len(set(outputs.values())) == len(outputs) == 8
    assert all(output.endswith(f"{key}.png") for key, output in outputs.items())


def test_the_same_suffix_needs_none_more(source: Path, tmp_path: Path) -> None:
    restore(source, tmp_path / "out", on_clash="suffix", format="same")
    assert set(files(tmp_path / "out/images")) == set(files(source))


def test_names_of_one_case_stay_apart_by_rows_alone(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    (source / "a/0000.JPG").write_bytes(made.jpeg(9))
    with pytest.raises(InvalidInput, match=r"a/0000\.JPG and a/0000\.jpg"):
        restore(source, tmp_path / "out", on_clash="suffix")
    result = restore(source, tmp_path / "out", on_clash="row", max_failed="1")
    assert result["reasons"] == {"duplicate_name": 1}


def test_a_name_that_is_taken_and_given_free(tmp_path: Path) -> None:
    """In an archive that changes: who comes first by name has the output, whoever had it before."""
    source, output = made.folder(tmp_path / "in", 5), tmp_path / "out"
    given = {"on_clash": "row", "max_failed": "9"}
    restore(source, output, **given)
    first = ledger(output)["a/0003.jpg"]
    (source / "a/0003.jpeg").write_bytes(made.jpeg(77, 64, 64))
    assert restore(source, output, **given)["reasons"] == {"duplicate_name": 1}
    rows = ledger(output)
    assert (rows["a/0003.jpeg"]["output"], rows["a/0003.jpg"]["output"]) == (first["output"], None)
    assert verify(str(output))["state"] == "sound"
    (source / "a/0003.jpeg").unlink()
    assert restore(source, output, **given)["reasons"] == {}
    assert ledger(output)["a/0003.jpg"]["output_sha256"] == first["output_sha256"]
    assert "a/0003.jpeg" not in ledger(output)
    assert verify(str(output))["state"] == "sound"


def test_a_survey_names_them(source: Path, tmp_path: Path) -> None:
    """Loose and in tars, all of them, as a restore finds them."""
    (source / "t.tar").write_bytes(made.tar({"x.jpg": made.jpeg(1), "x.png": made.jpeg(2), "y.jpg": made.jpeg(3)}))
    (source / "bad.tar").write_bytes(made.tar({"x.jpg": made.jpeg(1)})[:700])
    with no_ray():
        run_survey(SurveySettings(input=str(source), output=str(tmp_path / "out"), calibration_s=0, max_failed="9"))
    assert json.loads((tmp_path / "out/summary.json").read_text())["name_clashes"] == {
        "pairs": 3,
        "first": [["a/0000.jpeg", "a/0000.jpg"], ["b/0001.jpeg", "b/0001.jpg"], ["t/x.jpg", "t/x.png"]],
    }
    assert "Pairs on one output name" in (tmp_path / "out/report.html").read_text()
