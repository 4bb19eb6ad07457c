"""Somebody notices when an output is gone or was changed: all that can befall OUTPUT, times all who look at it.

`verify` finds and names it; the same command again says that it is done only where it is; `repair` does again what is
missing or was changed, and nothing else; and of a sound run nobody says anything.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError, InvalidInput
from jobs.cli import main
from pipeline.inputs import listing
from pipeline.runs.ledger import Ledger
from pipeline.runs.outputs import read_output
from pipeline.runs.parts import pack, unpack
from pipeline.runs.verify import FIRST, verify
from pipeline.storage import open_store
from tests import made
from tests.pipeline.offline import Died, die_at, files, ledger, restore

IMAGES, SHARD_IMAGES = 9, 3


@dataclass(frozen=True)
class Runs:
    """Finished runs, to be copied: of both layouts, and one of another input."""

    source: Path
    tree: Path
    tar: Path
    other: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("runs")
    source = made.folder(folder / "in", IMAGES)
    (source / "b/broken.jpg").write_bytes(b"<html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "MIN_SHARDS", 1)  # several images share a shard
        for layout in ("tree", "tar"):
            restore(source, folder / layout, **settings(layout))
        restore(made.folder(folder / "others", 8, 80), folder / "other", **settings("tree"))
        yield Runs(source, folder / "tree", folder / "tar", folder / "other")


def settings(layout: str) -> dict[str, Any]:
    return {"layout": layout, "shard_images": SHARD_IMAGES, "copy_failed": True, "max_failed": "1"}


def part(output: Path) -> Path:
    """Some ledger part."""
    return sorted(output.glob("ledger/*.parquet"))[1]


def picture(output: Path) -> Path:
    return output / "images/b/0004.png"


def a_tar(output: Path) -> Path:
    return sorted(output.glob("shards/*.tar"))[1]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def list_twice(output: Path) -> None:
    """A key twice in a part that is whole: by a fault of ours, say."""
    store = Ledger(open_store(str(output)))
    rows = store.read_part(part(output).stem).to_pylist()
    store.replace(part(output).stem, [*rows, rows[0]])


def rewrite(output: Path) -> None:
    """By another tool, with a row twice."""
    table = pq.read_table(part(output))
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), part(output))


def change_member(output: Path) -> None:
    with tarfile.open(a_tar(output)) as tar:
        member = tar.getmembers()[0]
    flip(a_tar(output), member.offset_data + member.size // 2)


def swap(output: Path, other: Path) -> None:
    """The part of another run in the place of one of ours."""
    shutil.copy(part(other), part(output))


@dataclass(frozen=True)
class Damage:
    """What befalls OUTPUT, and what they say to it."""

    name: str
    layout: str
    do: Callable[[Path, Path], object]  # (OUTPUT, that of another run)
    found: str  # kind
    names: Callable[[Path], object]  # OUTPUT before -> what is named, a path or a key
    seen_quickly: bool = True
    again: str = "incomplete"  # state of the same command again
    heals: bool = False  # whether the same command again makes it sound
    repaired: bool = True  # whether --repair does


DAMAGES = [
    Damage("missing", "tree", lambda out, _: picture(out).unlink(), "missing", picture),
    Damage("cut", "tree", lambda out, _: cut(picture(out)), "changed", picture),
    Damage("changed", "tree", lambda out, _: flip(picture(out), 99), "changed", picture, False, "done"),
    Damage("emptied", "tree", lambda out, _: picture(out).write_bytes(b""), "changed", picture),
    Damage("copy", "tree", lambda out, _: (out / "images/b/broken.jpg").unlink(), "missing",
           lambda out: out / "images/b/broken.jpg"),
    Damage("no images", "tree", lambda out, _: shutil.rmtree(out / "images"), "missing", picture),
    Damage("extra", "tree", lambda out, _: (out / "images/x.png").write_bytes(b"1"), "extra",
           lambda out: out / "images/x.png", again="done", repaired=False),
    Damage("doubled", "tree", lambda out, _: list_twice(out), "doubled",
           lambda out: pq.read_table(part(out))["key"][0].as_py(), repaired=False),
    Damage("rewritten", "tree", lambda out, _: rewrite(out), "foreign", part, again="done", heals=True),
    Damage("cut part", "tree", lambda out, _: cut(part(out)), "broken", part, again="done", heals=True),
    Damage("empty part", "tree", lambda out, _: part(out).write_bytes(b""), "broken", part, again="done", heals=True),
    Damage("flipped part", "tree", lambda out, _: flip(part(out), 300), "broken", part, again="done", heals=True),
    Damage("no part", "tree", lambda out, _: part(out).unlink(), "unfinished", lambda _: None, True, "done", True),
    Damage("another run", "tree", swap, "foreign", part, again="done", heals=True),
    Damage("another name", "tree", lambda out, _: shutil.copy(part(out), out / "ledger/0000000000000000.parquet"),
           "foreign", lambda out: out / "ledger/0000000000000000.parquet", repaired=False),
    Damage("stray", "tree", lambda out, other: shutil.copy(part(other), out / "ledger"), "foreign",
           lambda out: out / "ledger" / part(out.parent.parent / "other").name, repaired=False),
    Damage("no tar", "tar", lambda out, _: a_tar(out).unlink(), "missing", a_tar),
    Damage("no tars", "tar", lambda out, _: shutil.rmtree(out / "shards"), "missing", a_tar),
    Damage("cut tar", "tar", lambda out, _: a_tar(out).write_bytes(a_tar(out).read_bytes()[:9000]), "missing", a_tar),
    Damage("changed member", "tar", lambda out, _: change_member(out), "changed", a_tar, False, "done"),
    Damage("tar part", "tar", lambda out, _: cut(part(out)), "broken", part, again="done", heals=True),
]  # fmt: skip
LAYOUTS = ["tree", "tar"]


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage.name)
def damage(request: pytest.FixtureRequest) -> Damage:
    return request.param


@pytest.fixture
def output(runs: Runs, damage: Damage, tmp_path: Path) -> Path:
    """A finished run that was damaged."""
    output = tmp_path / "work/out"
    shutil.copytree(getattr(runs, damage.layout), output)
    (tmp_path / "other").symlink_to(runs.other)
    damage.do(output, runs.other)
    return output


def again(runs: Runs, output: Path, layout: str, **more: Any) -> dict[str, Any]:
    return restore(runs.source, output, **settings(layout) | more)


def hashes(output: Path) -> dict[str, str]:
    """sha256 by key of what lies in OUTPUT."""
    store = open_store(str(output))
    named = {key: row["output"] for key, row in ledger(output).items() if row["output"]}
    return {key: hashlib.sha256(read_output(store, name)).hexdigest() for key, name in named.items()}


@pytest.mark.parametrize("quick", [False, True])
def test_verify_finds_it_and_names_it(runs: Runs, damage: Damage, output: Path, quick: bool) -> None:
    before = files(output)
    result = verify(str(output), quick)
    assert files(output) == before
    if quick and not damage.seen_quickly:
        assert (result["state"], result["exit_code"]) == ("sound", 0)
        return
    assert (result["state"], result["exit_code"]) == ("incomplete", 3)
    kind = "changed" if quick and damage.name == "cut tar" else damage.found
    assert result["found"][kind] > 0
    named = damage.names(getattr(runs, damage.layout) if damage.name != "stray" else output)
    if isinstance(named, Path):
        top = next(folder for folder in ("images", "ledger", "shards") if folder in named.parts)
        named = "/".join(named.parts[named.parts.index(top) :])
    assert named is None or any(name.startswith(str(named)) for name in result["first"][kind])
    if damage.name in ("rewritten", "another name"):
        assert result["found"]["doubled"] > 0


def test_the_same_command_again_says_what_is_so(runs: Runs, damage: Damage, output: Path) -> None:
    result = again(runs, output, damage.layout)
    assert (result["state"], result["exit_code"]) == (damage.again, 3 if damage.again == "incomplete" else 0)
    if damage.heals:
        assert verify(str(output))["state"] == "sound"
        assert hashes(output) == hashes(getattr(runs, damage.layout))


def test_repair_mends_what_is_missing_or_was_changed_and_nothing_else(
    runs: Runs, damage: Damage, output: Path
) -> None:
    whole = hashes(getattr(runs, damage.layout))
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if "ledger" not in path.parts}
    wrong = {name for names in verify(str(output))["first"].values() for name in names}
    result = again(runs, output, damage.layout, repair=True)
    if damage.repaired:
        assert result["state"] == "done"
        assert (verify(str(output))["state"], verify(str(output), quick=True)["state"]) == ("sound", "sound")
        assert hashes(output) == whole
        assert {key: row["output_sha256"] for key, row in ledger(output).items() if row["output"]} == whole
    else:
        assert verify(str(output))["found"][damage.found] > 0
    if damage.layout == "tree" and not damage.heals:
        untouched = {path for path in before if path.suffix == ".png" and str(path.relative_to(output)) not in wrong}
        assert {path: path.stat().st_mtime_ns for path in untouched} == {path: before[path] for path in untouched}
    if damage.name == "extra":
        assert (output / "images/x.png").read_bytes() == b"1"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_sound_run_nobody_says_anything(runs: Runs, layout: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(getattr(runs, layout), output)
    first = json.loads((output / "_RESULT.json").read_text())
    before = files(output)
    for quick in (False, True):
        result = verify(str(output), quick)
        assert (result["state"], result["exit_code"], result["first"]) == ("sound", 0, {})
        assert (result["shards"], result["parts"], result["images"], result["outputs"]) == (4, 4, 10, 10)
    assert again(runs, output, layout) == again(runs, output, layout, repair=True) == first
    assert files(output) == before


def test_no_flipped_byte_of_a_part_passes() -> None:
    table = pa.table({"key": ["a", "b"], "output": [None, '{"run": "1f", "shard": "2f", "seal": "'], "n": [1, 2]})
    data = pack(table, "12ab", "34cd")
    assert unpack(data, ["12ab"], "34cd").equals(table)
    for at in range(len(data)):
        with pytest.raises(DriftRecError):
            unpack(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :], ["12ab"], "34cd")
    for length in range(len(data)):
        with pytest.raises(DriftRecError):
            unpack(data[:length], ["12ab"], "34cd")


def test_a_repair_killed_at_any_put_goes_on(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(runs.tree, output)
    for name in ("a/0003.png", "b/0004.png", "c/0005.png"):
        (output / f"images/{name}").unlink()
    deaths = 0
    for moment in range(1, 40):
        die_at(monkeypatch, moment, "_write")
        try:
            again(runs, output, "tree", repair=True)
            break
        except Died:
            deaths += 1
    assert deaths > 3
    assert verify(str(output))["state"] == "sound"
    assert files(output / "images") == files(runs.tree / "images")


def test_what_a_repair_left_behind_in_an_older_tar_is_not_in_its_way(runs: Runs, tmp_path: Path) -> None:
    """A copy of a file that failed lies in the shard's tar; done again with success it lies in another."""
    output = tmp_path / "out"
    shutil.copytree(runs.tar, output)
    for _ in range(2):
        change_member(output)
        assert again(runs, output, "tar", repair=True)["state"] == "done"
        assert verify(str(output))["state"] == "sound"
    (output / "shards/mine.txt").write_text("")
    assert verify(str(output))["first"] == {"extra": ["shards/mine.txt"]}


