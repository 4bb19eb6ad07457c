"""The pair metrics: laws, and independent references (scikit-image; BEF in loops; others' formulas in NumPy)."""

import io
import math
from collections.abc import Callable

import numpy as np
import piq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import convolve
from scipy.signal import convolve2d
from skimage.data import astronaut, coffee
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from driftrec.metrics import LABELS, PAIR_METRICS, SMALLEST_SIDE, higher_is_better, pair_scores
from driftrec.metrics.blockiness import bef, bef_u8, bef_y, psnrb, psnrb_y
from driftrec.metrics.blockiness_of_others import bef_torchjpeg, psnrb_y_fbcnn
from driftrec.metrics.similarity import fsim, gmsd, ms_ssim, vif

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
    names = [name for name in PAIR_METRICS if name.startswith(("psnr", "ssim"))]
    ours = {name: PAIR_METRICS[name](tensor(reference), tensor(restored)).item() for name in names}
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
    names = [name for name in PAIR_METRICS if SMALLEST_SIDE.get(name, 1) <= 64]
    whole = pair_scores(a, b, names)
    for size in (1, 2):
        parts = [pair_scores(a[i : i + size], b[i : i + size], names) for i in range(0, 32, size)]
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


def published_bef(planes: list[np.ndarray], boundaries: Callable[[int], float]) -> float:
    """BEF of some (H, W) planes with the published programs' counts, pair by pair in plain Python floats."""
    height, width = planes[0].shape
    across, within = [], []
    for plane in planes:
        for (i, j), value in np.ndenumerate(plane):
            if i + 1 < height:
                (across if i % 8 == 7 else within).append((float(value) - float(plane[i + 1, j])) ** 2)
            if j + 1 < width:
                (across if j % 8 == 7 else within).append((float(value) - float(plane[i, j + 1])) ** 2)
    counted = height * boundaries(width) + width * boundaries(height)
    others = height * (width - 1) + width * (height - 1) - counted
    excess = math.fsum(across) / counted - math.fsum(within) / others
    return excess * 3 / math.log2(min(height, width)) if excess > 0 else 0.0


