"""Whose an error of storage is: the run's where nothing more is given, the object's where others are.

A run's error stops the run, blames no image, and the same command does the rest when the access is back.
"""

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError
from pipeline.degrade import DegradeShard
from pipeline.evaluate.conditions import conditions_of
from pipeline.evaluate.settings import DegradeSettings
from pipeline.inputs.blocks import read_block
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.pairing import join
from pipeline.runs.verify import verify
from pipeline.settings import load
from pipeline.storage import open_store
from pipeline.storage.base import AccessDenied, NotFound, Store
from pipeline.storage.local import LocalStore
from pipeline.survey.settings import SurveySettings
from pipeline.survey.stage import SurveyShard
from pipeline.train.windows import draw_shard
from tests import made
from tests.faults import Fault, Proxy
from tests.pipeline import evaluations, offline
from tests.pipeline.storage.test_faults import proxy  # noqa: F401
from tests.pipeline.train.test_windows import DRAWING

pytestmark = pytest.mark.timeout(300)

Each = Callable[[], None]
Found = dict[str, str]  # the reason of each key, "" where all is well
SHARDS, IN_SHARD = 3, 2
KINDS = ("files", "tar", "parquet")


def put_input(root: Store, kind: str) -> None:
    """Images in three shards, and the same again as candidates."""
    for shard in range(SHARDS):
        images = {f"{shard}{number}.jpg": made.jpeg(number) for number in range(IN_SHARD)}
        if kind == "files":
            for name, data in images.items():
                root.put(f"in/{name}", data)
        elif kind == "tar":
            root.put(f"in/{shard}.tar", made.tar(images))
        else:
            file = io.BytesIO()
            pq.write_table(pa.table({"key": list(images), "image": list(images.values())}), file)
            root.put(f"in/{shard}.parquet", file.getvalue())
        for name, data in images.items():
            root.put(f"tool/{f'{shard}/{name}' if kind == 'tar' else name}", data)


def restore(root: str, output: Path, each: Each, **changes: Any) -> Found:
    offline.restore(f"{root}/in", output, each=lambda _: each(), shard_images=IN_SHARD, max_failed="2", **changes)
    return {key: row["reason"] or "" for key, row in offline.ledger(output).items()}


def staged(stage: Any, listing: Listing, each: Each, by_shard: bool = False) -> Found:
    """What a stage makes of all shards that it has not done yet."""
    found: Found = {}
    for shard in listing.shards:
        each()
        summary = stage(shard if by_shard else read_block(shard, None)).to_pylist()[0]
        if summary["error"]:
            raise DriftRecError(summary["error"])
        found |= {row["key"]: row["reason"] or "" for row in stage.ledger.read_part(shard.id).to_pylist()}
    return found


def survey(root: str, output: Path, each: Each) -> Found:
    settings = load(SurveySettings, flags={"input": root, "output": str(output)})
    stage = SurveyShard(settings, 1.0, LocalStore(str(output)))
    return staged(stage, list_input(f"{root}/in", max_images=IN_SHARD), each, by_shard=True)


def degrade(root: str, output: Path, each: Each) -> Found:
    settings = load(DegradeSettings, flags={"input": root, "output": str(output), "quality": "10"})
    stage = DegradeShard(settings, conditions_of(settings), LocalStore(str(output)))
    return staged(stage, list_input(f"{root}/in", max_images=IN_SHARD), each)


def evaluate(root: str, output: Path, each: Each) -> Found:
    stage = evaluations.make(f"{root}/in", output, candidate=[f"tool={root}/tool"])  # type: ignore[arg-type]
    return staged(stage, list_input(f"{root}/in", max_images=IN_SHARD), each)


def train(root: str, output: Path, each: Each) -> Found:
    """Draws the patches of all shards; nothing is kept of them, so a run begins anew."""
    clean, found = list_input(f"{root}/in", max_images=IN_SHARD), {}
    pairings = join(clean, list_input(f"{root}/tool"))
    for shard, pairing in zip(clean.shards, pairings, strict=True):
        each()
        rows = draw_shard(shard, 0, 0, DRAWING, pairing).to_pylist()
        found |= {row["key"]: row["reason"] for row in rows}
    return found


