"""What set metrics need of a shard: sums and samples of features, kept beside the ledger and merged at the end.

A file sets/<shard>.parquet, create-only and written before the shard's ledger part. Merged in the order of the shards,
so that the result does not depend on who computed what when. Knows no Ray, no pixels.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftrec.errors import DriftRecError, one_line
from driftrec.metrics import SET_METRICS, Moments, Reservoir, fid, kid, precision, recall
from driftrec.metrics.precision import FEWEST
from pipeline.evaluate.conditions import Condition
from pipeline.evaluate.metrics import Plan
from pipeline.inputs.parquet import open_parquet
from pipeline.runs.ledger import Name, rows_in, schema_of
from pipeline.storage.base import Store

FOLDER = "sets"
REFERENCE = ""  # stands where a candidate's name would
CHUNK = 256  # images whose features are summed together


class SetRow(TypedDict):
    """Of one candidate's set, in one group."""

    group: Name  # a condition's slug, or for references their crop
    candidate: Name
    features: Name
    moments: Annotated[bytes | None, pa.large_binary()]  # Moments.to_bytes; null where no metric needs them
    reservoir: Annotated[bytes | None, pa.large_binary()]  # Reservoir.to_bytes; likewise


SCHEMA = schema_of(SetRow, ())

Place = tuple[str, str]  # (group, candidate)
Features = Mapping[str, NDArray[np.float32]]  # (D,) by the name of the features


def crop_group(crop: int) -> str:
    """The group of the references that are cropped so."""
    return f"crop{crop}"


@dataclass
class State:
    """Sums and samples of one set of images, for one kind of features."""

    moments: Moments | None
    reservoir: Reservoir | None

    def __add__(self, other: "State") -> "State":
        moments = self.moments + other.moments if self.moments and other.moments else None
        reservoir = self.reservoir + other.reservoir if self.reservoir and other.reservoir else None
        return State(moments, reservoir)


class SetStates:
    """The sets of one shard."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting: dict[Place, list[tuple[str, Features]]] = {}
        self._states: dict[tuple[str, str, str], State] = {}

    def add(self, key: str, features: Mapping[Place, Features]) -> None:
        """Take the features of one image."""
        for place, found in features.items():
            waiting = self._waiting.setdefault(place, [])
            waiting.append((key, found))
            if len(waiting) == CHUNK:
                self._sum(place)

    def _sum(self, place: Place) -> None:
        waiting = self._waiting.pop(place)
        keys = [key for key, _ in waiting]
        for name in self._plan.features:
            rows = np.stack([features[name] for _, features in waiting])
            measures = _measures(self._plan, name)
            state = State(
                Moments.of(rows) if "fid" in measures else None,
                Reservoir.of(keys, rows, self._plan.kid_images, self._plan.seed) if measures - {"fid"} else None,
            )
            whole = (*place, name)
            self._states[whole] = self._states[whole] + state if whole in self._states else state

    def commit(self, store: Store, shard: str) -> None:
        """Write the shard's file, unless there is one."""
        for place in list(self._waiting):
            self._sum(place)
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA, compression="none") as writer:
            for group in dict.fromkeys(group for group, _, _ in self._states):
                writer.write_table(self._table(group))  # a row group of its own
        store.create(_name(shard), buffer.getvalue())

    def _table(self, group: str) -> pa.Table:
        rows = [
            {
                "group": group,
                "candidate": candidate,
                "features": name,
                "moments": state.moments.to_bytes() if state.moments else None,
                "reservoir": state.reservoir.to_bytes() if state.reservoir else None,
            }
            for (found, candidate, name), state in self._states.items()
            if found == group
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


class SetScore(TypedDict):
    """A set metric of one candidate under one condition."""

    value: float | None  # None: a set of too few images
    images: int
    references: int
    biased: bool  # fewer images than features


def set_scores(
    store: Store, shards: Iterable[str], conditions: Iterable[Condition], plan: Plan
) -> Iterator[tuple[Condition, dict[str, dict[str, SetScore]]]]:
    """(condition, {candidate: {metric: {value, images, references, biased}}}), a condition at a time.

    Memory holds the sets of one condition and of the references of one crop; each condition reads its part of every
    shard's file.
    """
    shards = list(shards)
    references: dict[str, dict[Place, State]] = {}
    for condition in conditions if plan.sets else ():
        group = crop_group(condition.crop)
        if group not in references:
            references = {group: _merged(store, shards, group)}
        states = _merged(store, shards, condition.slug)
        scores: dict[str, dict[str, SetScore]] = {}
        for metric in plan.sets:
            name = SET_METRICS[metric].features
            whole = references[group].get((REFERENCE, name))
            for (candidate, found), state in states.items():
                if found == name and whole:
                    scores.setdefault(candidate, {})[metric] = _score(plan, metric, whole, state)
        yield condition, scores


def _score(plan: Plan, metric: str, references: State, candidates: State) -> SetScore:
    """One set metric. A set of too few images has no value: of one, and for precision and recall of less than six."""
    if SET_METRICS[metric].measure == "fid":
        one, other = references.moments, candidates.moments
        assert one and other
        value = fid(one, other) if min(one.n, other.n) > 1 else None
        return {"value": value, "images": other.n, "references": one.n, "biased": one.biased or other.biased}
    one, other = references.reservoir, candidates.reservoir
    assert one and other
    a, b = one.features, other.features
    value = _of_samples(plan, SET_METRICS[metric].measure, a, b)
    return {"value": value, "images": len(b), "references": len(a), "biased": False}


def _of_samples(plan: Plan, measure: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """A metric of the features of references and candidates, (N, D) and (M, D); None where they are too few."""
    fewest = min(len(a), len(b))
    if measure == "kid":
        return kid(a, b, plan.kid_subsets, plan.kid_subset_size, seed=plan.seed) if fewest > 1 else None
    return {"precision": precision, "recall": recall}[measure](a, b) if fewest >= FEWEST else None


def _merged(store: Store, shards: Iterable[str], group: str) -> dict[Place, State]:
    """{(candidate, features): state} of one group over all shards."""
    whole: dict[Place, State] = {}
    for shard in shards:
        for row in _read(store, shard, group):
            state = State(
                Moments.from_bytes(row["moments"]) if row["moments"] else None,
                Reservoir.from_bytes(row["reservoir"]) if row["reservoir"] else None,
            )
            place = (row["candidate"], row["features"])
            whole[place] = whole[place] + state if place in whole else state
    return whole


def _read(store: Store, shard: str, group: str) -> list[SetRow]:
    try:
        file = open_parquet(store, _name(shard))
        for number in range(file.metadata.num_row_groups):
            statistics = file.metadata.row_group(number).column(0).statistics
            if statistics is None:
                raise ValueError("it does not say which sets it holds")
            if statistics.min == group:
                return rows_in(file.read_row_group(number), SetRow)
    except (pa.ArrowException, ValueError) as error:
        problem = f"{store.where(_name(shard))} cannot be read: {one_line(error)}"
        raise DriftRecError(f"{problem}; remove it and the ledger's part of that name, and run again") from None
    return []


def _measures(plan: Plan, features: str) -> set[str]:
    """What is measured of features of this name."""
    return {SET_METRICS[name].measure for name in plan.sets if SET_METRICS[name].features == features}


def _name(shard: str) -> str:
    return f"{FOLDER}/{shard}.parquet"
