"""A map over threads that never runs far ahead of its consumer. Knows nothing of images or Ray."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def pooled(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterable[T],
    ahead: int,
    weigh: Callable[[T, R | None], int] = lambda item, result: 0,
    budget: int = 1,
) -> Iterator[R]:
    """`function` of every item, in order, while few of them are in flight (begun, and not yet taken by the consumer).

    Args:
        pool: where `function` runs; `items` are drawn by the consumer's own thread.
        function: an exception of it reaches the consumer.
        items: what it is given, one at a time.
        ahead: items in flight, at most.
        weigh: weight of an item in flight, from the item and its result (None until there is one).
        budget: a next item begins only while those in flight weigh less than this.
    """
    flight: deque[tuple[T, Future[R]]] = deque()

    def weight() -> int:
        return sum(weigh(item, _result(future)) for item, future in flight)

    for item in items:
        while flight and (len(flight) >= ahead or weight() >= budget):
            yield flight.popleft()[1].result()
        flight.append((item, pool.submit(function, item)))
    while flight:
        yield flight.popleft()[1].result()


def _result(future: Future[R]) -> R | None:
    """Its result if it has one by now."""
    return future.result() if future.done() and not future.exception() else None
