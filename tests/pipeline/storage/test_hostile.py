"""What must not get out: files beside the output, secrets in what a run leaves. And a disk that is full."""

import io
import json
import logging
import os
import resource
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError, InvalidInput, StorageFull
from pipeline.restore import job as job
from pipeline.restore.report import write_restore_report
from pipeline.storage import open_store
from pipeline.storage.base import Store
from tests import made
from tests.pipeline.offline import files, ledger, restore
from tests.s3 import KEY, SECRET

NAMES = [
    "../up.jpg",
    "../../canary/x.jpg",
    "a/../../../canary/x.jpg",
    "/absolute.jpg",
    "//double.jpg",
    "a/./b.jpg",
    "tab\t.jpg",
    "escape\x1b[31m.jpg",
    "new\nline.jpg",
    "bidi\u202egpj.jpg",
    "back\\..\\slash.jpg",
    "x" * 300 + ".jpg",
]


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_member_names_write_nothing_outside(tmp_path: Path, layout: str) -> None:
    house = tmp_path / "house"
    canary = house / "canary"
    canary.mkdir(parents=True)
    (canary / "x.jpg").write_bytes(b"alive")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in [*NAMES, str(canary / "x.jpg"), "good.jpg"]:
            info = tarfile.TarInfo(name)
            data = made.jpeg(1)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        links = [("link.jpg", tarfile.SYMTYPE, "../../canary"), ("hard.jpg", tarfile.LNKTYPE, "/etc/passwd")]
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        info = tarfile.TarInfo("link.jpg/through.jpg")  # through the link, if anybody made it
        info.size = len(made.jpeg(1))
        tar.addfile(info, io.BytesIO(made.jpeg(1)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(file.getvalue())
    result = restore(tmp_path / "in", house / "out", layout=layout, copy_failed=True)
    assert result["reasons"] == {"unsafe_name": len(NAMES) + 3}
    assert result["status"]["ok"] == 2
    assert files(canary) == {"x.jpg": b"alive"}
    assert {path.name for path in house.iterdir()} == {"canary", "out"}
    named = {row["output"] for row in ledger(house / "out").values() if row["output"]}
    shard = next((house / "out").glob("shards/*.tar"), Path()).name
    tree = {"images/t/good.png", "images/t/link.jpg/through.png"}
    assert named == (tree if layout == "tree" else {name.replace("images/", f"shards/{shard}#") for name in tree})
    assert not any(path.is_symlink() for path in house.rglob("*"))


@pytest.mark.parametrize("layout", ["tree", "tar"])
@pytest.mark.parametrize("above", [False, True], ids=["folder", "linked folder"])
def test_links_that_lead_out_are_neither_read_nor_copied(tmp_path: Path, layout: str, above: bool) -> None:
    """Inside they are files like others, also where INPUT itself is behind a link."""
    source, outside = tmp_path / "in", tmp_path / "outside"
    (source / "a").mkdir(parents=True)
    outside.mkdir()
    (source / "a/real.jpg").write_bytes(made.jpeg(1))
    (outside / "photo.jpg").write_bytes(made.jpeg(2))
    (outside / "secret").write_bytes(b"root:x:0:0 canary")
    out = {"photo.jpg": "../outside/photo.jpg", "secret.jpg": str(outside / "secret"), "chain.jpg": "secret.jpg"}
    out |= {"a/up.jpg": "../../outside/photo.jpg", "passwd.jpg": "/etc/passwd"}
    inside = {"same.jpg": "a/real.jpg", "a/full.jpg": str(source / "a/real.jpg"), "a/around.jpg": "../../in/a/real.jpg"}
    for name, target in (out | inside).items():
        (source / name).symlink_to(target)
    (tmp_path / "link").symlink_to(source)
    result = restore(tmp_path / ("link" if above else "in"), tmp_path / "out", layout=layout, copy_failed=True)
    assert result["reasons"] == {"unsafe_name": len(out)}
    rows = ledger(tmp_path / "out")
    assert {key for key, row in rows.items() if row["status"] == "failed"} == out.keys()
    assert all("leads out" in rows[key]["detail"] and rows[key]["output"] is None for key in out)
    assert result["status"]["ok"] == len(inside) + 1
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"root:x" not in path.read_bytes()


@pytest.mark.s3
@pytest.mark.timeout(300)
def test_secrets_are_in_nothing_that_a_run_leaves(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")
    store = open_store(bucket)
    for number in range(3):
        store.put(f"in/{number}.jpg", made.jpeg(number))
    store.put("in/bad.jpg", b"<html>")
    result = restore(f"{bucket}/in", f"{bucket}/out", max_failed=1)
    write_restore_report(f"{bucket}/in", f"{bucket}/out")
    texts = {name: store.read(f"out/{name}") for name, _ in open_store(f"{bucket}/out").list()}
    assert {"run.json", "_RESULT.json", "report.html"} < texts.keys()
    texts |= {"log": caplog.text.encode(), "answer": json.dumps(result).encode()}
    texts |= {f"rows {name}": repr(row).encode() for name, row in _rows(store).items()}
    for name, text in texts.items():
        assert SECRET.encode() not in text, name
        assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in text, name
    assert KEY in os.environ["AWS_ACCESS_KEY_ID"]


def _rows(store: Store) -> dict[str, Any]:
    import pyarrow.parquet as pq

    parts = [name for name, _ in store.list("out/ledger")]
    return {name: pq.read_table(io.BytesIO(store.read(name))).to_pylist() for name in parts}


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:hunter2@bucket/in",
        "https://u:hunter2@127.0.0.1:9/x.tar",
        "http://127.0.0.1:9/x.tar?Signature=hunter2",
    ],
)
def test_secrets_in_urls_are_not_repeated(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("pipeline.storage.remote.FIRST_WAIT_S", 0.001)
    here = str(made.folder(tmp_path / "in", 1))
    for places in ({"source": url, "output": tmp_path / "out"}, {"source": here, "output": url}):
        with pytest.raises((InvalidInput, DriftRecError)) as caught:
            restore(**places)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        restore(here, tmp_path / "out", only_listed=url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caplog.text
    settings = job.RestoreSettings(input=url, output=url, model=url, only_listed=url)
    assert "hunter2" not in json.dumps(settings.public())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_a_full_disk_stops_the_run_and_it_goes_on_later(small_disk: Path, tmp_path: Path, layout: str) -> None:
    source = made.folder(tmp_path / "in", 40)
    restore(source, tmp_path / "whole", layout=layout)
    with pytest.raises(DriftRecError, match=r"no room left to write.*free some and run the same command again"):
        restore(source, small_disk / "out", layout=layout)
    done = ledger(small_disk / "out")
    assert 0 < len(done) < 40
    outputs = {row["output"].partition("#")[0] for row in done.values()}
    assert all((small_disk / "out" / name).stat().st_size for name in outputs)  # finished shards are valid
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert restore(source, small_disk / "out", layout=layout)["status"]["ok"] == 40
    folder = "images" if layout == "tree" else "shards"
    assert files(small_disk / "out" / folder) == files(tmp_path / "whole" / folder)
    assert not list((small_disk / "out").rglob(".driftrec-*"))


def test_no_room_for_what_gathers_a_tar(tmp_path: Path) -> None:
    """The temporary folder has its limits, too; here one on the size of files stands for a full disk."""
    from pipeline.runs.outputs import Tar

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    tar = Tar(open_store(str(tmp_path)), "0" * 16)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(StorageFull, match="no room left in the temporary folder"):
            tar.put("a.png", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
