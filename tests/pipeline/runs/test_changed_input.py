"""An INPUT that changes between two runs on one OUTPUT: what is new is done, what was done stays, nothing is lost."""

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError, InvalidInput
from pipeline.restore.estimate import estimate_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.verify import verify
from tests import made
from tests.pipeline.offline import Died, die_at, ledger, restore

TIMED = {"seconds": None, "done": None}


def untimed(rows: dict[str, dict[str, Any]], keys: Any = None) -> dict[str, dict[str, Any]]:
    return {key: {**row, **TIMED} for key, row in moved(rows, rows if keys is None else keys).items()}


def moved(rows: dict[str, dict[str, Any]], keys: Any) -> dict[str, dict[str, Any]]:
    """Rows, whatever the tar that holds their outputs."""
    return {key: {**rows[key], "output": (rows[key]["output"] or "").rpartition("#")[2]} for key in keys}


def outputs(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def assert_exact(output: Path) -> None:
    """Every row's output is there and is what the row says; there is nothing else."""
    found = verify(str(output))
    assert found["state"] == "sound", found


def test_an_archive_that_lives(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 300, 16, 16), tmp_path / "out"
    first = restore(source, output)
    assert first["status"]["ok"] == 300
    before, written = ledger(output), outputs(output)
    new = [f"b/{number:04}x.jpg" for number in range(20)] + [f"new/{number}.jpg" for number in range(20)]
    for number, name in enumerate(new):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(made.jpeg(number, 24, 24))
    replaced, removed = ["a/0003.jpg", "b/0100.jpg", "c/0299.jpg"], ["a/0000.jpg", "c/0005.jpg"]
    for name in replaced:
        (source / name).write_bytes(made.jpeg(7, 32, 40))
    for name in removed:
        (source / name).unlink()

    second = restore(source, output)
    assert (second["state"], second["images_this_attempt"]) == ("done", 43)
    assert (second["status"]["ok"], second["images"], second["no_longer_in_input"]) == (340, 340, 2)
    rows = ledger(output)
    untouched = before.keys() - {*replaced}
    assert {key: rows[key] for key in untouched} == {key: before[key] for key in untouched}  # to the second
    assert {name: at for name, at in outputs(output).items() if name in written} == {
        name: at if not any(name.endswith(f"{one[:-4]}.png") for one in replaced) else outputs(output)[name]
        for name, at in written.items()
    }
    fresh = restore(source, tmp_path / "fresh")
    assert fresh["images"] == 338
    assert untimed(rows, ledger(tmp_path / "fresh")) == untimed(ledger(tmp_path / "fresh"))
    assert_exact(output)
    assert restore(source, output)["images_this_attempt"] == 43  # the same result: nothing was left to do
    document = json.loads((output / "run.json").read_text())
    assert document["earlier"] == [first["fingerprint"]]


class Archive:
    """A folder of loose images and tars, changed at random."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.pick = made.folder(folder, 20, 16, 16), random.Random(seed)
        self.gone: dict[str, bytes] = {}
        self.padding = 0  # of tars, which else have one size whatever they hold

    @property
    def loose(self) -> dict[str, Path]:
        """The loose images by key."""
        return {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.rglob("*.jpg"))}

    def change(self) -> None:
        """One thing."""
        pick, some = self.pick, self.pick.choice(list(self.loose.values()))
        match pick.choice(["add", "add", "replace", "remove", "remove", "return", "tar", "cut"]):
            case "add":
                number = pick.randint(0, 99)  # the same number is the same image
                self.write(f"{pick.choice('abcz')}/{number:04}n.jpg", made.jpeg(number, 16, 16))
            case "replace":
                size, seed = some.stat().st_size, pick.randint(100, 199)
                others = (made.jpeg(seed + number, 24, 16) for number in range(9))
                some.write_bytes(next(data for data in others if len(data) != size))
            case "remove":
                self.gone[some.relative_to(self.folder).as_posix()] = some.read_bytes()
                some.unlink()
            case "return" if self.gone:
                self.write(*self.gone.popitem())
            case "tar":
                members = {f"{number}.jpg": made.jpeg(number, 16, 16) for number in range(pick.randint(1, 5))}
                self.padding += 10_240
                self.write(f"{pick.choice('pq')}.tar", made.tar(members | {"readme.txt": bytes(self.padding)}))
            case "cut":
                some.write_bytes(made.jpeg(3, 64, 64)[:300])

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(data)


@pytest.mark.parametrize("layout", ["tree", "tar"])
@pytest.mark.parametrize("seed", range(3))
def test_any_changes_one_after_the_other(tmp_path: Path, layout: str, seed: int) -> None:
    """Laws, whatever was added, replaced, removed and brought back, loose and in tars: rows and outputs are those of a
    run that saw this INPUT alone, and those of what is gone are as they were.
    """
    archive, output = Archive(tmp_path / "in", seed), tmp_path / "out"
    rows: dict[str, dict[str, Any]] = {}
    for step in range(5):
        for _ in range(archive.pick.randint(0, 6) if step else 0):
            archive.change()
        sizes = {key: path.stat().st_size for key, path in archive.loose.items()}
        result = restore(archive.folder, output, layout=layout, max_failed="100%")
        restore(archive.folder, tmp_path / f"fresh{step}", layout=layout, max_failed="100%")
        here, there = ledger(output), ledger(tmp_path / f"fresh{step}")
        assert untimed(here, there) == untimed(there)
        kept = {key for key, row in rows.items() if sizes.get(key) == row["input_bytes"]}
        kept |= here.keys() & rows.keys() - there.keys()
        assert moved(here, kept) == moved(rows, kept)
        for version in here.keys() - there.keys() - rows.keys():  # whose image was replaced by one that failed
            key = version.rpartition("#")[0]
            assert moved(here, [version])[version] == moved(rows, [key])[key] | {"key": version}
            assert there[key]["output"] is None
        assert result["images"] == len(here)
        assert result.get("no_longer_in_input", 0) == len(here.keys() - there.keys())
        assert_exact(output)
        rows = here


@pytest.mark.parametrize("layout", ["tree", "tar"])
@pytest.mark.parametrize("seed", range(10, 14))
def test_any_changes_and_deaths_in_between(
    tmp_path: Path, layout: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there in the end is exact, and what was restored last of each name is there."""
    archive, output = Archive(tmp_path / "in", seed), tmp_path / "out"
    given = {"layout": layout, "max_failed": "100%"}
    for step in range(6):
        for _ in range(archive.pick.randint(1, 5) if step else 0):
            archive.change()
        for _ in range(archive.pick.randint(0, 3)):
            method = archive.pick.choice(["_write", "put", "create", "remove"])
            die_at(monkeypatch, archive.pick.randint(1, 40), method)
            with contextlib.suppress(Died):
                restore(archive.folder, output, **given)
            monkeypatch.undo()
            archive.change()
        result = restore(archive.folder, output, **given)
        restore(archive.folder, tmp_path / f"fresh{step}", **given)
        here, there = ledger(output), ledger(tmp_path / f"fresh{step}")
        assert untimed(here, there) == untimed(there)
        assert all(here[key]["output"] for key in here.keys() - there.keys())
        assert result["images"] == len(here)
        assert_exact(output)
        assert restore(archive.folder, output, **given) == result


@pytest.mark.parametrize("layout", ["tree", "tar"])
@pytest.mark.parametrize("method", ["_write", "put", "create", "remove"])
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, method: str) -> None:
    """Files come, go and break, and the run dies at every call of a method of the store in turn."""
    source, output = made.folder(tmp_path / "in", 12, 16, 16), tmp_path / "out"
    given = {"shard_images": 4, "layout": layout, "max_failed": "100%"}
    restore(source, output, **given)
    before = ledger(output)
    for name in ("a/0000x.jpg", "b/new.jpg"):
        (source / name).write_bytes(made.jpeg(5, 24, 24))
    (source / "a/0003.jpg").unlink()
    (source / "c/0005.jpg").write_bytes((source / "c/0005.jpg").read_bytes()[:300])
    deaths = 0
    for moment in range(1, 60):
        die_at(monkeypatch, moment, method)
        try:
            result = restore(source, output, **given)
            break
        except Died:
            deaths += 1
    monkeypatch.undo()
    assert deaths > 1
    assert (result["images"], result["no_longer_in_input"]) == (15, 2)
    rows, broken = ledger(output), "c/0005.jpg"
    kept = before.keys() - {broken}
    assert moved(rows, kept) == moved(before, kept)
    assert rows[broken]["reason"] == "truncated"
    version = f"{broken}#{before[broken]['input_sha256'][:8]}"
    assert rows[version]["output_sha256"] == before[broken]["output_sha256"]
    assert_exact(output)
    assert restore(source, output, **given) == result


