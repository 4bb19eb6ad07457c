"""Metrics that need weights: the values of the packages that define them, and what is said where weights are wrong."""

import pickle
from importlib import import_module
from pathlib import Path

import lpips
import numpy as np
import piq
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from skimage.data import astronaut, coffee
from torch import nn

from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import degrade
from driftrec.metrics import SET_METRICS, WEIGHTED_PAIR_METRICS, find_weights, load_features
from driftrec.metrics.classifier import load_classifier
from driftrec.metrics.dists import load_dists, load_weighting, packaged_weighting
from driftrec.metrics.features import FEATURES, fid_inception
from driftrec.metrics.weights import WEIGHTS, published
from driftrec.models.tensors import read

torch.set_num_threads(1)
STANDINS = Path("data/standins")
BACKBONES = {
    "lpips": ("alex", "alexnet"),
    "lpips_vgg": ("vgg", "vgg16"),
    "lpips_squeezenet": ("squeeze", "squeezenet1_1"),
}


def images(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def loud(network: nn.Module) -> nn.Module:
    """The same network with random weights that keep the size of the signal, and statistics that are not trivial."""
    draw = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(std=(2 / value[0].numel()) ** 0.5, generator=draw)
        elif name.endswith(("running_mean", "bias")):
            value.uniform_(-0.1, 0.1, generator=draw)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    return loud(torchvision.models.mobilenet_v2())


@pytest.mark.parametrize("name", BACKBONES)
def test_lpips_is_the_packages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, model = BACKBONES[name]
    backbone = nn.Module()
    backbone.features = loud(getattr(torchvision.models, model)().features)
    monkeypatch.setattr(torchvision.models, model, lambda **_: backbone)  # the package's "pnet_rand"
    theirs = lpips.LPIPS(net=net, pnet_rand=True, lpips=name != "lpips_squeezenet", verbose=False)
    monkeypatch.undo()
    torch.save(backbone.state_dict() | {"classifier.1.weight": torch.ones(2)}, tmp_path / "backbone.pth")
    metric = WEIGHTED_PAIR_METRICS[name](tmp_path / "backbone.pth")

    a = images(6)
    b = (a + 0.1 * images(7)[:6]).clamp(0, 1)
    found = metric(a, b)
    assert found.dtype == torch.float64
    assert found.shape == (6,)
    assert found.min() > 0
    assert metric(a[:1], a[:1]).item() == 0
    with torch.no_grad():
        assert torch.allclose(found, theirs(a, b, normalize=True).flatten().double(), rtol=1e-5, atol=0)
    for size in (1, 2):
        parts = [metric(a[i : i + size], b[i : i + size]) for i in range(0, 6, size)]
        assert torch.equal(found, torch.cat(parts))


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    """VGG16 with random weights, as torchvision's file lays them out."""
    backbone = nn.Module()
    backbone.features = loud(torchvision.models.vgg16().features)
    torch.save(backbone.state_dict() | {"classifier.0.bias": torch.ones(2)}, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


@pytest.fixture
def weighting(tmp_path: Path) -> Path:
    """Random alpha and beta."""
    draw = torch.Generator().manual_seed(1)
    torch.save({name: torch.rand(1, 1475, 1, 1, generator=draw) for name in ("alpha", "beta")}, tmp_path / "ab.pt")
    return tmp_path / "ab.pt"


@pytest.mark.parametrize("side", [16, 45, 64])
def test_dists_is_piqs(side: int, vgg: Path, weighting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = torchvision.models.vgg16()
    named = {name.removeprefix("features."): value for name, value in read(vgg).items()}
    backbone.features.load_state_dict({name: value for name, value in named.items() if name[0].isdigit()})
    given = read(weighting)
    total = given["alpha"].sum() + given["beta"].sum()
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: {n: w / total for n, w in given.items()})
    monkeypatch.setattr("piq.perceptual.vgg16", lambda **_: backbone)
    theirs = piq.DISTS(reduction="none")
    monkeypatch.undo()

    metric = load_dists(vgg, weighting)
    a = images(6, side)
    b = (a + 0.1 * images(7, side)[:6]).clamp(0, 1)
    found = metric(a, b)
    assert found.dtype == torch.float64
    assert found.shape == (6,)
    assert found.min() > 0
    assert torch.allclose(metric(a[:1], a[:1]), torch.zeros(1).double(), atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(found, theirs(a, b).double(), rtol=1e-4, atol=1e-5)
    for size in (1, 2):
        assert torch.equal(found, torch.cat([metric(a[i : i + size], b[i : i + size]) for i in range(0, 6, size)]))


def test_dists_takes_its_weighting_from_the_package(vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("DISTS_pytorch", reason="the package dists-pytorch is not installed")
    alpha, beta = load_weighting(packaged_weighting())
    assert (len(alpha), len(beta)) == (1475, 1475)
    assert alpha.sum() + beta.sum() == pytest.approx(1, abs=0.5)
    a = images(2)
    assert 0 < WEIGHTED_PAIR_METRICS["dists"](vgg)(a, 1 - a).min() < 2
    monkeypatch.setattr("driftrec.metrics.dists.find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match="dists needs its learnt weighting, which the package dists-pytorch brings"):
        load_dists(vgg)


def test_a_weighting_of_another_kind_is_refused(vgg: Path, tmp_path: Path) -> None:
    torch.save({"alpha": torch.ones(1, 1475, 1, 1)}, tmp_path / "half.pt")
    with pytest.raises(InvalidInput, match=r"half\.pt: 1 weights are missing: beta"):
        load_dists(vgg, tmp_path / "half.pt")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Random support vectors in the layout of piq's file."""
    draw = torch.Generator().manual_seed(2)
    content = (torch.randn(40, 1, generator=draw), torch.rand(40, 36, generator=draw) * 2 - 1)
    torch.save(content, tmp_path / "svm.pt")
    return tmp_path / "svm.pt"


def test_brisque_is_piqs(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = batch([photo[top : top + 70, 130:220] for photo in (astronaut(), coffee()) for top in (0, 128, 256)])
    parts = import_module("piq.brisque")
    monkeypatch.setattr(parts, "load_url", lambda *_, **__: torch.load(vectors, weights_only=True))
    theirs = piq.brisque(photos, reduction="none").flatten().double()
    metric = WEIGHTED_PAIR_METRICS["brisque"](vectors)
    found = metric(torch.zeros_like(photos), photos)
    assert found.shape == (6,)
    assert torch.allclose(found, theirs, rtol=1e-4, atol=1e-3)
    assert len(set(found.tolist())) == 6
    for size in (1, 2):
        assert torch.equal(found, torch.cat([metric(x, x) for x in photos.split(size)]))
    smallest = images(1, 14)
    assert metric(smallest, smallest).isfinite().all()
    assert metric(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)).isnan().all()  # no texture, no value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"w": torch.ones(3)}, "no pair of tensors"),
        ((torch.ones(3), torch.ones(3, dtype=torch.int64)), "no pair of tensors"),
        ((torch.ones(3), torch.ones(36, 3)), r"tensors of \(3,\) and \(36, 3\), not \(n,\) and \(n, 36\)"),
    ],
)
def test_support_vectors_of_another_kind_are_refused(content: object, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "svm.pt")
    with pytest.raises(InvalidInput, match=told):
        WEIGHTED_PAIR_METRICS["brisque"](tmp_path / "svm.pt")


def test_inception_features_are_piqs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = loud(fid_inception(None)).state_dict()
    torch.save(weights, tmp_path / "inception.pth")
    extract = load_features("inception", tmp_path / "inception.pth")
    monkeypatch.setattr(
        "piq.feature_extractors.fid_inception.load_state_dict_from_url", lambda *args, **options: weights
    )
    theirs = piq.feature_extractors.InceptionV3().eval()
    a = images(3)
    found = extract(a)
    assert found.shape == (3, 2048)
    assert found.std() > 0
    assert torch.allclose(found, theirs(a)[0].flatten(1), rtol=1e-4, atol=1e-4 * float(found.abs().max()))
    assert torch.equal(found[1:2], extract(a[1:2]))


def test_mobilenet_features_are_what_its_classifier_sees(mobilenet: nn.Module, tmp_path: Path) -> None:
    save_file(mobilenet.state_dict(), tmp_path / "m.safetensors")
    extract = load_features("mobilenet", tmp_path / "m.safetensors")
    a = images(6)
    seen: list[torch.Tensor] = []
    hook = mobilenet.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mobilenet(torchvision.transforms.functional.normalize(a, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    hook.remove()
    found = extract(a)
    assert found.shape == (6, 1280)
    assert found.dtype == torch.float32
    assert torch.allclose(found, seen[0], rtol=1e-4, atol=1e-5 * float(found.abs().max()))
    for size in (1, 2):
        assert torch.equal(found, torch.cat([extract(a[i : i + size]) for i in range(0, 6, size)]))


def test_a_classifier_is_torchvisions(mobilenet: nn.Module, tmp_path: Path) -> None:
    torch.save(mobilenet.state_dict(), tmp_path / "m.pth")
    classify = load_classifier("mobilenet_v2", tmp_path / "m.pth")
    a = images(12, side=100)
    prepare = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    found = classify(a)
    assert torch.equal(found, mobilenet(prepare(a)).argmax(dim=1))
    assert torch.equal(found[3:5], classify(a[3:5]))
    assert classify.class_of("goldfish") == classify.class_of(1) == classify.class_of("1") == 1
    for label in ("no such thing", 1000, "-1", ""):
        with pytest.raises(InvalidInput, match=r"names no class.*0 to 999"):
            classify.class_of(label)
    with pytest.raises(InvalidInput, match="no classifier 'resnet5'"):
        load_classifier("resnet5", tmp_path / "m.pth")
    assert "resnet50-0676ba61.pth" in published("resnet50").files
    with pytest.raises(InvalidInput, match="no weights are called 'lpipz'; there are lpips,"):
        find_weights("lpipz", {})


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_weights_are_named_with_publisher_and_flag(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        find_weights(name, {})
    for part in (*WEIGHTS[name].files, WEIGHTS[name].where, f"--weights {name}=PATH", str(tmp_path)):
        assert part in str(caught.value)
    with pytest.raises(InvalidInput, match=f"--weights {name}=nowhere.pth: no such file"):
        find_weights(name, {name: "nowhere.pth"})
    file = tmp_path / "hub/checkpoints" / WEIGHTS[name].files[0]
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_weights(name, {}) == file
    own = tmp_path / "own.pth"
    own.touch()
    assert find_weights(name, {name: str(own)}) == own


def test_every_learned_metric_has_weights() -> None:
    assert {*WEIGHTED_PAIR_METRICS, *(metric.features for metric in SET_METRICS.values())} == set(WEIGHTS)
    assert set(FEATURES) == {metric.features for metric in SET_METRICS.values()}


class Canary:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("canary"),)


def test_unfit_weights_are_refused_and_no_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(pickle.dumps({"w": Canary()}))
    torch.save({"w": Canary()}, "evil-zip.pth")
    torch.save({"w": torch.ones(1000)}, "whole.pth")
    Path("cut.pth").write_bytes(Path("whole.pth").read_bytes()[:900])
    Path("page.pth").write_text("<html>not found</html>")
    Path("page.safetensors").write_text("<html>not found</html>")
    Path("empty.pth").touch()
    for file in ("evil.pth", "evil-zip.pth", "cut.pth", "page.pth", "page.safetensors", "empty.pth"):
        with pytest.raises(InvalidInput, match=f"^{file}: not a whole file of weights"):
            read(Path(file))
    assert not Path("canary").exists()
    torch.save([torch.ones(1)], "list.pth")
    with pytest.raises(InvalidInput, match="holds more than named tensors"):
        read(Path("list.pth"))
    with pytest.raises(InvalidInput, match=r"whole\.pth: .* missing"):
        WEIGHTED_PAIR_METRICS["lpips_squeezenet"](Path("whole.pth"))
    with pytest.raises(InvalidInput, match=r"whole\.pth: .* missing"):
        load_features("mobilenet", Path("whole.pth"))
    with pytest.raises(InvalidInput, match="there are inception, mobilenet"):
        load_features("clip", Path("whole.pth"))


@pytest.mark.skipif(not (STANDINS / "squeezenet1_1.safetensors").exists(), reason="python -m recipes.standins first")
def test_the_stand_ins_rank_damage() -> None:
    crops = [photo[top : top + 128, 130:258] for photo in (astronaut(), coffee()) for top in (0, 128, 256)]
    damaged = {quality: [degrade(crop, quality=quality) for crop in crops] for quality in (80, 30, 10)}
    reference = batch(crops)
    distance = WEIGHTED_PAIR_METRICS["lpips_squeezenet"](STANDINS / "squeezenet1_1.safetensors")
    features = load_features("mobilenet", STANDINS / "mobilenet_v2.safetensors")
    distances = torch.stack([distance(reference, batch(copies)) for copies in damaged.values()])
    assert (distances.diff(dim=0) > 0).all()
    others = torch.stack([distance(reference, reference.roll(shift, 0)) for shift in range(1, 6)])
    assert (distances[1] < others.amin(dim=0)).all()
    clean = features(reference)
    for copies in damaged.values():
        nearest = torch.cdist(features(batch(copies)), clean).argmin(dim=1)
        assert nearest.tolist() == list(range(6))


def batch(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]).float() / 255
