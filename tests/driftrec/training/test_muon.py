"""Muon: a step's matrix is nearly orthogonal, and as large as AdamW's would be."""

import pytest
import torch
from torch import nn

from driftrec.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (16, 72), (72, 16)])
def test_singular_values_become_about_one_and_the_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.01
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = torch.diagonal(left.mT @ orthogonal(matrix) @ right.mT)
    assert 0.5 < found.min() <= found.max() < 1.3
    torch.testing.assert_close(left.mT @ orthogonal(matrix) @ right.mT, torch.diag(found), rtol=0, atol=0.02)


def test_a_first_step_is_as_large_as_adams_and_goes_down() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(32, 8, 3, 3))
    target = torch.randn(weight.shape)
    optimiser = Muon([weight], lr=0.1, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(3):
        loss = (weight - target).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if len(losses) == 1:
            assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)
    assert losses[0] > losses[1] > losses[2]


def test_what_is_no_matrix_moves_as_by_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(7)), nn.Parameter(torch.ones(7))
    muon, adam = (
        kind([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
        for kind, p in ((Muon, ours), (torch.optim.AdamW, theirs))
    )
    for _ in range(4):
        gradient = torch.randn(7)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)
    assert muon.state[ours].keys() == set(Muon.slots(ours))
