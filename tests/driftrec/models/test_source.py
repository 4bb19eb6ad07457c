"""What names a model: parts, what they are told, and texts that say nothing of use."""

import pytest

from driftrec.errors import InvalidInput
from driftrec.models.source import ModelSource


@pytest.mark.parametrize(
    ("text", "kinds", "places", "options"),
    [
        ("tiny", ("",), ("tiny",), {}),
        ("a/b?c=d.safetensors", ("",), ("a/b?c=d.safetensors",), {}),  # a file may be called so
        ("https://h/x.safetensors?sig=a,b", ("",), ("https://h/x.safetensors?sig=a,b",), {}),
        ("fbcnn:a.pth", ("fbcnn:",), ("a.pth",), {}),
        ("fbcnn:a.pth?quality=10", ("fbcnn:",), ("a.pth",), {"quality": "10"}),
        ("fbcnn:s3://b/a.pth?quality=10", ("fbcnn:",), ("s3://b/a.pth",), {"quality": "10"}),
        ("fbcnn:https://h/a.pth?sig=1", ("fbcnn:",), ("https://h/a.pth?sig=1",), {}),
        ("fbcnn:https://h/a.pth?sig=1?quality=10", ("fbcnn:",), ("https://h/a.pth?sig=1",), {"quality": "10"}),
        ("interpolate:a,b?alpha=0.7", ("", ""), ("a", "b"), {"alpha": "0.7"}),
        (
            "interpolate:fbcnn:a,fbcnn:s3://b/c?alpha=0&quality=5",
            ("fbcnn:", "fbcnn:"),
            ("a", "s3://b/c"),
            {"alpha": "0", "quality": "5"},
        ),
    ],
)
def test_a_text_in_its_parts_and_back(
    text: str, kinds: tuple[str, ...], places: tuple[str, ...], options: dict[str, str]
) -> None:
    source = ModelSource.parse(text)
    assert (tuple(file.kind for file in source.files), source.places) == (kinds, places)
    assert dict(source.options) == options
    assert str(source) == text
    assert ModelSource.parse(str(source)) == source
    moved = source.at(f"/new/{i}" for i in range(len(places)))
    assert (moved.options, moved.places) == (source.options, tuple(f"/new/{i}" for i in range(len(places))))


@pytest.mark.parametrize("text", ["interpolate:", "interpolate:a", "interpolate:a,", "interpolate:a,b,c?alpha=1"])
def test_two_models_are_interpolated_and_no_other_number(text: str) -> None:
    with pytest.raises(InvalidInput, match="give two models, interpolate:A,B"):
        ModelSource.parse(text)


def test_secrets_are_not_shown() -> None:
    with pytest.raises(InvalidInput) as caught:
        ModelSource.parse("interpolate:s3://user:secret@h/a.pth")
    assert "secret" not in str(caught.value)
