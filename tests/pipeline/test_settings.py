"""Settings: YAML, --set and flags fill one model; what is unknown or wrong is named with its remedy."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from driftrec.errors import InvalidInput
from driftrec.restoration.options import Sampling
from driftrec.sampling_recipes import LOOKS, RECIPES
from pipeline.evaluate.settings import DegradeSettings, EvaluateSettings, SplitSettings
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import sampling_of
from pipeline.settings import EMBEDDED, Mark, Settings, allowed_failures, load
from pipeline.survey.settings import SurveySettings
from pipeline.train.settings import TrainSettings

PLACES = {"input": "in", "output": "out"}


class Inner(Settings):
    rate: float = 0.1


class Outer(Settings):
    inner: Inner = Inner()
    name: str = "x"


def test_the_later_wins(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 1\nsteps: 2\nformat: webp\n")
    settings = load(RestoreSettings, str(config), ["steps=3", "format=tiff"], PLACES | {"format": "png", "limit": None})
    assert (settings.seed, settings.steps, settings.format, settings.limit) == (1, 3, "png", None)


def test_dotted_names_reach_nested_settings(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("inner: {rate: 5}\n")
    assert load(Outer, None, ["inner.rate=2e-4"]).inner.rate == 2e-4
    assert load(Outer, str(config)).inner.rate == 5


@pytest.mark.parametrize("look", [None, *LOOKS])
@pytest.mark.parametrize("recipe", [None, *RECIPES])
@pytest.mark.parametrize("fidelity", [None, 0.3])
def test_a_look_stands_where_nothing_nearer_is_said(
    look: str | None, recipe: str | None, fidelity: float | None
) -> None:
    """What is said of a setting wins over a look, and a look over a recipe; what is not said is no setting."""
    said = {"look": look, "recipe": recipe, "fidelity": fidelity}
    settings = load(RestoreSettings, None, [], PLACES | said)
    expected = (RECIPES[recipe] if recipe else {}) | (LOOKS[look] if look else {})
    expected |= {"fidelity": fidelity} if fidelity is not None else {}
    plain = RestoreSettings(**PLACES)
    for name in Sampling.__dataclass_fields__:
        assert getattr(settings, name) == expected.get(name, getattr(plain, name)), name


def test_a_look_that_is_none_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"look.*faithful"):
        load(RestoreSettings, None, ["look=pretty"], PLACES)


def test_every_setting_of_sampling_is_one_of_restore() -> None:
    ours, theirs = RestoreSettings(input="in", output="out"), Sampling()
    harmless = {"adaptive": True}  # alone of all: an archive holds good files, a study wants what it asked for
    assert {f.name: getattr(ours, f.name) for f in fields(Sampling)} == asdict(theirs) | harmless


def test_settings_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"t_eps = 0\.3, start = 0\.2"):
        sampling_of(RestoreSettings(input="in", output="out", start=0.2, t_eps=0.3))


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("stepz=3", ["unknown setting 'stepz'", "did you mean steps"]),
        ("steps=0", ["'steps' is 0", "greater than or equal to 1"]),
        ("fidelity=2", ["'fidelity' is 2"]),
        ("format=gif", ["'format' is 'gif'", "'png'"]),
        ("max_failed=3.5", ["'max_failed' is 3.5", "such as 10, or a share such as 5%"]),
        ("steps", ["'steps'", "name=value"]),
    ],
)
def test_wrong_settings_are_named(assignment: str, parts: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(RestoreSettings, None, [assignment], PLACES)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_unknown_setting_in_the_yaml_names_the_file_and_the_nested_name(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("rate: 5\n")
    with pytest.raises(InvalidInput, match=r"unknown setting 'rate'; did you mean inner\.rate\?.*mine\.yaml"):
        load(Outer, str(config))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\xff"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"c\.yaml"):
        load(RestoreSettings, str(config), [], PLACES)


def test_a_config_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.yaml: No such file"):
        load(RestoreSettings, "nowhere.yaml", [], PLACES)


def test_an_embedded_config_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from a checkout, too; one's own file of that name is given as a path."""
    monkeypatch.chdir(tmp_path)
    names = {path.stem for path in EMBEDDED.glob("*.yaml")}
    assert {"tiny", "paper-celebahq"} <= names
    for name in names:
        assert load(TrainSettings, name, flags={"data": "d", "output": "o"}).network.width in (64, 128)
    (tmp_path / "tiny").write_text("seed: 7")
    assert load(TrainSettings, "./tiny", flags={"data": "d", "output": "o"}).seed == 7
    with pytest.raises(InvalidInput, match="or the name of one that is embedded: paper-celebahq, paper-d2kf2k"):
        load(TrainSettings, "large", flags={"data": "d", "output": "o"})



