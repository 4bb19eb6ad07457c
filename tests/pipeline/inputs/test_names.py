"""Names: outputs are pure and safe functions of keys, and no two keys that some disk holds for one share an output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.names import SUFFIX_OF_FORMAT, collision_id, output_name, printable, unsafe

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
    if unsafe(key):
        return
    name = output_name(key, wanted)
    assert unsafe(name) == ""
    assert name.rpartition("/")[0] == key.rpartition("/")[0]
    assert wanted == "same" or name.endswith(SUFFIX_OF_FORMAT[wanted])


@given(ANY, ANY)
def test_printable_is_one_to_one_and_harmless(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)
    printable(one).encode()
    assert not any(ord(letter) < 32 for letter in printable(one))


@pytest.mark.parametrize(("one", "other"), [("A/b.png", "a/B.png"), ("é.png", "e\u0301.png"), ("straße", "STRASSE")])
def test_names_that_a_disk_may_hold_for_one(one: str, other: str) -> None:
    assert collision_id(one) == collision_id(other)
    assert collision_id(one) != collision_id(one + "x")
