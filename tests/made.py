"""Images, tars and Parquet files made on the spot, the same bytes each time."""

import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

# Of tokens and passwords: long enough to be found by chance nowhere, with all signs that mean something in a URL.
SECRETS = st.text(st.sampled_from("/@:?%+#=&aZ09~é漢"), min_size=3, max_size=12).map(lambda signs: f"Wq7{signs}kX4")
# Of passwords alone, in which anything may stand; they may begin as a port does, but not go on with a path and a query.
PASSWORDS = st.builds(
    "{}Wq7{}kX4".format,
    st.sampled_from(["", " ", "80", "80/", "443 ", "80? ", "80/x? ", "80/ ?"]),
    st.text(st.sampled_from("/@:?%+#=&aZ09~é漢 \t\n\u2003'\";,\\") | st.characters(codec="utf-8"), max_size=12),
).filter(lambda password: not re.match(r"\d+/\S*[?#]", password))


def shows(text: str, password: str) -> bool:
    """Whether a text holds any of PASSWORDS, or an end of it."""
    return any(part in text for part in ("Wq7", "kX4", password))


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with some noise, (H, W, 3) uint8: compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(seed: int, height: int = 48, width: int = 64, quality: int = 20) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def folder(path: Path, count: int, height: int = 48, width: int = 64) -> Path:
    """A folder of `count` JPEGs in three subfolders, each of its own height."""
    for index in range(count):
        file = path / f"{'abc'[index % 3]}/{index:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(index, height + index % 5 * 8, width))
    return path


def tar(members: Mapping[str, bytes]) -> bytes:
    """A tar file with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()