def test_a_ledger_of_an_older_version(runs: Runs, tmp_path: Path) -> None:
    """Its parts do not say whose they are, nor how many bytes an output has."""
    output = tmp_path / "out"
    shutil.copytree(runs.tree, output)
    document = json.loads((output / "run.json").read_text())
    del document["noted_parts"], document["leaves"], document["seal"]
    (output / "run.json").write_text(json.dumps(document))
    for path in output.glob("ledger/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("output_bytes").replace_schema_metadata(None), path)
    assert verify(str(output))["state"] == "sound"
    assert again(runs, output, "tree")["state"] == "done"
    cut(picture(output))
    assert verify(str(output), quick=True)["state"] == "sound"
    assert verify(str(output))["first"] == {"changed": ["images/b/0004.png"]}
    assert again(runs, output, "tree", repair=True)["state"] == "done"
    assert hashes(output) == hashes(runs.tree)
    part(output).write_bytes(b"")
    assert verify(str(output))["found"]["broken"] == 1
    assert again(runs, output, "tree")["state"] == "done"


def test_an_unfinished_run_says_how_much_is_to_do(runs: Runs, tmp_path: Path) -> None:
    def die(_: str, left: list[int] = [2]) -> None:  # noqa: B006
        left[0] -= 1
        if left[0] < 0:
            raise Died

    with pytest.raises(Died):
        restore(runs.source, tmp_path / "out", each=die, **settings("tree"))
    assert verify(str(tmp_path / "out"))["found"]["unfinished"] == 2
    again(runs, tmp_path / "out", "tree")
    (tmp_path / "out/_RESULT.json").unlink()
    assert verify(str(tmp_path / "out"))["found"]["unfinished"] == 1


def test_many_names_are_counted_and_the_first_are_given(runs: Runs, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(runs.tree, output)
    for number in range(FIRST + 5):
        (output / f"images/{number}\n.png").write_bytes(b"")
    result = verify(str(output))
    assert result["found"]["extra"] == FIRST + 5
    assert len(result["first"]["extra"]) == FIRST
    assert not any("\n" in name for name in result["first"]["extra"])


@pytest.mark.parametrize("text", [None, "[]", "{}", "no"])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"run\.json"):
        verify(str(tmp_path))


def test_it_needs_neither_ray_nor_torch() -> None:
    check = "import sys, pipeline.runs.verify; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_the_command_line(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, listed = tmp_path / "out", tmp_path / "found.txt"
    shutil.copytree(runs.tree, output)
    assert main(["verify", str(output), "--quick"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "sound"
    flip(picture(output), 50)
    command = [sys.executable, "-m", "jobs.cli", "verify", str(output), "--list", str(listed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 3
    assert json.loads(done.stdout)["found"]["changed"] == 1
    assert "images/b/0004.png" in done.stderr
    assert listed.read_text() == "changed\timages/b/0004.png\n"
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2
    assert main(["verify", str(output), "--list", str(tmp_path / "no/where")]) == 2
