"""Listing page by page, as S3 does it: what is asked, what is held, and what comes of a page that fails."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.fake_s3 import BUCKETS, REQUESTS, Bucket, FakeS3, Made
from pipeline.storage import open_store
from pipeline.storage.base import AccessDenied, StorageError, Store
from pipeline.storage.packed import CHUNK, PackedNames

COUNT = 2500
NAMES = [f"{at // 100:03}/{at:05}.jpg" for at in range(COUNT)]


@pytest.fixture
def store() -> Iterator[Store]:
    BUCKETS["b"] = Bucket({"in/x": b"123"}, [Made("in/many/", COUNT, NAMES.__getitem__, lambda at: at)])
    yield open_store("fake://b/in")
    BUCKETS.clear()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is told instead of a page, in turn: errors, or None for the page itself."""
    told: list[Any] = []
    asked = FakeS3.call_s3

    def call(self: FakeS3, *given: Any, **options: Any) -> Any:
        if told and (error := told.pop(0)):
            raise error
        return asked(self, *given, **options)

    monkeypatch.setattr(FakeS3, "call_s3", call)
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.001)
    return told


def counted(kind: str, before: int) -> int:
    return REQUESTS[kind] - before


def test_names_come_page_by_page(store: Store) -> None:
    before = REQUESTS["LIST"]
    found = store.found("many")
    assert next(found) == (f"many/{NAMES[0]}", 0)
    assert counted("LIST", before) == 1
    assert [name for name, _ in found] == [f"many/{name}" for name in NAMES[1:]]
    assert counted("LIST", before) == 3
    assert list(store.list("many")) == [(f"many/{name}", at) for at, name in enumerate(NAMES)]
    assert store.latest
    assert datetime.fromtimestamp(store.latest[0], UTC).year == 2026


def test_only_the_page_that_fails_is_asked_for_again(store: Store, pages: list[Any]) -> None:
    before = REQUESTS["LIST"]
    pages += [None, TimeoutError("slow"), ConnectionResetError("cut")]
    assert len(list(store.list("many"))) == COUNT
    assert counted("LIST", before) == 3
    pages += [None, PermissionError("403")]
    with pytest.raises(AccessDenied, match="fake://b/in/many was refused"):
        list(store.list("many"))
    pages += [None, *[TimeoutError("slow")] * 5]
    with pytest.raises(StorageError, match="fake://b/in/many could not be reached in 5 attempts"):
        list(store.list("many"))


def test_whether_something_is_there_is_one_request(store: Store) -> None:
    before = REQUESTS.total()
    assert (store.size("x"), store.size("y"), store.size("many")) == (3, None, None)
    assert REQUESTS.total() - before == 3


def test_a_server_with_an_order_of_its_own_is_put_in_order(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    page = Bucket.page
    names = ["a/x", "a/y", "a-b/x", "a.k", "b/z", "é"]  # folder by folder, as some servers do

    def folders_first(self: Bucket, *given: Any) -> tuple[list[dict[str, Any]], bool]:
        found, more = page(self, *given)
        return sorted(found, key=lambda item: item["Key"].split("/")), more

    for name in names:
        store.put(f"few/{name}", b"1")
    monkeypatch.setattr(Bucket, "page", folders_first)
    assert [name for name, _ in store.found("few")] != sorted(f"few/{name}" for name in names)
    assert [name for name, _ in store.list("few")] == sorted(f"few/{name}" for name in names)


@pytest.mark.parametrize("url", ["memory://some/prefix", "fake://b/prefix"])
def test_other_file_systems_have_the_same_order(url: str, store: Store) -> None:
    names = ["a-b/x", "a.b", "a/x", "a/y/z", "a0", "b/é", "b/z"]
    other = open_store(url)
    for name in reversed(names):
        other.put(name, name.encode())
    assert list(other.list()) == [(name, len(name.encode())) for name in sorted(names)]
    assert [name for name, _ in other.list("a")] == ["a/x", "a/y/z"]
    assert list(other.list("nothing")) == []
    assert list(open_store(f"{url}/a.b").list()) == [("", 3)]  # what is an object itself


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 1])
def test_packed_names_are_given_back(count: int) -> None:
    files = [(f"{at:06} é\udc80.jpg", at) for at in range(count)]
    names = PackedNames()
    for name, size in files:
        names.add(name, size)
    assert len(names) == count
    assert list(names) == list(names) == files
    assert list(names.emptied()) == files
