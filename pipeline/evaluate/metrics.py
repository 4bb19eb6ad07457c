"""The metrics of an evaluation: found and checked before anything starts, loaded where they work. Knows no Ray."""

import hashlib
import io
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from driftrec.errors import DriftRecError, InvalidInput, one_line
from driftrec.metrics import (
    PAIR_METRICS,
    SET_METRICS,
    SMALLEST_SIDE,
    WEIGHTED_PAIR_METRICS,
    find_weights,
    higher_is_better,
    is_foreign,
    label_of,
    load_features,
    load_pyiqa,
    pair_scores,
)
from driftrec.metrics.classifier import Classifier, load_classifier
from driftrec.metrics.precision import NEIGHBOURS
from driftrec.metrics.pyiqa import PACKAGE as PYIQA
from driftrec.metrics.weights import published
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.inputs.names import stem, suffix
from pipeline.runs.documents import package_versions
from pipeline.settings import Values
from pipeline.storage import locate
from pipeline.storage.base import StorageError, Store, redact
from pipeline.storage.file import local_copy

ACCURACY = "accuracy"
FOREIGN = "pyiqa:NAME for those of the package pyiqa"

Pixels = NDArray[np.uint8]  # (H, W, 3)


def column_of(metric: str) -> str:
    """The name of a metric's column: that of a windowed one tells the window."""
    return {"ssim": "ssim7"}.get(metric, metric).replace(":", "_")


class MetricTold(TypedDict):
    """What the recipe says of a metric."""

    name: str
    column: str  # of the ledger and the report
    label: str  # for people
    higher_is_better: bool


class Difference(TypedDict):
    """Of two means, with its 95 % interval."""

    mean: float
    low: float
    high: float


class Score(TypedDict, total=False):
    """What a table says of a metric: of one that images have mean to gain, of one that a set has value to biased."""

    mean: float | None
    low: float | None  # of the 95 % interval, as high
    high: float | None
    images: int  # with a finite value; of a set, all
    not_finite: int  # left out of the mean
    gain: Difference | None  # over the baseline
    value: float | None
    references: int
    biased: bool
    best: bool  # of the table
    tied: bool  # cannot be told from the best


class FileTold(TypedDict):
    """Weights, as the recipe tells of them."""

    source: str  # path or URL, without credentials
    sha256: str


class AccuracyTold(TypedDict):
    """What the accuracy is of."""

    classifier: str
    against: str  # in words
    labels_sha256: str | None


class KidTold(TypedDict):
    """How KID is computed."""

    images: int
    subsets: int
    subset_size: int
    degree: int  # of the kernel


class PrecisionTold(TypedDict):
    """How precision and recall are computed."""

    images: int
    neighbours: int


class PlanTold(TypedDict):
    """The recipe of the metrics."""

    metrics: list[MetricTold]
    weights: dict[str, FileTold]  # by name
    accuracy: NotRequired[AccuracyTold]
    kid: NotRequired[KidTold]
    precision_recall: NotRequired[PrecisionTold]


def describe(metric: str) -> MetricTold:
    """A metric for the recipe: its column, its label for people, its direction."""
    higher = higher_is_better(metric)
    return {"name": metric, "column": column_of(metric), "label": label_of(metric), "higher_is_better": higher}


def score_of(metric: Score | None) -> float | None:
    """The number of a metric in a table: the mean of a pair metric, the value of a set metric."""
    return None if metric is None else metric.get("mean", metric.get("value"))


@dataclass(frozen=True)
class WeightsFile:
    """Weights of a metric, of features or of a classifier; picklable."""

    name: str
    source: str  # path or URL, without credentials
    sha256: str
    remote: tuple[Store, str] | None = None  # store and name where the source is a URL

    @contextmanager
    def local(self) -> Generator[Path]:
        """A path of it on this node. Raises DriftRecError if it is another file than when the run began."""
        with local_copy(*self.remote) if self.remote else nullcontext(Path(self.source)) as path:
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
                problem = f"weights {self.name}={self.source} have changed since the run began, or differ on this node"
                raise DriftRecError(f"{problem}; put the same file everywhere, or give a URL")
            yield path