@pytest.mark.parametrize("seed", range(24))
def test_blockiness_as_others_publish_it(seed: int) -> None:
    height, width = [(64, 80), (33, 47), (24, 16), (17, 19)][seed % 4]
    reference, restored = pair_of_bytes(seed, height, width)
    a, b = tensor(reference / 255), tensor(restored / 255)
    rgb = [restored[..., c] / 255 for c in range(3)]
    assert bef_torchjpeg(a, b).item() == pytest.approx(published_bef(rgb, lambda side: side // 8 - 1), abs=1e-9)
    error = float(((reference.astype(float) - restored) ** 2).mean())
    studio = np.round(restored @ np.array([65.481, 128.553, 24.966]) / 255 + 16)
    factor = published_bef([studio], lambda side: side / 8 - 1)
    expected = 20 * math.log10(255 / math.sqrt(error + factor))
    assert psnrb_y_fbcnn(a, b).item() == pytest.approx(expected, abs=1e-9)


def pair_of_bytes(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its JPEG, (H, W, 3) uint8."""
    reference = photo(height, width, seed)
    return reference, jpeg(reference, [5, 20, 60][seed % 3])


def gaussian(size: int, sigma: float) -> np.ndarray:
    """(size, size), sum 1."""
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def moments(x: np.ndarray, y: np.ndarray, window: np.ndarray) -> list[np.ndarray]:
    """Means, variances and covariance of two (H, W) planes in each window that lies inside."""
    mean_x, mean_y, xx, yy, xy = (convolve2d(p, window, "valid") for p in (x, y, x * x, y * y, x * y))
    return [mean_x, mean_y, xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y]


def ms_ssim_in_numpy(x: np.ndarray, y: np.ndarray) -> float:
    """Of two (H, W) planes whose sides halve four times without rest."""
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_x, mean_y, var_x, var_y, cov = moments(x, y, gaussian(11, 1.5))
        value = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
        if scale == 4:
            value = value * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        product *= max(0.0, value.mean()) ** weight
        x, y = (p.reshape(p.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) if p.shape[0] % 2 == 0 else p for p in (x, y))
    return product


def vif_in_numpy(x: np.ndarray, y: np.ndarray) -> float:
    """Of two (H, W) planes in 0..255 without flat places."""
    kept = there = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        window = gaussian(size, size / 5)
        if scale:
            x, y = (convolve2d(p, window, "valid")[::2, ::2] for p in (x, y))
        _, _, var_x, var_y, cov = moments(x, y, window)
        gain = np.maximum(cov / (var_x + 1e-8), 0)
        lost = np.maximum(np.where(cov < 0, var_y, var_y - gain * cov), 1e-8)
        kept += np.log10(1 + gain**2 * var_x / (lost + 2)).sum()
        there += np.log10(1 + var_x / 2).sum()
    return kept / there


def gmsd_in_numpy(x: np.ndarray, y: np.ndarray) -> float:
    """Of two (H, W) planes with even sides."""
    prewitt = np.outer([1, 1, 1], [1, 0, -1]) / 3
    gradients = []
    for plane in (x, y):
        half = plane.reshape(plane.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
        parts = (convolve(half, kernel, mode="constant") for kernel in (prewitt, prewitt.T))
        gradients.append(np.sqrt(sum(part**2 for part in parts)))
    a, b = gradients
    return float(((2 * a * b + 170 / 255**2) / (a**2 + b**2 + 170 / 255**2)).std())


@pytest.mark.parametrize("seed", range(8))
def test_similarities_are_their_papers(seed: int) -> None:
    reference, restored = pair(seed, 176, 192)
    a, b = tensor(reference), tensor(restored)
    channels = [ms_ssim_in_numpy(reference[..., c], restored[..., c]) for c in range(3)]
    assert ms_ssim(a, b).item() == pytest.approx(np.mean(channels), abs=1e-6)
    assert vif(a, b).item() == pytest.approx(vif_in_numpy(255 * luma(reference), 255 * luma(restored)), abs=1e-5)
    assert gmsd(a, b).item() == pytest.approx(gmsd_in_numpy(luma(reference), luma(restored)), abs=1e-4)
    assert fsim(a, b).item() == pytest.approx(piq.fsim(a.float(), b.float()).item(), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in PAIR_METRICS if name in SMALLEST_SIDE])
def test_the_smallest_side_has_a_value_and_one_less_has_none(name: str) -> None:
    side = SMALLEST_SIDE[name]
    image = torch.rand(1, 3, side, side + 5, generator=torch.Generator().manual_seed(0)).double()
    assert PAIR_METRICS[name](image, 1 - image).isfinite().all()
    for smaller in (image[:, :, 1:], image[:, :, :, : side - 1]):
        with pytest.raises(ValueError, match="at least"):
            PAIR_METRICS[name](smaller, 1 - smaller)


@given(height=st.integers(1, 20), width=st.integers(1, 20), row=st.integers(0, 9), column=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_bef_of_any_size_and_offset_is_defined(height: int, width: int, row: int, column: int) -> None:
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = sum(bef_in_loops(image[..., c] / 255, (row, column)) for c in range(3)) / 3
    assert bef_u8(image, (row, column)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", PAIR_METRICS)
def test_a_neighbour_changes_nothing(name: str) -> None:
    metric = PAIR_METRICS[name]
    side = max(64, SMALLEST_SIDE.get(name, 1))
    pairs = [pair(seed, side, side + 16) for seed in range(32)]
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
    smooth = torch.linspace(0, 1, 176).expand(1, 3, 176, 176)  # a ramp: all steps alike, so no blocking
    smooth = smooth * 0 if name == "psnrb_y_fbcnn" else smooth  # which rounds: steps would differ
    by_start = {"bef": 0.0, "gmsd": 0.0, "ssim": 1.0, "ms_ssim": 1.0, "fsim": 1.0, "vif": 1.0}
    perfect = next((value for start, value in by_start.items() if name.startswith(start)), math.inf)
    value = PAIR_METRICS[name](smooth.double(), smooth.double()).item()
    if perfect == math.inf:  # the ramp's own rounding leaves a BEF of 1e-33 or so
        assert value > 250
    else:
        assert value == pytest.approx(perfect, abs=1e-8 if name == "vif" else 1e-12)  # piq's guard against 0 / 0


def test_worse_jpeg_scores_worse() -> None:
    reference = photo(256, 256, seed=0)
    damaged = [tensor(jpeg(reference, quality) / 255) for quality in (5, 10, 30, 70)]
    for name, metric in PAIR_METRICS.items():
        scores = [metric(tensor(reference / 255), image).item() for image in damaged]
        assert scores == sorted(scores, reverse=not higher_is_better(name)), name


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
