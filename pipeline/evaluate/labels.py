"""Labels of images, for the accuracy of a classifier: read once, checked against the classifier's classes."""

import hashlib
import io

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from driftrec.errors import InvalidInput
from driftrec.metrics.classifier import Classifier
from driftrec.urls import split
from pipeline.inputs.names import stem, suffix
from pipeline.storage.base import StorageError, Store, redact


def read_labels(url: str, classifier: Classifier) -> tuple[dict[str, int], str]:
    """Classes by the stem of a key, and the file's sha256, from a CSV or Parquet with columns key and label.

    Raises InvalidInput for another kind of file, a key that stands twice, or a label that names no class.
    """
    shown = redact(url)
    parent, name = split(url)
    try:
        data = Store.open(parent).read(name)
        if suffix(name) == ".parquet":
            table = pq.read_table(io.BytesIO(data))
        else:
            as_text = dict.fromkeys(("key", "label"), pa.string())  # or 007 would become 7
            options = pyarrow.csv.ConvertOptions(column_types=as_text)
            table = pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)
    except StorageError as error:
        raise InvalidInput(f"--labels {error}") from None
    except pa.ArrowException as error:
        what = " ".join(str(error).split())[:200]
        raise InvalidInput(f"--labels {shown}: {what}; give CSV or Parquet") from None
    if not {"key", "label"} <= set(table.column_names):
        columns = ", ".join(table.column_names) or "none"
        raise InvalidInput(f"--labels {shown}: needs the columns key and label, and has {columns}")
    keys, texts = (table[column].to_pylist() for column in ("key", "label"))
    try:
        classes = {text: classifier.class_of(text) for text in set(texts)}
    except InvalidInput as error:
        raise InvalidInput(f"--labels {shown}: {error}") from None
    labels = {stem(str(key)): classes[text] for key, text in zip(keys, texts, strict=True)}
    if len(labels) < len(keys):
        repeated = len(keys) - len(labels)
        raise InvalidInput(f"--labels {shown}: {repeated} keys stand there twice; keep one of each")
    return labels, hashlib.sha256(data).hexdigest()

