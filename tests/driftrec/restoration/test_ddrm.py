"""DDRM as a model: what is restored by it is what its sampler makes of the file's own encoder, whole or in tiles, alone
or with others; what it cannot take is told.
"""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from driftrec import Restorer
from driftrec.diffusion.baselines import Conditional
from driftrec.diffusion.ddrm import ddrm, linear_levels, of_denoiser, of_file, times
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import Picture
from driftrec.jpeg.codec import degrade_by, encode_jpeg
from driftrec.jpeg.headers import standard_tables
from driftrec.models import unconditional
from driftrec.models.checkpoint import save
from driftrec.networks.adm import ADM, ADMConfig
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ddpm import DDPM, DDPMConfig
from driftrec.noise import gaussian
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Plan, Sampling
from tests import made

Kind = Literal["ours", "adm", "ddpm"]
SMALL = {
    "adm": ADMConfig(width=64, multipliers=(1, 1), blocks=1, attention_levels=(1,), head_channels=16),
    "ddpm": DDPMConfig(width=64, multipliers=(1, 1), blocks=1, attention_levels=(1,)),
}


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 * parameter[0].numel() ** -0.5)
    return network.eval()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    denoiser = Denoiser.create(replace(NetworkConfig.tiny(), width=8, extra=()), Conditional(), "x0", residual_std=0.25)
    randomised(denoiser.network)
    path = tmp_path_factory.mktemp("ddrm") / "ours.safetensors"
    save(path, denoiser)
    return path


@pytest.fixture(scope="module")
def restorers(ours: Path) -> dict[Kind, Restorer]:
    adm, ddpm = ADM(SMALL["adm"]), DDPM(SMALL["ddpm"])  # type: ignore[arg-type]
    return {
        "ours": Restorer.from_pretrained(f"ddrm:{ours}", "cpu"),
        "adm": Restorer(unconditional.Weights(randomised(adm), "adm"), "cpu"),
        "ddpm": Restorer(unconditional.Weights(randomised(ddpm), "ddpm"), "cpu"),
    }


def opened(seed: int, height: int, width: int, quality: int = 10, subsampling: str = "4:2:0", **how: Any) -> Picture:
    return open_picture(encode_jpeg(made.pixels(seed, height, width), quality, subsampling, **how), f"{seed}.jpg")


@pytest.mark.parametrize("kind", ["ours", "adm", "ddpm"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_it_is_the_sampler_with_the_files_encoder(
    restorers: dict[Kind, Restorer], kind: Kind, subsampling: str
) -> None:
    """On sides that need no filling, step for step."""
    picture, model = opened(0, 32, 48, 20, subsampling), restorers[kind].checkpoint
    assert isinstance(model, unconditional.Weights)
    done = restorers[kind].restore([picture], ["a"], 7)[0]
    assert done.nfe == 20
    if model.ours:
        estimate, levels = of_denoiser(model.ours.denoiser, model.ours.denoiser.process, times())
    else:
        levels = linear_levels(times())
        estimate = lambda x, i: model.network(x, torch.tensor(times()[i]))[:, :3]  # noqa: E731
    y = torch.stack([torch.from_numpy(picture.rgb.astype(np.float32)).permute(2, 0, 1) / 255])
    y = y.contiguous(memory_format=torch.channels_last)  # laid out otherwise, sums are others, and what is rounded
    noise = partial(gaussian, 32, 48, seed=7, key="a")
    with torch.inference_mode():
        code = of_file(standard_tables(20), subsampling)
        expected = (ddrm(estimate, 2 * y - 1, code, lambda i: noise(step=i)[None], levels) + 1) / 2
    pixels = 255 * expected[0].permute(1, 2, 0).numpy()
    assert np.abs(done.picture.rgb - pixels).max() < 0.6  # rounded to levels
    again = degrade_by(done.picture.rgb, standard_tables(20), subsampling)
    other = degrade_by(made.pixels(9, 32, 48), standard_tables(20), subsampling)
    near, far = (np.square(one.astype(float) - picture.rgb).mean() for one in (again, other))
    assert near < far


@pytest.mark.parametrize("kind", ["ours", "adm", "ddpm"])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (40, 150)])
@pytest.mark.parametrize("tile", [None, 128])
def test_any_size_whole_and_in_tiles(
    restorers: dict[Kind, Restorer], kind: Kind, size: tuple[int, int], tile: int | None
) -> None:
    done = restorers[kind].restore([opened(1, *size)], ["a"], 0, Sampling(tile=tile))[0]
    assert done.picture.rgb.shape == (*size, 3)
    assert done.finite
    assert done.nfe == 20


def test_batch_and_order_change_nothing(restorers: dict[Kind, Restorer]) -> None:
    """Files of several tables and subsamplings; one by one on any device, since what is rounded must not differ."""
    restorer, kinds = restorers["adm"], [(10, "4:2:0"), (50, "4:4:4"), (10, "4:2:2"), (90, "4:2:0")]
    pictures = [opened(i, 48, 40, *kind, progressive=bool(i % 2)) for i, kind in enumerate(kinds)]
    keys = [f"{i}.jpg" for i in range(4)]
    together = restorer.restore(pictures, keys, 3)
    for i in (2, 0, 3, 1):
        alone = restorer.restore([pictures[i]], [keys[i]], 3)[0]
        assert np.array_equal(alone.picture.rgb, together[i].picture.rgb)
    on_a_gpu = SimpleNamespace(device=torch.device("cuda"), _held=True)
    plans = [Plan(Sampling().resolve({}), 1.0, 10)] * 4
    batches = Restorer._batches(on_a_gpu, [(48, 40)] * 4, plans)  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == [1] * 4


