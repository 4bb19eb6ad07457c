"""Runs with networks of others: QGAC's rows, FBCNN's quality in the ledger, and one run for each thing told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from driftrec.diffusion.baselines import Conditional
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import InvalidInput, Reason
from driftrec.jpeg.codec import encode_jpeg
from driftrec.models import fbcnn
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.networks.qgac import QGAC, QGACConfig
from pipeline.restore.estimate import estimate_restore
from pipeline.restore.settings import RestoreSettings
from tests import made
from tests.pipeline import offline


@pytest.fixture
def small_fbcnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """It changes next to nothing, so that the guard lets it pass."""
    monkeypatch.setattr(fbcnn, "WIDTHS", (4, 4, 4, 4))
    torch.manual_seed(0)
    network = fbcnn.FBCNN()
    with torch.no_grad():
        network.m_tail.weight.zero_()
        for i in range(3):
            network.m_tail.weight[i, i, 1, 1] = 1
            network.m_head.weight[i].zero_()
            network.m_head.weight[i, i, 1, 1] = 1
        network.m_head.bias.zero_()
        network.m_tail.bias.zero_()
        for stage in (network.m_up1, network.m_up2, network.m_up3, network.to_beta_1):
            for parameter in stage.parameters():
                parameter.mul_(0.01)
    torch.save(network.state_dict(), tmp_path / "fbcnn.pth")
    return tmp_path / "fbcnn.pth"


def test_the_ledger_tells_which_quality_fbcnn_sees(small_fbcnn: Path, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 2)
    offline.restore(source, tmp_path / "out", model=f"fbcnn:{small_fbcnn}", max_failed="100%")
    for row in offline.ledger(tmp_path / "out").values():
        assert (row["status"], row["nfe"], row["reason"]) == ("ok", 1, None), row["detail"]
        assert row["detail"].startswith("the network sees quality ")


def test_a_run_does_not_go_on_with_another_quality(small_fbcnn: Path, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 2)
    offline.restore(source, tmp_path / "out", model=f"fbcnn:{small_fbcnn}?quality=10")
    with pytest.raises(InvalidInput, match="model"):
        offline.restore(source, tmp_path / "out", model=f"fbcnn:{small_fbcnn}?quality=20")
    again = offline.restore(source, tmp_path / "out", model=f"fbcnn:{small_fbcnn}?quality=10")
    assert again["state"] == "done"


def kinds_of_files(folder: Path) -> Path:
    folder.mkdir()
    pixels = made.pixels(0, 48, 64)
    (folder / "420.jpg").write_bytes(encode_jpeg(pixels, 20, "4:2:0"))
    (folder / "444.jpg").write_bytes(encode_jpeg(pixels, 20, "4:4:4"))
    (folder / "grey.jpg").write_bytes(encode_jpeg(pixels[..., 0], 20))
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


def save_prior(path: Path) -> None:
    """A network as it is before it is trained, by which DDRM leaves pictures about as they are."""
    torch.manual_seed(0)
    network = replace(NetworkConfig.tiny(), width=8, extra=())
    save(path, Denoiser.create(network, Conditional(), "x0", residual_std=0.25))


def test_ddrm_has_a_row_for_every_file(tmp_path: Path) -> None:
    save_prior(tmp_path / "prior.safetensors")
    source = kinds_of_files(tmp_path / "in")
    offline.restore(source, tmp_path / "out", model=f"ddrm:{tmp_path / 'prior.safetensors'}", max_failed="100%")
    rows = offline.ledger(tmp_path / "out")
    nfe = {key: (row["nfe"], row["reason"]) for key, row in rows.items()}
    assert nfe.pop("image.png") == (None, Reason.unsupported)
    assert "this PNG is no JPEG" in rows["image.png"]["detail"]
    assert nfe == dict.fromkeys(["420.jpg", "444.jpg", "grey.jpg"], (20, None))


def test_qgac_has_a_row_for_every_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(QGAC(QGACConfig(4, 8, 4, 2, 4)).state_dict(), tmp_path / "qgac.pth")
    source = kinds_of_files(tmp_path / "in")
    offline.restore(source, tmp_path / "out", model=f"qgac:{tmp_path / 'qgac.pth'}", max_failed="100%")
    rows = offline.ledger(tmp_path / "out")
    assert {key: row["status"] for key, row in rows.items()} == {
        "420.jpg": "ok",
        "grey.jpg": "ok",
        "444.jpg": "failed",
        "image.png": "failed",
    }
    for key, told in (("444.jpg", "not 4:4:4 or 4:2:2"), ("image.png", "(this PNG is no JPEG)")):
        assert (rows[key]["reason"], rows[key]["stage"]) == (Reason.unsupported, "restore")
        assert told in rows[key]["detail"]
    restored = np.asarray(Image.open(tmp_path / "out/images/420.png"))
    assert restored.shape == (48, 64, 3)


def test_a_run_does_not_go_on_by_another_method(tmp_path: Path) -> None:
    """A checkpoint and DDRM by it are two models, also where the run's settings are the same."""
    path = tmp_path / "prior.safetensors"
    save_prior(path)
    source = made.folder(tmp_path / "in", 1)
    offline.restore(source, tmp_path / "out", model=str(path), max_failed="100%")
    with pytest.raises(InvalidInput, match="weights"):
        offline.restore(source, tmp_path / "out", model=f"ddrm:{path}", max_failed="100%")
    given = RestoreSettings(input=str(source), output=str(tmp_path / "new"), model=f"ddrm:{path}")
    estimate = estimate_restore(given)["estimate"]
    assert (estimate["images"], estimate["seconds"]) == (1, None)  # no piece of a picture is a file