def test_a_file_that_was_fetched_again(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 5), tmp_path / "out"
    whole = made.jpeg(1, 200, 200)
    (source / "a/cut.jpg").write_bytes(whole[:-900])
    assert restore(source, output, max_failed="100%")["reasons"] == {"truncated": 1}
    (source / "a/cut.jpg").write_bytes(whole)
    result = restore(source, output, max_failed="100%", retry_failed="truncated")
    assert (result["status"]["ok"], result["images_this_attempt"], result["reasons"]) == (6, 1, {})
    assert_exact(output)


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_a_file_that_breaks_does_not_take_its_output_along(tmp_path: Path, layout: str) -> None:
    """What was restored stays while what is there now cannot be; a sound one takes its place."""
    source, output = made.folder(tmp_path / "in", 5), tmp_path / "out"
    restore(source, output, layout=layout, max_failed="100%")
    row = ledger(output)["a/0003.jpg"]
    (source / "a/0003.jpg").write_bytes((source / "a/0003.jpg").read_bytes()[:300])
    for _ in range(2):
        result = restore(source, output, layout=layout, max_failed="100%")
        (source / "b/more.jpg").write_bytes(made.jpeg(77))
    assert (result["status"], result["no_longer_in_input"]) == ({"ok": 6, "failed": 1, "skipped": 0}, 1)
    version = f"a/0003.jpg#{row['input_sha256'][:8]}"
    assert moved(ledger(output), [version])[version] == moved({version: row}, [version])[version] | {"key": version}
    assert_exact(output)
    (source / "a/0003.jpg").write_bytes(made.jpeg(50, 64, 64))
    result = restore(source, output, layout=layout, max_failed="100%")
    assert (result["status"]["ok"], "no_longer_in_input" in result) == (6, False)
    assert_exact(output)


