"""The arms that learn the mean: each is trained by one loop, and restores."""

import numpy as np
import pytest
import torch

from benchmarks.mean_arms import ARMS, Training, rate


@pytest.mark.parametrize("name", ["NAFNet's blocks", "told the quality", "estimates, place, no norm, Muon"])
def test_an_arm_learns_and_restores(name: str) -> None:
    training = Training(ARMS[name])
    generator = np.random.default_rng(0)
    clean = np.repeat(generator.integers(0, 256, (2, 32, 4, 3), dtype=np.uint8), 8, axis=2)
    x0 = torch.from_numpy(clean).permute(0, 3, 1, 2)
    before, _ = training.restored(clean // 2)
    for _ in range(3):
        training.step((x0, x0 // 2, torch.tensor([10.0, 50.0])), 1e-3)
    after, seconds = training.restored(clean // 2)
    error, was = (np.square(pixels.astype(int) - clean).mean() for pixels in (after, before))
    assert error < was
    assert seconds > 0


def test_a_told_quality_is_seen() -> None:
    """Once a step has moved the weights: at first every block is its shortcut."""
    training = Training(ARMS["told the quality"])
    x0 = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    for _ in range(2):
        training.step((x0, x0 // 2, torch.tensor([10.0, 50.0])), 1e-2)
    restored = []
    for quality in (10.0, 90.0):
        training.tell(torch.tensor(quality))
        restored.append(training.denoiser(x0 / 255, x0 / 255, torch.ones((), dtype=torch.float64)))
    assert not torch.equal(*restored)


def test_the_rate_rises_and_falls() -> None:
    assert rate(0, 100) < rate(40, 100) > rate(80, 100) > rate(99, 100) > 0
