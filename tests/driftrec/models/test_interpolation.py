"""Weight interpolation: its ends, its middle, its fingerprint, and what does not go together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from driftrec import Restorer
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE, CosVE
from driftrec.errors import InvalidInput
from driftrec.models import checkpoint, fbcnn
from driftrec.models.loading import load
from driftrec.networks.config import NetworkConfig

CONFIG = replace(NetworkConfig.tiny(), width=8)


def denoiser(**changes: Any) -> Denoiser:
    given = {"config": CONFIG, "process": OUVE(), "form": "x0", "residual_std": 0.05} | changes
    torch.manual_seed(0)
    return Denoiser.create(**given)


def trained(seed: int) -> Denoiser:
    """Each from the same start: other weights, the same frequencies."""
    made, draw = denoiser(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    first, second = folder / "a.safetensors", folder / "b.safetensors"
    checkpoint.save(first, trained(1), sampling={"steps": 4, "fidelity": 1.0}, card={"name": "a"})
    checkpoint.save(second, trained(2), sampling={"steps": 8, "fidelity": 1.0})
    return first, second


def weights(source: Any) -> dict[str, torch.Tensor]:
    return load(str(source)).network.state_dict()


@pytest.mark.parametrize("alpha", [0, 0.25, 0.7, 1])
def test_every_weight_lies_between(pair: tuple[Path, Path], alpha: float) -> None:
    first, second = map(weights, pair)
    between = weights(f"interpolate:{pair[0]},{pair[1]}?alpha={alpha}")
    assert list(between) == list(first)
    for name, value in between.items():
        torch.testing.assert_close(value, (1 - alpha) * first[name] + alpha * second[name])
        if alpha in (0, 1):
            assert torch.equal(value, (first, second)[int(alpha)][name])


def test_the_fingerprint_follows_from_both_and_alpha(pair: tuple[Path, Path]) -> None:
    a, b = pair
    texts = (f"{a},{b}?alpha=0.5", f"{a},{b}?alpha=0.6", f"{b},{a}?alpha=0.5", f"{a},{a}?alpha=0.5")
    made = [Restorer.from_pretrained(f"interpolate:{text}", "cpu").fingerprint for text in texts]
    assert len({*made, Restorer.from_pretrained(str(a), "cpu").fingerprint}) == 5
    assert made[0] == load(f"interpolate:{a},{b}?alpha=0.50").sha256
    assert len(made[0]) == 64


def test_it_recommends_what_both_do_and_restores(pair: tuple[Path, Path]) -> None:
    restorer = Restorer.from_pretrained(f"interpolate:{pair[0]},{pair[1]}?alpha=0.5", "cpu")
    assert restorer.recommended == {"fidelity": 1.0}
    assert restorer.process == OUVE()
    done = restorer(torch.rand(3, 32, 32), steps=1)
    assert done.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace(CONFIG, blocks=2)}, "cannot be interpolated: blocks: 1 and 2; give two of one training"),
        ({"process": CosVE()}, "process: 'ouve' and 'cosve'"),
        ({"process": OUVE(gamma=0.5)}, r"gamma: 1\.0 and 0\.5"),
        ({"residual_std": 0.06}, r"residual_std: 0\.05 and 0\.06"),
    ],
)
def test_the_first_difference_is_named(
    pair: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint.save(tmp_path / "c.safetensors", denoiser(**changes))
    with pytest.raises(InvalidInput, match=message):
        load(f"interpolate:{pair[0]},{tmp_path / 'c.safetensors'}?alpha=0.5")


def test_two_trainings_from_two_starts_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(7)
    checkpoint.save(tmp_path / "c.safetensors", Denoiser.create(CONFIG, OUVE()))
    with pytest.raises(InvalidInput, match=r"embedding\.frequencies: numbers that are drawn and not trained"):
        load(f"interpolate:{pair[0]},{tmp_path / 'c.safetensors'}?alpha=0.5")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"alpha must be a number in 0\.\.1, it is not given"),
        ("?alpha=1.1", r"alpha must be a number in 0\.\.1, got '1\.1'"),
        ("?alpha=-0.1", r"0\.\.1, got '-0\.1'"),
        ("?alpha=nan", r"0\.\.1, got 'nan'"),
        ("?alpha=x", r"0\.\.1, got 'x'"),
        ("?beta=1", "unknown option 'beta'; known: alpha"),
    ],
)
def test_alpha_is_a_share(pair: tuple[Path, Path], query: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load(f"interpolate:{pair[0]},{pair[1]}{query}")


@pytest.fixture
def small_fbcnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, int], Path]:
    monkeypatch.setattr(fbcnn, "WIDTHS", (4, 4, 4, 4))

    def make(seed: int, colours: int = 3) -> Path:
        torch.manual_seed(seed)
        torch.save(fbcnn.FBCNN(colours).state_dict(), tmp_path / f"{seed}.pth")
        return tmp_path / f"{seed}.pth"

    return make


def test_any_kind_of_network(small_fbcnn: Callable[..., Path], pair: tuple[Path, Path]) -> None:
    one, two, grey = small_fbcnn(1), small_fbcnn(2), small_fbcnn(3, 1)
    made = load(f"interpolate:fbcnn:{one},fbcnn:{two}?alpha=0.5&quality=10")
    assert made.told == 10
    first, second = weights(f"fbcnn:{one}"), weights(f"fbcnn:{two}")
    for name, value in made.network.state_dict().items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    with pytest.raises(InvalidInput, match="colours: 3 and 1"):
        load(f"interpolate:fbcnn:{one},fbcnn:{grey}?alpha=0.5")
    with pytest.raises(InvalidInput, match=r"kinds: driftrec\.models\.fbcnn and driftrec\.models\.checkpoint"):
        load(f"interpolate:fbcnn:{one},{pair[0]}?alpha=0.5")