@pytest.mark.parametrize("odd", ["clash", "raw", "link", "large"])
def test_rows_without_bytes_keep_nothing_from_growing(tmp_path: Path, odd: str) -> None:
    source, output = made.folder(tmp_path / "in", 40, 16, 16), tmp_path / "out"
    given = {"max_failed": "100%", "on_clash": "row", "max_file_bytes": 5000}
    if odd == "link":
        (source / "a/0001x.jpg").symlink_to("nowhere")
    else:
        name = {"clash": "a/0000.jpeg", "raw": "a/0001x.cr2", "large": "a/0001x.jpg"}[odd]
        (source / name).write_bytes(made.jpeg(3, 16, 16) + bytes(9000 if odd == "large" else 0))
    restore(source, output, **given)
    for number in range(2):
        (source / f"a/{number:04}a.jpg").write_bytes(made.jpeg(9, 16, 16))
        result = restore(source, output, **given)
        assert (result["images"], result["status"]["failed"]) == (42 + number, 1)
        assert_exact(output)
        assert restore(source, output, **given) == result


@pytest.mark.parametrize("first", ["add", "remove"])
def test_the_first_images_of_an_archive_that_grows(tmp_path: Path, first: str) -> None:
    source, output = made.folder(tmp_path / "in", 40, 16, 16), tmp_path / "out"
    restore(source, output, limit=10)
    if first == "add":
        (source / "a/0000a.jpg").write_bytes(made.jpeg(9, 16, 16))
    else:
        (source / "a/0000.jpg").unlink()
    result = restore(source, output, limit=10)
    assert (result["images"], result["no_longer_in_input"], result["images_this_attempt"]) == (11, 1, 1)
    assert_exact(output)
    assert restore(source, output, limit=10) == result


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("sound", [True, False])
def test_whoever_takes_a_name_must_be_sound(tmp_path: Path, count: int, sound: bool) -> None:
    """Else the output that has it stays, however the files are grouped."""
    source, output = made.folder(tmp_path / "in", count, 16, 16), tmp_path / "out"
    given = {"max_failed": "100%", "on_clash": "row"}
    restore(source, output, **given)
    before = ledger(output)["a/0003.jpg"]
    (source / "a/0003.jpeg").write_bytes(made.jpeg(77, 64, 64)[: None if sound else 300])
    restore(source, output, **given)
    rows = ledger(output)
    version = f"a/0003.jpg#{before['input_sha256'][:8]}"
    assert rows["a/0003.jpg"]["reason"] == "duplicate_name"
    assert (version in rows) != sound
    assert sound or rows[version]["output_sha256"] == before["output_sha256"]
    assert_exact(output)


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_a_tar_whose_image_breaks(tmp_path: Path, layout: str) -> None:
    (tmp_path / "in").mkdir()
    good = {"x.jpg": made.jpeg(1), "y.jpg": made.jpeg(2)}
    (tmp_path / "in/t.tar").write_bytes(made.tar(good))
    given = {"layout": layout, "max_failed": "100%"}
    restore(tmp_path / "in", tmp_path / "out", **given)
    before = ledger(tmp_path / "out")["t/x.jpg"]
    bad = {"x.jpg": made.jpeg(1)[:300], "y.jpg": made.jpeg(3), "z.jpg": made.jpeg(4, 400, 400)}
    (tmp_path / "in/t.tar").write_bytes(made.tar(bad))
    result = restore(tmp_path / "in", tmp_path / "out", **given)
    assert (result["status"]["ok"], result["no_longer_in_input"]) == (3, 1)
    row = ledger(tmp_path / "out")[f"t/x.jpg#{before['input_sha256'][:8]}"]
    assert row["output_sha256"] == before["output_sha256"]
    assert_exact(tmp_path / "out")


