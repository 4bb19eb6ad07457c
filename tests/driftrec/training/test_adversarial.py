"""The discriminator: whom its losses move, how hard, and that it learns; and what of the training loss it changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.detail import on_coarse_mean
from driftrec.diffusion.drift import OUVE
from driftrec.networks.config import NetworkConfig
from driftrec.training.adversarial import Discriminator, balanced
from driftrec.training.features import CHANNELS, Features, perceptual_distance
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import Objective, TimeDensity

CONFIG = NetworkConfig(width=8, multipliers=(1, 1), blocks=1)


def images(count: int, seed: int, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def discriminator() -> Discriminator:
    """On features whose batch norms have seen images."""
    features = Features().train()
    for seed in range(5):
        features(images(4, seed))
    return Discriminator(features.eval().requires_grad_(False))


@pytest.mark.parametrize("side", [8, 24, 96])
def test_verdicts_are_of_each_image_alone_and_of_every_place(side: int) -> None:
    judge = discriminator().eval()  # spectral norms as they are
    x, y = images(3, 1, side), images(3, 2, side)
    found = judge(x, y)
    assert [tuple(view.shape) for view in found] == [(3, 1, side // n, side // n) for n in (4, 2, 4, 8)]
    assert len(found) == 1 + len(CHANNELS)
    for i in range(3):
        for whole, alone in zip(found, judge(x[i : i + 1], y[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_each_loss_moves_its_own_side() -> None:
    judge, y = discriminator(), images(2, 2)
    restored = images(2, 1).requires_grad_()
    judge.generator_loss(restored, y).backward()
    assert restored.grad is not None and restored.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    restored.grad = None
    judge.accumulate(images(2, 3), restored, y)
    assert restored.grad is None
    assert all(parameter.grad is not None for parameter in judge.heads.parameters())
    assert all(parameter.grad is None for parameter in judge.features.parameters())


@pytest.mark.parametrize("smooth", [True, False])
def test_it_learns_what_restored_images_lack_or_have_too_much(smooth: bool) -> None:
    """Grain of another strength, in images whose content it has not seen."""
    judge = discriminator()

    def pair(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.nn.functional.interpolate(images(4, seed, 8), scale_factor=4, mode="bilinear")
        grain = 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1000))
        return y + grain, y + (0.3 if smooth else 2.0) * grain, y

    for seed in range(40):
        judge.accumulate(*pair(seed))
        judge.step()
    clean, fake, y = pair(10_000)
    for of_clean, of_fake in zip(judge(clean, y)[:1], judge(fake, y)[:1], strict=True):
        assert (of_clean.mean(dim=(1, 2, 3)) > of_fake.mean(dim=(1, 2, 3))).all()
    assert judge.generator_loss(clean, y) < judge.generator_loss(fake, y)


@pytest.mark.parametrize("weight", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_pull_is_a_multiple_of_the_errors(weight: float, scale: float) -> None:
    output = torch.randn(2, 3, 8, 8, requires_grad=True)
    error, loss = output.square().mean(), scale * (output * torch.randn(2, 3, 8, 8)).sum()
    theirs, ours = (torch.autograd.grad(of, output, retain_graph=True)[0] for of in (error, loss))
    (pull,) = torch.autograd.grad(balanced(loss, error, output, weight), output)
    torch.testing.assert_close(pull.norm(), weight * theirs.norm())
    torch.testing.assert_close(pull / pull.norm(), ours / ours.norm())


def test_the_perceptual_pull_is_towards_the_clean_images_features() -> None:
    """Descending on it alone, from a restored image on: its features come nearer, whatever those of the JPEG are."""
    judge, x0 = discriminator(), images(2, 1)
    output = (x0 + 0.1 * torch.randn_like(x0)).requires_grad_()
    before = perceptual_distance(judge.features(output), judge.features(x0)).item()
    for _ in range(20):
        distance = perceptual_distance(judge.features(output), judge.features(x0))
        (pull,) = torch.autograd.grad(balanced(distance, (output - x0).square().mean(), output, 1.0), output)
        output = (output - 5 * pull).detach().requires_grad_()
    assert perceptual_distance(judge.features(output), judge.features(x0)) < 0.9 * before


def test_a_verdict_without_a_gradient_pulls_at_nothing() -> None:
    output = torch.randn(4, requires_grad=True)
    (pull,) = torch.autograd.grad(balanced(0 * output.sum(), output.square().sum(), output, 1.0), output)
    assert torch.equal(pull, torch.zeros(4))


@pytest.mark.parametrize("form", ["x0", "noise"])
@pytest.mark.parametrize("loss", ["mean", "half-sum", "log"])
@pytest.mark.parametrize("adversarial", [0.0, 0.5])
@pytest.mark.parametrize("perceptual", [0.0, 0.5])
@pytest.mark.parametrize("times", [(1.0, 1.0), (0.3, 1.0), (0.2, 0.6)])
def test_samples_are_of_images_at_the_end_of_time(
    form: Any, loss: Any, adversarial: float, perceptual: float, times: tuple[float, float]
) -> None:
    """Where none is at t = 1, or the weight is 0, nothing changes, for the discriminator neither."""
    denoiser, judge = Denoiser.create(CONFIG, OUVE(), form), discriminator()
    for parameter in denoiser.network.parameters():  # the last layer starts at 0
        torch.nn.init.normal_(parameter, std=0.1)
    drawn = torch.tensor(times, dtype=torch.float64), torch.randn(2, 3, 32, 32), torch.tensor([0.1, 0.3])
    plain = Objective(denoiser, TimeDensity(), loss=loss)
    objective = Objective(denoiser, TimeDensity(), loss=loss, discriminator=judge)
    objective.adversarial, objective.perceptual = adversarial, perceptual
    value = objective(images(2, 1), images(2, 2), *drawn)
    assert value.isfinite()
    judged = adversarial > 0 and max(times) == 1
    assert torch.equal(value, plain(images(2, 1), images(2, 2), *drawn)) is not judged
    assert all((parameter.grad is not None) is judged for parameter in judge.heads.parameters())
    value.backward()
    gradients = [parameter.grad for parameter in denoiser.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_judged_is_what_a_restore_draws(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """The first step of a sample, its detail on the mean's coarse structure."""
    denoiser, judge, seen = Denoiser.create(CONFIG, OUVE(), "x0"), discriminator(), list[Tensor]()
    for parameter in denoiser.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr(judge, "accumulate", lambda x0, restored, y: seen.append(restored))
    objective = Objective(denoiser, TimeDensity(), discriminator=judge)
    objective.adversarial = 1.0
    x0, y, z, starts = images(2, 1), images(2, 2), torch.randn(2, 3, 32, 32), torch.tensor([0.15, 0.35]).double()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        objective(x0, y, torch.ones(2, dtype=torch.float64), z, starts)
        mean = denoiser(denoiser.process.state(x0, y, torch.ones(2), z), y, torch.ones(2).double())
        sample = denoiser(denoiser.process.state(mean, y, starts, z), y, starts)
    assert torch.allclose(seen[0], on_coarse_mean(sample.float(), mean.float()), atol=2e-2 if bf16 else 1e-5)
    assert not torch.allclose(seen[0].float(), sample.float(), atol=2e-2)


@pytest.mark.parametrize("after", [0, 2])
def test_a_training_goes_on_from_its_state(tmp_path: Any, after: int) -> None:
    """Bit for bit, with what the discriminator has learnt; also from a state in which it had nothing to learn yet."""

    def learner() -> Learner:
        torch.manual_seed(0)
        density = TimeDensity(share_at_one=0.5)
        made = Learner(Denoiser.create(CONFIG, OUVE()), density, Optimisation(warmup=0), discriminator=discriminator())
        made.objective.adversarial = 1.0
        return made

    def step(of: Learner, number: int) -> float:
        return of.step(images(4, number), images(4, 100 + number)).loss

    whole, first = learner(), learner()
    for number in range(after):
        assert step(whole, number) == step(first, number)
    first.save(tmp_path / "state.safetensors")
    then = learner()
    then.load(tmp_path / "state.safetensors")
    for number in range(after, after + 3):
        assert step(whole, number) == step(then, number)
