"""The same on a real S3 server: stores, create-only, tar shards to a mirrored tree, refusals without secrets."""

import hashlib
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import InvalidInput
from jobs.cli import main
from pipeline.inputs.listing import list_input
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.outputs import read_output
from pipeline.runs.verify import verify
from pipeline.storage import open_store
from pipeline.storage.base import AccessDenied, NotFound, StorageError, Store
from pipeline.storage.remote import RemoteStore
from tests import made
from tests.pipeline import offline
from tests.s3 import SECRET, Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]


def test_a_store_on_s3(bucket: str) -> None:
    store = open_store(f"{bucket}/some/prefix")
    assert list(store.list()) == []
    names = ["a-b/x", "a/x", "a/y z/é", "b"]
    for name in reversed(names):
        store.put(name, name.encode())
    assert list(store.list()) == [(name, len(name.encode())) for name in names]
    assert list(store.list("a")) == [("a/x", 3), ("a/y z/é", 8)]
    assert (store.read("a/x"), store.read("a/x", 1, 1), store.read("a/x", 1)) == (b"a/x", b"/", b"/x")
    assert (store.size("b"), store.size("a"), store.size("none")) == (1, None, None)
    with pytest.raises(NotFound, match=f"{bucket}/some/prefix/none does not exist"):
        store.read("none")
    store.remove("a/x")
    store.remove("a/x")
    assert not store.exists("a/x")
    left = [f"some/prefix/{name}" for name in ("a-b/x", "a/y z/é", "b")]
    assert [name for name, _ in open_store(bucket).list()] == left


def test_one_of_many_creators_wins(bucket: str) -> None:
    store = open_store(bucket)
    gate, won = threading.Barrier(6), []

    def create(number: int) -> None:
        gate.wait()
        if store.create("ledger/part", bytes([number]) * 2000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("ledger/part") == bytes(won) * 2000
    assert not store.create("ledger/part", b"late")


def test_the_way_travels_with_the_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(bucket)
    store.put("x", b"1")
    packed = pickle.dumps(store)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert pickle.loads(packed).read("x") == b"1"
    assert SECRET not in repr(store) + store.url


def test_refusals_name_the_url_and_no_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-not-to-be-seen")
    calls = [lambda s: list(s.list()), lambda s: s.read("x"), lambda s: s.put("x", b""), lambda s: s.create("x", b"")]
    for call in calls:
        with pytest.raises(AccessDenied, match=f"{bucket}.*check the credentials") as caught:
            call(open_store(bucket))
        assert "not-to-be-seen" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.01)
    with pytest.raises(StorageError, match=r"could not be reached in 5 attempts.*127\.0\.0\.1:9"):
        list(open_store(bucket).list())


