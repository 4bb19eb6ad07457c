"""FBCNN: the published layout and numbers, any size, and weights files that are not what they should be."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from driftrec import Restorer
from driftrec.errors import InvalidInput
from driftrec.image import from_pil, to_pil
from driftrec.models.fbcnn import FBCNN, load
from driftrec.restoration.options import Sampling

# Names, shapes and outputs of the public implementation, run on the weights and images drawn here.
PUBLISHED = json.loads((Path(__file__).parent / "fixtures" / "fbcnn.json").read_text())
LAYOUT = {
    3: PUBLISHED["layout"],
    1: PUBLISHED["layout"] | PUBLISHED["layout_of_grey_where_it_differs"],
}


def drawn_weights(colours: int) -> dict[str, torch.Tensor]:
    """Uniform numbers from raw PCG64 bits, a stream that NumPy never changes."""
    weights = {}
    for i, (name, shape) in enumerate(LAYOUT[colours].items()):
        bits = np.random.PCG64(i).random_raw(int(np.prod(shape))) >> np.uint64(40)
        scale = 0.1 if len(shape) == 1 else 1.2 * np.prod(shape[1:]) ** -0.5
        weights[name] = torch.from_numpy(((bits.astype(np.float32) / 2**23 - 1) * np.float32(scale)).reshape(shape))
    return weights


def drawn_image(colours: int, height: int, width: int) -> torch.Tensor:
    """(1, colours, height, width): multiples of 1/255."""
    bits = np.random.PCG64(1000).random_raw(colours * height * width) >> np.uint64(56)
    return torch.from_numpy((bits.astype(np.float32) / 255).reshape(1, colours, height, width))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def colour_weights() -> dict[str, torch.Tensor]:
    return drawn_weights(3)


@pytest.fixture(scope="module")
def colour_file(tmp_path_factory: pytest.TempPathFactory, colour_weights: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("fbcnn") / "fbcnn_color.pth"
    torch.save(colour_weights, path)
    return path


@pytest.fixture(scope="module")
def colour(colour_file: Path) -> Restorer:
    return Restorer.from_pretrained(f"fbcnn:{colour_file}", device="cpu")


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    path = tmp_path_factory.mktemp("fbcnn") / "fbcnn_gray.safetensors"
    save_file(drawn_weights(1), path)
    return Restorer.from_pretrained(f"fbcnn:{path}", device="cpu")


@pytest.mark.parametrize(("colours", "parameters"), [(3, 71_921_796), (1, 71_919_490)])
def test_names_shapes_and_size_are_the_published_ones(colours: int, parameters: int) -> None:
    with torch.device("meta"):
        state = FBCNN(colours).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == LAYOUT[colours]
    assert sum(value.numel() for value in state.values()) == parameters


@pytest.mark.parametrize("published", PUBLISHED["outputs"], ids=["colour", "grey"])
@torch.inference_mode()
def test_numbers_are_those_of_the_public_implementation(published, request: pytest.FixtureRequest) -> None:
    colours = published["colours"]
    image = drawn_image(colours, published["height"], published["width"])
    restorer: Restorer = request.getfixturevalue("colour" if colours == 3 else "grey")
    restored, quality = restorer.checkpoint.network(image)  # type: ignore[union-attr]
    torch.testing.assert_close(restored, torch.tensor(published["restored"]).reshape(image.shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(quality, torch.tensor([published["quality"]]), rtol=0, atol=1e-3)


def made(restorer: Restorer, image: Image.Image, key: str = "0", seed: int = 0, **sampling: Any) -> Image.Image:
    """What drawn weights make of an image. It is no restoration, so that a call would refuse it."""
    return to_pil(restorer.restore([from_pil(image)], [key], seed, Sampling(**sampling))[0].picture)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (17, 31)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_size_and_mode_of_picture(colour: Restorer, size: tuple[int, int], mode: str) -> None:
    image = Image.linear_gradient("L").resize(size).convert(mode)
    done = made(colour, image)
    assert (done.size, done.mode) == (image.size, mode)
    assert done.tobytes() != image.tobytes()


def pictures(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (24, 40, 3), np.uint8)) for _ in range(count)]


@torch.inference_mode()
def test_batch_of_one_equals_batch_of_three(colour: Restorer) -> None:
    images = pictures(3)
    together = colour.restore([from_pil(image) for image in images], ["a", "b", "c"])
    assert [done.nfe for done in together] == [1, 1, 1]
    for image, done in zip(images, together, strict=True):
        assert np.array_equal(np.array(made(colour, image)), done.picture.rgb)
    network = colour.checkpoint.network  # type: ignore[union-attr]
    batch = torch.rand(3, 3, 19, 30)
    each = [network(batch[i : i + 1]) for i in range(3)]
    for of_all, of_each in zip(network(batch), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(of_all, torch.cat(of_each), rtol=1e-5, atol=1e-5)


def test_neither_seed_nor_key_nor_sampling_changes_a_pixel(colour: Restorer) -> None:
    image = pictures(1)[0]
    one, other = made(colour, image, "a", 1, steps=3), made(colour, image, "b", 2, samples=2, fidelity=0.5)
    assert one.tobytes() == other.tobytes()


@torch.inference_mode()
def test_the_grey_network_restores_luma_and_leaves_chroma(grey: Restorer) -> None:
    y = torch.rand(1, 3, 16, 24)
    luma = (y * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    restored, _ = grey.checkpoint.restore(y)  # type: ignore[union-attr]
    luma_restored = (restored * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(luma_restored, grey.checkpoint.network(luma)[0])  # type: ignore[union-attr]
    torch.testing.assert_close(restored[:, 2] - restored[:, 0], y[:, 2] - y[:, 0])  # so Cb and Cr, too
    picture = from_pil(pictures(1)[0].convert("L"))
    assert (np.ptp(grey.restore([picture], ["a"])[0].picture.rgb, axis=2) == 0).all()


@torch.inference_mode()
def test_the_quality_that_it_sees_is_told(colour: Restorer) -> None:
    (image,) = pictures(1)
    (done,) = colour.restore([from_pil(image)], ["a"])
    _, quality = colour.checkpoint.network(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)  # type: ignore[union-attr]
    assert done.seen == pytest.approx(float(quality), abs=1e-3)
    assert done.picture.note == f"the network sees quality {float(quality):.0f}"


@torch.inference_mode()
def test_a_told_quality_takes_the_place_of_its_own(colour_file: Path, colour: Restorer) -> None:
    network, y = colour.checkpoint.network, drawn_image(3, 16, 24)  # type: ignore[union-attr]
    own, seen = network(y)
    told, still_seen = network(y, float(seen))  # its own estimate, told: nothing changes
    torch.testing.assert_close(told, own, rtol=1e-5, atol=1e-5)
    assert torch.equal(still_seen, seen)
    ten, ninety = (Restorer.from_pretrained(f"fbcnn:{colour_file}?quality={q}", device="cpu") for q in (10, 90))
    image = pictures(1)[0]
    assert len({made(one, image).tobytes() for one in (colour, ten, ninety)}) == 3
    assert len({one.fingerprint for one in (colour, ten, ninety)}) == 3  # so that no run goes on with another quality
    assert ten.checkpoint.restore(y)[1] == seen  # type: ignore[union-attr]


def test_what_is_told_is_one_minus_a_hundredth(colour: Restorer) -> None:
    network, given = colour.checkpoint.network, []  # type: ignore[union-attr]
    hook = network.qf_embed.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.inference_mode():
        network(torch.rand(2, 3, 8, 8), 10)
    hook.remove()
    assert torch.equal(given[0], torch.full((2, 1), 0.9))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("quality=0", r"quality must be a whole number in 1\.\.100, got '0'"),
        ("quality=101", r"1\.\.100, got '101'"),
        ("quality=10.5", r"1\.\.100, got '10\.5'"),
        ("quality=", r"1\.\.100, got ''"),
        ("quality=²", r"1\.\.100, got '²'"),
        ("qf=10", "unknown option 'qf'; known: quality"),
        ("quality=10&steps=3", "unknown option 'steps'; known: quality"),
        ("quality=10&quality=20", "write each option once, as quality=value"),
        ("quality", "write each option once, as quality=value"),
    ],
)
def test_other_qualities_and_options_are_refused(colour_file: Path, query: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Restorer.from_pretrained(f"fbcnn:{colour_file}?{query}")


def test_pth_and_safetensors_give_the_same_network(
    tmp_path: Path, colour_weights: dict[str, torch.Tensor], colour: Restorer
) -> None:
    save_file(colour_weights, tmp_path / "weights.bin")  # a file's content counts, not its name
    other = Restorer.from_pretrained(f"fbcnn:{tmp_path / 'weights.bin'}", device="cpu")
    image = pictures(1)[0]
    assert made(other, image).tobytes() == made(colour, image).tobytes()
    assert other.fingerprint != colour.fingerprint  # of the file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {k: v for k, v in w.items() if "qf_pred" not in k},
            r"22 weights are missing: qf_pred\.0\.res\.0\.weight, ",
        ),
        (lambda w: w | {"extra": torch.zeros(1)}, "1 weights are not of this network: extra"),
        (lambda w: w | {"m_tail.bias": torch.zeros(5)}, r"of another shape: m_tail\.bias"),
        (lambda w: w | {"m_tail.bias": torch.full((3,), torch.nan)}, r"not finite: m_tail\.bias"),
        (lambda w: {"params": w}, "holds more than named tensors"),
        (lambda w: {}, r"184 weights are missing: m_head\.weight, m_head\.bias, m_down1\.0\.res\.0\.weight;"),
    ],
    ids=["missing", "extra", "shape", "nan", "nested", "empty"],
)
def test_wrong_weights_are_named(
    tmp_path: Path, colour_weights: dict[str, torch.Tensor], change: Callable, message: str
) -> None:
    path = tmp_path / "wrong.pth"
    torch.save(change(colour_weights), path)
    with pytest.raises(InvalidInput, match=message):
        load(path)


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"m_head.weight": Canary(tmp_path / "canary")}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(InvalidInput, match=r"bad\.pth: not a whole file of weights"):
        load(tmp_path / "bad.pth")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_cut_file_is_refused_at_every_length(tmp_path: Path, kind: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut.pth"
    if kind == "safetensors":
        save_file({"a": torch.rand(40)}, whole)
    else:
        torch.save({"a": torch.rand(40)}, whole, _use_new_zipfile_serialization=kind == "zip")
    data = whole.read_bytes()
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(InvalidInput, match=r"cut\.pth"):
            load(cut)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"'nowhere\.pth': no such file"):
        Restorer.from_pretrained("fbcnn:nowhere.pth")
