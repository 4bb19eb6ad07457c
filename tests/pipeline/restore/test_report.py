"""The restore report: its numbers are the ledger's, its pictures the images'; nothing in it acts or reaches out."""

import base64
import hashlib
import io
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from driftrec.errors import BadImage, Reason
from driftrec.image import decode, encode
from driftrec.jpeg.headers import inspect
from driftrec.metrics.blockiness import bef_u8
from pipeline.inputs.listing import list_input
from pipeline.inputs.names import output_name
from pipeline.inputs.shards import read_shard
from pipeline.reports.page import GREY_LEVELS, duration, figure, share
from pipeline.restore.report import MAX_PAIRS, write_restore_report
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.summary import MAX_FAILURES, Histogram, Summary
from pipeline.runs.ledger import Ledger
from pipeline.runs.run import finish, open_run
from pipeline.storage import open_store
from pipeline.storage.base import Store

HOSTILE = (
    "<script>alert(1)<.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "{{ 7 * 7 }}{% raw %}.jpg",
    "a & b &lt; c.jpg",
)


def jpeg(seed: int, quality: int = 30, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG of smooth colours with some noise; size is (width, height)."""
    draw = np.random.default_rng(seed)
    low = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = draw.integers(-20, 21, (size[1], size[0], 3))
    pixels = np.clip(np.asarray(low).astype(int) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def folder_of(path: Path, images: Mapping[str, bytes]) -> str:
    for name, data in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


def restored_run(source: str, output: Path) -> list[dict[str, Any]]:
    """A finished run without Ray or network: a blur takes the network's place. Gives all ledger rows."""
    settings = RestoreSettings(input=source, output=str(output))
    listing = list_input(source, settings.shard_bytes, settings.shard_images)
    run = open_run("restore", str(output), listing, settings.model_dump(mode="json"), {"seed": 0}, "100%")
    every: list[dict[str, Any]] = []
    for shard in run.todo:
        rows = [restored_row(run.store, row) for row in read_shard(shard).to_pylist()]
        run.ledger.commit(shard.id, rows)
        run.statuses.update(row["status"] for row in rows)
        every += rows
    finish(run)
    return every


def restored_row(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    common = {"key": row["key"], "input_sha256": hashlib.sha256(row["data"]).hexdigest(), "seconds": 0.25}
    try:
        if row["reason"]:
            raise BadImage(Reason(row["reason"]), row["detail"])
        picture = decode(row["data"], row["key"])
    except BadImage as error:
        return common | {"status": "failed", "reason": error.reason, "detail": error.detail, "stage": "decode"}
    blurred = Image.fromarray(picture.rgb).filter(ImageFilter.GaussianBlur(1))
    result = picture.with_rgb(np.asarray(blurred))
    name = f"images/{output_name(row['key'], 'png')}"
    store.put(name, encode(result))
    return common | {
        "status": "ok",
        "output": name,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "quality": inspect(row["data"]).quality,
        "nfe": 8,
        "bef_before": bef_u8(picture.rgb),
        "bef_after": bef_u8(result.rgb),
    }


class Page(HTMLParser):
    """What a browser would see: elements, and the text of those that matter."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open, data.strip()))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if all(a.get(name.rstrip("_")) == value for name, value in wanted.items())]

    def keys(self) -> list[str]:
        """The images whose pictures are shown."""
        return self.text("h3")[: len(self.all("figure"))]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def report(source: str, output: Path) -> Page:
    write_restore_report(source, str(output))
    return Page((output / "report.html").read_text(encoding="utf-8"))


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_numbers_are_the_ledgers(tmp_path: Path) -> None:
    images = {f"photos/{i:02}.jpg": jpeg(i, quality=5 + 6 * i) for i in range(12)}
    images |= {"bad/page.jpg": b"<html>no image</html>", "bad/cut.jpg": jpeg(99)[:-300], "bad/empty.jpg": b""}
    source = folder_of(tmp_path / "in", images)
    rows = restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    assert page.text("h1") == ["12 of 15 images restored"]
    expected = Counter((row["status"], str(row.get("reason") or "")) for row in rows)
    outcome = page.html[page.html.index("<tbody>") : page.html.index("</tbody>")]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", outcome)]
    found = {(re.sub("<.*?>", "", c[0]), re.sub("<.*?>", "", c[1])): int(c[2]) for c in cells}
    assert found == expected
    assert sum(found.values()) == 15
    done = [row for row in rows if row["status"] == "ok"]
    before, after = (
        f"{GREY_LEVELS * sum(row[name] for row in done) / 12:,.2f}" for name in ("bef_before", "bef_after")
    )
    last = page.html[page.html.index(">All</th>") :]
    assert re.findall(r'"number">([^<]*)</td>', last)[:3] == ["12", before, after]
    for row in done:
        assert figure(row["bef_before"] * GREY_LEVELS) + " → " in page.html


def test_failed_images_are_listed_with_reason_and_detail(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jpg": jpeg(0), "b.jpg": b"<html></html>", "c.jpg": b""})
    rows = restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    section = page.html[page.html.index('id="failures"') : page.html.index('id="run"')]
    for row in rows:
        listed = row["status"] == "failed"
        assert (row["key"] in section) == listed
        if listed:
            assert f">{row['reason']}<" in section
            assert escape(row["detail"]) in section


def test_hostile_names_and_details_are_only_text(tmp_path: Path) -> None:
    images = {name: jpeg(i) for i, name in enumerate(HOSTILE)} | {f"bad {HOSTILE[1]}": b"<b>bold</b>"}
    source = folder_of(tmp_path / "in", images)
    restored_run(source, tmp_path / "out")
    evil = "\u202egpj.exe</td><script>steal()</script>"
    Ledger(open_store(str(tmp_path / "out"))).commit(
        "f" * 16, [{"key": evil, "status": "failed", "reason": "internal", "stage": "x", "detail": evil}]
    )
    page = report(source, tmp_path / "out")
    assert len(page.all("script")) == 1
    assert len(page.all("b")) == 2 * len(HOSTILE)  # two labels a pair, and no other bold text
    assert len(page.all("img")) == 2 * len(HOSTILE)
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert set(HOSTILE) == set(page.keys())
    assert evil.replace("\u202e", "\\u202e") in page.text("th")
    assert "\u202e" not in page.html


def test_page_is_self_contained(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {f"https:/evil.example/{i}.jpg": jpeg(i) for i in range(3)})
    restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "a", "form"}
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    style = " ".join(page.text("style"))
    assert "url(" not in style
    assert "@import" not in style
    script = page.html[page.html.index("<script>") + 8 : page.html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy  # or the browser would not run the sliders


def test_pictures_are_the_images_own_pixels(tmp_path: Path) -> None:
    images = {
        "small.jpg": jpeg(1, 10, (48, 36)),
        "square.jpg": jpeg(2, 20, (90, 90)),
        "strip.jpg": jpeg(3, 30, (20, 400)),
    }
    images["large.jpg"] = jpeg(4, 40, (1000, 800))
    source = folder_of(tmp_path / "in", images)
    restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    names = page.keys()
    assert names == ["small.jpg", "square.jpg", "strip.jpg", "large.jpg"]  # lowest quality first
    befores, afters = page.all("img", class_="input"), page.all("img", class_="restored")
    shapes = []
    for name, before, after in zip(names, befores, afters, strict=True):
        full = decode(images[name]).rgb
        final = decode((tmp_path / "out/images" / name).with_suffix(".png").read_bytes()).rgb
        shown = pixels(before["src"])
        height, width = shown.shape[:2]
        top, left = (full.shape[0] - height) // 2, (full.shape[1] - width) // 2
        window = np.s_[top : top + height, left : left + width]
        assert np.array_equal(shown, full[window])
        assert np.abs(pixels(after["src"]).astype(int) - final[window]).mean() < 2
        shapes.append((width, height))
    assert shapes[:3] == [(48, 36), (90, 67), (20, 400)]
    assert shapes[3][0] * 3 == shapes[3][1] * 4
    assert "whole image" in page.html
    assert "90 × 67 from the middle" in page.html


def test_pairs_and_bytes_are_bounded(tmp_path: Path) -> None:
    noise = {}
    for i in range(26):  # pure noise is what compresses worst
        buffer = io.BytesIO()
        pixels_u8 = np.random.default_rng(i).integers(0, 256, (360, 480, 3), dtype=np.uint8)
        Image.fromarray(pixels_u8).save(buffer, "JPEG", quality=90 if i else 20)
        noise[f"{i:02}.jpg"] = buffer.getvalue()
    source = folder_of(tmp_path / "in", noise)
    restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    assert len(page.all("figure")) == MAX_PAIRS
    assert page.keys()[0] == "00.jpg"  # the one of low quality is among them: bands are taken in turn
    assert len(page.html) < 6_000_000
    assert f"{MAX_PAIRS} of 26 restored images" in page.html


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_inputs_in_containers_are_found_again(kind: str, tmp_path: Path) -> None:
    images = {f"{i}.jpg": jpeg(i) for i in range(3)}
    path = tmp_path / f"photos.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for name, data in images.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        pq.write_table(pa.table({"key": list(images), "image": list(images.values())}), path, row_group_size=2)
    restored_run(str(path), tmp_path / "out")
    page = report(str(path), tmp_path / "out")
    shown = [pixels(image["src"]) for image in page.all("img", class_="input")]
    middles = [decode(data).rgb[2:38] for data in images.values()]  # 48x40 is trimmed to 48x36
    assert len(shown) == 3
    assert all(any(np.array_equal(picture, middle) for middle in middles) for picture in shown)


def change_one(source: Path) -> None:
    (source / "0.jpg").write_bytes(jpeg(77, size=(56, 40)))


def remove_all(source: Path) -> None:
    for path in source.iterdir():
        path.unlink()
    source.rmdir()


@pytest.mark.parametrize("what", [change_one, remove_all])
def test_a_changed_input_is_never_shown_as_what_was_restored(what: Callable[[Path], None], tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"0.jpg": jpeg(0)})
    restored_run(source, tmp_path / "out")
    what(tmp_path / "in")
    page = report(source, tmp_path / "out")
    assert page.all("figure") == []
    assert "could not be read again" in page.html
    assert page.text("h1") == ["1 of 1 images restored"]


def test_nothing_restored_is_a_page_too(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jpg": b"", "b.jpg": b"text"})
    restored_run(source, tmp_path / "out")
    page = report(source, tmp_path / "out")
    assert page.text("h1") == ["0 of 2 images restored"]
    assert not page.all("figure")
    assert "a.jpg" in page.html


def test_no_secret_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    source = folder_of(tmp_path / "in", {"a.jpg": jpeg(0)})
    restored_run(source, tmp_path / "out")
    assert "hunter2-secret" not in report(source, tmp_path / "out").html


def row(key: str, quality: int | None = 10, status: str = "ok") -> dict[str, Any]:
    known = {"width": 10, "height": 10, "mode": "RGB", "nfe": 8, "seconds": 0.1, "bef_before": 0.1, "bef_after": 0.0}
    return known | {"key": key, "status": status, "reason": None, "quality": quality}


def test_sample_is_fair_and_knows_no_order() -> None:
    rows = [
        row(f"{i}.jpg", quality=quality) for i in range(300) for quality in [10, 10, 10, 10, 50, 90, None][i % 7 :][:1]
    ]
    chosen = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        summary = Summary(24)
        for start in range(0, len(rows), 17):
            summary.add("shard", rows[start : start + 17])
        chosen.append([item["key"] for _, item in summary.chosen()])
    assert chosen[0] == chosen[1] == chosen[2]
    qualities = Counter(item["quality"] for _, item in summary.chosen())
    assert qualities == {10: 6, 50: 6, 90: 6, None: 6}
    assert len(set(chosen[0])) == 24


def test_failures_are_bounded() -> None:
    summary = Summary(24)
    for i in range(MAX_FAILURES + 50, 0, -1):
        summary.add("shard", [row(f"{i:04}.jpg", status="failed")])
    assert [failure["key"] for failure in summary.failures] == [f"{i:04}.jpg" for i in range(1, MAX_FAILURES + 1)]
    assert summary.count("failed") == MAX_FAILURES + 50


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=300), st.integers(1, 40))
def test_histogram_counts_all_and_its_quantiles_are_near(values: list[float], most: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    bars = histogram.bars(most)
    assert len(bars) <= most
    assert sum(images for _, _, images in bars) == histogram.count == len(values)
    assert bars[0][0] <= min(values) * 1.0001
    assert bars[-1][1] >= max(values) * 0.9999
    for wanted in (0.5, 0.95):
        exact = float(np.quantile(values, wanted, method="inverted_cdf"))
        assert histogram.quantile(wanted) == pytest.approx(exact, rel=0.024)


def test_numbers_as_people_read_them() -> None:
    assert [figure(x) for x in (0, 0.01234, 4.0, 35.26, 1234.5, 0.9996)] == ["0", "0.0123", "4", "35.3", "1,234", "1"]
    assert [duration(x) for x in (4.04, 41.2, 191, 7500)] == ["4.0 s", "41 s", "3 min 11 s", "2 h 5 min"]
    assert [share(x) for x in (0, 1e-7, 0.05, 0.99999, 1)] == ["0.0 %", "< 0.1 %", "5.0 %", "> 99.9 %", "100.0 %"]
