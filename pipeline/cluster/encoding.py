"""Outputs encoded on any CPU of the cluster, so that a machine with a GPU needs fewer of its own."""

import logging
import time
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from driftrec.errors import BadImage
from driftrec.image import Picture, encode

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # after which whoever asks encodes it itself, and does so for a while
PATIENCE_S_PER_MEGAPIXEL = 1.0  # in addition: some formats take a third of that
PAUSE_S = 120.0
RETRIES = 3  # of an encoding whose worker or node was lost
SHARE_BESIDE = 0.5  # of the cluster's CPUs, that actors may take where others encode


class ByTask:
    """Encodes as `driftrec.image.encode` does, in a task of one CPU, for which an autoscaler brings nodes. Where none
    has it done in time, or it fails there, the caller does it. For any number of threads.

    Args:
        most_s: seconds that it may be waited for.
    """

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self._asks_again = 0.0  # monotonic time from which tasks are tried

    def __call__(self, picture: Picture, format: str, **options: Any) -> bytes:  # noqa: A002
        """The same bytes. Raises as `encode`."""
        if time.monotonic() >= self._asks_again:
            shown = replace(picture, constraint=None, coefficients=None)  # nobody writes these
            patience = PATIENCE_S + PATIENCE_S_PER_MEGAPIXEL * picture.width * picture.height / 1e6
            try:
                return self._by_task(shown, format, options, min(patience, self.most_s))
            except BadImage:
                raise
            except ray.exceptions.GetTimeoutError:
                log.warning("no CPU had an output encoded in time: actors do it for %g s", PAUSE_S)
                self._asks_again = time.monotonic() + PAUSE_S
            except Exception as error:  # what is wrong with that node, or with the settings, shows here as well
                log.warning("an output is encoded by its actor: %s", type(error).__name__)
        return encode(picture, format, **options)

    def _by_task(self, picture: Picture, format: str, options: dict[str, Any], patience: float) -> bytes:  # noqa: A002
        task = _encode.remote(picture, format, options)
        try:
            return ray.get(task, timeout=patience)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.GetTimeoutError:
            ray.cancel(task)
            raise


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _encode(picture: Picture, format: str, options: dict[str, Any]) -> bytes:  # noqa: A002
    return encode(picture, format, **options)
