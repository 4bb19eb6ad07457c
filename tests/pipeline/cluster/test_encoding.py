"""An output encoded by a task is the one that its actor would have made, whoever makes it in the end."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import ENCODERS, Picture, encode
from driftrec.image.picture import Mode
from pipeline.cluster import encoding
from pipeline.cluster.encoding import ByTask
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from tests import made

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
MODES: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")


def picture(mode: Mode, depth: int, side: int) -> Picture:
    generator = np.random.default_rng(side)
    kind = np.uint16 if depth == 16 else np.uint8
    rgb = generator.integers(0, 2**depth, (side, side + 3, 3), dtype=kind)
    alpha = generator.integers(0, 2**depth, (side, side + 3), dtype=kind) if mode.endswith("A") else None
    return Picture(np.repeat(rgb[..., :1], 3, axis=2) if mode in ("L", "LA") else rgb, mode, alpha, dpi=(72.0, 72.0))


def made_by(encoder: Any, of: Picture, kind: str) -> bytes | Reason:
    try:
        return encoder(of, kind, png_level=1, record={"model": "x"})
    except BadImage as error:
        return error.reason


def test_formats_modes_depths_and_sizes_give_the_bytes_of_the_actor() -> None:
    """Or are refused for the same reason. The large ones go through the object store."""
    encoder, refused = ByTask(100.0), 0
    for kind, mode, depth, side in itertools.product(ENCODERS, MODES, (8, 16), (1, 300)):
        expected = made_by(encode, picture(mode, depth, side), kind)
        refused += isinstance(expected, Reason)
        assert made_by(encoder, picture(mode, depth, side), kind) == expected, (kind, mode, depth, side)
    assert refused == 8  # transparency in a JPEG
    with pytest.raises(InvalidInput, match="unknown output format"):
        encoder(picture("L", 8, 1), "bmp")


def ends(*_: Any) -> bytes:
    os._exit(1)


def lacks_a_plugin(*_: Any) -> bytes:
    raise ModuleNotFoundError("No module named 'formats'")


class Full:
    """An object store that takes no more."""

    @staticmethod
    def remote(*_: Any) -> None:
        raise ray.exceptions.ObjectStoreFullError


@pytest.mark.parametrize("by", ["a CPU that is not free", "workers that end", "nodes that lack a plugin", "no room"])
def test_what_no_task_does_the_actor_does(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, of, remote = ByTask(0.5 if "CPU" in by else 100.0), picture("RGB", 8, 20), ray.remote(max_retries=0)
    ways: dict[str, Any] = {
        "a CPU that is not free": encoding._encode.options(num_cpus=100),
        "workers that end": remote(ends),
        "nodes that lack a plugin": remote(lacks_a_plugin),
        "no room": Full,
    }
    monkeypatch.setattr(encoding, "_encode", ways[by])
    assert encoder(of, "png") == encode(of, "png")
    asked: list[str] = []

    def by_task(picture: Picture, kind: str, *_: Any) -> bytes:
        asked.append(kind)
        return encode(picture, kind)

    monkeypatch.setattr(encoder, "_by_task", by_task)
    assert encoder(of, "webp") == encode(of, "webp")
    assert asked == ([] if by == "a CPU that is not free" else ["webp"])  # where none is free nobody is asked for now


def test_a_restore_is_the_same(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 6)
    (source / "a/broken.jpg").write_bytes(b"\xff\xd8\xff")
    rows = {}
    for way in ("actor", "task"):
        given: dict[str, Any] = {"encode_by": way, "report": False, "max_failed": "1", "shard_images": 3, "actors": 1}
        out = tmp_path / way
        result = run_restore(RestoreSettings(input=str(source), output=str(out), model="identity", **given))
        assert result["status"] == {"ok": 6, "failed": 1, "skipped": 0}
        found = pq.read_table(out / "ledger").drop_columns(["seconds", "done"]).to_pylist()
        rows[way] = sorted(found, key=lambda row: row["key"])
    assert rows["actor"] == rows["task"]
    files = {way: sorted((tmp_path / way).rglob("*.png")) for way in rows}
    pairs = list(zip(files["actor"], files["task"], strict=True))
    assert len(pairs) == 6
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)
