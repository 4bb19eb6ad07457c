"""Outputs encoded on any CPU of the cluster, so that a machine with a GPU needs fewer of its own."""

import logging
import time
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from driftrec.image import Picture, encode

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # after which whoever asks encodes it itself, and does so for a while
PAUSE_S = 120.0
SHARE_BESIDE = 0.5  # of the cluster's CPUs, that actors may take where others encode
RETRIES = 3  # of an encoding whose worker or node was lost


class ByTask:
    """Encodes as `driftrec.image.encode` does, in a task of one CPU, for which an autoscaler brings nodes. Where none
    takes it in time, or its workers end time and again, the caller does it. For any number of threads.
    """

    def __init__(self) -> None:
        self._asks_again = 0.0  # monotonic time from which tasks are tried

    def __call__(self, picture: Picture, format: str, **options: Any) -> bytes:  # noqa: A002
        """The same bytes. Raises as `encode`."""
        if time.monotonic() < self._asks_again:
            return encode(picture, format, **options)
        shown = replace(picture, constraint=None, coefficients=None)  # nobody writes these
        task = _encode.remote(shown, format, options)
        try:
            return ray.get(task, timeout=PATIENCE_S)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.GetTimeoutError:
            log.warning("no CPU was free to encode for %g s: actors do it for %g s", PATIENCE_S, PAUSE_S)
            self._asks_again = time.monotonic() + PAUSE_S
            ray.cancel(task)
        except ray.exceptions.RayError as error:
            log.warning("an output is encoded by its actor: %s", type(error).__name__)
        return encode(picture, format, **options)


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _encode(picture: Picture, format: str, options: dict[str, Any]) -> bytes:  # noqa: A002
    return encode(picture, format, **options)
