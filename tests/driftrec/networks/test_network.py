"""NCSN++: the paper's size, any image size, and what the tiny network's output may depend on."""

from dataclasses import replace

import pytest
import torch

from driftrec.networks.architectures import config_from
from driftrec.networks.blocks import Resample
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp, parameter_count

SMALL = replace(NetworkConfig.paper(), width=8, multipliers=(1, 2), attention_levels=(1,))
NARROW = replace(NetworkConfig.tiny(), width=8)
HINTED = replace(NARROW, estimates=(12, 30), grid=True)
KINDS = {  # what may be chosen of a small network
    "pixel": NARROW,
    "estimates and grid": HINTED,
    "no norm": replace(NARROW, norm="none", activation="relu"),
    "gated": replace(HINTED, block="gated"),
}


def randomised(config: NetworkConfig) -> NCSNpp:
    """A network whose every weight matters (fresh ones have zero convolutions)."""
    torch.manual_seed(0)
    network = NCSNpp(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network


def test_paper_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = NCSNpp(NetworkConfig.paper())
    assert round(parameter_count(network) / 1e6, 2) == 65.62
    assert len(network.state_dict()) == 647  # entries of the public implementation's score network


@pytest.mark.parametrize(
    "config",
    [SMALL, *KINDS.values(), replace(SMALL, pad_input=False, multipliers=(1, 1, 2))],
    ids=["group", *KINDS, "unpadded"],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 33), (32, 32), (30, 17)])
@torch.inference_mode()
def test_any_size_in_same_size_out(config: NetworkConfig, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    assert randomised(config)(x, x, torch.tensor(0.5)).shape == x.shape


@pytest.mark.parametrize("config", [SMALL, *KINDS.values()], ids=["group", *KINDS])
@torch.inference_mode()
def test_batch_of_one_equals_batch_of_five(config: NetworkConfig) -> None:
    network = randomised(config)
    x, y, level = torch.rand(5, 3, 32, 32), torch.rand(5, 3, 32, 32), torch.rand(5)
    each = torch.cat([network(x[i : i + 1], y[i : i + 1], level[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(network(x, y, level), each, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_new_extra_blocks_change_nothing_in_a_trained_network() -> None:
    trained, grown = randomised(SMALL), NCSNpp(replace(SMALL, extra=(2, 1))).eval()
    missing = grown.load_state_dict(trained.state_dict(), strict=False).missing_keys
    assert {name.split(".")[2] for name in missing} == {"extra"}
    assert parameter_count(grown) > parameter_count(trained)
    x, y, level = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.tensor(0.3)
    assert torch.equal(grown(x, y, level), trained(x, y, level))


@torch.inference_mode()
def test_the_estimates_and_the_place_count_and_the_place_returns_every_16_pixels() -> None:
    network = randomised(HINTED)
    y, level = torch.rand(1, 3, 64, 64), torch.tensor(0.3)
    out = network(y, y, level)
    network.estimates.limits = [0.0, 0.0]  # nothing is small
    assert (network(y, y, level) - out).abs().max() > 1e-3
    flat = torch.full((1, 3, 256, 256), 0.4)
    before = network(flat, flat, level)[..., 112:144, 112:144]
    network.grid.normal_()
    after = network(flat, flat, level)[..., 112:144, 112:144]
    assert after.std() > before.std()
    torch.testing.assert_close(after[..., :16, :16], after[..., 16:, 16:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"estimates": (0,)}, "estimates"),
        ({"estimates": (30,) * 9}, "estimates"),
        ({"grid": 1}, "grid"),
        ({"block": "residual"}, "block must be one of biggan, gated"),
        ({"activation": "gelu"}, "activation must be one of silu, relu"),
        ({"norm": "batch"}, "norm must be one of group, pixel, none"),
        ({"grid": True, "stem": 3}, "stem must divide 16"),
        ({"estimates": (30,), "stem": 1, "multipliers": (1,)}, "sides of even length"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config_from({"stem": 2, **wrong})


@pytest.mark.parametrize("extra", [(1, 1, 1), (-1,)])
def test_extra_blocks_need_a_level(extra: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"extra (needs one number per level, at most 2|must be a whole number)"):
        replace(SMALL, extra=extra)


@torch.inference_mode()
def test_output_depends_on_every_input() -> None:
    network = randomised(SMALL)
    x, y, level = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.tensor(0.3)
    out = network(x, y, level)
    for other in (network(x + 0.1, y, level), network(x, y + 0.1, level), network(x, y, level + 0.5)):
        assert (other - out).abs().max() > 1e-3


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_small_networks_see_a_bounded_neighbourhood(config: NetworkConfig) -> None:
    """No statistics or attention over the whole image: what is far away changes nothing, so that tiles can be exact."""
    network = randomised(config)
    x = torch.rand(1, 3, 64, 512)
    changed = x.clone()
    changed[..., 480:] += 1.0
    difference = (
        (network(x, x, torch.tensor(0.1)) - network(changed, changed, torch.tensor(0.1))).abs().amax(dim=(0, 1, 2))
    )
    assert difference[480:].max() > 0
    assert difference[:192].max() == 0


@torch.inference_mode()
def test_fir_resampling_keeps_a_constant_and_is_the_transpose_pair() -> None:
    down, up = Resample(SMALL.fir_kernel, "down"), Resample(SMALL.fir_kernel, "up")
    x = torch.rand(1, 2, 16, 16)
    constant = torch.full((1, 2, 16, 16), 0.7)
    torch.testing.assert_close(down(constant)[..., 1:-1, 1:-1], constant[..., :6, :6])
    torch.testing.assert_close(up(constant)[..., 1:-1, 1:-1], torch.full((1, 2, 30, 30), 0.7))
    z = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close((down(x) * z).sum() * 4, (x * up(z)).sum())  # <down x, z> = <x, up z> / 4


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("direction", ["down", "up"])
@torch.inference_mode()
def test_fast_filters_take_the_same_values_as_the_general_route(taps: tuple[int, ...], direction: str) -> None:
    resample = Resample(taps, direction)  # type: ignore[arg-type]
    x = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(resample(x), resample.general(x), rtol=0, atol=1e-6)


def test_frequencies_keep_their_precision_in_bfloat16() -> None:
    network = NCSNpp(SMALL)
    exact = network.embedding.frequencies.clone()
    network.to(torch.bfloat16)
    assert network.input.weight.dtype == torch.bfloat16
    assert torch.equal(network.embedding.frequencies, exact)


@torch.inference_mode()
def test_an_unconditional_network_looks_at_the_jpeg_alone() -> None:
    network = randomised(replace(SMALL, conditional=False))
    x, y = torch.rand(2, 2, 3, 16, 16)
    out = network(x, y, torch.tensor(0.3))
    assert torch.equal(network(x + 1, y, torch.tensor(0.9)), out)
    assert (network(x, y + 0.1, torch.tensor(0.3)) - out).abs().max() > 1e-3


def test_config_round_trips_and_names_unknown_fields() -> None:
    assert config_from({"width": 8, "multipliers": [1, 2]}) == NetworkConfig(width=8, multipliers=(1, 2))
    with pytest.raises(ValueError, match="'depth'"):
        config_from({"depth": 3})
    with pytest.raises(ValueError, match="width"):
        NetworkConfig(width=6)
