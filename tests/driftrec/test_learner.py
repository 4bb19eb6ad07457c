"""One learner: its loss falls, its state file brings everything back, and its noise is a function of (seed, rank,
step).
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from driftrec.denoiser import Denoiser
from driftrec.errors import InvalidInput
from driftrec.learner import Learner, Optimisation
from driftrec.network import NetworkConfig
from driftrec.objective import TimeDensity
from driftrec.sde import OUVE

OPTIMISATION = Optimisation(steps=60, lr=2e-3, warmup=5, ema_decay=0.9, bf16=False)


def make_learner(seed: int = 0, rank: int = 0) -> Learner:
    torch.manual_seed(0)
    denoiser = Denoiser.create(replace(NetworkConfig.tiny(), width=8), OUVE())
    return Learner(denoiser, TimeDensity(share_at_one=0.25), OPTIMISATION, seed, rank)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A damage that can be learnt: the clean image is flat, the damaged one has stripes."""
    generator = torch.Generator().manual_seed(step)
    clean = torch.rand(4, 3, 1, 1, generator=generator).expand(4, 3, 16, 16).mul(200).add(20)
    stripes = 20 * torch.arange(16).remainder(2).mul(2).sub(1).float()
    return clean.to(torch.uint8), (clean + stripes).to(torch.uint8)


def test_loss_falls() -> None:
    learner = make_learner()
    losses = [learner.step(*batch(i)).loss for i in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    unbroken, first = make_learner(), make_learner()
    expected = [unbroken.step(*batch(i)) for i in range(8)]
    for i in range(4):
        first.step(*batch(i))
    first.save(tmp_path / "state", {"epoch": 3})
    second = make_learner()
    assert second.load(tmp_path / "state") == {"epoch": 3}
    assert [second.step(*batch(i)) for i in range(4, 8)] == expected[4:]
    for name, value in unbroken.denoiser.state_dict().items():
        assert torch.equal(second.denoiser.state_dict()[name], value)
    for name, value in unbroken.ema.weights.items():
        assert torch.equal(second.ema.weights[name], value)


def test_ranks_and_seeds_draw_different_noise() -> None:
    losses = {make_learner(seed, rank).step(*batch(0)).loss for seed, rank in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len(losses) == 4
    assert make_learner(1, 1).step(*batch(0)).loss in losses


def test_schedule() -> None:
    optimisation = Optimisation(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [optimisation.lr_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_a_foreign_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"nonsense")
    with pytest.raises(InvalidInput, match="state: not a training state"):
        make_learner().load(tmp_path / "state")