@pytest.mark.parametrize("harm", [None, b"junk" * 400])
def test_a_tar_of_outputs_that_is_gone_or_broken(tmp_path: Path, harm: bytes | None) -> None:
    """Its images are done again, and the rest of the archive is not kept waiting."""
    source, output = made.folder(tmp_path / "in", 40, 16, 16), tmp_path / "out"
    restore(source, output, layout="tar")
    tar = sorted(output.glob("shards/*.tar"))[0]
    tar.unlink()
    if harm:
        tar.write_bytes(harm)
    (source / "a/0000a.jpg").write_bytes(made.jpeg(9, 16, 16))
    result = restore(source, output, layout="tar", repair=True)
    assert (result["state"], result["images"]) == ("done", 41)
    assert_exact(output)


def test_a_name_that_was_taken_for_a_while(tmp_path: Path) -> None:
    """A killed run has written over the output of an image that was away, and is back."""
    source, output = made.folder(tmp_path / "in", 40, 16, 16), tmp_path / "out"
    restore(source, output)
    away = (source / "a/0000.jpg").read_bytes()
    (source / "a/0000.jpg").unlink()
    (source / "a/0000.jpeg").write_bytes(made.jpeg(99, 32, 32))
    (source / "c/zzz.jpg").write_bytes(made.jpeg(98, 16, 16))
    begun: list[str] = []

    def dies_at_the_second(shard: str) -> None:
        begun.append(shard)
        if len(begun) == 2:
            raise Died

    with pytest.raises(Died):
        restore(source, output, dies_at_the_second)
    (source / "a/0000.jpeg").unlink()
    (source / "a/0000.jpg").write_bytes(away)
    restore(source, output)
    assert_exact(output)


