"""How a command may end. Imports nothing heavy: a signal may come before anything else is loaded."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from enum import IntEnum
from typing import Any

from driftrec.errors import DriftRecError, InvalidInput


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
    """SIGINT or SIGTERM: stop, write _RESULT.json, exit."""


def attempt(
    work: Callable[[], dict[str, Any]],
    stopped: Callable[[Exit, str | None], dict[str, Any]],
    inside: AbstractContextManager[None] | None = None,
) -> dict[str, Any]:
    """What `work` gives, done `inside` a context; where it does not get through, `stopped` writes _RESULT.json.

    Raises DriftRecError if it does, with that result.
    """
    with ExitStack() as context:
        try:
            if inside:
                context.enter_context(inside)
            return work()
        except (KeyboardInterrupt, Interrupted):
            return stopped(Exit.INTERRUPTED, None)  # before Ray is left, which takes longer than a stopped job may have
        except DriftRecError as error:
            error.result = stopped(Exit.REFUSED if isinstance(error, InvalidInput) else Exit.FAILED, str(error))
            raise
