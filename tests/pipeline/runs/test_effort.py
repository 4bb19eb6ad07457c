"""What a run has cost, in _RESULT.json and on its page."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.restore.report import write_restore_report
from pipeline.runs.progress import Effort
from tests import made
from tests.pipeline.offline import restore


def shard(ok: int, worker: str, begun: float, seconds: float, pixels: int = 0, nfe: int = 0) -> dict[str, Any]:
    counts = {"ok": ok, "failed": 1, "skipped": 2, "pixels": pixels, "nfe": nfe}
    return {"node": f"node-{worker}", "worker": worker, "begun": begun, "seconds": seconds} | counts


def test_sums_and_idle_share() -> None:
    effort = Effort()
    assert effort.told(1)["idle_share"] is None
    assert effort.evaluations_per_image is None
    effort.add(shard(2, "a", 100, 4, pixels=3_000_000, nfe=16))
    effort.add(shard(1, "a", 106, 4, pixels=1_000_000, nfe=2))  # 8 of 10 s
    effort.add(shard(0, "b", 101, 6))
    effort.add(shard(1, "b", 110, 1, pixels=1_000_000, nfe=8))  # 7 of 10 s
    told = effort.told(20)
    assert told["idle_share"] == pytest.approx(0.25)
    assert (told["workers"], told["megapixels_this_attempt"], told["megapixels_per_second"]) == (2, 5.0, 0.25)
    assert told["images_by_node"] == {"node-a": 3 + 2 * 3, "node-b": 1 + 2 * 3}
    assert effort.evaluations_per_image == 6.5


def test_the_result_and_the_page_tell_it(tmp_path: Path, small_model: Path) -> None:
    source, output = made.folder(tmp_path / "in", 4), tmp_path / "out"
    (source / "a/cut.jpg").write_bytes(made.jpeg(1)[:-300])
    result = restore(source, output, model=str(small_model), copy_failed=True, max_failed=1)
    pixels = sum((48 + index % 5 * 8) * 64 for index in range(4))
    assert result["megapixels_this_attempt"] == pytest.approx(pixels / 1e6, abs=1e-3)
    assert result["megapixels_per_second"] > 0
    assert 0 <= result["idle_share"] < 1
    assert sum(result["images_by_node"].values()) == 5
    assert result == json.loads((output / "_RESULT.json").read_text())
    write_restore_report(str(source), str(output))
    page = (output / "report.html").read_text()
    for words in ("Megapixels per second", "Evaluations per image", "Workers waited for data", "copied as they are"):
        assert words in page