@dataclass(frozen=True)
class Plan:
    """Which metrics, and what they need; picklable."""

    names: tuple[str, ...]
    files: Mapping[str, WeightsFile]
    classifier: str = ""
    labels: Mapping[str, int] | None = field(default=None, repr=False)  # class by a key's stem
    labels_sha256: str = ""
    kid_images: int = 0
    kid_subsets: int = 0
    kid_subset_size: int = 0
    seed: int = 0

    @property
    def pairs(self) -> tuple[str, ...]:
        """The metrics that every image has."""
        return tuple(name for name in self.names if name not in SET_METRICS)

    @property
    def sets(self) -> tuple[str, ...]:
        """The metrics that only a set has."""
        return tuple(name for name in self.names if name in SET_METRICS)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `pairs`."""
        return tuple(map(column_of, self.pairs))

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the set metrics share."""
        return tuple(dict.fromkeys(SET_METRICS[name].features for name in self.sets))

    @property
    def smallest_side(self) -> tuple[int, str]:
        """Pixels that a side must have, and the metric that says so."""
        return max(((SMALLEST_SIDE.get(name, 1), name) for name in self.pairs), default=(1, ""))

    def recipe(self) -> PlanTold:
        """Everything that one must know to compute the same numbers."""
        description: PlanTold = {
            "metrics": [describe(name) for name in self.names],
            "weights": {
                name: {"source": file.source, "sha256": file.sha256} for name, file in sorted(self.files.items())
            },
        }
        if ACCURACY in self.names:
            description["accuracy"] = {
                "classifier": self.classifier,
                "against": "labels" if self.labels is not None else "what the classifier sees in the clean image",
                "labels_sha256": self.labels_sha256 or None,
            }
        measures = {SET_METRICS[name].measure for name in self.sets}
        if measures & {"precision", "recall"}:
            description["precision_recall"] = {"images": self.kid_images, "neighbours": NEIGHBOURS}
        if "kid" in measures:
            description["kid"] = {
                "images": self.kid_images,
                "subsets": self.kid_subsets,
                "subset_size": self.kid_subset_size,
                "degree": 3,
            }
        return description

    def identity(self) -> Values:
        """What of it determines the rows."""
        foreign = {PYIQA: package_versions([PYIQA])[PYIQA]} if any(map(is_foreign, self.names)) else {}
        return {
            "metrics": list(self.names),
            "metric_weights": {name: file.sha256 for name, file in sorted(self.files.items())},
            "classifier": self.classifier,
            "labels": self.labels_sha256,
            **foreign,
        }

    def load(self) -> "Meter":
        """The metrics, ready to use on this node. Raises DriftRecError."""
        return Meter(self)


class Meter:
    """Loaded metrics, on a GPU where this process has one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._plain = [name for name in plan.pairs if name in PAIR_METRICS]
        self._weighted = {
            name: self._load(name, WEIGHTED_PAIR_METRICS[name]) for name in plan.pairs if name in WEIGHTED_PAIR_METRICS
        } | {name: load_pyiqa(name) for name in plan.pairs if is_foreign(name)}
        self._extractors = {
            name: self._load(name, lambda path, name=name: load_features(name, path)) for name in plan.features
        }
        self.classifier: Classifier | None = None
        if ACCURACY in plan.names:
            self.classifier = self._load(plan.classifier, lambda path: load_classifier(plan.classifier, path))

    def _load(self, name: str, load: Callable[[Path], Any]) -> Any:
        with self.plan.files[name].local() as path:
            return load(path)

    def pair(self, reference: Pixels, candidate: Pixels) -> dict[str, float]:
        """The metrics of one pair by column, without accuracy. Both of one shape, no side below `smallest_side`."""
        x, y = (_tensor(image) for image in (reference, candidate))
        found = {column_of(name): float(value) for name, value in pair_scores(x, y, self._plain).items()}
        if self._weighted:
            x, y = (image.to(self._device).float() / 255 for image in (x, y))
            found |= {column_of(name): float(metric(x, y)) for name, metric in self._weighted.items()}
        return found

    def features(self, image: Pixels) -> dict[str, NDArray[np.float32]]:
        """(D,) of every kind that the plan asks for."""
        if not self._extractors:
            return {}
        x = self._floats(image)
        return {name: extract(x)[0].float().cpu().numpy() for name, extract in self._extractors.items()}

    def seen(self, image: Pixels) -> int | None:
        """The class that the classifier sees in an image; None without a classifier."""
        return int(self.classifier(self._floats(image))) if self.classifier else None

    def expected(self, key: str, reference: Pixels) -> int | None:
        """The class that should be seen: the key's label, or without labels what is seen in the clean image."""
        if self.classifier is None or self.plan.labels is None:
            return self.seen(reference)
        return self.plan.labels.get(stem(key))

    def _floats(self, image: Pixels) -> torch.Tensor:
        return _tensor(image).to(self._device).float() / 255


def _tensor(image: Pixels) -> torch.Tensor:
    """(H, W, 3) -> (1, 3, H, W). What Ray brings cannot be written to, which PyTorch warns of."""
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)[None]


