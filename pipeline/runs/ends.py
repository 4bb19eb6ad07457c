"""How a command may end. Imports nothing heavy: a signal may come before anything else is loaded."""

import threading
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

Answer = Mapping[str, Any]  # what a command prints: an object of JSON, with its `exit_code` if that is not 0


class Exit(IntEnum):
    """What a command answers to the shell."""

    DONE = 0
    FAILED = 1  # the run failed; what was finished stays valid
    REFUSED = 2  # bad settings or input; nothing was started
    TOO_MANY_FAILED = 3  # done, but more images failed than max_failed
    INCOMPLETE = 3  # done, but what was done is not there any more, or was changed
    INTERRUPTED = 130


begun = threading.Event()  # whether OUTPUT is this run's: what ends it from then on is written there


class Interrupted(BaseException):
    """SIGINT or SIGTERM: finish nothing more, say so, go."""
