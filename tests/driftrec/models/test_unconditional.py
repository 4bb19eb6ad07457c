"""ADM and DDPM from the layouts in which others publish them, on random weights of small configs: their own files could
not be fetched.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from driftrec.errors import InvalidInput
from driftrec.models.unconditional import read_adm, read_ddpm
from driftrec.networks.adm import ADM, ADMConfig
from driftrec.networks.ddpm import DDPM, DDPMConfig

CONFIG = ADMConfig(width=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=4, groups=4)
SMALL_DDPM = DDPMConfig(width=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=4)


def drawn(seed: int, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=draw) for name, value in network.state_dict().items()}


def i2sb(channels: int = 6) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A file's content, and the moving averages by name."""
    network = ADM(replace(CONFIG, image_channels=channels, out_channels=3))
    net, averages = drawn(1, network), drawn(2, network)
    shadows = {"decay": 0.99, "num_updates": 7, "shadow_params": list(averages.values()), "collected_params": None}
    named = {f"diffusion_model.{name}": value for name, value in net.items()}
    return {"net": named, "ema": shadows, "optimizer": {"state": {}}, "sched": None}, averages


@pytest.mark.parametrize("channels", [3, 6])
@torch.inference_mode()
def test_i2sbs_moving_averages_get_their_names(tmp_path: Path, channels: int) -> None:
    content, averages = i2sb(channels)
    torch.save(content, tmp_path / "latest.pt")
    network = read_adm(tmp_path / "latest.pt", CONFIG)
    state = network.state_dict()
    assert list(state) == list(averages)
    assert all(torch.equal(state[name], averages[name]) for name in state)
    assert network(torch.rand(1, channels, 8, 8), torch.tensor(3)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_plain_state_dict(tmp_path: Path, suffix: str) -> None:
    path, adm, ddpm = tmp_path / f"a.{suffix}", drawn(1, ADM(CONFIG)), drawn(2, DDPM(SMALL_DDPM))
    save = save_file if suffix == "safetensors" else torch.save
    for read, config, weights in ((read_adm, CONFIG, adm), (read_ddpm, SMALL_DDPM, ddpm)):
        save(weights, path)
        network: Any = read(path, config)
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
        assert not any(value.requires_grad for value in network.parameters())


def swapped(content: dict[str, Any]) -> None:
    shadows = content["ema"]["shadow_params"]
    shadows[0], shadows[1] = shadows[1], shadows[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["ema"]["shadow_params"].pop(), r"\d+ moving averages do not fit the \d+ weights of its net"),
        (lambda c: c.pop("ema"), "no moving averages do not fit"),
        (swapped, r"moving average 0 is \(32,\), and diffusion_model\.time_embed\.0\.weight"),
        (lambda c: c["net"].update(extra=c["net"].popitem()[1]), "'extra' of its net does not begin with diffusion_"),
        (lambda c: c["ema"]["shadow_params"].__setitem__(0, 3), "holds more than named tensors"),
    ],
    ids=["fewer", "none", "order", "name", "kind"],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    content, _ = i2sb()
    change(content)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match=r"a\.pt: .*" + message):
        read_adm(tmp_path / "a.pt", CONFIG)


def test_another_network_is_named(tmp_path: Path) -> None:
    torch.save(drawn(1, ADM(replace(CONFIG, blocks=2))), tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match=r"weights are missing: input_blocks\.3\.0\.skip"):
        read_adm(tmp_path / "a.pt", CONFIG)
    with pytest.raises(InvalidInput, match=r"weights are missing: temb\.dense\.0\.weight"):
        read_ddpm(tmp_path / "a.pt", SMALL_DDPM)
    with pytest.raises(InvalidInput, match=r"'gone\.pt': no such file"):
        read_adm("gone.pt")
