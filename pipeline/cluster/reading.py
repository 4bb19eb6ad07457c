"""Reads a shard in a process that a file may end: such a file becomes a row, not the run's end.

As for images in `pipeline.runs.crashes`: the first attempt reads the shard as a whole; after a death its files are read
one by one, each noted before, and one that ends its reader time and again is not read any more. Must not decode.
"""

import logging
from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from driftrec.errors import BadImage, DriftRecError
from pipeline.inputs.blocks import problem_block, read_block
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.names import log_tags
from pipeline.inputs.shards import Incoming, Shard
from pipeline.runs.crashes import Trial
from pipeline.storage.base import Store

log = logging.getLogger(__name__)

READING = "-read"  # of the name of a note


def read_in_trial(shard: Shard, output_name: OutputName | None, output: Store) -> pa.Table:
    """`read_block`; the note on its attempts lies in OUTPUT."""
    try:
        trial = Trial(output, shard.id + READING, limit_s=0.0)  # nothing is timed
        block = read_block(shard, output_name, None if trial.first else partial(_one_by_one, trial))
        trial.end()
    except DriftRecError as error:
        return problem_block(shard, str(error))
    return block


def _one_by_one(trial: Trial, shard: Shard) -> Iterator[Incoming]:
    """The rows of a shard, whose readers have died. Raises BadImage for a container that is not to be read again."""
    for name, piece in shard.pieces():
        if verdict := trial.verdict(name):
            log.warning("a file is not read again: %s %s", verdict[0], log_tags(shard=shard.id, key=name))
            if piece is shard:
                raise BadImage(*verdict)
            yield Incoming(name, b"", *verdict)
            continue
        trial.begin(name)
        rows = list(piece.stored())
        trial.done(name)
        yield from rows