JOBS = {"restore": restore, "survey": survey, "degrade": degrade, "evaluate": evaluate, "train": train}
QUICK = {("restore", "tar"), ("survey", "files"), ("degrade", "parquet"), ("evaluate", "files"), ("train", "parquet")}
CELLS = [
    pytest.param(job, kind, marks=[] if (job, kind) in QUICK else [pytest.mark.slow]) for job in JOBS for kind in KINDS
]
ALL, ONE = r"^/b-\w+/\w", r"/in/1(0\.jpg|\.tar|\.parquet)$"  # of the requests for objects
OF_THE_RUN = {
    "get refused": Fault("error", method="GET|HEAD", path=ALL, status=403),
    "unauthorized": Fault("error", status=401, code="Unauthorized"),
    "expired": Fault("error", status=400, code="ExpiredToken"),
    "bucket gone": Fault("error", status=404, code="NoSuchBucket"),
    "emptied": Fault("error", method="GET|HEAD", path=ALL, status=404),
}
BLAMED = {
    "files": {"10.jpg": "unreadable"},
    "tar": {"1.tar": "shard_incomplete"},
    "parquet": {"1.parquet": "shard_incomplete", "1.parquet#1": "shard_incomplete"},
}  # where that one object is not given
OF_THE_OBJECT = {
    "refused": Fault("error", method="GET|HEAD", path=ONE, status=403),
    "gone": Fault("error", method="GET|HEAD", path=ONE, status=404),
}


def before(shard: int, act: Each) -> Each:
    """What acts before the shard of this number."""
    count = iter(range(100))
    return lambda: act() if next(count) == shard else None


def check_stopped(job: str, root: str, output: Path, each: Each, mend: Each) -> None:
    """A lapse stops the job, no row blames an image, and the same command then does all."""
    with pytest.raises(DriftRecError):
        JOBS[job](root, output, each)
    rows = [row for part in output.glob("ledger/*.parquet") for row in pq.read_table(part).to_pylist()]
    assert not [row["key"] for row in rows if row["reason"]]
    mend()
    found = JOBS[job](root, output, lambda: None)
    assert len(found) == SHARDS * IN_SHARD and not any(found.values())


def again(fault: Fault) -> Fault:
    return Fault(fault.kind, fault.method, fault.path, status=fault.status, code=fault.code)


@pytest.mark.s3
@pytest.mark.parametrize(("job", "kind"), CELLS)
def test_a_lapse_of_s3_is_the_runs(proxy: Proxy, bucket: str, job: str, kind: str, tmp_path: Path) -> None:  # noqa: F811
    put_input(open_store(bucket), kind)
    for number, (name, fault) in enumerate(OF_THE_RUN.items()):
        lapse = before(number % SHARDS, lambda fault=fault: proxy.spoil(again(fault)))  # type: ignore[misc]
        check_stopped(job, bucket, tmp_path / name, lapse, proxy.spoil)


@pytest.mark.s3
@pytest.mark.parametrize(("job", "kind"), CELLS)
def test_what_s3_gives_not_of_one_object_is_a_row(
    proxy: Proxy, bucket: str, job: str, kind: str, tmp_path: Path  # noqa: F811
) -> None:
    put_input(open_store(bucket), kind)
    for name, fault in OF_THE_OBJECT.items():
        found = JOBS[job](bucket, tmp_path / name, before(0, lambda fault=fault: proxy.spoil(again(fault))))  # type: ignore[misc]
        assert {key: why for key, why in found.items() if why} == BLAMED[kind], name
        proxy.spoil()


