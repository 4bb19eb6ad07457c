"""The arm of QGAC: from a tar of photographs to weights that restore."""

from pathlib import Path

import numpy as np

from benchmarks.qgac import pairs, trained
from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.training.qgac import Recipe
from tests import made


def test_photographs_become_weights(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.tar").write_bytes(made.tar({f"{i}.jpg": made.jpeg(i, 128, 128, 95) for i in range(8)}))
    said, clean = next(pairs(tmp_path))
    assert clean.shape == (8, 3, 64, 64)
    assert 0 <= clean.min() < 0.5 < clean.max() <= 1
    assert [plane.shape for plane in said.planes] == [(8, 1, 64, 64), (8, 1, 32, 32), (8, 1, 32, 32)]
    assert len({float(table[0, 0, 0]) for table in said.tables[0]}) > 2  # of several qualities
    path = trained(tmp_path, tmp_path / "arms", 16, Recipe(steps=2))
    image = Restorer.from_pretrained(f"qgac:{path}", "cpu")(encode_jpeg(made.pixels(9, 48, 64), 20, "4:2:0"))
    assert np.asarray(image).shape == (48, 64, 3)
