"""What can go wrong, in one vocabulary: reasons for bad images, exceptions for bad runs.

A bad image is data (`Failed`, one row of the ledger); a bad run is an exception whose message says what,
where and what to do. Inside the work on one image `BadImage` carries the reason up to the stage, which makes
it a row. Nothing but the standard library is imported here, and every exception survives pickling, because
Ray carries them between processes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Control characters, lone surrogates (a name that is no UTF-8), line separators and the bidirectional embeddings,
# overrides and isolates, with which a name can pretend to be another. (Marks such as U+200E reorder no neighbours.)
CONTROL = "\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[{CONTROL}]")


def visible(text: str) -> str:
    """Text for a terminal: lines as they are, but for signs that would move its cursor or hide what stands there."""
    return "\n".join(_HIDDEN.sub(escaped, line) for line in text.split("\n"))


def escaped(match: re.Match[str]) -> str:
    """A sign as Python would write it."""
    return match.group().encode("unicode_escape", "surrogatepass").decode()


def one_line(error: BaseException, most: int = 200) -> str:
    """What an exception says, fit for a table: one line, printable, of so many characters at most; else its type."""
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(sign if sign.isprintable() else "?" for sign in words)[:most]


class Reason(StrEnum):
    """Why an image has no output (the ledger's `reason`); MEANING says what each means, and what to do."""

    empty = "empty"
    not_an_image = "not_an_image"
    truncated = "truncated"
    corrupt = "corrupt"
    too_large = "too_large"
    unsupported = "unsupported"
    unsafe_name = "unsafe_name"
    duplicate_name = "duplicate_name"
    shard_incomplete = "shard_incomplete"
    timeout = "timeout"
    crashed = "crashed"
    out_of_memory = "out_of_memory"
    unreadable = "unreadable"
    implausible = "implausible"
    no_partner = "no_partner"
    size_mismatch = "size_mismatch"
    animated = "animated"
    good_enough = "good_enough"
    too_small = "too_small"
    internal = "internal"


MEANING: Mapping[str, str] = {
    Reason.empty: "The file has no bytes. Fetch it again from its source.",
    Reason.not_an_image: "No known image format, such as a saved web page. Look at the file; leave it out.",
    Reason.truncated: "A real image whose end is missing. Fetch it again: the copy was cut.",
    Reason.corrupt: "A real image with broken data inside. Find another copy.",
    Reason.too_large: "More pixels or layers than the limit. Raise max_pixels if the file is trusted.",
    Reason.unsupported: "A sound image of a kind that cannot be kept without loss. Convert it first.",
    Reason.unsafe_name: "The name could write outside the output. Rename it.",
    Reason.duplicate_name: "Another input has the same output name. Rename one of them.",
    Reason.shard_incomplete: "The tar or Parquet file around it was cut. Fetch that file again.",
    Reason.timeout: "It took longer than the limit. Raise the limit or leave it out.",
    Reason.crashed: "It ended its worker on every try. Report the file; leave it out.",
    Reason.out_of_memory: "It did not fit in memory. Use a smaller batch, or a larger machine.",
    Reason.unreadable: "Storage did not deliver it. Check access, then run again.",
    Reason.implausible: "What the model made of it is no restoration. Check the model; copy_failed keeps it.",
    Reason.no_partner: "It has no counterpart of the same key. Complete the pair.",
    Reason.size_mismatch: "The two sides differ in size. Make them the same.",
    Reason.animated: "Several frames or pages, and frames=skip. With frames=first the first one is restored.",
    Reason.good_enough: "A JPEG of the quality of skip_above or more, without older damage. Nothing to do.",
    Reason.too_small: "Smaller than a training patch or a metric's window. Take smaller patches; leave it out.",
    Reason.internal: "A defect of this program. Report it with the detail below.",
}


class DriftRecError(Exception):
    """A bad run. The message says what happened, where (file, URL or value) and the remedy; names in it that come from
    a file cannot play with a terminal.
    """

    result: Mapping[str, Any] | None = None  # what _RESULT.json says of the run that it has ended

    def __str__(self) -> str:
        return visible(super().__str__())


class InvalidInput(DriftRecError):
    """Bad settings or bad input, found before anything was started (exit code 2)."""


class BadImage(Exception):
    """One image that cannot be handled: never the end of a run, and so no DriftRecError.

    Args:
        reason: from the one vocabulary.
        detail: one line for people, printable, without secrets.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both stay in args, so that the exception pickles
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class StorageFull(DriftRecError):
    """No room left for something that must be written. What is finished stays valid: free room, run again."""


class TrainingDiverged(DriftRecError):
    """The training loss is no longer a useful number.

    Args:
        step: optimizer step at which it was seen.
        loss: the loss there (may be nan or inf).
        checkpoint: path or URL of the last whole checkpoint, None if there is none yet.
    """

    def __init__(self, step: int, loss: float, checkpoint: str | None) -> None:
        super().__init__(step, loss, checkpoint)
        self.step = step
        self.loss = loss
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        what = f"training diverged: loss {self.loss:g} at step {self.step}"
        where = f"the last whole checkpoint is {visible(self.checkpoint)}" if self.checkpoint else "no checkpoint yet"
        return f"{what}; {where}; lower the learning rate and start again"


@dataclass(frozen=True)
class Failed:
    """An image without output, as a row of the ledger."""

    key: str  # the image's name in the input
    stage: str  # where it failed: read, decode, restore, encode, write, ...
    reason: Reason
    detail: str  # one line for people