@pytest.mark.s3
@pytest.mark.parametrize("job", ["restore", "evaluate"])
def test_to_list_is_not_needed_to_read(proxy: Proxy, bucket: str, job: str, tmp_path: Path) -> None:  # noqa: F811
    put_input(open_store(bucket), "files")
    refused = Fault("error", method="GET", path="list-type", status=403)
    found = JOBS[job](bucket, tmp_path / "out", before(0, lambda: proxy.spoil(refused)))
    assert len(found) == SHARDS * IN_SHARD and not any(found.values())


def emptied(root: Path) -> None:
    """The mount point after an umount: there, and empty."""
    root.rename(root.with_name("elsewhere"))
    root.mkdir()


def mounted(root: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(root)
    root.with_name("elsewhere").rename(root)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("of", ["root", "in", "tool"])
def test_a_mount_that_goes_is_the_runs(job: str, kind: str, of: str, tmp_path: Path) -> None:
    if of == "tool" and job not in ("evaluate", "train"):
        pytest.skip("reads INPUT alone")
    put_input(LocalStore(str(tmp_path / "root")), kind)
    gone = tmp_path / "root" if of == "root" else tmp_path / "root" / of
    for number, leave in enumerate((emptied, lambda path: path.rename(path.with_name("elsewhere")))):
        lapse = before(number, lambda leave=leave: leave(gone))  # type: ignore[misc]
        check_stopped(job, str(tmp_path / "root"), tmp_path / f"out{number}", lapse, lambda: mounted(gone))


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ends of the names that a disk refuses; a superuser's tests cannot have that of modes."""
    ends: list[str] = []
    open_file = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "rb" and str(path).endswith(tuple(ends)) and "out" not in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    return ends


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", JOBS)
def test_what_a_disk_refuses(denied: list[str], job: str, kind: str, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    put_input(LocalStore(str(root)), kind)
    name = "in/10.jpg" if kind == "files" else f"in/1.{kind}"
    for number, act in enumerate((lambda: denied.append(name), (root / name).unlink)):
        found = JOBS[job](str(root), out / str(number), before(0, act))  # type: ignore[arg-type]
        assert {key: why for key, why in found.items() if why} == BLAMED[kind]
        denied.clear()
        if job == "restore":
            put_input(LocalStore(str(root)), kind)
            assert not any(restore(str(root), out / str(number), lambda: None, retry_failed="all").values())
    put_input(LocalStore(str(root)), kind)
    lapse = before(1, lambda: denied.extend((".jpg", ".tar", ".parquet")))
    check_stopped(job, str(root), out / "all", lapse, denied.clear)


@pytest.mark.parametrize("error", [AccessDenied, NotFound])
def test_a_store_of_one_object_gives_no_others(tmp_path: Path, error: type[Exception]) -> None:
    store = LocalStore(str(tmp_path))
    store.put("only.jpg", b"data")
    assert not store.gives_others("only.jpg")
    store.put("other.jpg", b"data")
    assert store.gives_others("only.jpg")


@pytest.mark.s3
@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_verify_tells_an_output_that_is_not_given_from_a_lapse(
    proxy: Proxy, bucket: str, layout: str, tmp_path: Path  # noqa: F811
) -> None:
    put_input(LocalStore(str(tmp_path)), "tar")
    offline.restore(tmp_path / "in", f"{bucket}/out", layout=layout)
    one = r"/out/images/1/10\.png$" if layout == "tree" else r"/out/shards/"
    for status in (403, 404):
        proxy.spoil(Fault("error", method="GET", path=one, status=status))
        found = verify(f"{bucket}/out")
        assert (found["exit_code"], found["found"]["missing"]) == (3, 1 if layout == "tree" else SHARDS * IN_SHARD)
    for name, fault in OF_THE_RUN.items():
        lapse = again(fault)
        lapse.after = 4  # run.json, the result, the ledger
        proxy.spoil(lapse)
        with pytest.raises(DriftRecError):
            pytest.fail(f"{name}: {verify(f'{bucket}/out')}")
    proxy.spoil()
    assert verify(f"{bucket}/out")["exit_code"] == 0
