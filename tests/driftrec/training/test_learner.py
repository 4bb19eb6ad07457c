"""One learner: its loss falls, its state file brings everything back, and its noise is a function of (seed, rank,
step).
"""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.errors import InvalidInput
from driftrec.networks.config import NetworkConfig
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import TimeDensity

OPTIMISATION = Optimisation(steps=60, lr=2e-3, warmup=5, ema_decay=0.9, bf16=False)
NETWORK = replace(NetworkConfig.tiny(), width=8)


def make_learner(seed: int = 0, rank: int = 0, network: NetworkConfig = NETWORK, **changes: Any) -> Learner:
    torch.manual_seed(0)
    denoiser = Denoiser.create(network, OUVE())
    return Learner(denoiser, TimeDensity(share_at_one=0.25), replace(OPTIMISATION, **changes), seed, rank)


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


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_resumed_run_equals_the_unbroken_one(tmp_path: Path, muon: bool) -> None:
    unbroken, first = make_learner(muon=muon), make_learner(muon=muon)
    expected = [unbroken.step(*batch(i)) for i in range(8)]
    for i in range(4):
        first.step(*batch(i))
    first.save(tmp_path / "state", {"epoch": 3})
    second = make_learner(muon=muon)
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


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.denoiser.parameters()])


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch_as_a_whole(parts: int) -> None:
    """The same times and noise, the same gradient up to float32's rounding."""
    whole, accumulated = make_learner(), make_learner(accumulate=parts)
    for i in range(3):
        one, many = whole.step(*batch(i)), accumulated.step(*batch(i))
        assert many.loss == pytest.approx(one.loss, rel=1e-5)
        assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    start = weights(make_learner())
    moved = (weights(whole) - start).norm()
    assert (weights(whole) - weights(accumulated)).norm() < 0.02 * moved
    half = make_learner()
    half.step(*(images[:2] for images in batch(0)))
    again = make_learner()
    again.step(*batch(0))
    assert (weights(half) - weights(again)).norm() > 0.2 * moved / 3  # half a batch is something else


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 4 cannot be taken in 3 equal parts"):
        make_learner(accumulate=3).step(*batch(0))


def distributed(rank: int, folder: str) -> None:
    """One of two workers: three steps whole and in parts must move the weights alike, and alike on both."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ends = []
    for parts in (1, 2):
        learner = make_learner(rank=rank, accumulate=parts)
        learner.objective = DistributedDataParallel(learner.objective)
        for i in range(3):
            learner.step(*batch(2 * i + rank))
        ends.append(weights(learner))
    save_file({"whole": ends[0], "parts": ends[1]}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_parts_of_a_batch_are_exchanged_once_between_workers(tmp_path: Path) -> None:
    spawn(distributed, args=(str(tmp_path),), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    moved = (first["whole"] - weights(make_learner())).norm()
    assert (first["whole"] - first["parts"]).norm() < 0.02 * moved
    alone = make_learner()
    for i in range(3):
        alone.step(*batch(2 * i))
    assert (weights(alone) - first["whole"]).norm() > 0.1 * moved  # the other worker's half counts


def test_dropout_is_drawn_from_the_step_too(tmp_path: Path) -> None:
    network = replace(NETWORK, dropout=0.3)
    unbroken = make_learner(network=network)
    expected = [unbroken.step(*batch(i)) for i in range(4)]
    first = make_learner(network=network)
    for i in range(2):
        torch.rand(i + 3)  # what else draws in this process
        first.step(*batch(i))
    first.save(tmp_path / "state")
    second = make_learner(network=network)
    second.load(tmp_path / "state")
    torch.rand(7)
    assert [second.step(*batch(i)) for i in range(2, 4)] == expected[2:]
    without = make_learner()
    assert [without.step(*batch(i)) for i in range(4)][3].loss != expected[3].loss


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_network_learns_the_same_under_the_same_names(tmp_path: Path) -> None:
    plain, compiled = make_learner(), make_learner(compile=True)
    for i in range(3):
        assert compiled.step(*batch(i)).loss == pytest.approx(plain.step(*batch(i)).loss, rel=1e-3)
    assert list(compiled.denoiser.state_dict()) == list(plain.denoiser.state_dict())
    compiled.save(tmp_path / "state")
    plain.load(tmp_path / "state")  # names and shapes are those of a network that is not compiled
    assert torch.equal(weights(plain), weights(compiled))


def test_the_rate_is_constant_and_falls_over_the_last_steps() -> None:
    rates = [Optimisation(steps=100, lr=1.0, warmup=10, decay_steps=20).lr_at(step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5)  # the middle of half a cosine
    assert rates[100] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[80:]))
    constant = Optimisation(steps=100, lr=1.0, warmup=0, decay_steps=0)
    assert {constant.lr_at(step) for step in range(100)} == {1.0}
    whole = Optimisation(steps=100, lr=1.0, warmup=0)
    assert [whole.lr_at(s) for s in range(101)] == [replace(whole, decay_steps=100).lr_at(s) for s in range(101)]
    assert [whole.lr_at(s) for s in range(101)] == [replace(whole, decay_steps=4000).lr_at(s) for s in range(101)]
    with pytest.raises(ValueError, match="decay_steps >= 0, got -1"):
        replace(constant, decay_steps=-1)


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
