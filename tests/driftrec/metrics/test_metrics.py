"""The pair metrics: laws, and independent references (scikit-image; the blocking effect factor in loops)."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut, coffee
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from driftrec.metrics import LABELS, PAIR_METRICS, pair_scores
from driftrec.metrics.blockiness import bef, bef_u8, bef_y, psnrb, psnrb_y

torch.set_num_threads(1)


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """A crop of a real photograph, (H, W, 3) uint8."""
    source = (astronaut, coffee)[seed % 2]()
    draw = np.random.default_rng(seed)
    top, left = draw.integers(0, source.shape[0] - height + 1), draw.integers(0, source.shape[1] - width + 1)
    return np.ascontiguousarray(source[top : top + height, left : left + width])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def pair(seed: int, height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A reference and a damaged copy, (H, W, 3) float64 in [0, 1]: photographs as JPEG, every third noise."""
    draw = np.random.default_rng(seed)
    if seed % 3 == 0:
        reference = draw.random((height, width, 3))
        return reference, np.clip(reference + draw.normal(0, 0.1, reference.shape), 0, 1)
    reference = photo(height, width, seed)
    return reference / 255, jpeg(reference, int(draw.integers(5, 80))) / 255


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def bef_in_loops(plane: np.ndarray, offset: tuple[int, int] = (0, 0)) -> float:
    """Yim and Bovik's BEF of one (H, W) plane, pair by pair in plain Python floats."""
    across, within = [], []
    height, width = plane.shape
    for i in range(height):
        for j in range(width):
            if i + 1 < height:
                step = (float(plane[i, j]) - float(plane[i + 1, j])) ** 2
                (across if (i + 1 - offset[0]) % 8 == 0 else within).append(step)
            if j + 1 < width:
                step = (float(plane[i, j]) - float(plane[i, j + 1])) ** 2
                (across if (j + 1 - offset[1]) % 8 == 0 else within).append(step)
    if not across or not within:
        return 0.0
    excess = math.fsum(across) / len(across) - math.fsum(within) / len(within)
    return excess * 3 / math.log2(max(8, min(height, width))) if excess > 0 else 0.0


def psnrb_in_loops(reference: np.ndarray, restored: np.ndarray, offset: tuple[int, int] = (0, 0)) -> float:
    error = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(reference.flat, restored.flat, strict=True))
    return 10 * math.log10(1 / (error / reference.size + bef_in_loops(restored, offset)))


def luma(image: np.ndarray) -> np.ndarray:
    return 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]


@pytest.mark.parametrize("seed", range(50))
def test_psnr_and_ssim_are_scikit_images(seed: int) -> None:
    reference, restored = pair(seed)
    ours = {name: metric(tensor(reference), tensor(restored)).item() for name, metric in PAIR_METRICS.items()}
    ssim = {"channel_axis": 2, "data_range": 1.0}
    assert ours["psnr"] == pytest.approx(peak_signal_noise_ratio(reference, restored, data_range=1), abs=1e-6)
    assert ours["psnr_y"] == pytest.approx(
        peak_signal_noise_ratio(luma(reference), luma(restored), data_range=1), abs=1e-6
    )
    assert ours["ssim"] == pytest.approx(structural_similarity(reference, restored, **ssim), abs=1e-6)
    authors = structural_similarity(reference, restored, win_size=9, **ssim)
    assert ours["ssim9"] == pytest.approx(authors, abs=1e-6)
    wang = structural_similarity(
        reference, restored, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **ssim
    )
    assert ours["ssim_gaussian"] == pytest.approx(wang, abs=1e-6)


