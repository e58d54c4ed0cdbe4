"""Laws of the order by event time, held against a reference that goes record by record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from correnteza.normalizer import watermark
from correnteza.normalizer.watermark import ORDER, Mark, Rule, Waiting, advance, flush, recalled
from correnteza.records import OFFSET

from . import unordered
from .unordered import Row, records, reference

RULE = Rule(lateness_us=30, future_us=200, reorder_rows=1000)

steps = st.one_of(st.none(), st.integers(-60, 60), st.sampled_from([-100_000, 100_000, 2**62, -(2**62)]))
streams = st.lists(steps, max_size=80).map(lambda moved: [None if m is None else 3 * i + m for i, m in enumerate(moved)])
rules = st.builds(Rule, st.integers(1, 60), st.integers(60, 300), st.sampled_from([1, 2, 3, 5, 1000]))
cuts = st.lists(st.integers(0, 80), max_size=8)


@pytest.fixture(autouse=True)
def few_far_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short streams begin anew too."""
    monkeypatch.setattr(watermark, "FAR_ROWS", 4)
    monkeypatch.setattr(unordered, "FAR_ROWS", 4)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    return list(zip(batch[OFFSET].to_pylist(), batch[ORDER].to_pylist(), strict=True))


def played(times: Sequence[int | None], rule: Rule, places: Sequence[int]) -> tuple[list[Row], Mark, list[int]]:
    """What goes on when the records come in parts, the mark, and what waits; each restart finds again what waited."""
    batch = records(times)
    mark, waiting, out = Mark(), Waiting.none(batch.schema), []
    for begin, end in pairwise(sorted({0, *(min(p, len(times)) for p in places), len(times)})):
        first = waiting.first
        waiting = recalled(Waiting.none(batch.schema), batch, "at", mark, first) if first else waiting
        done = advance(mark, waiting, batch.slice(begin, end - begin), "at", rule)
        mark, waiting = done.mark, done.waiting
        out += rows_of(done.rows)
    order = np.lexsort((waiting.offsets, waiting.times))
    return out, mark, waiting.offsets[order].tolist()


def clipped(times: Sequence[int | None]) -> list[int | None]:
    return [None if t is None else max(-watermark.FARTHEST, min(watermark.FARTHEST, t)) for t in times]


@settings(deadline=None, max_examples=400)
@given(streams, rules, cuts)
@example([10, 40, 500, 501, 502, 503, 504, 41, 480, 700], Rule(30, 60, 1000), [3, 5])
@example([50, 10, 30, 20, 40, 25, 60], Rule(60, 60, 2), [4])
def test_cuts_and_restarts_change_nothing_and_each_record_goes_as_the_rules_say(
    times: list[int | None], rule: Rule, places: list[int]
) -> None:
    expected, held = reference(clipped(times), rule)
    whole, mark, waiting = played(times, rule, [])
    assert (whole, waiting) == (expected, held)
    assert played(times, rule, places) == (whole, mark, waiting)


@settings(deadline=None, max_examples=100)
@given(st.permutations(range(40)), st.integers(1, 40))
def test_a_stream_shuffled_within_the_lateness_goes_on_in_the_order_of_its_times(numbers: list[int], late: int) -> None:
    """Records are moved by less than `late` places of a second each."""
    times = [second * 1_000_000 for second in sorted(range(40), key=lambda i: i + late * numbers[i] / 40)]
    rule = Rule(late * 1_000_000, 10**9, 1000)
    batch = records(times)
    done = advance(Mark(), Waiting.none(batch.schema), batch, "at", rule)
    rest = flush(done.mark, done.waiting)
    assert done.rows["id"].to_pylist() + rest.rows["id"].to_pylist() == [f"r{t}" for t in sorted(times)]
    assert done.rows[ORDER].null_count == done.rows.num_rows


def test_one_absurd_time_makes_nothing_after_it_late() -> None:
    """A clock in the year 2099, or in 1970, does not move the watermark."""
    times = [1000, 1010, 10**15, 1020, -(10**15), 1005, 1060]
    assert played(times, RULE, [])[0] == [(3, "ahead"), (5, "late"), (1, None), (6, None), (2, None), (4, None)]


def test_a_stream_that_goes_on_elsewhere_is_followed_after_some_records() -> None:
    times = [1000, 1010, *range(9000, 9060, 10)]
    out, mark, waiting = played(times, RULE, [])
    assert out == [(3, "ahead"), (4, "ahead"), (5, "ahead"), (6, "anew"), (1, None), (2, None)]
    assert (mark.highest, mark.watermark, waiting) == (9050, 9020, [7, 8])
    back = [*times, *range(500, 560, 10)]
    assert played(back, RULE, [])[1].highest == 550


def test_equal_times_go_in_the_order_of_arrival() -> None:
    assert played([50, 40, 50, 40, 90], RULE, [])[0] == [(2, None), (4, None), (1, None), (3, None)]


def test_no_more_wait_than_may_and_the_earliest_go_first() -> None:
    out, _, waiting = played([50, 20, 40, 30, 60, 35], Rule(1000, 1000, 3), [])
    assert out == [(2, "full"), (4, "full"), (6, "full")]
    assert waiting == [3, 1, 5]


def test_what_has_gone_does_not_stay_in_memory() -> None:
    mark, waiting = Mark(), Waiting.none(records([]).schema)
    for i in range(2000):
        done = advance(mark, waiting, records([i * 10], first=i + 1), "at", RULE)
        mark, waiting = done.mark, done.waiting
    assert len(waiting) == 3
    assert waiting.table.num_rows < 1100
    assert waiting.table.column(0).num_chunks <= watermark.CHUNKS
