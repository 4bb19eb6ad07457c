"""A model of any kind, from the text that names it. Knows how each kind is read, and no restoration."""

from __future__ import annotations

from collections.abc import Callable

from driftrec.models import checkpoint, fbcnn, qgac, unconditional
from driftrec.models.interpolation import Model, between
from driftrec.models.source import DDRM, FBCNN, OURS, QGAC, ModelSource, fraction, whole_number


def load(text: str) -> Model:
    """The model behind a text (see `source`). Raises InvalidInput naming what is wrong with it and the remedy."""
    source = ModelSource.parse(text)
    alpha = fraction(source, "alpha") if source.blended else 0.0  # looked at before a large file is read
    first, *second = [LOADERS[file.kind](file.place, source) for file in source.files]
    return between(first, second[0], alpha) if second else first


def _fbcnn(place: str, source: ModelSource) -> fbcnn.Weights:
    return fbcnn.load(place, whole_number(source, "quality", 1, 100))


LOADERS: dict[str, Callable[[str, ModelSource], Model]] = {
    OURS: lambda place, _: checkpoint.load(place),
    FBCNN: _fbcnn,
    QGAC: lambda place, _: qgac.load(place),
    DDRM: lambda place, _: unconditional.load(place),
}
