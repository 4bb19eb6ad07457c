"""Training settings: the shipped configs hold, wrong names and values are refused with the right one named."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from driftrec.diffusion.drift import OUVE, PROCESSES, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.errors import InvalidInput
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp, parameter_count
from driftrec.training.learner import Optimisation
from pipeline.settings import load
from pipeline.train.settings import TrainSettings, flat
from pipeline.train.worker import make_learner

CONFIGS = Path(__file__).parents[3] / "configs"
PLACES = {"data": "d", "output": "o"}


def settings(*assignments: str, config: str | None = None) -> TrainSettings:
    return load(TrainSettings, config, assignments, PLACES)


@pytest.mark.parametrize(
    ("name", "process", "images"), [("paper-d2kf2k", OUVE(), 2840), ("paper-celebahq", CosVE(), 24_000)]
)
def test_the_papers_configs_are_table_one(name: str, process: Process, images: int):
    paper = settings(config=str(CONFIGS / f"{name}.yaml"))
    with torch.device("meta"):
        network = NCSNpp(paper.network.build())
    assert network.config == NetworkConfig.paper()
    assert round(parameter_count(network) / 1e6, 1) == 65.6
    assert paper.build_process() == process
    assert (paper.form, paper.batch_size, paper.workers, paper.gpus_per_worker) == ("noise", 8, 4, 1)
    optimiser, patches = paper.optimizer.build(), paper.patches.build()
    assert {optimiser.lr, optimiser.lr_at(0), optimiser.lr_at(optimiser.steps)} == {1e-4}
    assert optimiser.steps == 300 * images // 32
    assert optimiser.ema_decay == 0.999
    assert (patches.size, patches.per_image, patches.turn) == (256, 1, False)
    assert (patches.quality_min, patches.quality_max, patches.quality_power) == (0, 100, 1)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_holds_and_says_what_it_costs_or_that_it_was_not_run(config: Path):
    settings(config=str(config))
    head = config.read_text().partition("network:")[0]
    assert "driftrec train" in head
    assert "not run here" in head or "What it cost to train" in head


def test_the_tiny_config_is_a_small_network_within_the_embedded_models_limit():
    tiny = settings(config=str(CONFIGS / "tiny.yaml"))
    assert parameter_count(tiny.denoiser().network) < 6e6
    assert tiny.form == "x0"
    assert tiny.patches.build().size % 16 == 0


def test_settings_without_a_word_are_the_dataclasses_defaults():
    assert settings().optimizer.build() == Optimisation()
    assert settings().network.build() == NetworkConfig()


def test_a_preset_can_be_changed_in_part():
    changed = settings("network.preset=tiny", "network.width=8").network.build()
    assert changed.width == 8
    assert changed.stem == NetworkConfig.tiny().stem
    assert settings("network=tiny").network.build() == NetworkConfig.tiny()


def test_a_process_keeps_its_own_gamma_unless_told():
    assert settings("process.name=tsdve").build_process() == TSDVE()
    assert settings("process.name=tsdve", "process.gamma=3").build_process() == TSDVE(gamma=3.0)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", "unknown setting 'optimizer.lrr'; did you mean optimizer.lr"),
        ("bach_size=3", "unknown setting 'bach_size'; did you mean batch_size"),
        ("network.widht=8", "did you mean network.width"),
        ("network.preset=huge", "unknown preset 'huge'; known: tiny, paper"),
        ("network.width=7", "width must be a positive multiple of 4, got 7"),
        ("optimizer.lr=-1", "lr > 0"),
        ("process.sigma_min=3", "sigma_min < sigma_max"),
        ("process.name=vp", "unknown process 'vp'; known: ouve, tsdve"),
        ("process.gama=2", "gama Extra inputs are not permitted; ouve has gamma, sigma_min, sigma_max"),
        ("patches.size=8", "size >= 16"),
        ("form=eps", "'noise', 'x0'"),
        ("blocking=-1", "greater than or equal to 0"),
        ("seed=-1", "greater than or equal to 0"),
        ("workers=0", "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused_by_name(assignment: str, message: str):
    with pytest.raises(InvalidInput) as refused:
        settings(assignment)
    assert message in str(refused.value)


def test_blocking_is_refused_where_no_grid_is_known_or_no_image_estimated():
    assert settings("blocking=0.1").blocking == 0.1
    for other in ("corrupted=there", "form=noise"):
        with pytest.raises(InvalidInput, match="not with corrupted, nor form=noise"):
            settings("blocking=0.1", other)


def test_blocking_reaches_the_loss():
    small = ("network.preset=tiny", "network.width=8")
    weights = [make_learner(settings(*small, f"blocking={weight}")).objective.blocking for weight in (0.0, 0.1)]
    assert weights == [0.0, 0.1]


def test_every_process_can_be_named_and_stands_with_all_its_settings():
    for name, process in PROCESSES.items():
        named = settings(f"process={name}", f"form={'x0' if name == 'conditional' else 'residual'}")
        assert named.build_process() == process()
        assert named.process == {"name": name} | asdict(process())


def test_settings_survive_json_whole():
    original = settings(config=str(CONFIGS / "single-gpu-80gb.yaml"))
    assert TrainSettings.model_validate_json(original.model_dump_json()) == original


def test_flat_names_are_those_of_set():
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}
