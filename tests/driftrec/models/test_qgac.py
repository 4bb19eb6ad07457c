"""QGAC on pictures: the file's coefficients, a network that adds nothing, files of weights, training."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from safetensors.torch import load_file

from driftrec import Restorer
from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image.picture import Picture
from driftrec.jpeg.codec import encode_jpeg
from driftrec.jpeg.constraint import Older, constraint
from driftrec.jpeg.headers import standard_tables
from driftrec.models import qgac
from driftrec.models.loading import load
from driftrec.models.qgac import Coefficients, restored
from driftrec.networks.qgac import QGAC, QGACConfig
from driftrec.restoration.coefficients import restore
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling
from driftrec.training.qgac import Recipe, compressed, train
from tests import jpegs, made

SMALL = QGACConfig(manifold=4, width=8, features=4, frequency=2, chroma=4)


def photo(height: int, width: int, seed: int = 1) -> np.ndarray:
    """(H, W, 3) uint8: smooth colours and grain, nowhere black or white."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([90 + x * 0.9, 160 - y * 0.8, 128 + 60 * np.sin(x * y / 90)], axis=2)
    return (smooth + np.random.default_rng(seed).normal(0, 5, smooth.shape)).clip(30, 225).astype(np.uint8)


def stirred(network: QGAC) -> None:
    """As if it had been trained: what it adds is a few levels."""
    network.fusion.net[5].filter.bias.copy_(0.05 * torch.randn(64))  # type: ignore[operator, union-attr]
    network.color_net.unblock.bias_transfrom.bias.fill_(0.01)  # type: ignore[union-attr]


