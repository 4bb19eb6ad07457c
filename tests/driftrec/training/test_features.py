"""The classifier's first layers: paddings as TensorFlow has them, and weights from their publisher's file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from driftrec.errors import InvalidInput
from driftrec.training.features import BLOCKS, CHANNELS, STEM, TAPS, Features, Layer, perceptual_distance
from recipes import standins


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("side", [8, 12, 96])
def test_padding_is_tensorflows(kernel: int, stride: int, side: int) -> None:
    """SAME: ceil(side / stride) outputs, and what is odd of the padding comes after."""
    layer = Layer(1, 1, kernel, stride, linear=True).eval()
    x = torch.rand(1, 1, side, side)
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    expected = layer.norm(F.conv2d(padded, layer.conv.weight, stride=stride))
    assert torch.equal(layer(x), expected)


def test_what_the_recipe_writes_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standins, "tensors_in", lambda wheel, file: published())
    save_file(standins.efficientnet(tmp_path), tmp_path / "a.safetensors")
    features = Features.load(tmp_path / "a.safetensors")
    assert not any(parameter.requires_grad for parameter in features.parameters())
    sizes = [tuple(feature.shape[1:]) for feature in features(images(1))]
    assert sizes == [(16, 16, 16), (24, 8, 8), (40, 4, 4)]
    for wrong in (b"", b"no weights"):
        (tmp_path / "b.safetensors").write_bytes(wrong)
        with pytest.raises(InvalidInput, match=r"b\.safetensors.*python -m recipes\.standins"):
            Features.load(tmp_path / "b.safetensors")
    with pytest.raises(InvalidInput, match=r"none\.safetensors"):
        Features.load(tmp_path / "none.safetensors")


def test_the_distance_is_of_directions_and_the_mean_of_images() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(2, of, 8, 8, generator=generator) for of in CHANNELS] for _ in "ab")
    distance = perceptual_distance(a, b)
    cosines = [F.cosine_similarity(ours, theirs).mean() for ours, theirs in zip(a, b, strict=True)]
    torch.testing.assert_close(distance, sum(2 - 2 * cosine for cosine in cosines))
    torch.testing.assert_close(perceptual_distance(b, [3 * ours for ours in a]), distance)
    apart = [perceptual_distance([x[i : i + 1] for x in a], [x[i : i + 1] for x in b]) for i in range(2)]
    torch.testing.assert_close(torch.stack(apart).mean(), distance)
    assert perceptual_distance(a, a) == 0
    torch.testing.assert_close(perceptual_distance(a, [-x for x in a]), torch.tensor(4.0 * len(TAPS)))


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_places_without_features_have_no_direction_and_a_gradient(constant: float) -> None:
    features = [torch.full((1, of, 4, 4), constant, requires_grad=True) for of in CHANNELS]
    perceptual_distance(features, [torch.zeros(1, of, 4, 4) for of in CHANNELS]).backward()
    assert all(of.grad is not None and of.grad.isfinite().all() for of in features)


def published() -> dict[str, Tensor]:
    """Random weights of the first blocks by their publisher's names, and one that is not wanted."""
    found: dict[str, Tensor] = {"_fc.weight": torch.rand(2, 2)}

    def layer(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        found[f"{convolution}.weight"] = torch.rand(shape)
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{name}"] = torch.rand(shape[0])
        found[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    layer("_conv_stem", "_bn0", (STEM, 3, 3, 3))
    for number, (inputs, widening, kernel, _, outputs) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}.", inputs * widening
        if widening > 1:
            layer(block + "_expand_conv", block + "_bn0", (wide, inputs, 1, 1))
        layer(block + "_depthwise_conv", block + "_bn1", (wide, 1, kernel, kernel))
        layer(block + "_project_conv", block + "_bn2", (outputs, wide, 1, 1))
    return found


def test_rectified_features_are_those_that_the_blocks_filter() -> None:
    """None is negative or above 6, the outputs follow from them, and each image's stay its own."""
    features = Features().eval()
    with torch.no_grad():
        for parameter in features.parameters():
            parameter.normal_(std=0.3)
    x = images(2)
    found = features.rectified(x)
    shapes = [(32, 16, 16), *[(96, 16, 16)], *[(144, 8, 8)] * 2, *[(240, 4, 4)] * 2]
    shapes += [*[(480, 2, 2)] * 3, *[(672, 2, 2)] * 2]
    assert [tuple(one.shape[1:]) for one in found] == shapes
    assert all(one.min() >= 0 and one.max() <= 6 for one in found)
    last, wide = features.blocks[TAPS[-1]], found[TAPS[-1]]
    before = features(x)[-1] - last.project(last.filter(wide))
    torch.testing.assert_close(last.narrowed(wide, before), features(x)[-1])
    for one, alone in zip(found, features.rectified(x[:1]), strict=True):
        torch.testing.assert_close(one[:1], alone)
