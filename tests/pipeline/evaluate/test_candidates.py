"""Candidates: models by their specs, other tools' files by their names; all that is wrong is found before the start."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftrec.errors import InvalidInput
from pipeline.evaluate.candidates import Candidates, find_candidates
from pipeline.evaluate.conditions import conditions_of
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.inputs.location import open_input
from pipeline.inputs.names import name_digests
from pipeline.inputs.partners import Partners, find_partners
from pipeline.settings import load
from tests import made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made.folder(tmp_path / "clean", 6)


def find(source: Path, **settings: Any) -> Candidates:
    given = {"reference": str(source), "output": "o", "quality": "10"} | settings
    loaded = load(EvaluateSettings, flags=given)
    return find_candidates(loaded, conditions_of(loaded), open_input(str(source)))


def partners(url: Path, references: Path) -> Partners:
    return find_partners(str(url), open_input(str(references)), "--candidate x")


def test_a_spec_names_a_model_and_its_sampling(source: Path, small_model: Path) -> None:
    specs = [str(small_model), f"mean={small_model}?fidelity=1", f"four={small_model}?steps=3&samples=4&eta=0.5"]
    found = find(source, model=specs)
    assert found.names == ("jpeg", "small", "mean", "four")
    assert find(source, model=[f"{small_model}?steps=3"]).names == ("jpeg", "small?steps=3")
    plain, mean, four = (model.sampling for model in found.models)
    assert (plain.steps, plain.fidelity) == (2, 0.25)  # what the file recommends
    assert (mean.steps, mean.fidelity) == (2, 1.0)
    assert (four.steps, four.samples, four.eta) == (3, 4, 0.5)
    assert len({model.weights.sha256 for model in found.models}) == 1
    assert found.describe()[2]["sampling"]["fidelity"] == 1.0


def test_what_a_model_itself_is_told_stands_among_its_settings(source: Path, small_model: Path) -> None:
    two = f"interpolate:{small_model},{small_model}"
    found = find(source, model=[f"a={two}?steps=3&alpha=0.5", f"{two}?alpha=0.7"])
    assert found.names == ("jpeg", "a", "interpolate:small,small?alpha=0.7")
    assert [model.weights.source for model in found.models] == [f"{two}?alpha=0.5", f"{two}?alpha=0.7"]
    assert found.models[0].sampling.steps == 3
    assert len({model.weights.sha256 for model in found.models}) == 2
    assert pickle.loads(pickle.dumps(found.models[0].weights)).load("cpu").fingerprint == found.models[0].weights.sha256
    with pytest.raises(InvalidInput, match=r"unknown setting 'alpa'; did you mean alpha\?"):
        find(source, model=[f"{two}?alpa=0.5"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": ["fbcnn:a.pth?steps=3"]}, "this model is not sampled, steps means nothing"),
        ({"model": ["ddrm:a.pth?tile=128&noise=device&steps=3"]}, "this model is not sampled, steps means nothing"),
        ({"model": ["fbcnn:a.pth?quality=0"]}, r"quality must be a whole number in 1\.\.100, got '0'"),
        ({"model": ["identity?step=3"]}, "unknown setting 'step'; did you mean steps"),
        ({"model": ["{m}?steps=many"]}, "steps is 'many': Input should be a valid integer"),
        ({"model": ["{m}?steps=0"]}, "steps must be at least 1, got 0"),
        ({"model": ["{m}?sampler=euler"]}, "unknown sampler 'euler'"),
        ({"model": ["{m}?steps=2&steps=3"]}, "write each setting once"),
        ({"model": ["identity?steps=3"]}, "this model is not sampled, steps means nothing"),
        ({"model": ["a={m}", "a={m}?steps=3"]}, "two candidates are called 'a'"),
        ({"model": ["jpeg={m}"]}, "two candidates are called 'jpeg'"),
        ({"model": ["=tiny"]}, "give SOURCE or NAME=SOURCE"),
        ({"model": ["nothing"]}, "model 'nothing'"),
        ({"candidate": ["spp"]}, "write it as NAME=URL"),
        ({"candidate": ["spp={tmp}/none"]}, r"--candidate spp: .*/none does not exist"),
        ({"candidate": ["spp={tmp}/clean"], "quality": "10,20"}, r"--candidate spp: .*/clean/q10-420 does not exist"),
        ({"candidate": ["jpeg={tmp}/clean"]}, "belongs to the damaged images"),
        ({"quality": "none", "model": ["identity"]}, "--model needs damaged images"),
        ({"quality": "none"}, "give --candidate NAME=URL"),
    ],
)
def test_what_is_wrong_is_named(
    source: Path, small_model: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    given = {
        name: [text.format(m=small_model, tmp=tmp_path) for text in value] if isinstance(value, list) else value
        for name, value in settings.items()
    }
    with pytest.raises(InvalidInput, match=told):
        find(source, **given)


def test_files_lie_below_the_condition_or_where_the_url_says(source: Path, tmp_path: Path) -> None:
    for slug in ("q10-420", "q20-420"):
        made.folder(tmp_path / f"spp/{slug}", 3)
        made.folder(tmp_path / f"other/{slug}/images", 2)
    found = find(
        source, quality="10,20", candidate=[f"spp={tmp_path}/spp", f"other={tmp_path}/other/{{condition}}/images"]
    )
    for one, where in zip(found.files, ("spp/{}", "other/{}/images"), strict=True):
        for slug, files in one.partners.items():
            assert files.source.url == str(tmp_path / where.format(slug))
    assert find(source, candidate=[f"c={source}"]).files[0].partners["q10-420"].source.url == str(source)


def test_a_partner_has_the_keys_name_whatever_the_suffixes(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "made"
    (source / "a").mkdir(exist_ok=True)
    (source / "a/x.jpg").write_bytes(made.jpeg(1))
    for name in ("a/x.png", "b.c/y.JPG", "plain.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    found = pickle.loads(pickle.dumps(partners(folder, source)))
    assert found.read("a/x.jpg") == b"a/x.png"
    assert found.read("b.c/y.webp") == b"b.c/y.JPG"
    assert found.read("plain") == b"plain.png"
    assert found.read("a/none.jpg") is None
    stems = np.sort(name_digests(["a/x", "plain"]))
    assert found.without_key(stems) == (1, ["b.c/y.JPG"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", "{}.webp"),
        ("", "{}.png.png"),
        ("/{}_out", "{}_out.png"),
        ("/{}_x4.png", "{}_x4.png"),
        ("/restored-{}", "restored-{}.jpg"),
        ("/{}.png", "{}.png.webp"),
    ],
)
def test_names_as_other_tools_make_them(pattern: str, names: str, packed: bool, tmp_path: Path) -> None:
    source, folder = tmp_path / "clean", tmp_path / "made"
    for key in ("a/x", "a/y.z", "w"):
        for place, name in ((source, f"{key}.png"), (folder, str(Path(key).parent / names.format(Path(key).name)))):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(key.encode())
    if packed and pattern:
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        folder = tmp_path / "tars"
        folder.mkdir()
        (folder / "t.tar").write_bytes(made.tar(files))
    below = "t/" if packed and pattern else ""
    found = pickle.loads(pickle.dumps(partners(Path(f"{folder}{pattern}"), source)))
    for key in ("a/x", "a/y.z", "w"):
        assert found.read(f"{below}{key}.jpg") == key.encode()
    assert found.read(f"{below}a/none.jpg") is None
    assert found.without_key(np.sort(name_digests(f"{below}{key}" for key in ("a/x", "a/y.z"))))[0] == 1


def test_a_candidate_none_of_whose_files_fits_is_refused(tmp_path: Path) -> None:
    for name in ("clean/a.png", "clean/b.png", "made/a_out.png", "made/b_out.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    with pytest.raises(InvalidInput, match=r"has a_out\.png, looked for was a\.\*; .*made/\{\}_out"):
        partners(tmp_path / "made", tmp_path / "clean")


def test_partners_in_tars(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    images = {f"x/{i}.png": made.jpeg(i) for i in range(5)}
    (folder / "one.tar").write_bytes(made.tar(images | {"notes.txt": b"-"}))
    (folder / "two.tar").write_bytes(made.tar({"0.png": b"other"}))
    found = pickle.loads(pickle.dumps(partners(folder, source)))
    assert found.read("one/x/3.jpg") == images["x/3.png"]
    assert found.read("two/0.jpg") == b"other"
    assert found.read("one/x/9.jpg") is None
    one = partners(folder / "one.tar", source)  # one tar and loose references: the tar's name does not count
    assert one.read("x/3.jpg") == images["x/3.png"]
    (tmp_path / "clean.tar").write_bytes(made.tar(images))
    renamed = partners(folder / "one.tar", tmp_path / "clean.tar")
    assert renamed.read("clean/x/3.png") == images["x/3.png"]
    stems = np.sort(name_digests(renamed.renamed.stem(f"clean/x/{i}.png") for i in range(4)))
    assert renamed.without_key(stems) == (1, ["one.tar:x/4.png"])


def test_two_files_for_one_key_are_refused(tmp_path: Path, source: Path) -> None:
    folder = made.folder(tmp_path / "made", 3)
    (folder / "a/0000.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"a/0000\.(jpg|png) and a/0000\.(jpg|png) in .* belong to one key"):
        partners(folder, source)
    (folder / "a/0000.png").unlink()
    (folder / "a.tar").write_bytes(made.tar({"0000.png": b""}))
    with pytest.raises(InvalidInput, match="belong to one key"):
        partners(folder, source)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/t.tar").write_bytes(made.tar({"0.png": made.jpeg(0)})[:900])
    with pytest.raises(InvalidInput, match="fetch it again"):
        partners(tmp_path / "cut", source)


def test_the_digest_is_of_names_and_sizes(tmp_path: Path, source: Path) -> None:
    one = made.folder(tmp_path / "one", 4)
    before = partners(one, source).digest
    assert partners(made.folder(tmp_path / "two", 4), source).digest == before
    (one / "a/0000.jpg").write_bytes(b"longer" * 1000)
    assert partners(one, source).digest != before
