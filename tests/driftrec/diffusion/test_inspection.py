"""Feature maps: the right convolutions, the right sizes, and no trace left in the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.diffusion.feature_maps import GAP, FeatureMap, feature_grid, feature_maps
from driftrec.networks.config import NetworkConfig

CONFIGS = {
    "paper": replace(NetworkConfig.paper(), width=8, multipliers=(1, 2, 2), attention_levels=(1,)),
    "tiny": replace(NetworkConfig.tiny(), width=8, multipliers=(1, 2, 2)),
}


def make(name: str) -> Denoiser:
    """A small denoiser whose every weight matters."""
    torch.manual_seed(0)
    denoiser = Denoiser.create(CONFIGS[name], OUVE()).eval()
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return denoiser


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(32, 48), (29, 35)])
def test_a_map_of_each_depth_down_and_up(name: str, size: tuple[int, int]) -> None:
    denoiser, stem = make(name), CONFIGS[name].stem
    maps = feature_maps(denoiser, torch.rand(3, *size), torch.rand(3, *size), 0.5)
    assert [(each.way, each.level) for each in maps] == [
        ("down", 0), ("down", 1), ("down", 2), ("up", 2), ("up", 1), ("up", 0),
    ]  # fmt: skip
    for each in maps:
        unit = stem * 2**each.level
        assert each.values.shape == (-(-size[0] // unit), -(-size[1] // unit))
    assert hooks(denoiser) == 0


@torch.inference_mode()
def test_the_values_are_the_mean_of_that_convolution() -> None:
    """Without embedding, norm or activation: recomputed from the input of the last residual block."""
    denoiser, x, y = make("paper"), torch.rand(3, 32, 32), torch.rand(3, 32, 32)
    block = denoiser.network.up[-1].blocks[-1]
    inputs: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    values = feature_maps(denoiser, x, y, 0.3)[-1].values
    handle.remove()
    again = nn.functional.conv2d(
        nn.functional.silu(block.norm1(inputs[0])), block.conv1.weight, block.conv1.bias, padding=1
    )
    torch.testing.assert_close(values, again[0].mean(dim=0))


def test_they_depend_on_state_jpeg_and_time() -> None:
    denoiser, x, y = make("paper"), torch.rand(3, 32, 32), torch.rand(3, 32, 32)
    first = feature_maps(denoiser, x, y, 0.5)
    for others in (
        feature_maps(denoiser, x + 0.3, y, 0.5),
        feature_maps(denoiser, x, y + 0.3, 0.5),
        feature_maps(denoiser, x, y, 0.9),
    ):
        assert all((a.values - b.values).abs().max() > 1e-4 for a, b in zip(first[1:], others[1:], strict=True))


def test_hooks_are_removed_when_the_network_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = make("tiny")

    def fail(*_: object) -> None:
        assert hooks(denoiser) == 6
        raise RuntimeError("no memory")

    monkeypatch.setattr(denoiser.network.up[-1], "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        feature_maps(denoiser, torch.rand(3, 16, 16), torch.rand(3, 16, 16), 0.5)
    assert hooks(denoiser) == 0


def test_the_output_is_the_same_with_and_without() -> None:
    denoiser, x = make("tiny"), torch.rand(1, 3, 24, 24)
    before = denoiser(x, x, torch.tensor(0.5))
    feature_maps(denoiser, x[0], x[0], 0.5)
    assert torch.equal(denoiser(x, x, torch.tensor(0.5)), before)


def test_the_grid_shows_each_map_from_black_to_white() -> None:
    ramp = torch.full((5, 6), 1000.0)  # the border may say what it wants
    ramp[1:-1, 1:-1] = torch.arange(12.0).reshape(3, 4)
    maps = [
        FeatureMap("down", 0, ramp - 5),
        FeatureMap("down", 1, -7 * ramp[1:3, 1:3]),
        FeatureMap("up", 1, torch.full((2, 2), 3.0)),
        FeatureMap("up", 0, ramp / 100),
    ]
    grid = np.array(feature_grid(maps))
    assert grid.shape == (2 * 5 + GAP, 2 * 6 + GAP)
    expected = (ramp / 11).clamp(max=1).mul(255).round().numpy().astype(np.uint8)
    assert np.array_equal(grid[:5, :6], expected)
    assert np.array_equal(grid[5 + GAP :, :6], expected)
    assert (grid[0, 6 + GAP], grid[4, -1]) == (255, 0)  # falling
    assert (grid[5 + GAP :, 6 + GAP :] == 0).all()  # constant
    assert (grid[5 : 5 + GAP] == 255).all()
    with pytest.raises(ValueError, match="no feature maps"):
        feature_grid([])


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [((1, 3, 8, 8), 0.5, "one image each"), ((3, 8, 9), 0.5, "one image each"), ((3, 8, 8), 0.0, r"in \(0, 1\]")],
)
def test_refuses_what_is_no_single_image_or_time(x: tuple[int, ...], t: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_maps(make("tiny"), torch.rand(x), torch.rand(3, 8, 8), t)
