"""Networks whose weights others publish: their names and shapes, and their layers against naive ones."""

import ast
from collections.abc import Callable
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


Weights = dict[str, np.ndarray]


def part(w: Weights, prefix: str) -> Weights:
    """What belongs to a layer."""
    return {name.removeprefix(f"{prefix}."): value for name, value in w.items() if name.startswith(f"{prefix}.")}


def dense(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def conv(w: Weights, name: str, x: np.ndarray, stride: int = 1, padding: int = 1) -> np.ndarray:
    return convolve(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)


def norm(w: Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    return group_norm(x, 4, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def adm_block(w: Weights, x: np.ndarray, told: np.ndarray, resample: str | None = None) -> np.ndarray:
    def resampled(z: np.ndarray) -> np.ndarray:
        if resample == "up":
            return z.repeat(2, axis=1).repeat(2, axis=2)
        return (z[:, ::2, ::2] + z[:, 1::2, ::2] + z[:, ::2, 1::2] + z[:, 1::2, 1::2]) / 4 if resample else z

    h = conv(w, "in_layers.2", resampled(silu(norm(w, "in_layers.0", x, 1e-5))))
    scale, shift = np.split(dense(w, "emb_layers.1", silu(told)), 2)
    h = silu(norm(w, "out_layers.0", h, 1e-5) * (1 + scale[:, None, None]) + shift[:, None, None])
    h = conv(w, "out_layers.3", h)
    x = resampled(x)
    return h + (conv(w, "skip_connection", x, padding=0) if "skip_connection.weight" in w else x)


def adm_attention(w: Weights, x: np.ndarray) -> np.ndarray:
    """Heads of 4 channels; of each its queries, keys and values, one after the other."""
    rows = w["qkv.weight"][..., 0] @ norm(w, "norm", x, 1e-5).reshape(len(x), -1) + w["qkv.bias"][:, None]
    heads = [attend(*(rows[12 * i + 4 * j :][:4] for j in range(3))) for i in range(len(x) // 4)]
    h = w["proj_out.weight"][..., 0] @ np.concatenate(heads) + w["proj_out.bias"][:, None]
    return x + h.reshape(x.shape)


def ddpm_block(w: Weights, x: np.ndarray, told: np.ndarray) -> np.ndarray:
    h = conv(w, "conv1", silu(norm(w, "norm1", x, 1e-6))) + dense(w, "temb_proj", silu(told))[:, None, None]
    h = conv(w, "conv2", silu(norm(w, "norm2", h, 1e-6)))
    return h + (conv(w, "nin_shortcut", x, padding=0) if "nin_shortcut.weight" in w else x)


def ddpm_attention(w: Weights, x: np.ndarray) -> np.ndarray:
    h = norm(w, "norm", x, 1e-6)
    parts = [conv(w, name, h, padding=0).reshape(len(x), -1) for name in "qkv"]
    return x + conv(w, "proj_out", attend(*parts).reshape(x.shape), padding=0)


def equal(found: torch.Tensor, expected: np.ndarray) -> None:
    """A batch of one."""
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", [None, "up", "down"])
@torch.inference_mode()
def test_residual_block_of_adm(resample) -> None:
    block, x, embedding = (
        drawn(adm.ResidualBlock(SMALL_ADM, 8, 12, resample)),
        torch.randn(1, 8, 4, 6),
        torch.randn(1, 32),
    )
    equal(
        block(x, embedding), adm_block(weights(block), x[0].double().numpy(), embedding[0].double().numpy(), resample)
    )


@torch.inference_mode()
def test_attention_of_adm_splits_heads_before_query_key_and_value() -> None:
    layer, x = drawn(adm.Attention(SMALL_ADM, 8)), torch.randn(1, 8, 3, 5)
    equal(layer(x), adm_attention(weights(layer), x[0].double().numpy()))


@torch.inference_mode()
def test_residual_block_of_ddpm() -> None:
    block, x, embedding = drawn(ddpm.ResidualBlock(SMALL_DDPM, 8, 12)), torch.randn(1, 8, 4, 6), torch.randn(1, 32)
    equal(block(x, embedding), ddpm_block(weights(block), x[0].double().numpy(), embedding[0].double().numpy()))


@torch.inference_mode()
def test_attention_of_ddpm() -> None:
    layer, x = drawn(ddpm.Attention(SMALL_DDPM, 8)), torch.randn(1, 8, 3, 5)
    equal(layer(x), ddpm_attention(weights(layer), x[0].double().numpy()))


def waves(t: float, last: float, first: Callable[[float], float], second: Callable[[float], float]) -> np.ndarray:
    """The time of the small networks, 8 numbers."""
    return np.array([wave(t * 10_000 ** (-i / last)) for wave in (first, second) for i in range(4)])


@torch.inference_mode()
def test_all_of_adm() -> None:
    """Three levels of one block, halved and doubled by the layers named here; the rest goes by the names alone."""
    network, x = drawn(ADM(SMALL_ADM)).eval(), torch.rand(1, 3, 8, 8) * 2 - 1
    resampling = {
        "input_blocks.2.0": "down",
        "input_blocks.4.0": "down",
        "output_blocks.1.2": "up",
        "output_blocks.3.2": "up",
    }
    w, skips = weights(network), []
    told = dense(w, "time_embed.2", silu(dense(w, "time_embed.0", waves(7, 4, np.cos, np.sin))))

    def through(stage: str, h: np.ndarray) -> np.ndarray:
        for i in range(3):
            layer = part(w, f"{stage}.{i}")
            if "qkv.weight" in layer:
                h = adm_attention(layer, h)
            elif "weight" in layer:
                h = conv(w, f"{stage}.{i}", h)
            elif layer:
                h = adm_block(layer, h, told, resampling.get(f"{stage}.{i}"))
        return h

    h = x[0].double().numpy()
    for i in range(6):
        h = through(f"input_blocks.{i}", h)
        skips.append(h)
    h = through("middle_block", h)
    for i in range(6):
        h = through(f"output_blocks.{i}", np.concatenate([h, skips.pop()]))
    equal(network(x, torch.tensor(7)), conv(w, "out.2", silu(norm(w, "out.0", h, 1e-5))))


@torch.inference_mode()
def test_all_of_ddpm() -> None:
    """Three levels of one block, attention at the second."""
    network, x = drawn(DDPM(SMALL_DDPM)).eval(), torch.rand(1, 3, 8, 8) * 2 - 1
    w = weights(network)
    told = dense(w, "temb.dense.1", silu(dense(w, "temb.dense.0", waves(7, 3, np.sin, np.cos))))
    skips = [conv(w, "conv_in", x[0].double().numpy())]
    for level in range(3):
        h = ddpm_block(part(w, f"down.{level}.block.0"), skips[-1], told)
        skips.append(ddpm_attention(part(w, "down.1.attn.0"), h) if level == 1 else h)
        if level < 2:
            padded = np.pad(skips[-1], [(0, 0), (0, 1), (0, 1)])
            skips.append(conv(w, f"down.{level}.downsample.conv", padded, stride=2, padding=0))
    h = ddpm_attention(part(w, "mid.attn_1"), ddpm_block(part(w, "mid.block_1"), skips[-1], told))
    h = ddpm_block(part(w, "mid.block_2"), h, told)
    for level in (2, 1, 0):
        for i in range(2):
            h = ddpm_block(part(w, f"up.{level}.block.{i}"), np.concatenate([h, skips.pop()]), told)
            h = ddpm_attention(part(w, f"up.1.attn.{i}"), h) if level == 1 else h
        if level:
            h = conv(w, f"up.{level}.upsample.conv", h.repeat(2, axis=1).repeat(2, axis=2))
    assert not skips
    equal(network(x, torch.tensor(7)), conv(w, "conv_out", silu(norm(w, "norm_out", h, 1e-6))))


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
