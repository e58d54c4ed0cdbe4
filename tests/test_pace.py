"""Laws of the pace, over simulated time."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from correnteza.errors import InputError
from correnteza.pace import BURST_S, Pace


class Simulated(Pace):
    """A pace whose waiting makes its own time pass."""

    def __init__(self, rate_per_s: float) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        super().__init__(rate_per_s, clock=lambda: self.now, wait=lambda _, seconds: self._pass(seconds))

    def _pass(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def burst(rate: float) -> float:
    return max(1.0, rate * BURST_S)


@given(st.floats(0.5, 1e5), st.lists(st.tuples(st.integers(1, 500), st.floats(0.0, 0.5)), min_size=1, max_size=60))
def test_no_more_goes_than_the_rate_and_one_burst(rate: float, takes: list[tuple[int, float]]) -> None:
    pace = Simulated(rate)
    gone = 0
    for most, busy_s in takes:
        taken = pace.take(most, stop_after_s=10.0)
        assert 1 <= taken <= most
        gone += taken
        assert gone <= rate * pace.now + burst(rate) + 1e-6
        pace.now += busy_s


@pytest.mark.parametrize("rate", [3.0, 100.0, 12_345.0])
def test_a_taker_that_only_waits_gets_the_whole_rate(rate: float) -> None:
    pace = Simulated(rate)
    gone = 0
    while pace.now < 20.0:
        gone += pace.take(1000, stop_after_s=1.0)
    assert gone == pytest.approx(rate * pace.now, abs=burst(rate) + 1)


def test_it_waits_no_longer_than_told() -> None:
    pace = Simulated(0.1)
    assert pace.take(1, 1.0) == 1  # the burst
    assert pace.take(1, stop_after_s=2.5) == 0
    assert pace.now == pytest.approx(2.5)


def test_time_spent_elsewhere_is_not_made_up_for() -> None:
    pace = Simulated(100.0)
    pace.now += 1000.0
    assert pace.take(10_000, 0.0) == 10


def test_zero_pauses_and_nothing_is_saved_up_meanwhile() -> None:
    pace = Simulated(0.0)
    assert pace.take(5, stop_after_s=100.0) == 0
    pace.rate = 10.0
    assert pace.take(5, 0.1) == 1
    assert pace.take(5, 0.0) == 0


def test_inf_never_waits() -> None:
    pace = Simulated(math.inf)
    assert [pace.take(7, 1.0) for _ in range(50)] == [7] * 50
    assert pace.waits == []


def test_back_from_inf_the_rate_holds() -> None:
    pace = Simulated(math.inf)
    pace.take(1000, 0.0)
    pace.now += 100.0
    pace.rate = 10.0
    assert pace.take(1000, 0.0) == 1
    assert pace.take(1000, 0.0) == 0


def test_a_changed_rate_wakes_who_waits() -> None:
    """The taker would wait for an hour; the change of rate from another thread ends that."""
    pace = Pace(0.0)
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(pace.take(5, stop_after_s=3600.0)))
    taker.start()
    pace.rate = math.inf
    taker.join(PATIENCE_S)
    assert taken == [5]


def test_threads_share_one_rate() -> None:
    pace = Pace(50.0, clock=lambda: 0.0)  # time stands still: there is one burst of 5 and no more
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.append(pace.take(2, 0.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 5


@pytest.mark.parametrize("rate", [-1.0, math.nan, -math.inf])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="rate"):
        Pace(rate)
    pace = Pace(1.0)
    with pytest.raises(InputError, match="rate"):
        pace.rate = rate
    assert pace.rate == 1.0
