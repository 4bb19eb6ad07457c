"""Whatever is done to a finished run's OUTPUT, by whatever job: `verify` ends, says so, and names it.

Each kind of tampering times each job's output. Of a sound run it says nothing, and what it holds cannot make it fail.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftrec.errors import InvalidInput
from pipeline.degrade import run_degrade
from pipeline.evaluate.job import run_evaluate
from pipeline.evaluate.settings import DegradeSettings, EvaluateSettings
from pipeline.inputs import listing
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.documents import sealed
from pipeline.runs.ledger import Ledger
from pipeline.runs.parts import pack
from pipeline.runs.verify import KINDS, verify
from pipeline.storage import open_store
from pipeline.survey.job import run_survey
from pipeline.survey.settings import SurveySettings
from tests import made
from tests.pipeline.evaluations import clean
from tests.pipeline.offline import files, no_ray, restore
from tests.pipeline.trainings import apart

JOBS = ["tree", "tar", "degrade", "evaluate", "survey", "train"]
LEAVES = {
    "tree": ["report.html"],
    "tar": ["report.html"],
    "degrade": [],
    "evaluate": ["report.html", "report.parquet", "summary.json"],
    "survey": ["report.html", "report.parquet", "summary.json"],
    "train": ["model.safetensors", "MODEL_CARD.md"],
}


def restoring(source: Path, output: Path, layout: str) -> RestoreSettings:
    given = {"model": "identity", "layout": layout, "shard_images": 3}
    return RestoreSettings(input=str(source), output=str(output), **given)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of every job, by its name."""
    folder = tmp_path_factory.mktemp("done")
    source, photos = made.folder(folder / "in", 6), clean(folder / "clean", 4)
    with pytest.MonkeyPatch.context() as patch, no_ray():
        patch.setattr(listing, "MIN_SHARDS", 1)  # several images share a shard
        for layout in ("tree", "tar"):
            run_restore(restoring(source, folder / layout, layout))
        places = {"output": str(folder / "degrade"), "quality": "10"}
        run_degrade(DegradeSettings.model_validate(places | {"input": str(photos)}))
        places["output"] = str(folder / "evaluate")
        run_evaluate(EvaluateSettings.model_validate(places | {"reference": str(photos), "metrics": "psnr,bef"}))
        run_survey(SurveySettings(input=str(source), output=str(folder / "survey"), calibration_s=0))
    apart(photos, folder / "train")
    return folder


@pytest.fixture
def output(done: Path, job: str, tmp_path: Path) -> Path:
    """A run that may be tampered with."""
    shutil.copytree(done / job, tmp_path / "out")
    return tmp_path / "out"


def edit(path: Path, *where: str, to: Any) -> None:
    """Another value at a place in a JSON file."""
    document = json.loads(path.read_text())
    inner = document
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = to
    path.write_text(json.dumps(document))


def an_output(out: Path) -> Path:
    return sorted(path for path in out.glob("images/**/*.*") if path.is_file())[0]


def a_tar(out: Path) -> Path:
    return sorted(out.glob("shards/*.tar"))[0]


def a_part(out: Path) -> Path:
    return sorted(out.glob("ledger/*.parquet"))[0]