def test_the_record_says_what_was_done(restorers: dict[Kind, Restorer], ours: Path) -> None:
    restorer, others = restorers["ours"], Sampling(steps=3, samples=4, fidelity=1.0, noise="device")
    done = restorer.restore([opened(0, 32, 48)], ["a"], 7, others)[0]
    record = restorer.record(done, 7)
    assert record.keys() == {"version", "model", "seed", "noise", "method", "steps"}
    assert (record["method"], record["steps"], record["noise"]) == ("ddrm", 20, "device")
    assert restorer.fingerprint != Restorer.from_pretrained(str(ours), "cpu").fingerprint


def test_grey_files_and_turned_ones(restorers: dict[Kind, Restorer]) -> None:
    grey = open_picture(encode_jpeg(made.pixels(0, 33, 40)[..., 0], 10), "grey.jpg")
    done = restorers["ours"].restore([grey], ["a"])[0].picture
    assert done.mode == "L"
    assert np.array_equal(done.rgb[..., 0], done.rgb[..., 1])
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(made.pixels(0, 33, 40)).save(out, "JPEG", quality=10, exif=exif)
    assert restorers["ours"].restore([open_picture(out.getvalue(), "a.jpg")], ["a"])[0].picture.rgb.shape == (40, 33, 3)


def test_what_it_cannot_take_is_told(restorers: dict[Kind, Restorer], small_model: Path, tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(made.pixels(0, 32, 32)).save(png, "PNG")
    evaluations: list[int] = []
    restorers["ours"].tell = lambda done, of: evaluations.append(done)
    good = opened(0, 32, 32)
    assert good.coefficients is not None
    coarse = replace(good.coefficients, steps=(*good.coefficients.steps[:2], 2 * good.coefficients.steps[2]))
    bad = {
        "PNG is no JPEG": open_picture(png.getvalue(), "a.png"),
        "this one has two": replace(good, coefficients=coarse),
    }
    for told, picture in bad.items():
        with pytest.raises(BadImage, match=told) as caught:
            restorers["ours"].restore([good, good, picture], ["a", "b", "c"])
        assert caught.value.reason == Reason.unsupported
    assert not evaluations  # none was done in vain
    network = replace(NetworkConfig.tiny(), width=8, extra=())
    conditional: dict[str, tuple[Conditional, dict[str, Any]]] = {
        "its process has grey 0 and noise 0.5": (Conditional(grey=0.0), {}),
        "its process has grey 0.5 and noise 1": (Conditional(noise=1.0), {}),
        "it was trained on JPEGs": (Conditional(), {"data": {"clean": "x"}}),
    }
    for i, (process, card) in enumerate(conditional.values()):
        save(tmp_path / f"{i}.safetensors", Denoiser.create(network, process, "x0", residual_std=0.25), card=card)
    paths = {told: tmp_path / f"{i}.safetensors" for i, told in enumerate(conditional)}
    for told, path in {"its process is ouve": small_model, **paths}.items():
        with pytest.raises(InvalidInput, match=f"{told}, and DDRM takes a model that never saw a JPEG"):
            Restorer.from_pretrained(f"ddrm:{path}")
    with pytest.raises(InvalidInput, match=r"none\.pt.*no such file"):
        Restorer.from_pretrained(f"ddrm:{tmp_path / 'none.pt'}")


@pytest.mark.parametrize("channels", [3, 6])
def test_published_files_are_told_apart(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adm = replace(SMALL["adm"], image_channels=channels)  # type: ignore[type-var]
    networks: dict[str, nn.Module] = {"adm": ADM(adm), "ddpm": DDPM(SMALL["ddpm"])}  # type: ignore[arg-type]
    monkeypatch.setattr(unconditional, "ADMConfig", lambda: SMALL["adm"])
    monkeypatch.setattr(unconditional, "DDPMConfig", lambda: SMALL["ddpm"])
    for kind, network in networks.items():
        torch.save(network.state_dict(), tmp_path / f"{kind}.pt")
        if kind == "adm" and channels == 6:
            with pytest.raises(InvalidInput, match=r"adm\.pt: a network from 6 channels to 6, and DDRM takes one"):
                unconditional.load(tmp_path / "adm.pt")
            continue
        found = unconditional.load(tmp_path / f"{kind}.pt")
        assert type(found.network) is type(network)
        for name, value in found.network.state_dict().items():
            assert torch.equal(value, network.state_dict()[name])
    net = {f"diffusion_model.{name}": value for name, value in networks["adm"].state_dict().items()}
    torch.save({"net": net, "ema": {"shadow_params": [*net.values()]}}, tmp_path / "i2sb.pt")
    with pytest.raises(InvalidInput, match=r"i2sb\.pt: a network of I2SB's, and DDRM takes one that gives the noise"):
        unconditional.load(tmp_path / "i2sb.pt")
    if channels == 3:
        both = [f"ddrm:{tmp_path / kind}.pt" for kind in networks]
        with pytest.raises(InvalidInput, match="network: 'ADM' and 'DDPM'"):
            Restorer.from_pretrained(f"interpolate:{','.join(both)}?alpha=0.5")
