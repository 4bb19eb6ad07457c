"""Restorer: the result is a function of picture, key, seed, settings and weights, and keeps what must survive."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from driftrec import Restorer
from driftrec.image import Picture, decode, from_pil
from driftrec.jpeg.constraint import constraint, project
from driftrec.models.checkpoint import load
from driftrec.restoration.options import Sampling
from tests.corpus.made import GREY_ICC, ICC
from tests.made import jpeg

SAMPLING = Sampling(steps=2, fidelity=0.0)


@pytest.fixture(scope="module")
def restorer(small_model: Path) -> Restorer:
    return Restorer.from_pretrained(str(small_model), device="cpu")


def picture(seed: int, height: int = 40, width: int = 56) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return from_pil(Image.fromarray(pixels))


@pytest.mark.parametrize("noise", ["cpu", "device"])
def test_batch_and_order_change_nothing(restorer: Restorer, noise: Any) -> None:
    sampling = replace(SAMPLING, noise=noise)
    pictures = [picture(i, 40 + i, 56) for i in range(4)]
    keys = [f"{i}.jpg" for i in range(4)]
    together = restorer.restore(pictures, keys, 5, sampling)
    for i in (2, 0, 3, 1):
        alone = restorer.restore([pictures[i]], [keys[i]], 5, sampling)[0]
        assert np.array_equal(alone.picture.rgb, together[i].picture.rgb)
        assert alone.nfe == together[i].nfe == 2


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 3])
def test_one_that_is_told_to_stop_begins_no_more_tiles(small_model: Path, threads: int, after: int) -> None:
    restorer = Restorer.from_pretrained(str(small_model), device="cpu")
    restorer.threads, begun, caught = threads, [0], list[BaseException]()
    restored = restorer._restored

    def counted(*given: Any) -> Any:
        begun[0] += 1
        time.sleep(0.02)
        return restored(*given)

    def stop(done: int, of: int) -> None:
        assert of > 20
        if done == after:
            raise KeyboardInterrupt

    restorer._restored, restorer.tell = counted, stop  # type: ignore[method-assign]
    try:
        restorer.restore([picture(0, 560, 560)], ["a"], 0, replace(SAMPLING, tile=128, fidelity=1.0))
    except KeyboardInterrupt as error:
        caught.append(error)  # as whoever answers keeps it, with all its frames
    assert len(caught) == 1
    assert begun[0] <= after + 2 * threads
    at_once = begun[0]
    time.sleep(0.1)
    assert begun[0] == at_once


@pytest.mark.parametrize("together", [1, 3, 16])
@pytest.mark.parametrize(("tile", "noise"), [(128, "cpu"), (None, "cpu"), (128, "device")])
def test_tiles_of_many_pictures_in_one_batch_finish_in_any_order_on_any_thread(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, tile: int | None, noise: Any, together: int
) -> None:
    """As on a GPU, whose batches hold tiles of several pictures and several tiles of one."""
    pictures = [picture(i, 150, 150 + 60 * (i % 2)) for i in range(5)]
    keys, sampling = [f"{i}.jpg" for i in range(5)], replace(SAMPLING, tile=tile, noise=noise)
    alone = restorer.restore(pictures, keys, 5, sampling)
    split = type(restorer)._batches

    def merged(self: Restorer, sizes: Any, plans: Any) -> Any:
        parts = [part for (part,) in split(self, sizes, plans)]
        alike = [[part for part in parts if part[1].size == size] for size in {part[1].size for part in parts}]
        return [same[i : i + together] for same in alike for i in range(0, len(same), together)]

    monkeypatch.setattr(Restorer, "_batches", merged)
    rests = restorer.begin(pictures, keys, 5, sampling)
    with ThreadPoolExecutor(3) as pool:
        done = [future.result() for future in [pool.submit(rest) for rest in rests[::-1]]][::-1]
    for one, other in zip(done, alone, strict=True):
        assert one.nfe == other.nfe
        difference = np.abs(one.picture.rgb.astype(int) - other.picture.rgb.astype(int))
        assert difference.max() <= 1  # a batch's kernels may round otherwise


def test_seed_and_key_choose_the_sample_but_not_the_size(restorer: Restorer) -> None:
    first = restorer.restore([picture(0)], ["a"], 0, SAMPLING)[0].picture
    assert first.rgb.shape == (40, 56, 3)
    for key, seed in [("b", 0), ("a", 1)]:
        assert not np.array_equal(restorer.restore([picture(0)], [key], seed, SAMPLING)[0].picture.rgb, first.rgb)


@pytest.mark.parametrize(
    ("settings", "nfe"),
    [
        (Sampling(steps=5, fidelity=0.0), 5),
        (Sampling(steps=5, fidelity=1.0), 1),
        (Sampling(steps=5, fidelity=0.5), 6),
        (Sampling(steps=5, fidelity=0.0, samples=3), 15),
        (Sampling(sampler="euler-maruyama", steps=4, fidelity=0.0), 4),
        (Sampling(), 3),  # what the file recommends: 2 steps, and one for the mean's share
    ],
)
def test_evaluations_are_counted(restorer: Restorer, settings: Sampling, nfe: int) -> None:
    assert restorer.restore([picture(0)], ["a"], 0, settings)[0].nfe == nfe


def test_noise_is_another_where_the_device_draws_it(restorer: Restorer) -> None:
    ways: tuple[Literal["cpu", "device"], ...] = ("cpu", "device")
    done = {noise: restorer.restore([picture(0)], ["a"], 5, replace(SAMPLING, noise=noise))[0] for noise in ways}
    assert not np.array_equal(done["cpu"].picture.rgb, done["device"].picture.rgb)
    said = {noise: restorer.record(one, 5).get("noise") for noise, one in done.items()}
    assert said == {"cpu": None, "device": "device"}  # outputs are as they were where nothing else is asked for


def test_fidelity_mixes_mean_and_sample(restorer: Restorer) -> None:
    def restored(fidelity: float) -> np.ndarray:
        settings = Sampling(steps=2, fidelity=fidelity, color_correction=False)
        return restorer.restore([flat()], ["a"], 0, settings)[0].picture.rgb.astype(float)

    mixed = 0.25 * restored(1.0) + 0.75 * restored(0.0)
    assert np.abs(restored(0.25) - mixed).max() <= 1.5  # levels: three roundings


@pytest.mark.parametrize("sampler", ["multistep", "euler-maruyama", "ode"])
@pytest.mark.parametrize(("start", "fidelity", "samples"), list(product([0.3, 1.0], [0.0, 0.5, 1.0], [1, 2])), ids=str)
def test_what_is_coarse_has_a_fidelity_of_its_own(
    restorer: Restorer, sampler: str, start: float, fidelity: float, samples: int
) -> None:
    settings = Sampling(sampler, steps=2, samples=samples, start=start, fidelity=fidelity, tolerance=0.1)
    done = {
        share: restorer.restore([picture(0), picture(1)], ["a", "b"], 0, replace(settings, coarse_fidelity=share))
        for share in (0.0, 0.5, 1.0)
    }
    assert len({tuple(one.nfe for one in results) for results in done.values()}) == 1  # it costs no evaluation
    pixels = {share: [one.picture.rgb for one in results] for share, results in done.items()}
    for i in range(2):
        # The mean has nothing else, and a sample that starts at 1 is one of the posterior: it stays as it is.
        same = fidelity == 1 or start == 1
        assert np.array_equal(pixels[0.0][i], pixels[1.0][i]) == same
        assert np.array_equal(pixels[0.0][i], pixels[0.5][i]) == same
        alone = restorer.restore([picture(i)], ["ab"[i]], 0, replace(settings, coarse_fidelity=1.0))[0]
        assert np.array_equal(alone.picture.rgb, pixels[1.0][i])
    said = [restorer.record(results[0], 0).get("coarse_fidelity") for results in done.values()]
    assert said == [None, 0.5, 1.0]


def flat() -> Picture:
    """Far from 0 and 255, so that nothing clips."""
    return from_pil(Image.new("RGB", (48, 32), (110, 130, 150)))


def test_projection_keeps_to_the_file(restorer: Restorer) -> None:
    data = jpeg(3, 64, 80, quality=70)
    known = constraint(data)
    assert known is not None
    plain = decode(data)
    guarded = replace(plain, constraint=known)
    free, kept, unguarded = (
        restorer.restore([each], ["a"], 0, replace(SAMPLING, projection=projection))[0].picture.rgb.astype(int)
        for each, projection in [(plain, True), (guarded, True), (guarded, False)]
    )
    assert np.array_equal(free, unguarded)
    assert not np.array_equal(free, kept)
    moved = np.abs(project(kept.astype(np.uint8), known) - kept)
    assert moved.max() <= 1 < np.abs(free - kept).max()  # roundings are all that is left of the contradiction


def test_color_correction_keeps_channel_means(restorer: Restorer) -> None:
    def off(color_correction: bool) -> float:
        sampling = replace(SAMPLING, color_correction=color_correction)
        done = restorer.restore([flat()], ["a"], 0, sampling)[0].picture.rgb
        return float(np.abs(done.mean(axis=(0, 1)) - (110, 130, 150)).max())

    assert off(True) < 0.05 < off(False)  # levels: roundings are all that is left


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_three_line_api_keeps_mode_size_and_alpha(restorer: Restorer, mode: str) -> None:
    image = Image.fromarray(picture(1).rgb).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(picture(2).rgb[..., 0]))
    image.info["icc_profile"] = icc = GREY_ICC if mode.startswith("L") else ICC
    done = restorer(image, steps=1)
    assert (done.mode, done.size, done.info["icc_profile"]) == (mode, image.size, icc)
    if "A" in mode:
        assert done.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert [d.tobytes() for d in restorer([image], keys=["0"], steps=1)] == [done.tobytes()]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 31)])
def test_any_size(restorer: Restorer, size: tuple[int, int]) -> None:
    assert restorer(Image.new("RGB", size), steps=1).size == size


def test_identity_gives_back_what_it_gets() -> None:
    done = Restorer.identity().restore([picture(0)], ["a"])[0]
    assert np.array_equal(done.picture.rgb, picture(0).rgb)
    assert done.nfe == 0


def test_bfloat16_stays_close_to_float32(small_model: Path) -> None:
    fast = Restorer.from_pretrained(str(small_model), device="cpu")
    exact = Restorer.from_pretrained(str(small_model), device="cpu")
    exact.checkpoint.denoiser.network.float()
    a, b = (r.restore([flat()], ["a"], 0, SAMPLING)[0].picture.rgb.astype(float) for r in (fast, exact))
    assert np.abs(a - b).mean() < 0.5  # levels of 255


@pytest.mark.parametrize(
    "bad",
    [
        {"sampler": "euler"},
        {"steps": 0},
        {"samples": 0},
        {"fidelity": 1.5},
        {"coarse_fidelity": -0.1},
        *[{name: None} for name in ("sampler", "spacing", "noise")],
    ],
    ids=str,
)
def test_refuses_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


def test_fingerprint_is_the_files_hash(restorer: Restorer, small_model: Path) -> None:
    assert restorer.fingerprint == load(small_model).sha256
    with pytest.raises(ValueError, match="1 pictures, but 2 keys"):
        restorer.restore([picture(0)], ["a", "b"])