def pair_u8(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A reference and a damaged copy, (H, W, 3) uint8: real, noise, very bright, very dark; some in two bands."""
    draw = np.random.default_rng(seed)
    height, width = [(64, 80), (33, 47), (9, 11), (180, 256)][seed % 4]
    match seed % 5:
        case 0:
            return draw.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        case 1:
            return draw.integers(250, 256, (2, height, width, 3), dtype=np.uint8)
        case 2:
            return draw.integers(0, 3, (2, height, width, 3), dtype=np.uint8)
    reference = photo(height, width, seed)
    return reference, jpeg(reference, int(draw.integers(5, 80))).copy()


@pytest.mark.parametrize("seed", range(50))
def test_the_8_bit_way_gives_the_same(seed: int) -> None:
    reference, restored = pair_u8(seed)
    offset = [(0, 0), (3, 5)][seed % 2]
    names = list(PAIR_METRICS)[: 9 if min(reference.shape[:2]) > 10 else 4]
    found = pair_scores(tensor(reference), tensor(restored), names, offset)
    floats = pair_scores(tensor(reference / 255), tensor(restored / 255), names, offset)
    for name in names:
        assert found[name].item() == pytest.approx(floats[name].item(), abs=1e-6 if "ssim" in name else 1e-9), name
    ssim = {"channel_axis": 2, "data_range": 255}
    exact = {
        "psnr": peak_signal_noise_ratio(reference, restored, data_range=255),
        "ssim": structural_similarity(reference, restored, **ssim),
        "ssim9": structural_similarity(reference, restored, win_size=9, **ssim),
    }
    for name, value in exact.items():
        assert found[name].item() == pytest.approx(value, abs=1e-6), name


def test_a_neighbour_changes_nothing_in_8_bits() -> None:
    a, b = (torch.cat([tensor(pair_u8(4 * seed)[side]) for seed in range(32)]) for side in (0, 1))
    whole = pair_scores(a, b, list(PAIR_METRICS))
    for size in (1, 2):
        parts = [pair_scores(a[i : i + size], b[i : i + size], list(PAIR_METRICS)) for i in range(0, 32, size)]
        for name, values in whole.items():
            assert torch.equal(values, torch.cat([part[name] for part in parts])), name


def test_equal_8_bit_images_are_perfect() -> None:
    image = tensor(photo(64, 80, seed=1))
    found = pair_scores(image, image, ["psnr", "ssim"])
    assert found["psnr"].item() == math.inf
    assert found["ssim"].item() == pytest.approx(1, abs=1e-12)
    assert LABELS.keys() >= PAIR_METRICS.keys()


@pytest.mark.parametrize("seed", range(50))
def test_bef_and_psnrb_are_the_papers(seed: int) -> None:
    height, width = [(64, 80), (33, 47), (24, 16), (17, 9)][seed % 4]
    offset = [(0, 0), (3, 5), (7, 1)][seed // 4 % 3]
    reference, restored = pair(seed, height, width)
    a, b = tensor(reference), tensor(restored)
    factors = [bef_in_loops(restored[..., c], offset) for c in range(3)]
    psnrbs = [psnrb_in_loops(reference[..., c], restored[..., c], offset) for c in range(3)]
    assert bef(a, b, offset).item() == pytest.approx(sum(factors) / 3, abs=1e-9)
    assert bef_y(a, b, offset).item() == pytest.approx(bef_in_loops(luma(restored), offset), abs=1e-9)
    assert psnrb(a, b, offset).item() == pytest.approx(sum(psnrbs) / 3, abs=1e-9)
    assert psnrb_y(a, b, offset).item() == pytest.approx(
        psnrb_in_loops(luma(reference), luma(restored), offset), abs=1e-9
    )


@given(height=st.integers(1, 20), width=st.integers(1, 20), row=st.integers(0, 9), column=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_bef_of_any_size_and_offset_is_defined(height: int, width: int, row: int, column: int) -> None:
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = sum(bef_in_loops(image[..., c] / 255, (row, column)) for c in range(3)) / 3
    assert bef_u8(image, (row, column)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", PAIR_METRICS)
def test_a_neighbour_changes_nothing(name: str) -> None:
    metric = PAIR_METRICS[name]
    pairs = [pair(seed) for seed in range(32)]
    a, b = (torch.cat([tensor(p[side]) for p in pairs]).float() for side in (0, 1))
    whole = metric(a, b)
    assert whole.shape == (32,)
    assert whole.dtype == torch.float64
    assert torch.equal(whole, torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(32)]))
    assert torch.equal(whole, torch.cat([metric(a[i : i + 2], b[i : i + 2]) for i in range(0, 32, 2)]))
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole[shuffled], metric(a[shuffled], b[shuffled]))


@pytest.mark.parametrize("name", PAIR_METRICS)
def test_equal_images_are_perfect(name: str) -> None:
    smooth = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)  # a ramp: all steps alike, so no blocking
    perfect = {"bef": 0.0, "bef_y": 0.0, "ssim": 1.0, "ssim9": 1.0, "ssim_gaussian": 1.0}.get(name, math.inf)
    value = PAIR_METRICS[name](smooth.double(), smooth.double()).item()
    if perfect == math.inf:  # the ramp's own rounding leaves a BEF of 1e-33 or so
        assert value > 250
    else:
        assert value == pytest.approx(perfect, abs=1e-12)


def test_worse_jpeg_scores_worse() -> None:
    reference = photo(256, 256, seed=0)
    damaged = [tensor(jpeg(reference, quality) / 255) for quality in (5, 10, 30, 70)]
    for name, metric in PAIR_METRICS.items():
        scores = [metric(tensor(reference / 255), image).item() for image in damaged]
        assert scores == sorted(scores, reverse=name.startswith("bef")), name


def test_bef_finds_the_grid_of_a_cropped_jpeg() -> None:
    damaged = jpeg(photo(256, 256, seed=0), quality=10)[3:, 5:]
    factors = {(row, column): bef_u8(damaged, (row, column)) for row in range(8) for column in range(8)}
    assert max(factors, key=factors.__getitem__) == (5, 3)


def test_bef_u8_is_bef() -> None:
    image = jpeg(photo(120, 200, seed=2), quality=10)
    batch = tensor(image / 255)
    assert bef_u8(image) == pytest.approx(bef(batch, batch).item(), rel=1e-12)


def test_refuses_what_is_no_pair() -> None:
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="one shape"):
        PAIR_METRICS["psnr"](image, image[..., 1:])
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        PAIR_METRICS["ssim"]((image * 255).byte(), (image * 255).byte())
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        PAIR_METRICS["bef"](image[:, :1], image[:, :1])
    with pytest.raises(ValueError, match="at least 9"):
        PAIR_METRICS["ssim9"](image[..., :8], image[..., :8])
    image = (image * 255).byte()
    with pytest.raises(ValueError, match="one shape"):
        pair_scores(image, image[..., 1:], ["psnr"])
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        pair_scores(image[0], image[0], ["psnr"])
    with pytest.raises(ValueError, match="at least 7"):
        pair_scores(image[..., :6], image[..., :6], ["ssim"])
