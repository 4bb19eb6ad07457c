"""Pairs of clean and damaged images: found by name whatever holds them, cut at the same place, trained and restored."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from driftrec.training.patches import PatchConfig
from jobs import restore, train
from pipeline.inputs.listing import list_input
from pipeline.inputs.pairing import join
from pipeline.train.windows import Drawing, draw_shard, why_skipped
from tests import made

DRAWING = Drawing(PatchConfig(size=16, per_image=3), seed=5, max_pixels=10**6)
KEYS = ["a/0", "a/1", "b/0", "b/1.x", "b/2"]

Files = dict[str, bytes]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images(invert: bool, ending: str) -> Files:
    """Five images, or their negatives."""
    found = {}
    for seed, key in enumerate(KEYS):
        pixels = made.pixels(seed, 40, 48)
        found[key + ending] = png(255 - pixels if invert else pixels)
    return found


def folder(place: Path, files: Files) -> str:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return str(place)


def tars(place: Path, files: Files) -> str:
    """One tar for a, one for b."""
    place.mkdir()
    for tar in "ab":
        members = {name[2:]: data for name, data in files.items() if name.startswith(tar)}
        (place / f"{tar}.tar").write_bytes(made.tar(members))
    return f"{place}/*.tar"


def one_tar(place: Path, files: Files) -> str:
    place.mkdir()
    (place / f"{place.name}.tar").write_bytes(made.tar(files))
    return f"{place}/{place.name}.tar"


def parquet(place: Path, files: Files) -> str:
    """In another order, in row groups of two."""
    place.mkdir()
    names = sorted(files, key=lambda name: name[::-1])
    table = pa.table({"key": names, "image": [files[name] for name in names]})
    pq.write_table(table, place / "all.parquet", row_group_size=2)
    return str(place)


Maker = Callable[[Path, Files], str]
SIDES: list[tuple[Maker, Maker]] = [
    (folder, folder),
    (folder, tars),
    (folder, parquet),
    (tars, folder),
    (tars, tars),
    (tars, parquet),
    (parquet, folder),
    (parquet, tars),
    (parquet, parquet),
    (one_tar, one_tar),
]


def drawn(clean: str, damaged: str, **listing: int) -> tuple[dict[str, tuple[bytes, bytes]], dict[str, str]]:
    """Patches by key, and why others have none."""
    sides = list_input(clean, **listing), list_input(damaged)
    patches, skipped = {}, {}
    for shard, pairing in zip(sides[0].shards, join(*sides), strict=True):
        table = draw_shard(shard, 0, 0, DRAWING, pairing)
        skipped |= why_skipped(table)
        patches |= {row["key"]: (row["clean"], row["damaged"]) for row in table.to_pylist() if not row["reason"]}
    return patches, skipped


@pytest.mark.parametrize(("clean", "damaged"), SIDES, ids=lambda side: side.__name__)
def test_partners_are_found_by_name_whatever_holds_them(clean: Maker, damaged: Maker, tmp_path: Path):
    sources = clean(tmp_path / "clean", images(False, ".png")), damaged(tmp_path / "bad", images(True, ".webp"))
    patches, skipped = drawn(*sources)
    assert skipped == {}
    assert len(patches) == 5
    for good, bad in patches.values():
        assert np.array_equal(np.frombuffer(bad, np.uint8), 255 - np.frombuffer(good, np.uint8))
        assert len(set(good)) > 50
    assert drawn(*sources, target_bytes=1)[0] == patches  # however the clean side is cut into shards


@pytest.mark.parametrize("damaged", [folder, tars, parquet], ids=lambda side: side.__name__)
def test_a_missing_broken_or_other_sized_partner_is_a_row_with_its_reason(damaged: Maker, tmp_path: Path):
    bad = images(True, ".png")
    del bad["a/1.png"]
    bad["b/0.png"] = bad["b/0.png"][:200]
    bad["b/2.png"] = png(made.pixels(0, 48, 48))
    patches, skipped = drawn(
        folder(tmp_path / "clean", images(False, ".png")), damaged(tmp_path / "bad", bad | {"b/9.png": b"of nobody"})
    )
    assert set(patches) == {"a/0.png", "b/1.x.png"}
    assert skipped["a/1.png"] == "no_partner: its partner: no damaged image of this name"
    assert skipped["b/0.png"].startswith("truncated: its partner: ")
    assert skipped["b/2.png"] == "size_mismatch: its partner has 48x48 pixels, it has 48x40"


def test_a_set_without_any_partner_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clean = folder(tmp_path / "clean", images(False, ".png"))
    other = folder(tmp_path / "other", {f"x/{name}": data for name, data in images(True, ".png").items()})
    assert train.main([clean, str(tmp_path / "out"), "--corrupted", other, "--set", "patches.size=16"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert "5 were looked at; of 5 the reason is no_partner" in told
    assert not (tmp_path / "out").exists()


def webp(pixels: np.ndarray) -> bytes:
    """Blurred, and compressed as WebP of quality 5."""
    file = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.0)).save(file, "WEBP", quality=5)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_cluster")
def test_blurred_webp_pairs_train_and_restore_with_the_same_commands(tmp_path: Path):
    """A real training, if a short one: on images that it has not seen the model is closer to the clean ones."""
    photos = {f"{i:02}": made.pixels(i, 128, 128) for i in range(24)}
    train_keys, test_keys = list(photos)[:20], list(photos)[20:]
    clean = folder(tmp_path / "clean", {f"{key}.png": png(photos[key]) for key in train_keys})
    bad = folder(tmp_path / "bad", {f"{key}.webp": webp(photos[key]) for key in train_keys})
    config = tmp_path / "pairs.yaml"
    settings = {
        "network": {"preset": "tiny", "width": 16},
        "density": {"share_at_one": 0.5},
        "optimizer": {"steps": 120, "lr": 3e-3, "warmup": 10, "ema_decay": 0.98},
        "patches": {"size": 32, "per_image": 4},
        "shuffle_buffer": 80,
        "threads": 1,
        "recommend": {"fidelity": 1.0},
        "validate_every": 60,
        "validation": str(tmp_path / "valid"),
        "validation_corrupted": str(tmp_path / "test"),
    }
    config.write_text(json.dumps(settings))
    folder(tmp_path / "valid", {f"{key}.png": png(photos[key]) for key in test_keys})
    damaged = folder(tmp_path / "test", {f"{key}.webp": webp(photos[key]) for key in test_keys})
    assert train.main([clean, str(tmp_path / "run"), "--corrupted", bad, "--config", str(config)]) == 0
    model = str(tmp_path / "run/model.safetensors")
    assert restore.main([damaged, str(tmp_path / "restored"), "--model", model]) == 0

    def error(pixels: np.ndarray, key: str) -> float:
        return float(np.square(pixels.astype(float) - photos[key]).mean())

    before = [error(np.asarray(Image.open(tmp_path / f"test/{key}.webp").convert("RGB")), key) for key in test_keys]
    after = [error(np.asarray(Image.open(tmp_path / f"restored/images/{key}.png")), key) for key in test_keys]
    assert np.mean(after) < 0.95 * np.mean(before)
    assert all(a < b for a, b in zip(after, before, strict=True))
    scores = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][-1]["validation"]
    assert scores["mean"]["psnr"] > scores["damaged"]["psnr"] + 0.2
    card = (tmp_path / "run/MODEL_CARD.md").read_text()
    assert "trained on the damage of its pairs alone" in card
    assert f"| damaged partners | {bad} |" in card
