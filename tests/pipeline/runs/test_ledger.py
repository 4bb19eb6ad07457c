"""The ledger: one part per shard, first wins, counts are exact, the sweep takes leftovers and nothing else."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runs.ledger import FAILED, OK, SCHEMA, Ledger, Tally, sweep
from pipeline.storage.base import NotFound
from pipeline.storage.local import LocalStore

ONE, TWO = "00000000000000a1", "00000000000000b2"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def good(key: str) -> dict[str, object]:
    return {"key": key, "status": OK, "output": f"images/{key}.png", "seconds": 0.5, "width": 3}


def bad(key: str, reason: str = "truncated") -> dict[str, object]:
    return {"key": key, "status": FAILED, "reason": reason, "detail": "cut", "stage": "decode"}


def test_the_first_part_of_a_shard_stays(store: LocalStore) -> None:
    ledger = Ledger(store)
    assert ledger.committed() == set()
    assert ledger.commit(ONE, [good("a"), bad("b")])
    assert not ledger.commit(ONE, [good("other")])
    assert ledger.has(ONE)
    assert not ledger.has(TWO)
    assert ledger.committed() == {ONE}
    part = pickle.loads(pickle.dumps(ledger)).read_part(ONE)
    assert part.schema.equals(SCHEMA)
    assert part["key"].to_pylist() == ["a", "b"]
    assert part["reason"].to_pylist() == [None, "truncated"]
    with pytest.raises(NotFound):
        ledger.read_part(TWO)


def test_only_parts_count_as_done(store: LocalStore) -> None:
    for name in ("notes.txt", f"{ONE}.parquet.bak", "x.parquet", f".driftrec-{ONE}.part"):
        store.put(f"ledger/{name}", b"")
    assert Ledger(store).committed() == set()


def test_a_shard_without_images_has_a_part_too(store: LocalStore) -> None:
    ledger = Ledger(store)
    ledger.commit(ONE, [])
    assert ledger.committed() == {ONE}
    assert ledger.tally([ONE]).rows == 0


def test_tally_of_many_parts_equals_the_whole(store: LocalStore) -> None:
    ledger = Ledger(store)
    ids = [f"{number:016x}" for number in range(60)]
    for number, shard in enumerate(ids):
        reason = ("empty", "corrupt")[number % 2]
        ledger.commit(shard, [*(good(f"{number}/{i}") for i in range(3)), bad(f"{number}/bad", reason)])
    tally = ledger.tally(ids)
    assert tally.statuses == {OK: 180, FAILED: 60}
    assert tally.reasons == {"empty": 30, "corrupt": 30}
    assert (tally.rows, tally.repeated, len(tally.outputs())) == (240, 0, 180)


def test_a_key_that_stands_twice_is_seen() -> None:
    tally = Tally()
    for keys in (["a", "b"], ["c", "b"]):
        tally.add(pa.Table.from_pylist([good(key) for key in keys], schema=SCHEMA))
    assert tally.repeated == 1


def test_sweep(store: LocalStore) -> None:
    ledger = Ledger(store)
    ledger.commit(ONE, [good("a/x"), bad("a/y")])
    keep = ["images/a/x.png", "images/a/notes.txt", "images/.hidden", "other/a.png", "run.json", "o/.driftrec-1.part"]
    leave = ["images/a/y.png", "images/a/X.png", "images/z.jpg", "images/a/.driftrec-1.part", "ledger/.driftrec-3.part"]
    for name in keep + leave:
        store.put(name, b"1")
    before = {name for name, _ in store.list()}
    assert sweep(store, ledger.tally([ONE]).outputs()) == len(leave)
    assert before - {name for name, _ in store.list()} == set(leave)
