"""Denoiser and objective: the identities between x0, score and noise, in both forms."""

from dataclasses import replace

import pytest
import torch

from driftrec.diffusion.denoiser import Denoiser, Form, score_from_x0
from driftrec.diffusion.drift import OUVE
from driftrec.metrics.blockiness import boundary_excess
from driftrec.networks.config import NetworkConfig
from driftrec.training.loss import FLOOR, Objective, TimeDensity, added_blocks

CONFIG = replace(NetworkConfig.tiny(), width=8)


def images(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(count, 3, 16, 16, generator=generator)
    return x0, (x0 + 0.05 * torch.randn(x0.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("form", ["noise", "x0"])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_a_perfect_network_gives_x0_back(form: Form, t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = Denoiser.create(CONFIG, OUVE(), form)
    x0, y = images()
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4))
    mean, sigma = denoiser.process.marginal(x0, y, t)
    x = mean + sigma * z
    target = denoiser.network_target(x0, x, y, torch.tensor(t))
    monkeypatch.setattr(denoiser, "network_output", lambda *_: target)
    torch.testing.assert_close(denoiser(x, y, t), x0, rtol=0, atol=2e-5)
    torch.testing.assert_close(denoiser.score(x, y, t), -z / sigma, rtol=1e-2, atol=0.2 * (0.01 / t))


def test_score_is_the_gradient_of_the_kernel() -> None:
    process = OUVE()
    x0, y = (image.double() for image in images(1))
    x = (y + 0.1).requires_grad_()
    mean, sigma = process.marginal(x0, y, 0.4)
    log_density = -((x - mean) ** 2).sum() / (2 * sigma**2)
    (gradient,) = torch.autograd.grad(log_density, x)
    torch.testing.assert_close(score_from_x0(process, x.detach(), y, x0, 0.4), gradient)


@pytest.mark.parametrize("form", ["noise", "x0"])
def test_objective_is_the_published_loss(form: Form) -> None:
    """noise: || sigma s + z ||^2 (eq. 15); x0: || x0hat - x0 ||^2 / c_out^2. Both as computed from the denoiser's
    x0hat.
    """
    torch.manual_seed(0)
    denoiser = Denoiser.create(CONFIG, OUVE(), form)
    x0, y = images(4)
    density = TimeDensity(t_eps=0.2)
    objective = Objective(denoiser, density)
    loss = objective(x0, y, *objective.draw(x0, torch.Generator().manual_seed(7)))
    generator = torch.Generator().manual_seed(7)
    t = density.draw(4, generator)
    z = torch.randn(x0.shape, generator=generator)
    mean, sigma = denoiser.process.marginal(x0, y, t)
    x = mean + sigma * z
    if form == "noise":
        expected = (sigma * denoiser.score(x, y, t) + z).square().mean()
    else:
        a, r = denoiser.process.mean_coefficient(t).float().reshape(-1, 1, 1, 1), denoiser.residual_std
        c_out = sigma * r / (a**2 * r**2 + sigma**2).sqrt()
        expected = ((denoiser(x, y, t) - x0) / c_out).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)


def test_blocking_adds_the_boundary_steps_that_the_clean_image_has_not() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser.create(CONFIG, OUVE(), "x0")
    x0, y = images(4)
    draw = Objective(denoiser, TimeDensity()).draw(x0, torch.Generator().manual_seed(7))
    plain, penalised = (Objective(denoiser, TimeDensity(), weight)(x0, y, *draw) for weight in (0.0, 0.5))
    t, z, _ = draw
    mean, sigma = denoiser.process.marginal(x0, y, t)
    restored = denoiser(mean + sigma * z, y, t)
    expected = 0.5 * added_blocks(x0, restored).mean() / denoiser.residual_std**2
    assert expected > 0
    torch.testing.assert_close(penalised - plain, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("blocking", [0.0, 0.5])
def test_the_log_loss_moves_every_image_by_its_share_of_its_own_error(blocking: float) -> None:
    """Its gradient is the mean loss's, each image's part divided by that image's error and the floor."""
    denoiser = Denoiser.create(CONFIG, OUVE(), "x0")
    x0, y = images(4)
    drawn = Objective(denoiser, TimeDensity()).draw(x0, torch.Generator().manual_seed(7))
    weight = next(denoiser.network.parameters())

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, weight, retain_graph=True)[0]

    mean = Objective(denoiser, TimeDensity(), blocking)
    alone = [mean(*(of[i : i + 1] for of in (x0, y, *drawn))) for i in range(4)]
    expected = sum((gradient(error) / (error.detach() + FLOOR) for error in alone), torch.zeros_like(weight)) / 4
    found = Objective(denoiser, TimeDensity(), blocking, "log")(x0, y, *drawn)
    torch.testing.assert_close(found, torch.stack([(error + FLOOR).log() for error in alone]).mean())
    torch.testing.assert_close(gradient(found), expected, rtol=1e-3, atol=1e-6)


def test_added_blocks() -> None:
    """Flat tiles of 8x8, a step of 0.1 between them: every boundary step squared is 0.01, and no other pair has one."""
    x0 = torch.full((2, 3, 32, 32), 0.5)
    tiles = 0.1 * ((torch.arange(32) // 8)[:, None] + torch.arange(32) // 8 & 1)
    blocky = (x0 + tiles).requires_grad_()
    added = added_blocks(x0, blocky)
    assert added.tolist() == pytest.approx([0.01, 0.01], rel=1e-5)
    assert added_blocks(blocky, blocky).tolist() == [0, 0]  # the clean image's own
    assert added_blocks(blocky, x0).tolist() == [0, 0]  # fewer are no merit
    (gradient,) = torch.autograd.grad(added.sum(), blocky)
    assert added_blocks(x0, blocky - 0.1 * gradient / gradient.abs().max()).sum() < added.sum()


def test_the_posterior_mean_has_no_boundary_excess() -> None:
    """On average, so that the penalty asks for nothing that it has not: x0 white, y = x0 + noise that is constant in a
    block; the posterior mean of x0 (a known linear map) steps less across boundaries than elsewhere.
    """
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((64, 3, 32, 32), generator=generator)
    noise = torch.randn((64, 3, 4, 4), generator=generator).repeat_interleave(8, -2).repeat_interleave(8, -1)
    y = x0 + noise
    mean_of_block = torch.nn.functional.avg_pool2d(y, 8).repeat_interleave(8, -2).repeat_interleave(8, -1)
    posterior = y - mean_of_block * 64 / 65  # the noise's variance in a block's mean is 1, that of x0 1 / 64
    assert (boundary_excess(y) - boundary_excess(x0)).mean() > 1
    assert (boundary_excess(posterior) - boundary_excess(x0)).mean() < 0


def test_blocking_needs_an_estimated_image() -> None:
    with pytest.raises(ValueError, match="blocking"):
        Objective(Denoiser.create(CONFIG, OUVE(), "noise"), TimeDensity(), 0.1)


def test_time_density_keeps_its_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    t = TimeDensity(t_eps=0.01, power=2.0, share_at_one=0.25).draw(1000, generator)
    assert (t == 1).float().mean().item() == pytest.approx(0.25, abs=0.002)
    below = t[t < 1]
    assert below.min() >= 0.01
    assert ((below - 0.01) / 0.99).sqrt().mean().item() == pytest.approx(0.5, abs=0.01)
    uniform = TimeDensity().draw(1000, generator)
    assert uniform.mean().item() == pytest.approx(0.505, abs=0.002)  # stratified


@pytest.mark.parametrize("bad", [{"t_eps": 0.0}, {"power": 0.0}, {"share_at_one": 1.5}])
def test_time_density_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="t_eps"):
        TimeDensity(**bad)


def test_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="'score'"):
        Denoiser.create(CONFIG, OUVE(), "score")  # type: ignore[arg-type]
