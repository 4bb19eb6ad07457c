"""A model whose numbers are none, or whose pictures are no restorations: nothing of it is written as one."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from driftrec.diffusion.baselines import I2SB
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.errors import Failed, InvalidInput, Reason
from driftrec.models.checkpoint import load, save
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.options import Sampling
from pipeline.evaluate.candidates import Model
from pipeline.evaluate.model_pool import Output, Restoring
from pipeline.model_source import find
from pipeline.train.settings import TrainSettings
from tests import made
from tests.pipeline import offline


def times(factor: float, source: Path, path: Path) -> Path:
    """The same weights but for their size in the last layers."""
    denoiser = load(source).denoiser
    tensors = denoiser.network.state_dict()
    weights = {name: value * factor if name.startswith("output.") else value for name, value in tensors.items()}
    save(path, denoiser, weights, {"steps": 2, "fidelity": 1.0})
    return path


def overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finite weights may come to on some picture."""
    said = Denoiser.network_output
    monkeypatch.setattr(Denoiser, "network_output", lambda *given: said(*given) * float("inf"))


@pytest.mark.parametrize("copy_failed", [False, True])
@pytest.mark.parametrize("finite", [True, False])
def test_it_is_a_row_with_its_reason(
    small_model: Path, tmp_path: Path, finite: bool, copy_failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = times(1e3, small_model, tmp_path / "broken.safetensors")
    loaded = find(str(broken)).load("cpu")
    if not finite:
        overflow(monkeypatch)
    source = tmp_path / "in"
    source.mkdir()
    for quality in (5, 50, 90, 95):
        (source / f"{quality}.jpg").write_bytes(made.jpeg(quality, quality=quality))
    monkeypatch.setattr("pipeline.model_source._load", lambda *_, **__: loaded)
    offline.restore(source, tmp_path / "out", model=str(broken), copy_failed=copy_failed, max_failed="100%")
    for key, row in offline.ledger(tmp_path / "out").items():
        assert (row["status"], row["reason"], row["stage"]) == ("failed", Reason.implausible, "restore")
        assert "the model" in row["detail"]
        assert row["output"] == (f"images/{key}" if copy_failed else None)
    copies = offline.files(source) if copy_failed else {}
    assert offline.files(tmp_path / "out/images") == copies


def test_an_evaluation_measures_whatever_is_a_picture(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = find(str(times(1e3, small_model, tmp_path / "m.safetensors")))
    restoring = Restoring([Model("m", "m", weights, Sampling(steps=2, fidelity=1.0, start=1.0))], 0, 10**6)
    (done,) = restoring.restore("m", [made.jpeg(0)], "a")
    assert isinstance(done, Output)
    overflow(monkeypatch)
    (done,) = restoring.restore("m", [made.jpeg(0)], "a")
    assert isinstance(done, Failed)
    assert (done.key, done.stage, done.reason) == ("a", "restore", Reason.implausible)


def test_what_can_say_no_number_is_refused_where_it_is_set(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="process i2sb does not take form noise"):
        TrainSettings(data="a", output="b", process={"name": "i2sb"}, form="noise")
    denoiser = Denoiser.create(replace(NetworkConfig.tiny(), width=8), OUVE(), "noise")
    denoiser.process = I2SB()
    with pytest.raises(InvalidInput, match=r"new\.safetensors: .*process i2sb does not take form noise"):
        save(tmp_path / "new.safetensors", denoiser)
