"""Laws of contexts and of what is remembered of rows: well formed, bounded, never in the way."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from correnteza.testing import wait_for
from correnteza.tracing import NONE, Traces, incoming
from correnteza.tracing.contexts import MOST, well_formed
from correnteza.tracing.ranges import Ranges

from .end_to_end.otlp import context_of

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, GOOD),
        (f" {GOOD} ", GOOD),
        (f"cc{GOOD[2:]}", GOOD),
        (f"cc{GOOD[2:]}-what-comes-later", GOOD),
        (f"{GOOD}-more", None),
        (f"ff{GOOD[2:]}", None),
        (GOOD.upper(), None),
        (f"00-{'0' * 32}{GOOD[35:]}", None),
        (f"{GOOD[:36]}{'0' * 16}-01", None),
        (GOOD[:-1], None),
        (f"cc{GOOD[2:]}.more", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_the_recommendation_says(text: str, expected: str | None) -> None:
    """W3C Trace Context, 3.2 and 4: later versions by their first four parts, all else is none."""
    assert incoming([(b"accept", b"*"), (b"traceparent", text.encode())]).contexts == (() if expected is None else (expected,))


def test_two_traceparents_are_none() -> None:
    assert incoming([(b"traceparent", GOOD.encode())] * 2) == NONE


@given(st.text(), st.text())
def test_whatever_a_header_says_what_comes_out_is_well_formed(traces: str, dropped: str) -> None:
    told = Traces.told({"Row-Traces": traces, "Row-Traces-Dropped": dropped})
    assert all(well_formed(one) for one in told.contexts)
    assert told.dropped >= 0


@given(st.lists(st.integers(1, 80), max_size=100))
def test_headers_bring_what_was_put_in_each_once_and_bounded_and_count_the_rest(numbers: list[int]) -> None:
    traces = Traces.of(context_of(number) for number in numbers)
    told = Traces.told({name.decode().title(): value.decode() for name, value in traces.headers()})
    assert told == traces
    assert len(told.contexts) <= MOST
    assert len(told.contexts) + told.dropped == len(set(numbers))


def test_what_is_not_recorded_is_told_of_only_where_nothing_else_is() -> None:
    """So that a trace that was left out is not begun again further down."""
    on, off, other = context_of(1), context_of(2, sampled=False), context_of(3, sampled=False)
    assert Traces.of([off, on]).contexts == (on,)
    assert Traces.of([off, other]).contexts == (other,)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=40), st.integers(1, 250), st.integers(0, 60))
def test_rows_have_the_contexts_that_they_were_written_in(writes: list[tuple[int, int]], first: int, more: int) -> None:
    ranges, of_row, offset = Ranges(), {}, 1
    for rows, number in writes:
        context = context_of(number) if number else ""
        ranges.note(offset, offset + rows - 1, context)
        of_row.update(dict.fromkeys(range(offset, offset + rows), context))
        offset += rows
    wanted = [of_row.get(row, "") for row in range(first, first + more + 1)]
    assert ranges.of(first, first + more) == Traces.of(wanted)


def test_memory_is_bounded_and_the_newest_rows_are_those_that_are_known() -> None:
    ranges = Ranges(most=10)
    for row in range(1, 1001):
        ranges.note(row, row, context_of(row))
    assert ranges.of(1, 980) == NONE
    assert ranges.of(991, 1000).contexts == tuple(context_of(row) for row in range(991, 1001))


def test_a_reader_who_is_faster_than_the_note_waits_for_it() -> None:
    """Rows can be read as soon as they are committed, which is before their contexts are taken down."""
    ranges, found = Ranges(wait_s=60.0), []
    reading = threading.Event()

    def read() -> None:
        reading.set()
        found.append(ranges.of(1, 3))

    ranges.note(1, 2, context_of(1))
    with ranges.writing():
        reader = threading.Thread(target=read)
        reader.start()
        reading.wait(PATIENCE_S)
        ranges.note(3, 3, context_of(2))
    reader.join(PATIENCE_S)
    wait_for(lambda: bool(found), "the reader")
    assert found[0].contexts == (context_of(1), context_of(2))


def test_a_reader_of_rows_that_nobody_took_down_is_not_held_up_by_a_commit() -> None:
    """A commit may wait for the database for ever; a reader of older rows has its answer at once, others soon."""
    at_once, soon = Ranges(wait_s=1e6), Ranges()
    for ranges in (at_once, soon):
        ranges.note(10, 20, context_of(1))
    with at_once.writing(), soon.writing():
        assert at_once.of(1, 9) == NONE
        assert soon.of(21, 21) == NONE
