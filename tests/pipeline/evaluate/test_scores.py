"""Metrics of an evaluation: which there are, what they weigh, and accuracy against labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from driftrec.errors import DriftRecError, InvalidInput
from driftrec.jpeg.codec import degrade
from driftrec.metrics import LABELS, PAIR_METRICS, SET_METRICS, SMALLEST_SIDE
from pipeline.evaluate.metrics import Plan, column_of, describe, known_metrics, plan_metrics
from tests import made
from tests.pipeline.evaluations import by_place, clean, score, settings_of


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a SqueezeNet 1.1 classifier: random, but it does not see one and the same in all images."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1().eval()
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=(2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1)
        images = np.stack([made.pixels(seed, 64, 64) for seed in range(8)])
        shared = network.features(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).mean(dim=(0, 2, 3))
        last = network.classifier[1].weight[..., 0, 0]
        last -= torch.outer(last @ shared, shared) / shared.square().sum()
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1-b8a52dc0.pth"
    torch.save(network.state_dict(), path)
    return path


def plan(source: Path, **changes: Any) -> Plan:
    return plan_metrics(settings_of(source, Path("o"), **changes))


def accuracy(path: Path, **changes: Any) -> dict[str, Any]:
    weights = [f"squeezenet1_1={path}"]
    return {"metrics": "psnr,accuracy", "classifier": "squeezenet1_1", "weights": weights} | changes


def test_every_metric_has_a_label_and_the_windows_stand_in_the_columns() -> None:
    assert all(describe(name)["label"] == LABELS[name] for name in known_metrics())
    assert [column_of(name) for name in ("ssim", "ssim9", "ssim_gaussian", "psnr")] == [
        "ssim7", "ssim9", "ssim_gaussian", "psnr",
    ]  # fmt: skip
    assert set(known_metrics()) >= set(PAIR_METRICS) | set(SET_METRICS) | {"accuracy", "lpips"}


def test_pairs_are_measured_as_the_metrics_themselves_do(tmp_path: Path) -> None:
    names = tuple(PAIR_METRICS)
    meter = plan(clean(tmp_path / "in", 1), metrics=",".join(names)).load()
    reference = made.pixels(0, 176, 168)
    worse = degrade(reference, 10)
    worse.flags.writeable = False  # as what comes from Ray
    found = meter.pair(reference, worse)
    x, y = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255 for image in (reference, worse))
    assert found == pytest.approx({column_of(name): float(PAIR_METRICS[name](x, y)) for name in names}, rel=1e-6)


@pytest.mark.parametrize("name", sorted(PAIR_METRICS))
def test_an_image_smaller_than_a_metrics_window_is_a_row_with_a_reason(tmp_path: Path, name: str) -> None:
    side = SMALLEST_SIDE.get(name, 1)
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(made.pixels(1, side + 3, side)).save(source / "fits.png")
    rows = {"fits.png": ("ok", None)}
    if side > 1:
        Image.fromarray(made.pixels(1, side + 3, side - 1)).save(source / "small.png")
        rows["small.png"] = ("failed", f"{name} needs sides of {side} pixels, the image has {side - 1}x{side + 3}")
    found = score(source, tmp_path / "out", metrics=name)
    assert {row["key"]: (row["status"], row["detail"]) for row in found} == rows


class Foreign:
    """Stands where pyiqa's metric would."""

    higher_is_better = True

    def __call__(self, reference: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
        return restored.mean(dim=(1, 2, 3)).double()


def test_a_metric_of_pyiqa_has_a_column_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clean(tmp_path / "in", 2)
    with pytest.raises(InvalidInput, match="--metrics pyiqa:musiq needs the package pyiqa, which is not installed"):
        plan(source, metrics="psnr,pyiqa:musiq")
    monkeypatch.setattr("pipeline.evaluate.metrics.load_pyiqa", lambda _: Foreign())
    monkeypatch.setattr("driftrec.metrics.load_pyiqa", lambda _: Foreign())
    found = plan(source, metrics="psnr,pyiqa:musiq")
    assert found.columns == ("psnr", "pyiqa_musiq")
    assert describe("pyiqa:musiq") == {
        "name": "pyiqa:musiq", "column": "pyiqa_musiq", "label": "musiq (pyiqa)", "higher_is_better": True
    }  # fmt: skip
    assert "pyiqa" in found.identity() and "pyiqa" not in plan(source, metrics="psnr").identity()
    for row in score(source, tmp_path / "out", metrics="psnr,pyiqa:musiq"):
        image = degrade(np.asarray(Image.open(source / row["key"])), 10)
        assert row["pyiqa_musiq"] == pytest.approx(image.mean() / 255, abs=1e-6)
        assert row["psnr"] > 20


def test_weights_that_change_under_the_run_end_it(tmp_path: Path, classifier: Path) -> None:
    path = tmp_path / "squeezenet1_1.pth"
    path.write_bytes(classifier.read_bytes())
    found = plan(clean(tmp_path / "in", 1), **accuracy(path))
    assert found.load().seen(made.pixels(0, 64, 64)) is not None
    path.write_bytes(classifier.read_bytes() + b"x")
    with pytest.raises(DriftRecError, match=r"weights squeezenet1_1=.* have changed since the run began"):
        found.load()


def test_weights_may_lie_behind_a_url(tmp_path: Path, classifier: Path) -> None:
    source = clean(tmp_path / "in", 1)
    remote = plan(source, **accuracy(classifier, weights=[f"squeezenet1_1=file://{classifier}"]))
    local = plan(source, **accuracy(classifier))
    assert remote.files["squeezenet1_1"].sha256 == local.files["squeezenet1_1"].sha256
    assert remote.load().seen(made.pixels(0, 64, 64)) == local.load().seen(made.pixels(0, 64, 64))
    with pytest.raises(InvalidInput, match=r"--weights squeezenet1_1: .*/none\.pth does not exist"):
        plan(source, **accuracy(classifier, weights=[f"squeezenet1_1=file://{tmp_path}/none.pth"]))


def test_accuracy_by_agreement_and_by_labels(tmp_path: Path, classifier: Path) -> None:
    source = clean(tmp_path / "in", 8, 64, 64)
    rows = by_place(score(source, tmp_path / "out", quality="5,95", **accuracy(classifier)))
    meter = plan(source, **accuracy(classifier)).load()
    keys = sorted({key for key, _, _ in rows})
    seen = {key: meter.seen(np.array(Image.open(source / key))) for key in keys}
    assert len(set(seen.values())) > 1
    assert all(row["accuracy"] in (0.0, 1.0) for row in rows.values())
    right = [sum(rows[key, slug, "jpeg"]["accuracy"] for key in keys) for slug in ("q5-420", "q95-420")]
    assert right[0] < right[1] <= len(keys)
    labels = tmp_path / "labels.csv"
    named = [f"{key[:-4]},{seen[key]}" for key in keys[:6]]  # the suffix does not matter; two have no label
    labels.write_text("\n".join(["key,label", *named[:-1], f"{keys[5]},{(seen[keys[5]] or 0) + 1}"]))
    labelled = by_place(score(source, tmp_path / "out2", quality="95", **accuracy(classifier, labels=str(labels))))
    for key in keys[:5]:
        assert labelled[key, "q95-420", "jpeg"]["accuracy"] == rows[key, "q95-420", "jpeg"]["accuracy"]
    assert [labelled[key, "q95-420", "jpeg"]["accuracy"] for key in keys[6:]] == [None, None]
    assert rows[keys[5], "q95-420", "jpeg"]["accuracy"] + labelled[keys[5], "q95-420", "jpeg"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key,label\na,no such animal\n", "label 'no such animal' names no class"),
        ("key,label\na,1000\n", "label '1000' names no class"),
        ("key,label\na.png,1\na,2\n", "1 keys occur twice"),
        ("name,label\na,1\n", "needs the columns key and label, and has name, label"),
        ("", "give CSV or Parquet"),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path: Path, classifier: Path, text: str, told: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InvalidInput, match=f"--labels .*{told}"):
        plan(clean(tmp_path / "in", 1), **accuracy(classifier, labels=str(tmp_path / "labels.csv")))


def test_labels_in_parquet_and_keys_that_look_like_numbers(tmp_path: Path, classifier: Path) -> None:
    source = clean(tmp_path / "in", 1)
    pq.write_table(pa.table({"key": ["007", "a/b.png"], "label": ["tench", 3 * "0"]}), tmp_path / "l.parquet")
    found = plan(source, **accuracy(classifier, labels=str(tmp_path / "l.parquet")))
    assert found.labels == {"007": 0, "a/b": 0}
    (tmp_path / "l.csv").write_text("key,label\n007,tench\n")
    assert plan(source, **accuracy(classifier, labels=str(tmp_path / "l.csv"))).labels == {"007": 0}
    with pytest.raises(InvalidInput, match=r"none\.csv does not exist"):
        plan(source, **accuracy(classifier, labels=str(tmp_path / "none.csv")))
