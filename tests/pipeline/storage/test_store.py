"""Stores: whole puts, create-only creates, one order of names, errors that name the place and never a secret."""

import errno
import os
import pickle
import threading
from pathlib import Path

import pytest

from driftrec.errors import InvalidInput, StorageFull
from pipeline.storage import open_store
from pipeline.storage.base import AccessDenied, NotFound, StorageError, redact
from pipeline.storage.file import StoreFile
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "root"))


def test_what_is_put_is_read(store: LocalStore) -> None:
    store.put("a/b/c.bin", b"0123456789")
    assert store.read("a/b/c.bin") == b"0123456789"
    assert store.read("a/b/c.bin", 3, 4) == b"3456"
    assert store.read("a/b/c.bin", 8, 50) == b"89"
    assert (store.size("a/b/c.bin"), store.size("a/b/d.bin"), store.size("a/b/c.bin/x")) == (10, None, None)
    store.put("a/b/c.bin", b"new")
    assert store.read("a/b/c.bin") == b"new"
    assert list(store.list()) == [("a/b/c.bin", 3)]


def test_names_are_listed_as_an_object_store_does(store: LocalStore) -> None:
    names = ["a-b/x", "a.b", "a/x", "a/y/z", "a0", "b/é", "b/z"]
    for name in reversed(names):
        store.put(name, b"1")
    assert [name for name, _ in store.list()] == sorted(names)
    assert [name for name, _ in store.list("a")] == ["a/x", "a/y/z"]
    assert list(store.list("nothing")) == []


def test_one_of_many_creators_wins_and_its_bytes_stay(store: LocalStore) -> None:
    won: list[int] = []
    gate = threading.Barrier(8)

    def create(number: int) -> None:
        gate.wait()
        if store.create("ledger/part", bytes([number]) * 1000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("ledger/part") == bytes(won) * 1000
    assert [name for name, _ in store.list()] == ["ledger/part"]


def test_a_full_disk_leaves_the_old_bytes_and_no_part(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=r"root/x.*No space left.*free some"):
        store.put("x", b"newer")
    monkeypatch.undo()
    assert store.read("x") == b"old"
    assert [name for name, _ in store.list()] == ["x"]


def test_errors_name_the_place(store: LocalStore) -> None:
    with pytest.raises(NotFound, match=r"root/none does not exist"):
        store.read("none")
    store.put("folder/x", b"")
    with pytest.raises(StorageError, match=r"root/folder is a folder"):
        store.put("folder", b"")
    with pytest.raises(StorageError, match=r"folder/x/y"):
        store.put("folder/x/y", b"")


def test_a_sweep_beside_a_put_does_not_lose_it(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may take an unfinished put for a leftover."""
    replace, stolen = os.replace, []

    def steal_once(part: Path, target: Path) -> None:
        if not stolen:
            stolen.append(part)
            part.unlink()
        replace(part, target)

    monkeypatch.setattr(os, "replace", steal_once)
    store.put("x", b"1")
    assert store.read("x") == b"1"


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "https://user:secret@host/x.tar"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
    assert "environment" in str(caught.value)


def test_redact() -> None:
    assert redact("s3://k:s@b/x and https://h/y.tar?token=abc&x=1 end") == "s3://b/x and https://h/y.tar?... end"
    assert redact("s3://b/what?.tar") == "s3://b/what?.tar"
    assert redact("/plain/a@b") == "/plain/a@b"


def test_unknown_protocol() -> None:
    with pytest.raises(InvalidInput, match="no storage is known as gopher"):
        open_store("gopher://x/y")


@pytest.fixture
def memory() -> RemoteStore:
    store = open_store("memory://bucket/prefix")
    assert isinstance(store, RemoteStore)
    yield store
    store._fs.store.clear()


def test_remote_store_does_the_same(memory: RemoteStore) -> None:
    assert list(memory.list()) == []
    for name in ("b/y", "a", "b/x"):
        memory.put(name, name.encode())
    assert list(memory.list()) == [("a", 1), ("b/x", 3), ("b/y", 3)]
    assert list(memory.list("b")) == [("b/x", 3), ("b/y", 3)]
    assert memory.read("b/x", 1, 2) == b"/x"
    assert not memory.create("a", b"other")
    assert memory.create("c", b"new")
    assert (memory.read("a"), memory.read("c")) == (b"a", b"new")
    memory.remove("a")
    memory.remove("a")
    assert not memory.exists("a")
    with pytest.raises(NotFound, match="memory://bucket/prefix/a does not exist"):
        memory.read("a")
    assert pickle.loads(pickle.dumps(memory)).read("c") == b"new"


@pytest.mark.parametrize(
    ("error", "attempts", "raised"),
    [
        (TimeoutError("slow"), 5, StorageError),
        (ConnectionResetError("cut"), 5, StorageError),
        (OSError(errno.EIO, "500"), 5, StorageError),
        (PermissionError("403 for key AKIA and secret hush"), 1, AccessDenied),
        (FileNotFoundError("404"), 1, NotFound),
        (OSError(errno.ENOSPC, "full"), 1, StorageFull),
    ],
)
def test_only_what_may_pass_is_tried_again(
    memory: RemoteStore, monkeypatch: pytest.MonkeyPatch, error: Exception, attempts: int, raised: type[Exception]
) -> None:
    calls: list[str] = []

    def fail(path: str, **_: object) -> bytes:
        calls.append(path)
        raise error

    memory._options = {"secret": "hush"}
    monkeypatch.setattr(memory._fs, "cat_file", fail)
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.001)
    with pytest.raises(raised, match="memory://bucket/prefix/x") as caught:
        memory.read("x")
    assert len(calls) == attempts
    assert "hush" not in str(caught.value)


def test_a_call_that_comes_back_is_enough(memory: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionResetError("cut"), TimeoutError("slow")])
    read = memory._fs.cat_file
    memory.put("x", b"1")

    def flaky(path: str, **options: object) -> bytes:
        for error in answers:
            raise error
        return read(path, **options)

    monkeypatch.setattr(memory._fs, "cat_file", flaky)
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.001)
    assert memory.read("x") == b"1"


def test_a_file_over_a_store_reads_parts(store: LocalStore) -> None:
    store.put("x", bytes(range(100)))
    file = StoreFile(store, "x")
    assert file.seek(-10, os.SEEK_END) == 90
    assert file.read(4) == bytes([90, 91, 92, 93])
    assert file.read() == bytes(range(94, 100))
    assert file.read() == b""
    assert file.seek(5) == 5
    assert file.read(2) == b"\x05\x06"
    with pytest.raises(NotFound):
        StoreFile(store, "y")


def test_a_local_file_becomes_an_object_without_being_held_in_memory(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 20_000)
    store.put("a/x", b"older")
    store.put_file("a/x", path)
    assert store.read("a/x") == path.read_bytes()
    assert [name for name, _ in store.list("a")] == ["a/x"]


def test_folders_as_deep_as_the_disk_takes_them_are_listed(tmp_path: Path) -> None:
    folders = [tmp_path / ("d/" * depth) for depth in range(1, 1501)]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "a.txt").write_bytes(b"x")
    (folders[-1] / "f").write_bytes(b"xy")
    try:
        assert list(LocalStore(str(tmp_path)).list()) == [("a.txt", 1), ("d/" * 1500 + "f", 2)]
    finally:  # what pytest cleans up with goes less deep
        (folders[-1] / "f").unlink()
        for folder in reversed(folders):
            folder.rmdir()