def append(out: Path, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    with tarfile.open(a_tar(out), "a") as tar:
        header = tarfile.TarInfo(name)
        header.size, header.type, header.linkname = len(data), kind, link
        tar.addfile(header, io.BytesIO(data))


def members(out: Path) -> dict[str, bytes]:
    with tarfile.open(a_tar(out)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def double(out: Path, data: bytes | None = None) -> None:
    name, content = next(iter(members(out).items()))
    append(out, name, content if data is None else data)


def add_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def without_end(out: Path) -> None:
    """The tar without the zeros behind its last member, in which no byte is lost."""
    with tarfile.open(a_tar(out)) as tar:
        tar.getmembers()
        end = tar.offset
    a_tar(out).write_bytes(a_tar(out).read_bytes()[:end])


def in_place(path: Path, make: Callable[[Path], object]) -> None:
    """What `make` makes where a file was."""
    path.unlink()
    make(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_bytes(b"x")


def deep(out: Path) -> None:
    """A folder deeper than any path may be long."""
    here = os.open(out / "images", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("x.png", os.O_CREAT, dir_fd=here))
    os.close(here)


ODD = {"loop": loop, "dangling": dangling, "fifo": os.mkfifo, "folder": folder}
TREES, RUNS = ["tree", "degrade"], [job for job in JOBS if job != "train"]


@dataclass(frozen=True)
class Tampering:
    """What is done to the outputs of some jobs, and how it is told."""

    name: str
    jobs: list[str]
    do: Callable[[Path], object]
    kind: str
    named: str  # what is named begins so
    seen_quickly: bool = True


TAMPERINGS = [
    Tampering("result of another run", JOBS, lambda out: edit(out / "_RESULT.json", "fingerprint", to="0" * 64),
              "changed", "_RESULT.json"),
    Tampering("result with other counts", RUNS, lambda out: edit(out / "_RESULT.json", "status", "ok", to=999),
              "changed", "_RESULT.json"),
    Tampering("result with other images", RUNS, lambda out: edit(out / "_RESULT.json", "images", to=1),
              "changed", "_RESULT.json"),
    Tampering("result with other reasons", RUNS, lambda out: edit(out / "_RESULT.json", "reasons", to={"empty": 2}),
              "changed", "_RESULT.json"),
    Tampering("no result", JOBS, lambda out: (out / "_RESULT.json").unlink(), "unfinished", ""),
    *(Tampering(f"run with {name} {to!r}", JOBS, lambda out, name=name, to=to: edit(out / "run.json", *name, to=to),
                "changed", "run.json")
      for name, to in [(("settings", "seed"), 77), (("settings", "input"), "other"), (("identity", "seed"), 77),
                       (("input", "shards"), 0), (("input", "images"), 99), (("fingerprint",), "0" * 64),
                       (("leaves",), {}), (("created",), "1999")]),
    Tampering("more shards", RUNS, lambda out: edit(out / "run.json", "input", "shards", to=50), "unfinished", ""),
    Tampering("extra", JOBS[:5], lambda out: ((out / "images").mkdir(exist_ok=True),
              (out / "images/zz.png").write_bytes(b"1")), "extra", "images/zz.png"),
    *(Tampering(f"extra {name}", JOBS[:5], lambda out, make=make: ((out / "images").mkdir(exist_ok=True),
                make(out / "images/zz.png")), "extra", "images/zz.png") for name, make in ODD.items()),
    *(Tampering(f"{name} in place of an output", TREES, lambda out, make=make: in_place(an_output(out), make),
                "missing", "images/") for name, make in ODD.items()),
    *(Tampering(f"{name} in place of a tar", ["tar"], lambda out, make=make: in_place(a_tar(out), make),
                "missing", "shards/") for name, make in ODD.items()),
    *(Tampering(f"{name} in place of a part", RUNS, lambda out, make=make: in_place(a_part(out), make),
                "extra", "ledger/") for name, make in ODD.items()),
    *(Tampering(f"{name} in place of the result", JOBS, lambda out, make=make: in_place(out / "_RESULT.json", make),
                "unfinished", "") for name, make in ODD.items()),
    Tampering("deep folders", TREES, deep, "extra", "images/deep/"),
    Tampering("images is a file", TREES, lambda out: (shutil.rmtree(out / "images"),
              (out / "images").write_bytes(b"")), "missing", "images/"),
    Tampering("doubled member", ["tar"], double, "extra", "shards/", False),
    Tampering("doubled member, other bytes", ["tar"], lambda out: double(out, b"evil"), "changed", "shards/", False),
    Tampering("strange member", ["tar"], lambda out: append(out, "zz.png", b"1"), "extra", "shards/", False),
    Tampering("member of an image's stem", ["tar"], lambda out: append(out, "a/0000.jpg", b"1"), "extra", "shards/",
              False),
    *(Tampering(f"member of type {kind!r}", ["tar"],
                lambda out, kind=kind: append(out, "zz.png", kind=kind, link="zz.png"), "extra", "shards/", False)
      for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)),
    Tampering("link to an output", ["tar"], lambda out: append(out, "zz.png", kind=tarfile.LNKTYPE,
              link=next(iter(members(out)))), "extra", "shards/", False),
    Tampering("junk behind a tar", ["tar"], lambda out: add_bytes(a_tar(out), b"junk" * 1000), "extra", "shards/",
              False),
    Tampering("zeros behind a tar", ["tar"], lambda out: add_bytes(a_tar(out), bytes(10240)), "extra", "shards/",
              False),
    Tampering("a tar without its end", ["tar"], without_end, "changed", "shards/", False),
]  # fmt: skip
LEFT = [(job, name) for job in JOBS for name in LEAVES[job]]
CASES = [pytest.param(job, one, id=f"{one.name}-{job}") for one in TAMPERINGS for job in one.jobs]


@pytest.mark.parametrize("job", JOBS)
def test_a_sound_run_is_sound(job: str, output: Path) -> None:
    for quick in (False, True):
        result = verify(str(output), quick)
        assert (result["state"], result["first"]) == ("sound", {})
    assert set(LEAVES[job]) <= {path.name for path in output.iterdir()}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("job", "tampering"), CASES)
def test_it_is_found_and_named(job: str, tampering: Tampering, output: Path) -> None:
    tampering.do(output)
    for quick in (False, True):
        result = verify(str(output), quick)
        if quick and not tampering.seen_quickly:
            continue
        assert (result["state"], result["exit_code"]) == ("incomplete", 3)
        assert result["found"][tampering.kind] > 0, result["first"]
        assert any(name.startswith(tampering.named) for name in result["first"].get(tampering.kind, [""]))
    subprocess.run(["rm", "-r", output], check=True)  # shutil's cannot enter the deep folders


@pytest.mark.parametrize(("job", "name"), LEFT)
def test_what_a_job_leaves_beside_its_outputs(job: str, name: str, output: Path) -> None:
    path = output / name
    whole = path.read_bytes()
    for make in (lambda _: None, *ODD.values()):
        in_place(path, make)
        for quick in (False, True):
            assert name in verify(str(output), quick)["first"]["missing"]
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(b"")
    for data, seen_quickly in ((b"", True), (whole + b" ", True), (whole[:-1] + bytes([whole[-1] ^ 1]), False)):
        path.write_bytes(data)
        assert verify(str(output))["first"] == {"changed": [name]}
        assert verify(str(output), quick=True)["state"] == ("incomplete" if seen_quickly else "sound")


@pytest.mark.parametrize("job", TREES)
def test_a_folder_that_was_moved_and_linked_is_followed(job: str, output: Path, tmp_path: Path) -> None:
    moved = an_output(output).parent
    shutil.move(moved, tmp_path / "moved")
    moved.symlink_to(tmp_path / "moved")
    for quick in (False, True):
        assert verify(str(output), quick)["state"] == "sound"
    sorted((tmp_path / "moved").glob("*.*"))[0].unlink()
    assert verify(str(output))["found"]["missing"] == 1
    (output / "images/nobodys").symlink_to("/")
    assert verify(str(output))["first"]["extra"] == ["images/nobodys"]


@pytest.mark.parametrize("job", ["tree"])
def test_the_files_beside_the_parts(job: str, output: Path) -> None:
    document = json.loads((output / "run.json").read_text()) | {"leaves": {"at_end": [], "by_shard": ["sets"]}}
    (output / "run.json").write_text(json.dumps(sealed(document)))
    shutil.copytree(output / "ledger", output / "sets")
    assert verify(str(output))["state"] == "sound"
    one = sorted((output / "sets").iterdir())[0]
    one.write_bytes(one.read_bytes()[:-9])
    assert verify(str(output))["first"] == {"changed": [f"sets/{one.name}"]}
    for make in ODD.values():
        one.unlink() if one.is_file() or one.is_symlink() or one.is_fifo() else shutil.rmtree(one)
        make(one)
        assert f"sets/{one.name}" in verify(str(output))["first"]["missing"]


@pytest.mark.parametrize("job", ["tar"])
def test_repair_mends_tars_whatever_their_members_are(job: str, done: Path, output: Path) -> None:
    whole = files(done / "tar")
    for do in (lambda: append(output, "zz.png", kind=tarfile.SYMTYPE, link="zz.png"), lambda: double(output, b"evil"),
               lambda: without_end(output), lambda: in_place(a_tar(output), os.mkfifo)):  # fmt: skip
        do()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(listing, "MIN_SHARDS", 1)
            given = restoring(done / "in", output, "tar").model_dump(exclude={"input", "output"})
            result = restore(done / "in", output, **given | {"repair": True})
        assert result["state"] == "done"
        assert verify(str(output))["found"]["missing"] == verify(str(output))["found"]["changed"] == 0
        shutil.rmtree(output)
        shutil.copytree(done / "tar", output)
    assert files(output) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def never_raises(output: Path) -> None:
    """It gives a result, or refuses what is no run's."""
    with suppress(InvalidInput):
        assert set(verify(str(output))["first"]) <= set(KINDS)


@pytest.mark.parametrize("job", ["tree", "train"])
@pytest.mark.parametrize("file", ["run.json", "_RESULT.json"])
def test_no_json_makes_it_fail(job: str, file: str, output: Path) -> None:
    path = output / file
    whole = json.loads(path.read_text())
    places = [(name,) for name in whole]
    places += [(name, inner) for name, value in whole.items() if isinstance(value, dict) for inner in value]

    @SOME
    @given(st.sampled_from(places), JSON)
    def one_value(place: tuple[str, ...], value: Any) -> None:
        path.write_text(json.dumps(whole))
        edit(path, *place, to=value)
        never_raises(output)

    @SOME
    @given(st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
    def all_of_it(data: bytes) -> None:
        path.write_bytes(data)
        never_raises(output)

    one_value()
    all_of_it()


@pytest.mark.parametrize("job", ["tree"])
def test_no_part_makes_it_fail(job: str, output: Path) -> None:
    """Even one that has the seal of a part of this run."""
    part = a_part(output)
    run = Ledger(open_store(str(output))).run.fingerprint
    table = pq.read_table(part).replace_schema_metadata(None)
    paths = pa.array(["images/\0", "../../etc/passwd", "/etc/passwd"] * 9)[: len(table)]
    place = table.column_names.index("output")
    broken = pa.array([b"\xff"] * len(table)).view(pa.string())
    for odd in (
        table.drop_columns("key"), table.set_column(0, "key", pa.array([None] * len(table), pa.string())),
        table.set_column(0, "key", pa.array(range(len(table)))), table.append_column("key", table["key"]),
        table.set_column(place, "output", paths), table.set_column(place, "output", pa.array([1.5] * len(table))),
        table.set_column(0, "key", broken), table.slice(0, 0), table.drop_columns("status"),
    ):  # fmt: skip
        part.write_bytes(pack(odd, run, part.stem))
        assert verify(str(output))["state"] == "incomplete"
        pq.write_table(odd, part)
        assert verify(str(output))["state"] == "incomplete"


@pytest.mark.parametrize("job", ["tar"])
def test_no_tar_makes_it_fail(job: str, output: Path) -> None:
    whole = a_tar(output).read_bytes()
    chained = b"".join(made_header(tarfile.GNUTYPE_LONGNAME, 1) + b"x".ljust(512, b"\0") for _ in range(1500))
    for data in (b"", b"junk" * 999, chained, chained + whole, made_header(tarfile.XHDTYPE, 2**40),
                 made_header(tarfile.REGTYPE, 2**62), made_header(tarfile.REGTYPE, -(2**20)) + whole,
                 whole[:512] + made_header(tarfile.REGTYPE, -1024) + whole,
                 made_header(tarfile.GNUTYPE_SPARSE, 512) + bytes(1024)):  # fmt: skip
        a_tar(output).write_bytes(data)
        assert verify(str(output))["found"]["missing"] > 0

    @SOME
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def flipped(at: int, by: int) -> None:
        a_tar(output).write_bytes(whole[:at] + bytes([whole[at] ^ by]) + whole[at + 1 :])
        never_raises(output)

    flipped()


def made_header(kind: bytes, size: int) -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)