@pytest.mark.parametrize(("text", "images", "allowed"), [("0", 9, 0), ("7", 9, 7), ("5%", 99, 4), ("100%", 3, 3)])
def test_allowed_failures(text: str, images: int, allowed: int) -> None:
    assert allowed_failures(text, images) == allowed


@pytest.mark.parametrize("text", ["-1", "101%", "many", "", "nan%", "5%%"])
def test_allowed_failures_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="give a number"):
        allowed_failures(text, 1)


def test_the_default_of_a_setting_may_be_given() -> None:
    values = RestoreSettings(input="i", output="o").model_dump(exclude_none=True)
    for name, value in values.items():
        if isinstance(value, str) and ":" not in value:
            given = load(RestoreSettings, assignments=[f"{name}={value}"], flags={"input": "i", "output": "o"})
            assert getattr(given, name) == value


JOBS = [
    RestoreSettings(input="i", output="o"),
    EvaluateSettings(reference="r", output="o"),
    DegradeSettings(input="i", output="o"),
    SurveySettings(input="i", output="o"),
    TrainSettings(data="d", output="o"),
]


@pytest.mark.parametrize("settings", JOBS, ids=lambda settings: type(settings).__name__)
def test_a_run_is_the_same_wherever_it_works_and_however_fast(settings: Settings) -> None:
    fixed = settings.determining()
    free = {"input", "output", "data", "actors", "workers", "progress_s", "allow_local", "max_failed"}
    assert not fixed.keys() & free
    assert {"seed", "limit", "shard_bytes", "max_pixels"} <= fixed.keys()


@pytest.mark.parametrize("settings", JOBS, ids=lambda settings: type(settings).__name__)
def test_no_place_shows_credentials(settings: Settings) -> None:
    given = dict.fromkeys(settings.marked(Mark.place), "s3://key:hunter2@bucket/x")
    many = {name: ("n=s3://key:hunter2@bucket/x?steps=3",) for name, value in settings if isinstance(value, tuple)}
    told = settings.model_copy(update=given | {name: many[name] for name in given.keys() & many.keys()}).public()
    assert "hunter2" not in str(told)
    assert all("bucket" in str(told[name]) for name in given)
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: " + "[" * 5000,
        "a: " + "{b: " * 5000,
        "a: 1\n" * 300_000,
        "a: !!python/object/apply:os.system [true]\n",
    ],
    ids=["aliases", "lists", "mappings", "length", "object"],
)
def test_yaml_that_no_settings_need_is_refused(text: str, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(InvalidInput, match=r"c\.yaml"):
        load(RestoreSettings, str(config))


@pytest.mark.parametrize("nothing", ["", "  ", "\t"])
@pytest.mark.parametrize(
    "model", [RestoreSettings, DegradeSettings, EvaluateSettings, SurveySettings, TrainSettings, SplitSettings]
)
def test_no_place_is_nowhere(model: type[Settings], nothing: str) -> None:
    """A path that is empty would mean the current folder."""
    required = dict.fromkeys(model.required(), "there")
    for name in model.marked(Mark.place):
        for value in (nothing, [nothing], ["there", nothing]):
            with pytest.raises(InvalidInput, match=name):
                load(model, None, [], required | {name: value})