def test_a_folder_where_a_file_was(tmp_path: Path) -> None:
    """Its images find their place taken by an output of what is gone; the next run has nothing to do."""
    source, output = made.folder(tmp_path / "in", 4, 16, 16), tmp_path / "out"
    given = {"format": "same", "max_failed": "100%"}
    restore(source, output, **given)
    (source / "a/0000.jpg").unlink()
    (source / "a/0000.jpg").mkdir()
    (source / "a/0000.jpg/y.jpg").write_bytes(made.jpeg(1, 16, 16))
    result = restore(source, output, **given)
    assert result["reasons"] == {"duplicate_name": 1}
    assert restore(source, output, **given) == result


@pytest.mark.parametrize("count", [6, 40])
def test_a_broken_part_is_done_again(tmp_path: Path, count: int) -> None:
    """Of a shard that INPUT still has, once its input was another; and the rest of it stays."""
    source, output = made.folder(tmp_path / "in", count, 16, 16), tmp_path / "out"
    restore(source, output)
    (source / "a/0000a.jpg").write_bytes(made.jpeg(9, 16, 16))
    restore(source, output)
    part = max(output.glob("ledger/*.parquet"))
    part.write_bytes(part.read_bytes()[:-50])
    result = restore(source, output)
    assert (result["state"], result["images"]) == ("done", count + 1)
    assert result["images_this_attempt"] <= 3
    assert_exact(output)


def test_what_tells_of_what_is_gone_is_broken(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 6), tmp_path / "out"
    restore(source, output)
    (source / "a/0000.jpg").unlink()
    restore(source, output)
    part = output / "ledger/0000000000000000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-50])
    with pytest.raises(DriftRecError, match=r"0000\.parquet.*put a copy of it back"):
        restore(source, output, repair=True)
    part.write_bytes(whole)
    assert restore(source, output, repair=True)["no_longer_in_input"] == 1


def test_what_is_gone_is_not_done_again(tmp_path: Path) -> None:
    """A retry and a repair leave it alone; its output, if it is taken away, is missing."""
    source, output = made.folder(tmp_path / "in", 6), tmp_path / "out"
    restore(source, output)
    (source / "a/0000.jpg").unlink()
    restore(source, output)
    row = ledger(output)["a/0000.jpg"]
    assert restore(source, output, retry_failed="all", repair=True)["no_longer_in_input"] == 1
    assert ledger(output)["a/0000.jpg"] == row
    (output / row["output"]).unlink()
    assert restore(source, output, repair=True)["state"] == "incomplete"
    assert verify(str(output))["found"]["missing"] == 1


def test_a_new_file_takes_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 4), tmp_path / "out"
    restore(source, output)
    os.rename(source / "a/0000.jpg", source / "a/0000.jpeg")
    result = restore(source, output)
    assert (result["images"], "no_longer_in_input" in result) == (4, False)
    assert "a/0000.jpg" not in ledger(output)
    assert_exact(output)


def test_another_input_is_refused(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 4), tmp_path / "out"
    restore(source, output)
    rows = ledger(output)
    with pytest.raises(InvalidInput, match="INPUT holds other files than it did"):
        restore(made.folder(tmp_path / "elsewhere", 5), output)
    (source / "new.jpg").write_bytes(made.jpeg(9))
    with pytest.raises(InvalidInput, match="seed is 0 there, 1 here"):
        restore(source, output, seed=1)
    assert ledger(output) == rows
    assert verify(str(output))["state"] == "sound"


def test_a_dry_run_counts_what_is_to_be_done(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 30, 48, 48), tmp_path / "out"
    settings = RestoreSettings(input=str(source), output=str(output), model="identity", report=False)
    whole = estimate_restore(settings)["estimate"]["megapixels_to_do"]
    restore(source, output)
    assert estimate_restore(settings)["estimate"]["megapixels_to_do"] == 0
    for number in range(3):
        (source / f"a/{number}new.jpg").write_bytes(made.jpeg(number, 64, 48))
    todo = estimate_restore(settings)["estimate"]["megapixels_to_do"]
    assert 0 < todo < 0.2 * whole
    assert restore(source, output)["images_this_attempt"] == 3
