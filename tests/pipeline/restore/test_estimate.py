"""What a dry run says of the work: the evaluations and pixels that the run then has, whatever the archive holds."""

from pathlib import Path
from typing import Any

import pytest

from driftrec.jpeg.codec import encode_jpeg
from pipeline.cpus import usable_cpus
from pipeline.restore import estimate
from pipeline.restore.estimate import estimate_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.timing import START_S
from tests import made
from tests.pipeline import offline


def archive(folder: Path, quality: int, broken: int) -> Path:
    """Eight JPEGs of two sizes, some of them cut to nothing."""
    folder.mkdir()
    for number in range(8):
        data = encode_jpeg(made.pixels(number, 64, 64 + 32 * (number % 2)), quality, "4:2:0")
        (folder / f"{number}.jpg").write_bytes(b"" if number < broken else data)
    return folder


@pytest.mark.parametrize("quality", [10, 50, 75, 100])
@pytest.mark.parametrize("look", [{"look": "faithful"}, {"fidelity": 0.0, "start": 0.3, "steps": 3}])
@pytest.mark.parametrize("broken", [0, 4, 8])
def test_it_reckons_with_what_the_run_then_does(
    quality: int, look: dict[str, Any], broken: int, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "CALIBRATION_S", 0.0)
    source = archive(tmp_path / "in", quality, broken)
    settings = {"model": str(small_model), **look}
    given = {"input": str(source), "output": str(tmp_path / "out"), "price_per_hour": 5.0}
    told = estimate_restore(RestoreSettings.model_validate({**given, **settings}))["estimate"]
    assert not (tmp_path / "out").exists()
    offline.restore(source, tmp_path / "out", max_failed=8, **settings)
    rows = [row for row in offline.ledger(tmp_path / "out").values() if row["status"] == "ok"]
    assert told["images"] == 8
    pixels = sum(row["width"] * row["height"] for row in rows)
    assert told["megapixels_to_do"] == pytest.approx(pixels / 1e6, rel=0.35)  # by some of the files
    assert told["evaluations_per_image"] == (rows[0]["nfe"] if rows else 0)
    assert (told["seconds_of_one_actor"] > 0) == (len(rows) > 0)
    seconds = START_S + told["seconds_of_one_actor"] / min(told["actors"], usable_cpus())
    assert told["seconds"] == pytest.approx(seconds, abs=2e-3)
    assert told["cost"] == pytest.approx(5 * told["seconds"] / 3600, abs=2e-6)


@pytest.mark.parametrize("actors", [None, 1, 2, 5, 200])
@pytest.mark.parametrize("cpus", [1, 3, 16])
@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize("done", [0, 6, 8])
def test_no_more_work_at_once_than_there_are_shards_and_cores(
    actors: int | None, cpus: int, cluster: bool, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "CALIBRATION_S", 0.0)
    monkeypatch.setattr(estimate, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(estimate, "finished_shards", lambda _, listing: [shard.id for shard in listing.shards[:done]])
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    source = archive(tmp_path / "in", 30, broken=0)
    settings = {"input": str(source), "output": str(tmp_path / "out"), "model": "identity", "actors": actors}
    told = estimate_restore(RestoreSettings.model_validate(settings))["estimate"]
    assert told["actors"] == (actors or cpus)
    at_once = min(told["actors"], 8 - done, *([] if cluster else [cpus])) or 1
    expected = START_S + told["seconds_of_one_actor"] / at_once if done < 8 else 0
    assert told["seconds"] == pytest.approx(expected, abs=2e-3)


def test_what_was_not_measured_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "CALIBRATION_S", 0.0)
    source = archive(tmp_path / "in", 30, broken=0)
    monkeypatch.setattr(estimate, "pieces_of", lambda *_: [])  # sound headers, and no sound picture
    settings = RestoreSettings(input=str(source), output=str(tmp_path / "out"), model="identity", price_per_hour=5.0)
    told = estimate_restore(settings)["estimate"]
    assert told["megapixels_to_do"] > 0
    assert (told["seconds"], told["seconds_of_one_actor"], "cost" in told) == (None, None, False)
