"""A few files, restored in this process: no Ray, no ledger, no report; the pixels are those that a run would make."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from driftrec.errors import DriftRecError, InvalidInput
from driftrec.image import Picture, Pixels, decode, encode
from pipeline.model_source import find_opened
from pipeline.restore.files import FOR_ARCHIVES, PIPE, File, find_comparison, find_files, name_of
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.single import Single, what_was_done
from pipeline.runs.ends import Answer, Exit, Interrupted
from pipeline.runs.ledger import FAILED
from pipeline.storage import open_store

log = logging.getLogger(__name__)

ARCHIVES_ONLY = (  # settings that mean nothing of a file
    "actors allow_local batch_size codec_threads copy_failed cpus_per_actor decode_s_per_megapixel encode_by exclude "
    "frames gpus_per_actor image_column image_timeout_s include layout limit max_cost max_failed on_clash only_listed "
    "price_per_hour progress_s repair report retry_failed shard_bytes shard_images skip_above skipped status_s"
).split()
BETWEEN = 8  # pixels


def restore_files(settings: RestoreSettings, inputs: Sequence[str], stdout: TextIO) -> Answer:
    """Restore each to where it belongs; what was done of each. Raises InvalidInput before anything is written,
    DriftRecError where nothing can be.

    Args:
        settings: `input` is not looked at.
        inputs: paths, or "-".
        stdout: what takes the picture if OUTPUT is "-"; the answer then goes elsewhere.
    """
    where = {"stdout": "picture"} if settings.output == PIPE else {}
    try:
        given = settings.model_fields_set
        if wrong := sorted(given.intersection(ARCHIVES_ONLY)):
            raise InvalidInput(f"{', '.join(wrong)}: {FOR_ARCHIVES}")
        wanted = settings.format if "format" in given else None
        todo = find_files(inputs, settings.output, wanted, settings.overwrite, settings.max_file_bytes)
        compare = find_comparison(settings.compare, todo, settings.overwrite) if settings.compare else None
        return {"job": "restore", **_done(settings, todo, compare, stdout), **where}
    except DriftRecError as error:
        error.result = where
        raise


def _done(settings: RestoreSettings, todo: Sequence[File], compare: File | None, stdout: TextIO) -> Answer:
    """All files, or as many as there was time for."""
    done: list[dict[str, Any]] = []
    try:
        single = Single(settings, *find_opened(settings.model, settings.device))
        if sys.stderr.isatty():
            single.stage.restorer.tell = share_told
        for file in todo:
            done.append(_restored(single, file, compare, stdout))
    except (KeyboardInterrupt, Interrupted):
        error = f"interrupted: {len(done)} of {len(todo)} files are done"
        return {"state": "interrupted", "exit_code": int(Exit.INTERRUPTED), "images": done, "error": error}
    told = {"state": "done", "exit_code": int(Exit.DONE), "images": done}
    if failed := [f"{row['input']}: {row['reason']}: {row['detail']}" for row in done if row["status"] == FAILED]:
        told |= {"exit_code": int(Exit.TOO_MANY_FAILED), "error": "; ".join(failed)}
    return told


def share_told(done: int, of: int) -> None:
    """How much of a picture of several tiles has been through the network, on a line of the terminal that vanishes."""
    if of > 1:
        sys.stderr.write(f"\r\x1b[K{100 * done // of} %" if done < of else "\r\x1b[K")
        sys.stderr.flush()


def _write(file: File, data: bytes, stdout: TextIO) -> None:
    """Where it belongs, whole or not at all."""
    if file.target:
        open_store(str(file.target.parent)).put(file.target.name, data)
    else:
        stdout.buffer.write(data)
        stdout.buffer.flush()


def _restored(single: Single, file: File, compare: File | None, stdout: TextIO) -> dict[str, Any]:
    """What was done of one file. With `compare` it is also laid beside its result, there."""
    begun = time.perf_counter()
    most_bytes = single.stage.settings.max_file_bytes
    data = file.source.read_bytes() if file.source else sys.stdin.buffer.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise InvalidInput(f"INPUT {file.source or PIPE} has more than max_file_bytes={most_bytes}")
    restored, row = single.restore(name_of(file.source), data, format=file.format)
    if restored:
        _write(file, restored, stdout)
    if restored and compare:
        most = single.stage.settings.max_pixels
        both = side_by_side(*(decode(of, max_pixels=most) for of in (data, restored)))
        _write(compare, encode(both, compare.format), stdout)
    seconds = round(time.perf_counter() - begun, 3)
    source, target = str(file.source or PIPE), str(file.target or PIPE)
    told = {"input": source, "output": target, **what_was_done(row), "seconds": seconds}
    log.info("%s", _in_words(told))
    return told


def side_by_side(before: Picture, after: Picture) -> Picture:
    """Two pictures of one size as one, a white line between them; what is transparent stands on white."""
    left, right = (on_white(picture.in_8_bits()) for picture in (before, after))
    line = np.full((left.shape[0], BETWEEN, 3), 255, np.uint8)
    return Picture(np.concatenate([left, line, right], axis=1), icc=after.icc if not after.grey else None)


def on_white(picture: Picture) -> Pixels:
    """The colours of a picture of 8 bits as they show there."""
    if picture.alpha is None:
        return picture.rgb
    alpha = picture.alpha[..., None] / 255
    return np.rint(picture.rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _in_words(told: dict[str, Any]) -> str:
    """One line of a file."""
    quality = f"JPEG of quality {told['quality']}, " if "quality" in told else ""
    end = "failed: " + told["reason"] if told["status"] == FAILED else f"{quality}{told['nfe']} evaluations"
    more = f"; {told['detail']}" if "detail" in told else ""
    return f"{told['input']} -> {told['output']}: {end}, {told['seconds']:.1f} s{more}"