def known_metrics() -> tuple[str, ...]:
    """All that --metrics may name, but for those of pyiqa."""
    return (*PAIR_METRICS, *WEIGHTED_PAIR_METRICS, *SET_METRICS, ACCURACY)


def plan_metrics(settings: EvaluateSettings) -> Plan:
    """The metrics that are asked for, loaded once to see that they can be. Raises InvalidInput naming what is wrong."""
    known = known_metrics()
    unknown = [name for name in settings.metrics if name not in known and not is_foreign(name)]
    if unknown or not settings.metrics:
        wrong = ", ".join(map(repr, unknown)) or "none"
        raise InvalidInput(f"--metrics: {wrong} not known; there are {', '.join(known)}, and {FOREIGN}")
    given = _given(settings.weights)
    needed = [name for name in settings.metrics if name in WEIGHTED_PAIR_METRICS]
    needed += dict.fromkeys(SET_METRICS[name].features for name in settings.metrics if name in SET_METRICS)
    accuracy = ACCURACY in settings.metrics
    needed += [settings.classifier] * accuracy
    files = {name: _weights(name, given) for name in needed}
    if settings.labels and not accuracy:
        shown = redact(settings.labels)
        raise InvalidInput(f"--labels {shown} serves the metric {ACCURACY}, which --metrics does not name")
    plan = Plan(
        settings.metrics,
        files,
        settings.classifier if accuracy else "",
        kid_images=settings.kid_images,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.kid_subset_size,
        seed=settings.seed,
    )
    meter = plan.load()
    if settings.labels and meter.classifier:
        labels, digest = read_labels(settings.labels, meter.classifier)
        return replace(plan, labels=labels, labels_sha256=digest)
    return plan


def _given(weights: Sequence[str]) -> dict[str, str]:
    """NAME=PATH or NAME=URL, by name."""
    found: dict[str, str] = {}
    for text in weights:
        name, equals, source = text.partition("=")
        if not equals or not source:
            raise InvalidInput(f"--weights {redact(text)!r}: write it as NAME=PATH or NAME=URL")
        try:
            published(name)
        except InvalidInput as error:
            raise InvalidInput(f"--weights {redact(text)}: {error}") from None
        found[name] = source
    return found


def _weights(name: str, given: Mapping[str, str]) -> WeightsFile:
    """The file behind a name, looked at once. Raises InvalidInput."""
    source = given.get(name, "")
    if "://" in source:
        store, file = remote = locate(source)
        try:
            data = store.read(file)
        except DriftRecError as error:
            raise InvalidInput(f"--weights {name}: {error}") from None
        return WeightsFile(name, redact(source), hashlib.sha256(data).hexdigest(), remote)
    path = find_weights(name, given)
    return WeightsFile(name, str(path.absolute()), hashlib.sha256(path.read_bytes()).hexdigest())


def read_labels(url: str, classifier: Classifier) -> tuple[dict[str, int], str]:
    """Classes by the stem of a key, and the file's sha256, from a CSV or Parquet with columns key and label.

    Raises InvalidInput for another kind of file, a key that stands twice, or a label that names no class.
    """
    shown = redact(url)
    store, name = locate(url)
    try:
        data = store.read(name)
        if suffix(name) == ".parquet":
            table = pq.read_table(io.BytesIO(data))
        else:
            as_text = dict.fromkeys(("key", "label"), pa.string())  # or 007 would become 7
            options = pyarrow.csv.ConvertOptions(column_types=as_text)
            table = pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)
    except StorageError as error:
        raise InvalidInput(f"--labels {error}") from None
    except pa.ArrowException as error:
        raise InvalidInput(f"--labels {shown}: {one_line(error)}; give CSV or Parquet") from None
    if not {"key", "label"} <= set(table.column_names):
        columns = ", ".join(table.column_names) or "none"
        raise InvalidInput(f"--labels {shown}: needs the columns key and label, and has {columns}")
    keys, texts = (table[column].to_pylist() for column in ("key", "label"))
    try:
        classes = {text: classifier.class_of(str(text)) for text in set(texts)}
    except InvalidInput as error:
        raise InvalidInput(f"--labels {shown}: {error}") from None
    labels = {stem(str(key)): classes[text] for key, text in zip(keys, texts, strict=True)}
    if len(labels) < len(keys):
        repeated = len(keys) - len(labels)
        raise InvalidInput(f"--labels {shown}: {repeated} keys occur twice; keep one of each")
    return labels, hashlib.sha256(data).hexdigest()
