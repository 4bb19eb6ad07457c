"""Files that are too large to be read are rows, by their size; what lies beside them is done."""

import io
import os
import resource
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.blocks import as_one_row, images_of
from pipeline.inputs.listing import list_input
from pipeline.inputs.shards import MAX_FILE_BYTES, read_shard
from tests import made
from tests.pipeline.offline import ledger, restore

HUGE = 6 * 2**30


def within(extra: int, work: object) -> None:
    """Do the work in a process that may take so many bytes more than it has."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("name", ["d/huge.tif", "d/video.jpg"])
def test_a_loose_file(tmp_path: Path, name: str) -> None:
    source = made.folder(tmp_path / "in", 8)
    (source / name).parent.mkdir()
    with (source / name).open("wb") as file:
        file.write(b"II*\0" if name.endswith("tif") else b"\0\0\0\x20ftypisom")
        file.truncate(HUGE)
    within(2**30, lambda: restore(source, tmp_path / "out", max_failed="1"))
    rows = ledger(tmp_path / "out")
    assert {key for key, row in rows.items() if row["status"] == "failed"} == {name}
    assert (rows[name]["reason"], len(rows)) == ("too_large", 9)
    assert f"{HUGE} bytes, max_file_bytes is {MAX_FILE_BYTES}" in rows[name]["detail"]


def test_a_member_of_a_tar(tmp_path: Path) -> None:
    with (tmp_path / "t.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("a.jpg", None), ("huge.jpg", MAX_FILE_BYTES + 512), ("b.jpg", None)):
            data, info = made.jpeg(1), tarfile.TarInfo(name)
            info.size = len(data) if size is None else size
            if size is None:
                tar.addfile(info, io.BytesIO(data))
            else:  # a hole
                file.write(info.tobuf())
                tar.offset += 512 + size
                file.seek(tar.offset)
    within(2**30, lambda: restore(tmp_path / "t.tar", tmp_path / "out", max_failed="1"))
    rows = ledger(tmp_path / "out")
    assert {key: row["reason"] for key, row in rows.items()} == {
        "t/a.jpg": None,
        "t/huge.jpg": "too_large",
        "t/b.jpg": None,
    }


def test_a_row_group_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    one, many = made.jpeg(1), 4200
    images = [one, *[b"\xff\xd8\xff" + bytes(10**6)] * many]
    keys = [f"{number:04}.jpg" for number in range(len(images))]
    column = pa.array(images[:2], pa.binary())
    packed = pa.DictionaryArray.from_arrays(pa.array([0, *[1] * many], pa.int32()), column)
    pq.write_table(pa.table({"key": keys, "image": packed}), tmp_path / "x.parquet", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 300_000

    def read() -> None:
        (shard,) = list_input(str(tmp_path / "x.parquet")).bounded(10**8).shards
        table = read_shard(shard)
        assert table.num_rows == 1 + many
        reasons = table["reason"].to_pylist()
        assert reasons[0] == "" and 90 < reasons.count("") < 101
        assert set(reasons[101:]) == {"too_large"}

    within(2**30, read)


def test_a_shard_as_one_row_is_the_shard(tmp_path: Path) -> None:
    (shard, *_) = list_input(str(made.folder(tmp_path / "in", 5))).shards
    whole = read_shard(shard)
    for table in (whole, pa.concat_tables([whole, whole]), whole.slice(0, 0)):
        row = as_one_row(table)
        assert row.num_rows == 1
        assert images_of(row).equals(table.combine_chunks())