def save(path: Path, change: Callable[[QGAC], object] = stirred, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = QGAC(SMALL)
    with torch.no_grad():
        change(network)
    torch.save(network.state_dict(), path)
    return path


def adding_nothing(network: QGAC) -> None:
    for last in (network.fusion.net[5], network.color_net.unblock.weight_transform):
        for parameter in last.parameters():
            parameter.zero_()
    for parameter in network.color_net.unblock.bias_transfrom.parameters():
        parameter.zero_()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    path = save(tmp_path_factory.mktemp("qgac") / "idle.pth", adding_nothing)
    return Restorer.from_pretrained(f"qgac:{path}", "cpu")


@pytest.mark.parametrize(
    ("size", "factors"),
    [((48, 80), (2, 2)), ((50, 75), (2, 2)), ((33, 20), (2, 2)), ((40, 24), (1, 1)), ((7, 9), (2, 2))],
)
def test_coefficients_are_those_in_the_file(size: tuple[int, int], factors: tuple[int, int]) -> None:
    written = jpegs.encode(photo(*size), 30, factors)
    known = constraint(written.data)
    for i, (levels, table) in enumerate(zip(written.levels, (0, 1, 1), strict=True)):
        expected = levels * np.reshape(standard_tables(30)[table], (8, 8))
        rows, columns = known.whole(i)
        found = known.coefficients(i)
        assert found.shape == (8 * expected.shape[0], 8 * expected.shape[1])
        blocks = found.reshape(expected.shape[0], 8, -1, 8).swapaxes(1, 2)
        assert np.array_equal(blocks[:rows, :columns], expected[:rows, :columns])
        assert np.isfinite(blocks).all()


def decoded(data: bytes) -> np.ndarray:
    """(H, W, 3) float: libjpeg's planes, chroma doubled by repetition."""

    def plane(mode: str, channel: int, scale: int) -> np.ndarray:
        image = JpegImageFile(io.BytesIO(data))
        image.draft(mode, (max(1, image.width // scale), max(1, image.height // scale)))
        return np.asarray(image.getchannel(channel), float)

    luma = plane("L", 0, 1)
    cb, cr = (plane("YCbCr", i, 2).repeat(2, 0).repeat(2, 1)[: len(luma), : luma.shape[1]] - 128 for i in (1, 2))
    return np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], axis=2)


@pytest.mark.parametrize("size", [(48, 80), (50, 75), (17, 33), (9, 5)])
def test_a_network_that_adds_nothing_gives_the_file_back(idle: Restorer, size: tuple[int, int]) -> None:
    data = encode_jpeg(photo(*size), 20, "4:2:0")
    restored = restore(idle.checkpoint, open_picture(data))  # type: ignore[arg-type]
    assert restored.shape == (1, 3, *size)
    np.testing.assert_allclose(255 * restored[0].permute(1, 2, 0).numpy(), decoded(data), atol=2.0)  # of roundings


def test_grey_files_are_restored_as_grey(idle: Restorer, tmp_path: Path) -> None:
    data = encode_jpeg(photo(50, 75)[..., 0], 20)
    image = idle(data)
    assert (image.mode, image.size) == ("L", (75, 50))
    np.testing.assert_allclose(np.asarray(image, float), np.asarray(Image.open(io.BytesIO(data)), float), atol=1)
    moved = Restorer.from_pretrained(f"qgac:{save(tmp_path / 'a.pth')}", "cpu")
    assert moved.restore([open_picture(data)], ["a"])[0].picture.rgb.tobytes() != image.convert("RGB").tobytes()


def test_neither_company_nor_seed_nor_sampling_changes_a_pixel(tmp_path: Path) -> None:
    restorer = Restorer.from_pretrained(f"qgac:{save(tmp_path / 'a.pth')}", "cpu")
    pictures = [open_picture(encode_jpeg(photo(48, 80, seed), 10 + seed, "4:2:0")) for seed in range(3)]
    together = restorer.restore(pictures, ["a", "b", "c"])
    for i, done in enumerate(together):
        (alone,) = restorer.restore(pictures[i : i + 1], ["x"], 5, Sampling(steps=3, tile=128, fidelity=0.5))
        assert np.array_equal(alone.picture.rgb, done.picture.rgb)
        assert not np.array_equal(alone.picture.rgb, pictures[i].rgb)
        assert (done.nfe, done.seen, done.picture.rgb.shape) == (1, None, (48, 80, 3))


def test_a_turned_picture_comes_back_upright(idle: Restorer) -> None:
    data = encode_jpeg(photo(48, 80), 20, "4:2:0")
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(data)).save(out, "JPEG", quality="keep", exif=exif)
    straight, turned = (np.asarray(idle(file)) for file in (data, out.getvalue()))
    assert np.array_equal(np.rot90(straight, -1), turned)


def test_a_file_that_was_damaged_before_is_restored_too(idle: Restorer) -> None:
    once = Image.open(io.BytesIO(encode_jpeg(made.pixels(0, 256, 256), 10)))
    twice = encode_jpeg(once, 95, "4:2:0")
    known = constraint(twice)
    assert isinstance(known, Older)
    picture = open_picture(twice)
    assert (picture.constraint, picture.coefficients is not None) == (None, True)
    assert restore(idle.checkpoint, picture).shape == (1, 3, 256, 256)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (open_picture(encode_jpeg(photo(32, 32), 20, "4:4:4")), "QGAC takes chroma at half of both sides"),
        (open_picture(encode_jpeg(photo(32, 32), 20, "4:2:2")), "not 4:4:4 or 4:2:2"),
        (open_picture(encode_jpeg(photo(32, 32), 20, "4:2:0"), projection=False), r"\(none are known\): give the file"),
        (Picture(photo(32, 32), source_format="PNG"), r"\(this PNG is no JPEG\)"),
        (Picture(photo(32, 32)), r"\(none are known\)"),
    ],
    ids=["444", "422", "projection", "png", "array"],
)
def test_what_has_no_such_coefficients_is_refused_as_an_image(idle: Restorer, picture: Picture, told: str) -> None:
    with pytest.raises(BadImage, match=told) as caught:
        idle.restore([picture], ["a"])
    assert caught.value.reason == Reason.unsupported


def test_the_statistics_are_normal_ones() -> None:
    assert {name: tuple(value.shape) for name, value in qgac.statistics().items()} == {
        "mean": (3, 8, 8),
        "variance": (3, 8, 8),
    }
    mean, variance = qgac.statistics()["mean"], qgac.statistics()["variance"]
    expected = [(-112.12, 246_040.91), (-56.79, 24_707.37), (32.40, 19_089.49)]  # torchjpeg's, of DC
    np.testing.assert_allclose(np.stack([mean[:, 0, 0], variance[:, 0, 0]], axis=1), expected, atol=0.01)
    assert (variance[:, 0].diff() < 0).all()  # in row order: falling along rows and columns
    assert (variance[:, :, 0].diff() < 0).all()
    plane = torch.randn(2, 1, 16, 24)
    for i in range(3):
        torch.testing.assert_close(qgac.denormalised(qgac.normalised(plane, i), i), plane, atol=1e-4, rtol=1e-4)


def test_the_config_is_seen_in_the_shapes(tmp_path: Path) -> None:
    weights = qgac.load(save(tmp_path / "a.pth"))
    assert weights.network.config == SMALL
    with torch.device("meta"):
        assert qgac.config_of(QGAC(QGACConfig()).state_dict()) == QGACConfig()


