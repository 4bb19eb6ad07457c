"""Networks whose weights others publish: their names and shapes, and their layers against naive ones."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from driftrec.networks import adm, ddpm
from driftrec.networks.adm import ADM, ADMConfig
from driftrec.networks.ddpm import DDPM, DDPMConfig
from driftrec.networks.qgac import QGAC, QGACConfig
from tests.driftrec.networks.naive import attend, convolve, drawn, group_norm, silu, weights

SMALL_ADM = ADMConfig(width=8, multipliers=(1, 2, 2), blocks=1, attention_levels=(1, 2), head_channels=4, groups=4)
SMALL_DDPM = DDPMConfig(width=8, multipliers=(1, 2, 2), blocks=1, attention_levels=(1,), groups=4)
SMALL = [(ADM, SMALL_ADM), (DDPM, SMALL_DDPM)]
IDS = ["adm", "ddpm"]


def published(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a public state dict, in its order."""
    lines = (Path(__file__).parent / f"fixtures/{name}.txt").read_text().splitlines()
    return [(tensor, ast.literal_eval(shape)) for tensor, shape in (line.split("\t") for line in lines)]


def layout(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in network.state_dict().items()]


@pytest.mark.parametrize(
    ("kind", "config", "name", "parameters"),
    [
        (ADM, ADMConfig(), "adm256_uncond", 552_814_086),
        (DDPM, DDPMConfig(), "ddpm_celebahq", 113_673_219),
        (QGAC, QGACConfig(), "qgac_m3l", 259_408_742),
    ],
    ids=[*IDS, "qgac"],
)
def test_names_shapes_order_and_size_are_the_published_ones(kind, config, name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = kind(config)
    assert layout(network) == published(name)
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in published(name)]
    assert sum(value.numel() for value in network.parameters()) == parameters


@pytest.mark.parametrize("channels", [3, 6])
def test_i2sb_differs_in_the_first_and_the_last_convolution_alone(channels: int) -> None:
    with torch.device("meta"):
        network = ADM(replace(ADMConfig(), image_channels=channels, out_channels=3))
    others = {"input_blocks.0.0.weight": (256, channels, 3, 3), "out.2.weight": (3, 256, 3, 3), "out.2.bias": (3,)}
    assert dict(layout(network)) == dict(published("adm256_uncond")) | others


@pytest.mark.parametrize(("kind", "config"), SMALL, ids=IDS)
@torch.inference_mode()
def test_an_image_and_its_time_alone_decide(kind, config) -> None:
    network = drawn(kind(config)).eval()
    x, t = torch.rand(3, 3, 16, 24) * 2 - 1, torch.tensor([0, 500, 999])
    together = network(x, t)
    assert together.shape == (3, 6 if kind is ADM else 3, 16, 24)
    assert together.isfinite().all()
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i]), together[i : i + 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network(x, t.flip(0)), together)


@pytest.mark.parametrize(("kind", "config"), SMALL, ids=IDS)
def test_every_weight_takes_part(kind, config) -> None:
    network = drawn(kind(config))
    network(torch.rand(1, 3, 16, 16), torch.tensor(3)).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle


@pytest.mark.parametrize(("kind", "config"), SMALL, ids=IDS)
def test_other_sides_are_refused(kind, config) -> None:
    with pytest.raises(ValueError, match=r"both sides must be multiples of 4, got \(16, 18\)"):
        kind(config)(torch.rand(1, 3, 16, 18), torch.tensor(3))


