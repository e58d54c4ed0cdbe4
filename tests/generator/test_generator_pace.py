"""Laws of a paced source, over simulated time."""

import math
import threading
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from correnteza.errors import InputError
from correnteza.generator.pace import BURST_S, PART_S, NoSource, Paced
from correnteza.log.base import Slice
from correnteza.records import with_offsets

ROWS = pa.schema([pa.field("n", pa.int64())])


class Counting:
    """A source of numbers; its cursor is how many went before."""

    def __init__(self, end: float = math.inf) -> None:
        self.end = end

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        first = int(after or 0) - back
        count = int(min(limit, self.end - first))
        batch = pa.RecordBatch.from_arrays([pa.array(range(first, first + count), pa.int64())], schema=ROWS)
        return Slice(with_offsets(batch, first + 1), str(first + count), 0)


class World:
    """A paced source whose waiting makes its own time pass."""

    def __init__(self, rate: float, end: float = math.inf) -> None:
        self.now = 1e6
        self.began = self.now
        self.waits = 0
        self.after: str | None = None
        self.rows = 0
        self.paced = Paced(Counting(end), rate, clock=lambda: self.now, wait=self._wait)

    def _wait(self, condition: threading.Condition, seconds: float) -> None:
        assert seconds > 0
        self.waits += 1
        self.now += seconds

    @property
    def passed_s(self) -> float:
        return self.now - self.began

    def read(self, limit: int = 10_000, wait_s: float = 1.0) -> int:
        part = self.paced.read(self.after, limit, wait_s)
        assert part.batch.column("n").to_pylist() == list(range(self.rows, self.rows + part.batch.num_rows))
        self.after = part.next
        self.rows += part.batch.num_rows
        return int(part.batch.num_rows)


rates = st.floats(0.5, 1e6)


@settings(deadline=None)
@given(rates, st.lists(st.tuples(st.integers(1, 500), st.floats(0.0, 3.0)), min_size=1, max_size=30))
def test_never_more_rows_go_than_the_rate_and_one_burst(rate: float, reads: list[tuple[int, float]]) -> None:
    world = World(rate)
    for limit, busy_s in reads:
        assert world.read(limit) <= limit
        assert world.rows <= rate * world.passed_s + max(1.0, rate * BURST_S) + 1e-3
        world.now += busy_s


@pytest.mark.parametrize("rate", [0.7, 3.0, 100.0, 12_345.6])
def test_a_reader_that_keeps_up_gets_the_whole_rate(rate: float) -> None:
    world = World(rate)
    while world.passed_s < 60.0:
        world.read()
        world.now += 0.03  # a commit
    assert world.rows == pytest.approx(rate * world.passed_s, abs=rate * PART_S + 2)


def test_a_hundred_rows_a_second_are_ten_batches_a_second() -> None:
    world = World(100.0)
    batches = [world.read() for _ in range(100)]
    assert batches == [10] * 100
    assert world.passed_s == pytest.approx(9.9, abs=0.01)


def test_a_slow_rate_goes_row_by_row() -> None:
    world = World(0.5)
    counts = [world.read() for _ in range(21)]
    assert set(counts) == {0, 1}
    assert world.rows == pytest.approx(0.5 * world.passed_s, abs=1.1)


def test_a_long_delay_is_made_up_for_by_one_burst_alone() -> None:
    world = World(100.0)
    world.read()
    world.now += 3600.0
    assert world.read() == 100 * BURST_S
    assert world.read() == 10


def test_infinite_never_waits() -> None:
    world = World(math.inf)
    assert [world.read(500) for _ in range(10)] == [500] * 10
    assert world.waits == 0


def test_zero_pauses_and_keeps_the_position() -> None:
    world = World(100.0)
    world.read()
    world.paced.rate = 0.0
    assert [world.read() for _ in range(5)] == [0] * 5
    assert world.passed_s == pytest.approx(5.0)
    world.paced.rate = 100.0
    assert world.read() == 10


def test_paused_from_the_start_it_gives_a_cursor_that_reads_from_the_start() -> None:
    world = World(0.0)
    assert world.read() == 0
    world.paced.rate = math.inf
    assert world.read(5) == 5


def test_a_rate_has_no_arrears_when_it_is_raised() -> None:
    world = World(10.0)
    world.read()
    world.now += 0.5
    world.paced.rate = 1000.0
    assert world.read() <= 5 + 1000 * PART_S


def test_it_waits_no_longer_than_told() -> None:
    world = World(0.1)
    assert world.read() == 1
    assert world.read(wait_s=2.5) == 0
    assert world.passed_s == pytest.approx(2.5)
    assert world.read(wait_s=0.0) == 0
    assert world.passed_s == pytest.approx(2.5)


def test_it_knows_that_its_source_has_ended_and_waits_with_it() -> None:
    world = World(math.inf, end=25)
    assert [world.read(10) for _ in range(3)] == [10, 10, 5]
    assert not world.paced.ended
    assert world.read(10) == 0
    assert world.paced.ended
    assert world.passed_s == pytest.approx(1.0)


def test_the_position_is_the_cursor_that_the_reader_came_with() -> None:
    world = World(math.inf)
    assert world.paced.position is None
    world.read(7)
    assert world.paced.position is None
    world.read(7)
    assert world.paced.position == "7"


def test_back_is_the_sources_business() -> None:
    part = Paced(Counting(), math.inf).read("10", 2, back=4)
    assert part.batch.column("n").to_pylist() == [6, 7]


@pytest.mark.parametrize("rate", [-1.0, math.nan, -math.inf])
def test_what_is_no_rate_is_refused_and_changes_nothing(rate: float) -> None:
    world = World(100.0)
    with pytest.raises(InputError, match=r"rate .* per second: expected"):
        world.paced.rate = rate
    assert world.paced.rate == 100.0
    with pytest.raises(InputError, match=r"rate .* per second: expected"):
        Paced(Counting(), rate)


@pytest.mark.parametrize("change", [lambda paced: setattr(paced, "rate", math.inf), Paced.close])
def test_a_waiting_thread_is_woken_by_a_new_rate_and_by_close(change: Any) -> None:
    waiting = threading.Event()

    def wait(condition: threading.Condition, seconds: float) -> None:
        waiting.set()
        condition.wait(60.0)

    paced = Paced(Counting(), 0.0, wait=wait)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(paced.read(None, 5, wait_s=60.0).batch.num_rows))
    thread.start()
    assert waiting.wait(PATIENCE_S)
    change(paced)
    thread.join(PATIENCE_S)
    assert found in ([5], [0])
    assert (found == [5]) == math.isinf(paced.rate)


def test_no_source_never_yields() -> None:
    paced = Paced(NoSource(ROWS), math.inf)
    part = paced.read(None, 10)
    assert (part.batch.num_rows, part.lag_rows) == (0, 0)
    assert paced.read(part.next, 10).next == part.next
