"""Whatever containers images lie in, whoever writes first: no two are ok with one output, and each has its own key."""

import io
import itertools
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftrec.errors import DriftRecError
from pipeline.inputs import listing
from pipeline.inputs.tars import TarPiece
from pipeline.restore.job import list_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs import settling
from pipeline.runs.ledger import Ledger
from pipeline.runs.run import Run
from pipeline.storage.local import LocalStore
from tests import made
from tests.pipeline.offline import Died, die_at, files, ledger, restore

PICTURES = [made.jpeg(number, 16, 16) for number in range(6)]
PAD = bytes(20_480)
Named = Sequence[tuple[str, bytes | None]]


def tar(path: Path, members: Named, apart: bool = False) -> None:
    """Members, each in a piece of its own if they are to be apart."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            for name_, content in ((name, data or b""), *([("pad.bin", PAD)] if apart else [])):
                info = tarfile.TarInfo(name_)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def parquet(path: Path, rows: Named, group: int = 2) -> None:
    table = pa.table({"key": [key for key, _ in rows], "image": pa.array([data for _, data in rows], pa.binary())})
    pq.write_table(table, path, row_group_size=group)


def loose(folder: Path, rows: Named) -> None:
    for name, data in rows:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data or b"")


def lawful(output: Path, inputs: int, lost: int | None = None, **given: Any) -> dict[str, dict[str, Any]]:
    """The rows of a run, by key, after what holds of all runs."""
    rows = ledger(output)  # each key stands there once
    assert len(rows) == inputs
    done = [row["output"] for row in rows.values() if row["output"]]
    assert len({name.casefold() for name in done}) == len(done)
    if given.get("layout") != "tar":
        assert {name.removeprefix("images/") for name in done} == files(output / "images").keys()
    reasons = Counter(row["reason"] for row in rows.values())
    if lost is not None:
        assert reasons["duplicate_name"] == lost, reasons
        assert reasons[None] == inputs - lost, reasons
    return rows


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MIN_PIECE", 1)


def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are worked on in the other order, so that he who comes last writes first."""
    todo = Run.todo.fget
    monkeypatch.setattr(Run, "todo", property(lambda run: list(reversed(todo(run)))))


PLACES = {
    "loose and rows": lambda folder, one, other: (loose(folder, [one]), parquet(folder / "p.parquet", [other])),
    "tar and rows": lambda folder, one, other: (
        tar(folder / "x.tar", [(one[0].removeprefix("x/"), one[1])]),
        parquet(folder / "z.parquet", [other]),
    ),
    "rows and tar": lambda folder, one, other: (
        parquet(folder / "a.parquet", [one]),
        tar(folder / "x.tar", [(other[0].removeprefix("x/"), other[1])]),
    ),
    "one group": lambda folder, one, other: parquet(folder / "p.parquet", [one, other]),
    "two groups": lambda folder, one, other: parquet(folder / "p.parquet", [one, other], 1),
    "two files": lambda folder, one, other: (
        parquet(folder / "a.parquet", [one]),
        parquet(folder / "b.parquet", [other]),
    ),
    "one tar": lambda folder, one, other: tar(
        folder / "x.tar", [(name.removeprefix("x/"), data) for name, data in (one, other)]
    ),
    "two pieces": lambda folder, one, other: tar(
        folder / "x.tar", [(name.removeprefix("x/"), data) for name, data in (one, other)], apart=True
    ),
}
NAMES = {  # (of the first, of the other, whether they can both be there)
    "one key": ("x/a.jpg", "x/a.jpg"),
    "one output": ("x/a.jpg", "x/a.jpeg"),
    "one but for case": ("x/a.jpg", "x/A.jpg"),
    "a file and a folder": ("x/a.jpg", "x/a.png/b.jpg"),
    "a folder and a file": ("x/a.png/b.jpg", "x/a.jpg"),
}