@pytest.mark.parametrize("resample", [None, "up", "down"])
@torch.inference_mode()
def test_residual_block_of_adm(resample) -> None:
    block = drawn(adm.ResidualBlock(SMALL_ADM, 8, 12, resample))
    x, embedding = torch.randn(1, 8, 4, 6), torch.randn(1, 32)
    w = weights(block)
    image, told = x[0].double().numpy(), embedding[0].double().numpy()

    def resampled(z: np.ndarray) -> np.ndarray:
        if resample == "up":
            return z.repeat(2, axis=1).repeat(2, axis=2)
        halves = (z[:, ::2, ::2] + z[:, 1::2, ::2] + z[:, ::2, 1::2] + z[:, 1::2, 1::2]) / 4
        return halves if resample else z

    h = silu(group_norm(image, 4, w["in_layers.0.weight"], w["in_layers.0.bias"], 1e-5))
    h = convolve(resampled(h), w["in_layers.2.weight"], w["in_layers.2.bias"])
    scale, shift = np.split(w["emb_layers.1.weight"] @ silu(told) + w["emb_layers.1.bias"], 2)
    h = group_norm(h, 4, w["out_layers.0.weight"], w["out_layers.0.bias"], 1e-5)
    h = silu(h * (1 + scale[:, None, None]) + shift[:, None, None])
    h = convolve(h, w["out_layers.3.weight"], w["out_layers.3.bias"])
    h += convolve(resampled(image), w["skip_connection.weight"], w["skip_connection.bias"], padding=0)
    np.testing.assert_allclose(block(x, embedding)[0].numpy(), h, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_attention_of_adm_splits_heads_before_query_key_and_value() -> None:
    layer = drawn(adm.Attention(SMALL_ADM, 8))
    x = torch.randn(1, 8, 3, 5)
    w, image = weights(layer), x[0].double().numpy()
    h = group_norm(image, 4, w["norm.weight"], w["norm.bias"], 1e-5).reshape(8, -1)
    rows = w["qkv.weight"][..., 0] @ h + w["qkv.bias"][:, None]
    size = 4  # channels of a head
    heads = [attend(*(rows[3 * size * i + size * j :][:size] for j in range(3))) for i in range(2)]
    h = w["proj_out.weight"][..., 0] @ np.concatenate(heads) + w["proj_out.bias"][:, None]
    np.testing.assert_allclose(layer(x)[0].numpy(), image + h.reshape(8, 3, 5), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_residual_block_of_ddpm() -> None:
    block = drawn(ddpm.ResidualBlock(SMALL_DDPM, 8, 12))
    x, embedding = torch.randn(1, 8, 4, 6), torch.randn(1, 32)
    w = weights(block)
    image, told = x[0].double().numpy(), embedding[0].double().numpy()
    h = silu(group_norm(image, 4, w["norm1.weight"], w["norm1.bias"], 1e-6))
    h = convolve(h, w["conv1.weight"], w["conv1.bias"])
    h += (w["temb_proj.weight"] @ silu(told) + w["temb_proj.bias"])[:, None, None]
    h = silu(group_norm(h, 4, w["norm2.weight"], w["norm2.bias"], 1e-6))
    h = convolve(h, w["conv2.weight"], w["conv2.bias"])
    h += convolve(image, w["nin_shortcut.weight"], w["nin_shortcut.bias"], padding=0)
    np.testing.assert_allclose(block(x, embedding)[0].numpy(), h, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_attention_of_ddpm() -> None:
    layer = drawn(ddpm.Attention(SMALL_DDPM, 8))
    x = torch.randn(1, 8, 3, 5)
    w, image = weights(layer), x[0].double().numpy()
    h = group_norm(image, 4, w["norm.weight"], w["norm.bias"], 1e-6)
    parts = [convolve(h, w[f"{n}.weight"], w[f"{n}.bias"], padding=0).reshape(8, -1) for n in "qkv"]
    h = convolve(attend(*parts).reshape(8, 3, 5), w["proj_out.weight"], w["proj_out.bias"], padding=0)
    np.testing.assert_allclose(layer(x)[0].numpy(), image + h, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_resampling_of_ddpm() -> None:
    down, up = drawn(ddpm.Downsample(4)), drawn(ddpm.Upsample(4))
    x = torch.randn(1, 4, 6, 8)
    image = x[0].double().numpy()
    padded = np.pad(image, [(0, 0), (0, 1), (0, 1)])  # right and below alone
    halved = convolve(padded, *weights(down).values(), stride=2, padding=0)
    assert halved.shape == (4, 3, 4)
    np.testing.assert_allclose(down(x)[0].numpy(), halved, rtol=1e-4, atol=1e-4)
    doubled = convolve(image.repeat(2, axis=1).repeat(2, axis=2), *weights(up).values())
    np.testing.assert_allclose(up(x)[0].numpy(), doubled, rtol=1e-4, atol=1e-4)


def test_time_is_waves_of_falling_frequency() -> None:
    t = [0, 7, 999]
    for features, width, last, order in ((adm, 256, 128, (np.cos, np.sin)), (ddpm, 128, 63, (np.sin, np.cos))):
        frequencies = [10_000 ** (-i / last) for i in range(width // 2)]
        expected = [[wave(one * f) for wave in order for f in frequencies] for one in t]
        got = features.time_features(torch.tensor(t), width)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)
    assert ADMConfig().stride == DDPMConfig().stride == 32
