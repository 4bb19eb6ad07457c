"""The bounded map over threads: order, bounds, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.runs.threads import pooled


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(4) as made:
        yield made


def test_results_come_in_order(pool: ThreadPoolExecutor) -> None:
    later = threading.Event()

    def work(number: int) -> int:
        later.set() if number else later.wait(5)
        return number * 10

    assert list(pooled(pool, work, range(20), ahead=4)) == [number * 10 for number in range(20)]


@pytest.mark.parametrize(("ahead", "budget", "most"), [(3, 10**9, 3), (100, 50, 5), (1, 1, 1), (100, 1, 1)])
def test_no_more_than_allowed_are_in_flight(pool: ThreadPoolExecutor, ahead: int, budget: int, most: int) -> None:
    drawn = taken = 0
    worst = 0

    def items() -> object:
        nonlocal drawn, worst
        for number in range(50):
            drawn += 1
            worst = max(worst, drawn - taken)
            yield number

    for _ in pooled(pool, lambda number: number, items(), ahead, lambda item, result: 10, budget):
        taken += 1
    assert taken == 50
    assert worst <= most + 1  # the one that waits for its turn is drawn, not begun


def test_an_error_reaches_the_consumer_in_its_turn(pool: ThreadPoolExecutor) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    got: list[int] = []
    with pytest.raises(ValueError, match="three"):
        got.extend(pooled(pool, work, range(10), ahead=8))
    assert got == [0, 1, 2]