@pytest.mark.parametrize(
    ("order", "layout"), [("forwards", "tree"), ("backwards", "tree"), ("forwards", "tar")]
)
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("places", PLACES)
def test_the_first_of_two_has_the_output(
    places: str, names: str, order: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    one, other = zip(NAMES[names], PICTURES, strict=False)
    loose(tmp_path / "in", [("y.jpg", PICTURES[4])])
    PLACES[places](tmp_path / "in", one, other)
    if order == "backwards":
        backwards(monkeypatch)
    given: dict[str, Any] = {"shard_bytes": 20_480, "layout": layout}
    result = restore(tmp_path / "in", tmp_path / "out", **given)
    rows = lawful(tmp_path / "out", 3, 1, **given)
    assert rows[one[0]]["status"] == "ok"
    assert result["reasons"] == {"duplicate_name": 1}
    again = restore(tmp_path / "in", tmp_path / "out", retry_failed="all", **given)
    assert (again["status"], again["reasons"]) == (result["status"], result["reasons"])
    assert lawful(tmp_path / "out", 3, 1, **given)[one[0]]["output_sha256"] == rows[one[0]]["output_sha256"]


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_a_tar_whose_folder_would_be_a_file(order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loose(tmp_path / "in", [("x.jpg", PICTURES[0]), ("y.jpg", PICTURES[1])])
    tar(tmp_path / "in/x.png.tar", [("a.jpg", PICTURES[2]), ("b/c.jpg", PICTURES[3])])
    if order == "backwards":
        backwards(monkeypatch)
    restore(tmp_path / "in", tmp_path / "out")
    rows = lawful(tmp_path / "out", 4, 2)
    assert {key for key, row in rows.items() if row["status"] == "ok"} == {"x.jpg", "y.jpg"}


@pytest.mark.parametrize("order", ["forwards", "backwards"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize(
    "changes", [{"copy_failed": True}, {"skip_above": 1}, {"copy_failed": True, "format": "same"}], ids=str
)
def test_a_copy_where_a_folder_is_wanted(
    changes: dict[str, Any], kind: str, apart: bool, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    images: Named = [("a.jpg", PICTURES[0] if "skip_above" in changes else b"nothing"), ("a.jpg/b.jpg", PICTURES[1])]
    if kind == "tar":
        tar(tmp_path / "in/t.tar", images, apart)
    else:
        parquet(tmp_path / "in/p.parquet", images, 1 if apart else 2)
    if order == "backwards":
        backwards(monkeypatch)
    restore(tmp_path / "in", tmp_path / "out", shard_bytes=20_480, **changes)
    rows = lawful(tmp_path / "out", 2)
    (owner,) = (row for row in rows.values() if row["reason"] != "duplicate_name")
    assert owner["output"].endswith("a.jpg")


@pytest.mark.parametrize("at", range(1, 40, 4))
def test_whoever_is_interrupted_settles_the_same(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [(name, PICTURES[number % 6]) for number, name in enumerate(("a.jpg", "a.png/b.jpg", "a.jpeg", "c.jpg"))]
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in/x.tar", images, apart=True)
    parquet(tmp_path / "in/p.parquet", [("x/c.jpg", PICTURES[5])])
    restore(tmp_path / "in", tmp_path / "whole", shard_bytes=20_480)
    die_at(monkeypatch, at, "put", "create", "remove")
    for _ in range(2):
        try:
            restore(tmp_path / "in", tmp_path / "out", shard_bytes=20_480)
        except Died:
            continue
    assert files(tmp_path / "out/images") == files(tmp_path / "whole/images")
    one, other = (
        {key: (row["reason"], row["output"]) for key, row in lawful(tmp_path / name, 5).items()}
        for name in ("whole", "out")
    )
    assert one == other


ODD = ["a.jpg", "a.jpg#1", "a.jpg#2", "a.jpg#1#2", "a.jpeg", "../x.jpg", "p.parquet#1", "b", "q/0", "é\\"]
KEYS = st.lists(st.tuples(st.sampled_from(ODD), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=KEYS, other=KEYS, group=st.integers(1, 3), in_tar=st.booleans(), broken=st.booleans())
def test_keys_are_unique_for_any_list_of_keys(
    one: list[tuple[str, bool]],
    other: list[tuple[str, bool]],
    group: int,
    in_tar: bool,
    broken: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tmp_path = tmp_path_factory.mktemp("keys")
    (tmp_path / "in").mkdir()
    numbered = itertools.count()
    rows = [[(key, PICTURES[next(numbered) % 6] if there else None) for key, there in keys] for keys in (one, other)]
    parquet(tmp_path / "in/p.parquet", rows[0], group)
    count = len(one) + len(other)
    if in_tar:
        images = [(f"{key}.jpg", data) for key, data in rows[1]]
        tar(tmp_path / "in/q.tar", images, apart=True)
    else:
        parquet(tmp_path / "in/q.parquet", rows[1], group)
    if broken:
        loose(tmp_path / "in", [("z.tar", b"1" * 600), ("z.parquet", b"2")])
        count += 2
    restore(tmp_path / "in", tmp_path / "out", shard_bytes=20_480)
    lawful(tmp_path / "out", count)


def test_a_foreign_folder_in_the_way_is_a_row(tmp_path: Path) -> None:
    loose(tmp_path / "in", [("a.jpg", PICTURES[0]), ("b.jpg", PICTURES[1])])
    restore(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/images/a.png").unlink()
    (tmp_path / "out/images/a.png").mkdir()
    (tmp_path / "out/images/a.png/mine.txt").write_bytes(b"1")
    restore(tmp_path / "in", tmp_path / "out", repair=True)
    row = ledger(tmp_path / "out")["a.jpg"]
    assert (row["reason"], row["stage"]) == ("duplicate_name", "write")
    assert "a.png is a folder where a file is wanted" in row["detail"]
    (tmp_path / "out/images/a.png/mine.txt").unlink()
    restore(tmp_path / "in", tmp_path / "out", retry_failed="all")
    lawful(tmp_path / "out", 2, 0)


def test_sound_archives_are_not_done_again(tmp_path: Path) -> None:
    made.folder(tmp_path / "in", 4)
    tar(tmp_path / "in/x.tar", [(f"{number}.jpg", PICTURES[number]) for number in range(4)], apart=True)
    parquet(tmp_path / "in/p.parquet", [(f"p/{number}.jpg", PICTURES[number]) for number in range(4)])
    begun: list[str] = []
    result = restore(tmp_path / "in", tmp_path / "out", begun.append, shard_bytes=20_480)
    assert result["status"]["ok"] == 12
    assert len(begun) == result["shards"]["listed"] == len(set(begun))


def test_memory_is_a_few_bytes_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    count, size = 60_000, 1000
    names = ("key", "reason", "stage", "output")

    class Parts:
        schema = pa.schema([(name, pa.string()) for name in names])

        def read_parts(self, ids: Any, columns: Any) -> Any:
            for number in range(count // size):
                keys = [f"folder/{number:06}-{row:06}.jpg" for row in range(size)]
                yield pa.table({"key": keys} | {name: [None] * size for name in names[1:]}, schema=self.schema)

    store = LocalStore(str(tmp_path))
    shards = [TarPiece(id=str(number), store=store, size=0, images=None) for number in range(count // size)]
    tracemalloc.start()
    assert settling.settle(Parts(), shards, lambda key: f"{key}.png") == []  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / count < 60


def test_a_name_that_no_settling_frees_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "ROUNDS", 0)
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in/x.tar", [("a.jpg", PICTURES[0]), ("a.jpg", PICTURES[1])], apart=True)
    with pytest.raises(DriftRecError, match="1 keys occur twice"):
        restore(tmp_path / "in", tmp_path / "out", shard_bytes=20_480)


def test_what_lies_beside_a_part_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in/x.tar", [("a.jpg", PICTURES[0]), ("b.jpg", PICTURES[1]), ("a.jpg", PICTURES[2])], apart=True)
    monkeypatch.setattr(settling, "ROUNDS", 0)
    with pytest.raises(DriftRecError, match="twice"):
        restore(tmp_path / "in", tmp_path / "out", shard_bytes=20_480)
    values = {"input": str(tmp_path / "in"), "shard_bytes": 20_480}
    listed = list_restore(RestoreSettings(output=str(tmp_path / "out"), **values))
    store = LocalStore(str(tmp_path / "out"))
    for shard in listed.shards:
        store.put(f"sets/{shard.id}.parquet", b"1")
    again = settling.settle(Ledger(store), listed.shards, listed.output_name, ("sets",))
    there = {Path(name).stem for name, _ in store.list("sets")}
    assert there == Ledger(store).committed() == {shard.id for shard in listed.shards} - {shard.id for shard in again}
    assert [bool(shard.lost) for shard in again] == [False, True]
