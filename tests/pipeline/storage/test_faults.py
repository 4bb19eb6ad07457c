"""Storage that fails: transient faults are ridden out, others are told at once, and no bytes are ever short."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError
from pipeline.storage import open_store
from pipeline.storage.base import AccessDenied, NotFound, StorageError, Store
from pipeline.storage.remote import ATTEMPTS
from tests import made
from tests.faults import Fault, Proxy, before
from tests.pipeline.offline import files, ledger, restore
from tests.s3 import Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

DATA = random.Random(0).randbytes(200_000)
CALLS: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("folder/there"),
    "part": lambda store: store.read("folder/there", 1000, 5000),
    "list": lambda store: list(store.list("folder")),
    "size": lambda store: store.size("folder/there"),
    "put": lambda store: store.put("folder/there", DATA),
    "create": lambda store: store.create(f"new/{time.time_ns()}", DATA),
    "remove": lambda store: store.remove("folder/gone"),
}


@pytest.fixture
def proxy(s3_server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that this process takes for S3; waits between two attempts are short."""
    open_store(bucket).put("folder/there", DATA)
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.01)
    with before(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.mark.parametrize("call", CALLS)
def test_transient_faults_are_ridden_out(proxy: Proxy, bucket: str, call: str) -> None:
    expected = {"read": DATA, "part": DATA[1000:6000], "list": [("folder/there", len(DATA))], "size": len(DATA)}
    expected |= {"put": None, "create": True, "remove": None}
    for fault in (Fault("error", times=2), Fault("error", status=500, times=2), Fault("lost", times=2)):
        proxy.spoil(fault)
        assert CALLS[call](open_store(bucket)) == expected[call], fault
        assert fault.met == 2
    assert open_store(bucket).read("folder/there") == DATA


@pytest.mark.parametrize("call", ["read", "create"])
def test_attempts_are_bounded(proxy: Proxy, bucket: str, call: str) -> None:
    store = open_store(bucket)
    proxy.spoil(fault := Fault("error"))
    with pytest.raises(StorageError, match=rf"{bucket}.*could not be reached in {ATTEMPTS} attempts"):
        CALLS[call](store)
    assert fault.met <= 2 * ATTEMPTS


@pytest.mark.parametrize(("status", "error"), [(403, AccessDenied), (404, NotFound)])
@pytest.mark.parametrize("call", ["read", "part"])
def test_refusals_are_told_at_once(
    proxy: Proxy, bucket: str, call: str, status: int, error: type[StorageError]
) -> None:
    store = open_store(bucket)
    proxy.spoil(Fault("error", status=status))
    with pytest.raises(error, match=f"{bucket}/folder/there"):
        CALLS[call](store)
    assert len(proxy.requests) <= 2


@pytest.mark.parametrize("call", ["read", "part"])
def test_a_body_that_is_cut_is_never_taken_for_whole(proxy: Proxy, bucket: str, call: str) -> None:
    store, whole = open_store(bucket), {"read": DATA, "part": DATA[1000:6000]}[call]
    proxy.spoil(cut := Fault("cut", method="GET", times=2))
    assert CALLS[call](store) == whole
    assert cut.met == 2
    proxy.spoil(Fault("cut", method="GET"))
    with pytest.raises(StorageError, match="could not be reached"):
        CALLS[call](store)


def test_a_slow_answer_is_asked_for_again(proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.remote.READ_TIMEOUT_S", 1)
    store = open_store(bucket)
    proxy.spoil(slow := Fault("slow", method="GET", seconds=10, times=1))
    begun = time.monotonic()
    assert store.read("folder/there") == DATA
    assert slow.met == 1
    assert time.monotonic() - begun < 9


def test_a_create_whose_answer_is_lost_is_still_ours(proxy: Proxy, bucket: str) -> None:
    store = open_store(bucket)
    proxy.spoil(lost := Fault("lost", method="PUT", times=1))
    assert store.create("ledger/part", DATA)
    assert lost.met == 1
    assert not store.create("ledger/part", b"another")
    assert store.read("ledger/part") == DATA


def test_a_run_over_poor_storage_is_as_an_undisturbed_one(
    proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made.folder(tmp_path / "in", 12)
    (tmp_path / "in/t.tar").write_bytes(made.tar({f"{number}.jpg": made.jpeg(number) for number in range(6)}))
    restore(source, tmp_path / "out")
    store = open_store(bucket)
    for path in source.rglob("*.*"):
        store.put(f"in/{path.relative_to(source)}", path.read_bytes())
    dice, take = random.Random(1), proxy.take

    def poor(method: str, path: str, key: str) -> Fault | None:
        take(method, path, key)
        kind = dice.choice(["error", "error", "cut", "lost"])
        return Fault(kind, status=dice.choice([500, 503])) if dice.random() < 0.15 else None  # type: ignore[arg-type]

    monkeypatch.setattr(proxy, "take", poor)
    result = restore(f"{bucket}/in", f"{bucket}/out")
    monkeypatch.setattr(proxy, "take", take)
    assert result["status"] == {"ok": 18, "failed": 0, "skipped": 0}
    output = open_store(f"{bucket}/out")
    written = {name.removeprefix("images/"): output.read(name) for name, _ in output.list("images")}
    assert written == files(tmp_path / "out/images")
    assert len(ledger(tmp_path / "out")) == 18


def test_refused_objects_are_rows_and_a_dead_service_ends_the_run(proxy: Proxy, bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    for number in range(4):
        store.put(f"in/{number}.jpg", made.jpeg(number))
    proxy.spoil(Fault("error", "GET", r"/in/1\.jpg", status=403), Fault("error", "GET", r"/in/2\.jpg", status=404))
    result = restore(f"{bucket}/in", tmp_path / "out")
    assert (result["status"]["ok"], result["reasons"]) == (2, {"unreadable": 2})
    for key in ("1.jpg", "2.jpg"):
        assert f"{bucket}/in/{key}" in ledger(tmp_path / "out")[key]["detail"]
    proxy.spoil()
    assert restore(f"{bucket}/in", tmp_path / "out", retry_failed="unreadable")["status"]["ok"] == 4
    proxy.spoil(Fault("error", "GET", r"/in/3\.jpg"))
    with pytest.raises(DriftRecError, match=r"3\.jpg could not be reached"):
        restore(f"{bucket}/in", tmp_path / "other")
    proxy.spoil()
    assert restore(f"{bucket}/in", tmp_path / "other")["status"]["ok"] == 4