def test_weights_of_other_names_are_matched_by_order_and_shape(tmp_path: Path) -> None:
    ours = torch.load(save(tmp_path / "a.pth"), weights_only=True)
    torch.save({f"module.layer{i}": value for i, value in enumerate(ours.values())}, tmp_path / "other.pth")
    with pytest.raises(InvalidInput, match=r"other\.pth: the names of its 319 weights are not those of QGAC; use"):
        qgac.load(tmp_path / "other.pth")
    matched = qgac.import_published(tmp_path / "other.pth", tmp_path / "new.safetensors", SMALL)
    assert list(matched.values()) == list(ours)
    assert matched["module.layer318"] == "color_net.unblock.bias_transfrom.bias"
    new = load_file(tmp_path / "new.safetensors")
    assert all(torch.equal(new[name], ours[name]) for name in ours)
    restorer = Restorer.from_pretrained(f"qgac:{tmp_path / 'new.safetensors'}", "cpu")
    assert restorer.fingerprint == qgac.load(tmp_path / "new.safetensors").sha256
    qgac.import_published(tmp_path / "new.safetensors", tmp_path / "again.safetensors", SMALL)  # names sorted there


def moved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = list(weights)
    return {name: weights[name] for name in [names[5], *names[:5], *names[6:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: dict(list(w.items())[:-1]), "318 weights, and QGAC has 319"),
        (lambda w: {f"x{i}": v for i, v in enumerate(moved(w).values())}, r"weight 0, 'x0', is \(4,\), where "),
        (lambda w: w | {"fusion.net.5.filter.bias": torch.full((64,), torch.inf)}, "not finite: fusion"),
    ],
    ids=["fewer", "order", "infinite"],
)
def test_what_does_not_fit_is_named_and_not_written(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    torch.save(change(torch.load(save(tmp_path / "a.pth"), weights_only=True)), tmp_path / "b.pth")
    with pytest.raises(InvalidInput, match=r"b\.pth: .*" + message):
        qgac.import_published(tmp_path / "b.pth", tmp_path / "new.safetensors", SMALL)
    assert not (tmp_path / "new.safetensors").exists()


def test_qgac_gan_lies_between_two(tmp_path: Path) -> None:
    one, two = (load(f"qgac:{save(tmp_path / f'{seed}.pth', seed=seed)}").network.state_dict() for seed in (1, 2))
    between = load(f"interpolate:qgac:{tmp_path / '1.pth'},qgac:{tmp_path / '2.pth'}?alpha=0.7")
    for name, value in between.network.state_dict().items():
        torch.testing.assert_close(value, 0.3 * one[name] + 0.7 * two[name])
    with pytest.raises(InvalidInput, match="unknown option 'quality'; known: none"):
        load(f"qgac:{tmp_path / '1.pth'}?quality=10")


@torch.no_grad()
def distance(network: QGAC, said: Coefficients, clean: torch.Tensor) -> float:
    """L1 of the pixels."""
    return (restored(network, said) - clean).abs().mean().item()


@pytest.mark.parametrize("grey", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_lowers_the_loss(grey: bool, tmp_path: Path) -> None:
    patches = np.stack([photo(32, 32, seed) for seed in range(4)])
    patches = patches[..., 0] if grey else patches
    said = compressed(patches, [10, 20, 10, 30])
    assert [plane.shape for plane in said.planes] == [(4, 1, 32, 32)] + [(4, 1, 16, 16)] * (0 if grey else 2)
    clean = torch.from_numpy(patches).float() / 255
    clean = clean[:, None].expand(-1, 3, -1, -1) if grey else clean.permute(0, 3, 1, 2)
    torch.manual_seed(0)
    network = QGAC(SMALL)
    before = distance(network, said, clean)
    losses = list(train(network, [(said, clean)] * 60, Recipe(steps=60, lr=2e-3)))
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.001
    assert distance(network, said, clean) < 0.98 * before
    seen = {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}
    unseen = {name for name, _ in network.named_parameters()} - seen
    assert unseen == ({name for name in unseen if name.startswith("color_net")} if grey else set())
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    restorer = Restorer.from_pretrained(f"qgac:{tmp_path / 'trained.pth'}", "cpu")
    image = restorer(encode_jpeg(patches[0], 10, "4:2:0"))
    assert image.size == (32, 32)


def test_too_few_batches_are_no_training() -> None:
    with pytest.raises(ValueError, match="0 batches for 3 steps: give as many"):
        list(train(QGAC(SMALL), [], Recipe(steps=3)))
