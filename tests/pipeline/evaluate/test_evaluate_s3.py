"""An evaluation whose references, candidates and output lie on a real S3 server."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.evaluate.job import run_evaluate
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.settings import load
from pipeline.storage import open_store
from tests.pipeline.evaluations import clean, score
from tests.s3 import SECRET

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.usefixtures("ray_cluster")
def test_an_evaluation_on_s3(bucket: str, tmp_path: Path, small_model: Path) -> None:
    source, tool, store = clean(tmp_path / "in", 6), clean(tmp_path / "tool", 4), open_store(bucket)
    for folder in (source, tool):
        for path in folder.rglob("*.png"):
            store.put_file(str(path.relative_to(tmp_path)), path)
    store.put_file("models/small.safetensors", small_model)
    given = {
        "reference": f"{bucket}/in",
        "output": f"{bucket}/out",
        "quality": "10",
        "model": [f"small={bucket}/models/small.safetensors?fidelity=1"],
        "candidate": [f"tool={bucket}/tool"],
        "progress_s": 3600.0,
    }
    there = load(EvaluateSettings, flags=given)
    result = run_evaluate(there)
    assert (result["exit_code"], result["reasons"]) == (3, {"no_partner": 2})
    rows = pq.read_table(io.BytesIO(store.read("out/report.parquet"))).to_pylist()
    here = score(
        source, tmp_path / "out", model=[f"small={small_model}?fidelity=1"], candidate=[f"tool={tool}"]
    )
    for row, twin in zip(rows, here, strict=True):
        assert row | {"seconds": None, "detail": None} == twin | {"detail": None}  # that tells the place
    assert b"small=" in store.read("out/report.html")
    assert run_evaluate(there) == json.loads(store.read("out/_RESULT.json")) == result
    written = b"".join(store.read(name) for name, _ in store.list("out"))
    assert SECRET.encode() not in written
