"""Training and sampling, step by step, against numbers of the authors' implementation (`fixtures/authors_steps.json`).

Weights, images and noise are drawn from their names, there as here.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from driftrec import Restorer
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.image import Picture
from driftrec.models import lightning
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.networks.initialisation import initialise
from driftrec.networks.ncsnpp import NCSNpp
from driftrec.noise import gaussian
from driftrec.restoration.finishing import finish
from driftrec.restoration.options import Plan, Sampling
from driftrec.restoration.tiling import Canvas, tiles
from driftrec.training.learner import Learner
from pipeline.train.settings import TrainSettings
from tests.driftrec.models.test_authors import SMALL, their_weights, uniform

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "authors_steps.json").read_text())
CONFIGS = Path(__file__).parents[3] / "configs"
PROCESSES = {"ouve": OUVE(), "t2ve": TSDVE(), "cosve": CosVE()}  # by their names; as their README trains them
OPTIONS = {  # of ours, for the samplers of the fixture
    "euler-maruyama": {"sampler": "euler-maruyama"},
    "euler-heun": {"sampler": "euler-heun"},
    "corrector": {"sampler": "euler-maruyama", "corrector_steps": 2},
    "ode": {"sampler": "ode", "tolerance": 1e-6},
}


def images(name: str, count: int = 2, side: int = 64) -> Tensor:
    """(count, 3, side, side) in [0, 1]."""
    return (uniform(name, (count, 3, side, side)) / 3**0.5 + 1) / 2


@pytest.mark.parametrize("case", FIXTURE["training"], ids=lambda case: case["process"])
def test_ten_steps_of_their_training(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of the configs that are named for the paper."""
    name = {"ouve": "paper-d2kf2k", "cosve": "paper-celebahq"}[case["process"]]
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    settings = TrainSettings(data="in", output="out", **given)
    assert settings.build_process() == PROCESSES[case["process"]]
    before = lightning.convert(Path(), their_weights(), NCSNpp(SMALL))
    denoiser = Denoiser(NCSNpp(SMALL), settings.build_process(), settings.form)
    denoiser.network.load_state_dict(before)
    optimisation, density = settings.optimizer.build(), settings.density.build()
    learner = Learner(denoiser, density, optimisation, blocking=settings.blocking, loss=settings.loss)

    def their_draw(x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i = learner.step_count
        t = torch.tensor([0.01 + 0.99 * (2 * i + 1) / 20, 0.01 + 0.99 * (19 - 2 * i) / 20])
        return t, uniform(f"noise {i}", tuple(x0.shape)), torch.ones(2)

    monkeypatch.setattr(learner, "_draw", their_draw)
    losses = [learner.step(images(f"clean {i}"), images(f"jpeg {i}")).loss for i in range(10)]
    assert losses == pytest.approx(case["losses"], rel=1e-4)
    after = denoiser.network.state_dict()
    table = dict(lightning.names(SMALL))
    for theirs, values in case["moved"].items():
        ours = table[theirs]
        moved = after[ours].double() - before[ours].double()
        if ".NIN_" in theirs and theirs.endswith(".W"):  # kept the other way round
            moved = moved[:, :, 0, 0].T
        step = max(1, moved.numel() // 3)
        assert moved.flatten()[::step][:3].tolist() == pytest.approx(values, abs=1e-5)  # moves are some 1e-3


def x0hat(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """In place of a network."""
    return y + 0.4 * (x - y) * (1 - t.to(x)) + 0.1 * torch.sin(3 * x)


@pytest.mark.parametrize("case", FIXTURE["samples"], ids=lambda case: f"{case['process']}-{case['sampler']}")
def test_samples_of_their_code(case: dict[str, Any]) -> None:
    process, y = PROCESSES[case["process"]], images("sampled", 1, 8)
    resolved = Sampling.of("driftrec-paper", steps=30, **OPTIONS[case["sampler"]]).resolve({})
    found = resolved.draw()(
        x0hat, process, y, lambda step: uniform(f"draw {step}", tuple(y.shape)), resolved.times(process)
    )
    assert found.flatten()[::7].tolist() == pytest.approx(case["values"], abs=1e-4)


def test_their_colour_correction() -> None:
    generator = np.random.Generator(np.random.Philox(key=5))
    restored = (generator.random((9, 7, 3)) * 1.6 - 0.3).clip(0, 1).astype(np.float32)
    damaged = generator.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    canvas = Canvas(9, 7, 16)
    canvas.add(*tiles(9, 7, None), restored)
    sampling = Sampling.of("driftrec-paper").resolve({})
    picture = finish(Picture(damaged), canvas, Plan(sampling, 1.0, None), nfe=100).picture
    assert picture.rgb.flatten().tolist() == FIXTURE["colour"]["corrected"]


def test_steps_spaced_as_theirs_start_at_one() -> None:
    for sampler in ("euler-maruyama", "euler-heun"):
        with pytest.raises(ValueError, match=r"start = 0\.2; give start=1"):
            Sampling(sampler=sampler, spacing="authors").resolve({"start": 0.2, "steps": 2, "fidelity": 0.0})
    Sampling(sampler="multistep", spacing="authors").resolve({"start": 0.2})  # which has no such steps
    with pytest.raises(ValueError, match="unknown recipe 'paper'; known: driftrec-paper"):
        Sampling.of("paper")


def test_their_initialisation() -> None:
    """Standard deviations of what they begin with, of their sizes, told by their rule: sqrt(scale / fan)."""
    torch.manual_seed(0)
    network = NCSNpp(replace(NetworkConfig.paper(), width=32, multipliers=(1, 1, 2, 2, 2)))
    output = network.output.weight.clone()
    initialise(network)
    attention, block, share = network.down[4].attention[0], network.down[2].blocks[1], network.up[0].give[-1]
    for layer, expected in (
        (attention.query, (0.1 / 64) ** 0.5),
        (attention.key, (0.1 / 64) ** 0.5),
        (attention.value, (0.1 / 64) ** 0.5),
        (attention.project, 1e-5 / 64**0.5),
        (block.conv1, (1 / (9 * 64)) ** 0.5),
        (block.conv2, 1e-5 / (9 * 64) ** 0.5),
        (block.embed, (2 / (128 + 64)) ** 0.5),
        (share, 1e-5 * (2 / (9 * (64 + 6))) ** 0.5),
    ):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert layer.weight.abs().max().item() <= 3**0.5 * expected * 1.0001  # uniform
        assert not layer.bias.any()
    assert torch.equal(network.output.weight, output)


def bimodal(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """The mean of x0 given x_t where x0 is y + 0.1 or y - 0.1, with equal chances."""
    process = OUVE()
    scores = []
    for mode in (-0.1, 0.1):
        mean, sigma = process.marginal(y + mode, y, t)
        scores.append(-((x - mean) ** 2) / (2 * sigma**2))
    weights = torch.softmax(torch.stack(scores), dim=0)
    return y + 0.1 * (weights[1] - weights[0])


def test_the_odes_own_tolerance_keeps_the_spread() -> None:
    """Of two equal peaks; each pixel is a sample."""
    y = torch.full((1, 3, 32, 32), 0.5)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    spread = {}
    for tolerance in (1e-2, Sampling().tolerance):
        resolved = Sampling(sampler="ode", tolerance=tolerance).resolve({})
        found = resolved.draw()(bimodal, OUVE(), y, lambda _: noise, resolved.times(OUVE()))
        spread[tolerance] = found.std().item() / 0.1
    assert 0.97 < spread[Sampling().tolerance] < 1.03
    assert abs(spread[Sampling().tolerance] - 1) < abs(spread[1e-2] - 1)


def test_the_network_in_float32_is_the_one_that_was_loaded(tmp_path: Path) -> None:
    denoiser = Denoiser(NCSNpp(replace(NetworkConfig.tiny(), width=8)), OUVE())
    sizes = {name: value.shape for name, value in denoiser.network.state_dict().items()}
    denoiser.network.load_state_dict({name: uniform(name, tuple(shape)) / 8 for name, shape in sizes.items()})
    save(tmp_path / "m.safetensors", denoiser, dtype=torch.float32)
    y = (images("y", 1, 32) * 255).round() / 255
    one = torch.ones((), dtype=torch.float64)
    x = denoiser.process.state(y, y, one, gaussian(32, 32, seed=0, key="a")[None])
    with torch.inference_mode():
        expected = denoiser(x, y, one)
        restorer = Restorer.from_pretrained(str(tmp_path / "m.safetensors"), "cpu")
        found = restorer._in_float32(restorer.checkpoint.denoiser)(x, y, one)
    assert torch.allclose(found, expected, atol=1e-6)
    places, wanted = [("a", *tiles(32, 32, None))], expected.permute(0, 2, 3, 1).numpy()
    error = {}
    for on in (False, True):
        settings = Sampling(fidelity=1.0, float32=on).resolve({})  # its first state has that noise
        batch, _ = restorer._restored(restorer.checkpoint, y, [], places, 0, settings)
        error[on] = np.abs(batch.wait() - wanted).max()
    assert error[True] < 1e-6
    if next(restorer.checkpoint.denoiser.network.parameters()).dtype == torch.bfloat16:
        assert error[False] > 1e-5
