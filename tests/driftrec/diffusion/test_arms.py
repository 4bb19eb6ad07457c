"""Every process trains the same network with the same learner, and samples by the same restorer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from driftrec import Restorer
from driftrec.diffusion.baselines import I2SB, IRSDE, Conditional, InDI, Regression
from driftrec.diffusion.denoiser import Denoiser, Form
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.image import from_pil
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.options import Sampling
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import TimeDensity
from driftrec.training.patches import PatchConfig, draw_patches

ARMS: list[tuple[Process, Form]] = [
    (OUVE(), "noise"),  # the paper's
    (OUVE(), "x0"),
    (TSDVE(), "x0"),
    (CosVE(), "x0"),
    (I2SB(), "x0"),
    (IRSDE(), "x0"),
    (Conditional(), "x0"),
    (InDI(), "residual"),
    (Regression(), "residual"),
]
NETWORK = replace(NetworkConfig.tiny(), width=16, multipliers=(1, 1), stem=4)
PATCHES = PatchConfig(size=32, per_image=64, quality_min=5, quality_max=15, share_double=0.0)


@pytest.fixture(scope="module")
def patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and damaged patches of a smooth coloured scene with edges."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    scene = np.asarray(coarse).copy()
    scene[60:130, 40:220] //= 2
    clean, damaged = draw_patches(scene, PATCHES, 0, 0, "scene")
    as_tensors = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (clean, damaged))
    first, second = as_tensors
    return first, second


@pytest.mark.parametrize(("process", "form"), ARMS, ids=lambda arm: getattr(arm, "name", arm))
def test_loss_falls_and_it_samples(
    process: Process, form: Form, patches: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser.create(NETWORK, process, form)
    learner = Learner(denoiser, TimeDensity(), Optimisation(steps=200, lr=3e-3, warmup=10, ema_decay=0.9, bf16=False))
    losses = []
    for step in range(200):
        picked = torch.randint(64, (8,), generator=torch.Generator().manual_seed(step))
        losses.append(learner.step(patches[0][picked], patches[1][picked]).loss)
    assert np.mean(losses[-50:]) < 0.95 * np.mean(losses[:25])

    save(tmp_path / "arm.safetensors", denoiser, learner.ema.state_of(denoiser.network))
    restorer = Restorer.from_pretrained(str(tmp_path / "arm.safetensors"), device="cpu")
    damaged = from_pil(Image.fromarray(patches[1][0].permute(1, 2, 0).numpy()))
    steps = 1 if isinstance(process, Regression) else 4
    done = restorer.restore([damaged], ["a"], 0, Sampling(steps=steps, fidelity=0.0))[0]
    assert done.nfe == steps
    assert done.picture.rgb.std() > 1


@pytest.mark.parametrize("process", [InDI(), Regression()], ids=lambda p: p.name)
def test_processes_without_noise_take_the_residual_form(process: Process) -> None:
    with pytest.raises(ValueError, match="must be residual"):
        Denoiser.create(NETWORK, process, "x0")


def test_regression_is_equation_10(patches: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The state is the JPEG, and the loss the squared error of D(y), in units of residual_std."""
    torch.manual_seed(0)
    denoiser = Denoiser.create(NETWORK, Regression(), "residual")
    x0, y = (images[:4].float() / 255 for images in patches)
    t = torch.ones(4)
    mean, sigma = denoiser.process.marginal(x0, y, t)
    assert torch.equal(mean, y)
    assert not sigma.any()
    error = denoiser.network_output(y, y, t) - denoiser.network_target(x0, y, y, t)
    torch.testing.assert_close(error * denoiser.residual_std, denoiser(y, y, t) - x0, rtol=0, atol=1e-6)
