"""Names: outputs are pure and safe functions of keys, and no two keys that some disk holds for one share an output."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftrec.image import ENCODERS
from pipeline.inputs.collisions import unsafe_for
from pipeline.inputs.names import collision_id, output_name, printable, unsafe
from tests import made
from tests.pipeline.offline import ledger, restore

ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates too: a file name that is no UTF-8


@pytest.mark.parametrize(
    ("key", "wanted", "name"),
    [
        ("a/b.jpg", "png", "a/b.png"),
        ("a/b.JPEG", "png", "a/b.png"),
        ("a/b", "png", "a/b.png"),
        ("a/b.v2", "png", "a/b.v2.png"),
        ("a/.jpg", "png", "a/.jpg.png"),
        ("b.jpg", "jpeg", "b.jpg"),
        ("b.jpeg", "same", "b.jpeg"),
        ("b.webp", "same", "b.webp"),
        ("b.gif", "same", "b.png"),
        ("b.tif", "webp", "b.webp"),
    ],
)
def test_output_names(key: str, wanted: str, name: str) -> None:
    assert output_name(key, wanted) == name


@pytest.mark.parametrize(
    "key",
    [
        "", "/etc/passwd.jpg", "../x.jpg", "a/../x.jpg", "a//x.jpg", "./x.jpg", "a/.", "a\\b.jpg", "a\nb.jpg",
        "\x1b[2J.jpg",
        "x\u202egpj.exe", "x\u2066y.jpg", "\x00.jpg", "caf\udce9.jpg", "a" * 256, "é" * 128, "a/" * 500 + "x.jpg",
    ],
)  # fmt: skip
def test_unsafe_names(key: str) -> None:
    assert unsafe(key)
    assert unsafe(key).isprintable()  # the explanation can be shown


@pytest.mark.parametrize("key", ["a.jpg", "ä/日本/x y.jpg", "..a/b..jpg", "👩‍👩‍👧.jpg", "-rf.jpg", f"{'a' * 250}.jpg"])
def test_safe_names(key: str) -> None:
    assert unsafe(key) == ""
    assert printable(key) == key


@given(ANY, st.sampled_from(["png", "same", "jpeg", "webp", "tiff"]))
def test_an_output_of_a_safe_key_stays_below_its_folder_and_is_printable(key: str, wanted: str) -> None:
    if unsafe_for(partial(output_name, wanted=wanted), key):
        return
    name = output_name(key, wanted)
    assert unsafe(name) == ""
    assert name.rpartition("/")[0] == key.rpartition("/")[0]
    assert wanted == "same" or name.endswith(ENCODERS[wanted].suffix)


@pytest.mark.parametrize("suffix", [".jpg", ".jpe", ".jpeg", ".webp", ".tiff", ""])
@pytest.mark.parametrize("wanted", ["png", "same", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("folder", ["", "a" * 250 + "/", "b/" * 370])
def test_a_name_is_as_long_as_what_is_written(folder: str, wanted: str, suffix: str) -> None:
    """It is refused where its own name or its output's is too long, and told which: neither earlier nor later."""
    naming = partial(output_name, wanted=wanted)
    for length in range(240, 262):
        key = folder + "x" * (length - len(suffix)) + suffix
        output, why = output_name(key, wanted), unsafe_for(naming, key)
        fit = [max(map(len, name.split("/"))) <= 255 and len(name) + 1 <= 1000 for name in (key, output)]
        assert bool(why) == (not all(fit)), (length, why)
        told = "the name of its output, which ends with ." if fit[0] else "the name is longer"
        assert not why or why.startswith(told)
        assert bool(unsafe_for(None, key)) == (not fit[0])


@given(ANY, ANY)
def test_printable_is_one_to_one_and_harmless(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)
    printable(one).encode()
    assert not any(ord(letter) < 32 for letter in printable(one))


@pytest.mark.parametrize(("one", "other"), [("A/b.png", "a/B.png"), ("é.png", "e\u0301.png"), ("straße", "STRASSE")])
def test_names_that_a_disk_may_hold_for_one(one: str, other: str) -> None:
    assert collision_id(one) == collision_id(other)
    assert collision_id(one) != collision_id(one + "x")


@pytest.mark.parametrize("changes", [{}, {"format": "webp"}, {"copy_failed": True}], ids=str)
def test_the_longest_names_of_a_disk_are_restored_where_their_outputs_fit(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("x" * 251 + ".jpg", "y" * 250 + ".jpe", "é" * 125 + ".jpg")):
        (tmp_path / "in" / name).write_bytes(made.jpeg(number))
    restore(tmp_path / "in", tmp_path / "out", **changes)
    told = {key[0]: (row["status"], row["detail"] or "") for key, row in ledger(tmp_path / "out").items()}
    assert (told["y"][0], told["é"][0]) == ("ok", "ok")
    assert told["x"][0] == ("failed" if changes.get("format") else "ok")
    assert changes.get("format", "") in told["x"][1]