def test_a_prefix_that_may_be_listed_is_read_though_no_object_of_its_name_may_be_asked_for(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(bucket).put("in/1.jpg", made.jpeg(1))
    size = RemoteStore.size

    def refused(self: RemoteStore, name: str) -> int | None:
        if name:
            return size(self, name)
        raise AccessDenied(f"access to {self.url} was refused: Forbidden")

    monkeypatch.setattr(RemoteStore, "size", refused)
    assert list_input(f"{bucket}/in").images == 1
    with pytest.raises(InvalidInput, match=f"access to {bucket}/in/1.jpg was refused"):
        list_input(f"{bucket}/in/1.jpg")


def files(store: Store, folder: str) -> dict[str, bytes]:
    return {name: store.read(name) for name, _ in store.list(folder)}


def restore(source: str, output: str, **changes: Any) -> dict[str, Any]:
    values = {"model": "identity", "actors": 1, "report": False, "progress_s": 3600} | changes
    return run_restore(RestoreSettings(input=source, output=output, **values))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_tar_shards_on_s3_become_a_mirrored_tree(bucket: str, tmp_path: Path, small_model: Path) -> None:
    shards = {f"{n}.tar": {f"d{i % 2}/{i}.jpg": made.jpeg(10 * n + i) for i in range(4)} for n in range(3)}
    store = open_store(bucket)
    (tmp_path / "in/set").mkdir(parents=True)
    for name, members in shards.items():
        store.put(f"in/set/{name}", made.tar(members))
        (tmp_path / "in/set" / name).write_bytes(made.tar(members))
    store.put("models/small.safetensors", small_model.read_bytes())
    result = restore(f"{bucket}/in/set/*.tar", f"{bucket}/out", model=f"{bucket}/models/small.safetensors")
    assert result["status"] == {"ok": 12, "failed": 0, "skipped": 0}
    restore(f"{tmp_path}/in/set/*.tar", f"{tmp_path}/out", model=str(small_model))
    output = files(store, "out/images")
    assert set(output) == {f"out/images/{n}/d{i % 2}/{i}.png" for n in range(3) for i in range(4)}
    assert {f"out/{name}": data for name, data in files(open_store(f"{tmp_path}/out"), "images").items()} == output
    assert restore(f"{bucket}/in/set/*.tar", f"{bucket}/out", model=str(small_model)) == result  # finished before
    written = b"".join(data for name, data in files(store, "out").items() if "/images/" not in name)
    assert SECRET.encode() not in written
    assert json.loads(store.read("out/run.json"))["settings"]["output"] == f"{bucket}/out"


def test_pieces_of_a_tar_on_s3_and_tars_as_outputs(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inputs.listing.MIN_PIECE", 1)
    (tmp_path / "in").mkdir()
    whole = made.tar({f"{number}.jpg": made.jpeg(number, 200, 200) for number in range(12)} | {"cut.jpg": bytes(9000)})
    (tmp_path / "in/t.tar").write_bytes(whole[:-16_000])
    open_store(bucket).put("in/t.tar", whole[:-16_000])
    settings = {"shard_bytes": 16_384, "layout": "tar", "max_failed": 9}
    here = offline.restore(tmp_path / "in", tmp_path / "out", **settings)
    there = offline.restore(f"{bucket}/in", f"{bucket}/out", **settings)
    assert there["shards"]["listed"] == here["shards"]["listed"] > 3
    assert (there["status"], there["reasons"]) == (here["status"], here["reasons"])
    assert there["reasons"]["shard_incomplete"] == 1
    written = {name.removeprefix("out/"): data for name, data in files(open_store(bucket), "out/shards").items()}
    assert written == {f"shards/{name}": data for name, data in offline.files(tmp_path / "out/shards").items()}
    row = next(row for row in offline.ledger(tmp_path / "out").values() if row["output"])
    there_bytes = read_output(open_store(f"{bucket}/out"), row["output"])
    assert hashlib.sha256(there_bytes).hexdigest() == row["output_sha256"]


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_what_is_gone_from_s3_is_found_and_mended(bucket: str, tmp_path: Path, layout: str) -> None:
    source, output = made.folder(tmp_path / "in", 20), f"{bucket}/out"
    offline.restore(source, output, layout=layout)
    store, folder = open_store(output), "images" if layout == "tree" else "shards"
    for quick in (False, True):
        assert verify(output, quick)["state"] == "sound"
    before = files(store, folder)
    lost, changed = list(before)[1:3]
    store.remove(lost)
    store.put(changed, before[changed][:700] + bytes([before[changed][700] ^ 1]) + before[changed][701:])
    first = verify(output)["first"]
    assert all(name.startswith(lost) for name in first["missing"])
    assert all(name.startswith(changed) for name in first["changed"])
    assert offline.restore(source, output, layout=layout)["state"] == "incomplete"
    assert offline.restore(source, output, layout=layout, repair=True)["state"] == "done"
    assert verify(output)["state"] == "sound"
    if layout == "tree":
        assert files(store, folder) == before


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_on_s3_with_a_resume(bucket: str, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 20)
    store = open_store(bucket)
    for path in source.rglob("*.jpg"):
        store.put(f"in/{path.relative_to(source)}", path.read_bytes())
    store.put("in/cut.jpg", made.jpeg(0)[:-200])
    assert restore(f"{bucket}/in", f"{bucket}/out")["exit_code"] == 3
    first = files(store, "out/images")
    for name in (*list(files(store, "out/ledger"))[:3], "out/_RESULT.json", "out/images/a/0000.png"):
        store.remove(name)
    store.put("out/images/a/orphan.png", b"of a killed attempt")
    result = restore(f"{bucket}/in", f"{bucket}/out")
    assert result["status"] == {"ok": 20, "failed": 1, "skipped": 0}
    assert result["shards"]["resumed"] == result["shards"]["listed"] - 3
    left = files(store, "out/images")
    assert left.items() <= first.items()
    assert first.keys() - left.keys() <= {"out/images/a/0000.png"}  # removed by hand, and its part perhaps not


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_wrong_secret_is_exit_2(
    bucket: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, place: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-not-to-be-seen")
    local = str(made.folder(tmp_path / "in", 1))
    places = [f"{bucket}/in", str(tmp_path / "out")] if place == "input" else [local, f"{bucket}/out"]
    code = main(["restore", *places, "--model", "identity"])
    out, err = capsys.readouterr()
    assert code == 2
    told = json.loads(out)["error"]
    assert bucket in told
    assert "refused" in told
    assert "signature" in told.lower()
    assert "not-to-be-seen" not in out + err
    assert SECRET not in out + err


def test_a_bucket_by_its_own_name(bucket: str) -> None:
    """As INPUT it says that it is empty; then it lists, and each prefix and object of it by their own names too."""
    assert (list(open_store(bucket).list()), open_store(bucket).exists("")) == ([], False)
    with pytest.raises(InvalidInput, match="it is empty"):
        list_input(bucket)
    open_store(bucket).put("a/x.jpg", b"1")
    for url, listed in ((bucket, "a/x.jpg"), (f"{bucket}/a", "x.jpg"), (f"{bucket}/a/x.jpg", "")):
        assert list(open_store(url).list()) == [(listed, 1)]
    assert list_input(bucket).images == list_input(f"{bucket}/a/x.jpg").images == 1
