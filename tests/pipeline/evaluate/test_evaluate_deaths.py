"""What dies in an evaluation: an image that ends its worker is a row, a worker that is killed costs a retry."""

import ast
import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import pipeline
from driftrec.errors import Failed
from pipeline.evaluate import stage
from pipeline.evaluate.candidates import Model
from pipeline.evaluate.model_pool import DEATHS, RestoringActor, RestoringPool, stop_pool
from pipeline.inputs import listing
from pipeline.inputs.listing import list_shards
from pipeline.inputs.shards import read_shard
from pipeline.runs.crashes import ALONE
from tests.pipeline.evaluations import by_place, clean, make
from tests.pipeline.runs.test_trial import WAYS


def deadly_pool(actors: int, notes: Path) -> RestoringPool:
    """A pool without models whose actors die of the key "bad", and of the first calls with "killed" and a number."""

    class Deadly(RestoringActor):
        def restore(self, model: str, files: Any, key: str) -> Iterator[Any]:
            yield ray.get_runtime_context().get_node_id()
            times = int(key.partition("killed")[2] or 0)
            for number in range(times):
                try:
                    (notes / f"{key}.{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
            if b"bad" in files:
                os.kill(os.getpid(), signal.SIGKILL)
            yield [Failed(key, str(os.getpid()), "ok", "") for _ in files]

    actor = ray.remote(Deadly).options(num_cpus=0, max_restarts=-1, max_task_retries=0)
    models: list[Model] = []
    return RestoringPool([actor.remote(models, 0, 100) for _ in range(actors)])


@pytest.mark.chaos  # Ray takes about ten seconds to start an actor again
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("actors", [1, 2])
def test_deaths_of_restoring_actors(tmp_path: Path, actors: int) -> None:
    pool = deadly_pool(actors, tmp_path)
    try:
        for kills in range(DEATHS):  # fewer than blame the image
            (answer,) = pool.restore("m", [b"sound"], f"killed{kills}" if kills else "sound")
            assert answer.reason == "ok"
        one, other, third = pool.restore("m", [b"sound", b"bad", b"sound"], "t/0.jpg")
        assert [one.reason, other.reason, third.reason] == ["ok", "crashed", "ok"]
        assert f"{DEATHS} restoring actors ended while they worked on it" in other.detail
        assert pool.restore("m", [b"sound"], "after")[0].reason == "ok"
    finally:
        stop_pool(pool)


@pytest.mark.parametrize("way", ["abort", "killed"])
def test_an_image_that_ends_its_scorer_is_a_row(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)
    source, decode = clean(tmp_path / "in", 4), stage.decode

    def deadly(data: bytes, key: str = "", *more: Any, **options: Any) -> Any:
        return WAYS[way]() if key == "a/0002.png" else decode(data, key, *more, **options)

    settings = {"model": ["same=identity"], "metrics": "psnr"}
    table = read_shard(list_shards(str(source))[0])
    deaths = 0
    while True:
        pid = os.fork()
        if not pid:
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            stage.decode = deadly
            make(source, tmp_path / "out", **settings)(table)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            break
        deaths += 1
        assert deaths <= 1 + ALONE
    scorer = make(source, tmp_path / "out", **settings)
    rows = by_place(scorer.ledger.read_part(list_shards(str(source))[0].id).to_pylist())
    assert deaths == 1 + ALONE
    assert len(rows) == 4 * 2
    for (key, _, _), row in rows.items():
        assert row["status"] == ("failed" if key == "a/0002.png" else "ok")
        assert row["reason"] == ("crashed" if key == "a/0002.png" else None)


@pytest.mark.parametrize("max_pixels", [2000, 2240, 3136, 120_000_000])
def test_every_image_has_its_rows_whatever_max_pixels_is(
    max_pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is above the decoder's own default, which nothing in a run may fall back to."""
    monkeypatch.setattr("driftrec.image.decoding.decode.__defaults__", ("", 1000, "first"))
    monkeypatch.setattr("driftrec.restoration.opening.open_picture.__defaults__", ("", 1000, "first", True))
    source = clean(tmp_path / "in", 3)  # 40, 48 and 56 by 56
    scorer = make(source, tmp_path / "out", model=["same=identity"], max_pixels=max_pixels, quality="10,30")
    for shard in list_shards(str(source)):
        assert scorer(read_shard(shard)).to_pylist()[0]["error"] is None
    rows = [row for shard in list_shards(str(source)) for row in scorer.ledger.read_part(shard.id).to_pylist()]
    assert len(rows) == 3 * 2 * 2
    assert all(row["status"] == "ok" or row["reason"] == "too_large" for row in rows)
    sizes = {"a/0000.png": 2240, "b/0001.png": 2688, "a/0002.png": 3136}
    assert {row["key"] for row in rows if row["status"] == "ok"} == {k for k, n in sizes.items() if n <= max_pixels}


def test_nothing_that_a_run_decodes_has_a_limit_of_its_own() -> None:
    """Every call of decode and open_picture in pipeline/ says how many pixels it may take."""
    for path in Path(pipeline.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("decode", "open_picture"):
                said = len(call.args) >= 3 or any(one.arg == "max_pixels" for one in call.keywords)
                assert said, f"{path.name}:{call.lineno}"

