"""A file that ends whoever reads it, or looks at it, becomes a row; the others are read. Processes really die."""

import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cluster.reading import read_in_trial
from pipeline.inputs import listing
from pipeline.inputs.listing import list_shards
from pipeline.inputs.shards import Shard
from pipeline.runs.crashes import ALONE, MOST
from pipeline.runs.ledger import TRYING
from pipeline.settings import load
from pipeline.storage.base import Store
from pipeline.storage.local import LocalStore
from pipeline.survey import stage
from pipeline.survey.settings import SurveySettings
from pipeline.survey.stage import SurveyShard
from tests import made

IMAGES = 4
KINDS = ("files", "tar", "parquet")


@pytest.fixture(autouse=True)
def _large_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs are not cut finer: several images share a shard."""
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)


def stored(folder: Path, kind: str) -> Path:
    """IMAGES images in one shard, beside a second shard in a container of its own."""
    folder.mkdir()
    images = {f"{number}.jpg": made.jpeg(number, 48 + 16 * number) for number in range(IMAGES)}
    for name in ("a", "b"):
        if kind == "tar":
            (folder / f"{name}.tar").write_bytes(made.tar(images))
        elif kind == "parquet":
            columns = {"key": [f"{name}/{key}" for key in images], "image": list(images.values())}
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    if kind == "files":
        for name, data in images.items():
            (folder / name).write_bytes(data)
    return folder


def in_lives(work: Callable[[], pa.Table], file: Path) -> tuple[pa.Table, int]:
    """What comes of `work`, done by a new process for each that dies, as Ray does; and how many have died."""
    for deaths in range(MOST):
        pid = os.fork()
        if not pid:
            faulthandler.disable()
            table = work()
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            return pa.ipc.open_file(file.read_bytes()).read_all(), deaths
    raise AssertionError("it dies for ever")


def deadly(monkeypatch: pytest.MonkeyPatch, times: int, count: Path) -> None:
    """Reading 1.jpg, or the container a, ends the process, so many times. `count`: gets a byte for each."""
    read = LocalStore._read

    def _read(store: LocalStore, name: str, offset: int, length: int | None) -> bytes:
        if name in ("1.jpg", "a.tar", "a.parquet") and len(count.read_bytes()) < times:
            with count.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        return read(store, name, offset, length)

    monkeypatch.setattr(LocalStore, "_read", _read)


def read_all(listed: list[Shard], store: Store, tmp_path: Path) -> tuple[dict[str, tuple[str, int]], int]:
    rows, deaths = {}, 0
    for shard in listed:
        table, died = in_lives(lambda shard=shard: read_in_trial(shard, None, store), tmp_path / "table")
        rows |= {row["key"]: (row["reason"], len(row["data"])) for row in table.to_pylist()}
        deaths += died
    return rows, deaths


@pytest.mark.parametrize("times", [1, ALONE, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_its_reader(
    kind: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list_shards(str(stored(tmp_path / "in", kind)))
    store, count = LocalStore(str(tmp_path / "out")), tmp_path / "deaths"
    count.touch()
    whole, _ = read_all(listed, store, tmp_path)
    assert {reason for reason, _ in whole.values()} == {""}
    deadly(monkeypatch, times, count)
    rows, deaths = read_all(listed, store, tmp_path)
    assert [name for name, _ in store.list() if name.endswith(TRYING)] == []
    assert deaths == len(count.read_bytes()) == min(times, 1 + ALONE)
    if times <= ALONE:  # one death while all were read, fewer than ALONE after that
        assert rows == whole
        return
    spoilt = {key: row for key, row in rows.items() if row != whole.get(key)}
    assert {reason for reason, _ in spoilt.values()} == {"crashed"}
    assert all("1.jpg" in key if kind == "files" else key.startswith("a.") for key in spoilt)
    assert len(rows) == (len(whole) if kind != "tar" else IMAGES + 1)  # nobody knows how many a tar holds


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_a_survey(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header, or its pixels: the row names it."""
    source = stored(tmp_path / "in", kind)
    store = LocalStore(str(tmp_path / "out"))
    settings = load(SurveySettings, flags={"input": str(source), "output": str(tmp_path / "out")})
    looker = SurveyShard(settings, 1.0, store)
    look, bad = stage.read_header, made.jpeg(1, 64)

    def deadly_look(file: object, size: int, *more: int) -> object:
        if size == len(bad):
            os.kill(os.getpid(), signal.SIGKILL)
        return look(file, size, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "read_header", deadly_look)
    for shard in list_shards(str(source)):
        (row,) = in_lives(lambda shard=shard: looker(shard), tmp_path / "table")[0].to_pylist()
        assert (row["error"], row["ok"], row["failed"]) == (None, IMAGES - 1, 1)
        rows = looker.ledger.read_part(shard.id).to_pylist()
        assert {row["reason"] for row in rows if "1" in row["key"].rpartition("/")[2]} == {"crashed"}
    assert [name for name, _ in store.list() if name.endswith(TRYING)] == []
