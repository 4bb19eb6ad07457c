"""Command lines made of settings classes: every setting has its flag and its words, and a flag says what --set says."""

import pkgutil
from types import ModuleType
from typing import Any

import pytest

from jobs import degrade, evaluate, restore, split, survey, train
from jobs.command import make_parser
from jobs.flags import comments, flag_of
from pipeline.settings import Settings, load

JOBS = [degrade, evaluate, restore, split, survey, train]
OTHER = {  # a value that is not the default, for those that no rule below finds
    "quality": "7,30/10", "second_quality": "40,50", "subsampling": "4:4:4", "metrics": "psnr", "pixels": "10%",
    "max_failed": "3%", "max_skipped": "7", "retry_failed": "truncated", "track": "wandb", "fidelity": "0.5",
    "optimizer.betas": "[0.8, 0.9]", "gpus_per_worker": "0", "min_workers": "1", "network.estimates": "[5]",
    "network.multipliers": "[1, 2]", "network.extra": "[1]", "network.attention_levels": "[1]",
    "network.fir_kernel": "[1, 1]", "patches.size": "48", "optimizer.decay_steps": "5", "network.width": "132",
    "network.stem": "2", "grid": "lambda", "patches.crop": "resized", "preset": "live1",
}  # fmt: skip
# What a setting cannot do without.
NEEDED = {"max_cost": {"price_per_hour": "2"}, "gpu_price_per_hour": {"gpu_megapixels_per_s": "2"}}


def name_of(job: ModuleType) -> str:
    return job.__name__.rpartition(".")[2]


def settings_of(job: ModuleType) -> type[Settings]:
    return pkgutil.resolve_name(job.PARTS.settings)


def fields_of(model: type[Settings]) -> dict[str, Any]:
    """All settings by their dotted names, those within others too."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found |= {f"{name}.{inner}": one for inner, one in fields_of(field.annotation).items()}
        else:
            found[name] = field
    return found


def another(name: str, field: Any) -> str:
    """A value of this setting that is not its default, as text."""
    if name in OTHER:
        return OTHER[name]
    default, told = field.get_default(), str(field.annotation)
    if isinstance(default, bool):
        return str(not default).lower()
    if "Literal" in told:
        choices = told.partition("Literal[")[2].partition("]")[0].replace("'", "").split(", ")
        return next(text for text in choices if text != str(default))
    if isinstance(default, int) or "int" in told:
        return str((default or 0) + 1 if default != 100 else 99)
    if isinstance(default, float) or "float" in told:
        return str((default or 1.0) / 2)
    return "a"


@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_every_setting_has_words(job: ModuleType) -> None:
    for model in (settings_of(job), *(f.annotation for f in settings_of(job).model_fields.values())):
        if isinstance(model, type) and issubclass(model, Settings) and model.model_fields:
            beside, _ = comments(model)
            assert [name for name in model.model_fields if not beside.get(name)] == []


@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_a_flag_says_what_set_says(job: ModuleType) -> None:
    model, parser = settings_of(job), make_parser(name_of(job), job.__doc__ or "", job.PARTS)
    given = model.required()
    base = dict.fromkeys(given, "x") | ({"validation": "v"} if job is train else {})
    for name, field in fields_of(model).items():
        if name in given or name in ("architecture", "process", "recommend", "validation"):
            continue
        text = another(name, field)
        base |= NEEDED.get(name, {})
        words = [f"{flag_of(name)}={text}"]
        if text in ("true", "false"):
            words = [flag_of(name) if text == "true" else flag_of(name).replace("--", "--no-", 1)]
        flags = {name: getattr(parser.parse_args(["x"] * len(given) + words), name)}
        in_yaml = text if "[" in text or text.isalnum() else f'"{text}"'  # 4:2:2 is a number there
        in_yaml = f"[{in_yaml}]" if isinstance(flags[name], list) else in_yaml
        assert load(model, flags=base | flags) == load(model, assignments=[f"{name}={in_yaml}"], flags=base), name
        assert load(model, flags=base | flags) != load(model, flags=base), name


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert restore.main(["in", "out", "--stepz", "3"]) == 2
    assert "unrecognized arguments: --stepz" in (told := capsys.readouterr().out)
    assert "did you mean --steps" in told
