"""Laws of validation: what passes can be computed with, what does not is named, bounds are exact, times are times."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from correnteza.records import INTEGER_LIMIT, MAGNITUDE_LIMIT, TEXT_LIMIT, TIMESTAMP, Field, Schema
from correnteza.times import parse_times
from correnteza.validation import FIRST_TIME_US, ID_LIMIT, LAST_TIME_US, beyond_calendar, problems

UP, DOWN = math.inf, -math.inf


def faults(field: Field, values: list[Any], kind: pa.DataType | None = None) -> list[int]:
    """Rows of a column of values that are at fault."""
    feature = Field("feature", "float")
    schema = Schema((field, feature), target="y")
    batch = pa.RecordBatch.from_arrays([pa.array(values, kind or field.arrow.type)], names=[field.name])
    found = problems(batch, schema)
    assert all(p.field == field.name for p in found)
    assert all(p.reason for p in found)
    return [p.index for p in found]


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(None, None), (0.0, None), (None, 130.0), (-1.5, 1.5), (0.1, 0.3), (5.0, 5.0), (-1e300, 1e300)]
)
def test_both_bounds_of_a_float_are_inside_and_their_neighbours_are_not(minimum: float | None, maximum: float | None) -> None:
    """Bounds are inclusive, and never wider than the magnitude that sums of squares can bear."""
    field = Field("x", "float", minimum, maximum)
    low = -MAGNITUDE_LIMIT if minimum is None else max(minimum, -MAGNITUDE_LIMIT)
    high = MAGNITUDE_LIMIT if maximum is None else min(maximum, MAGNITUDE_LIMIT)
    values = [low, high, math.nextafter(low, DOWN), math.nextafter(high, UP), math.nan, math.inf, -math.inf, None]
    assert faults(field, values) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("minimum", "maximum", "low", "high"),
    [
        (None, None, -INTEGER_LIMIT, INTEGER_LIMIT),
        (0.0, 10.0, 0, 10),
        (0.5, 9.5, 1, 9),
        (-9.5, -0.5, -9, -1),
        (-1e300, 1e300, -INTEGER_LIMIT, INTEGER_LIMIT),
    ],
)
def test_both_bounds_of_an_integer_are_inside_and_their_neighbours_are_not(
    minimum: float | None, maximum: float | None, low: int, high: int
) -> None:
    """To the unit, also at 2**53, where a comparison of floats would let the next integer pass."""
    field = Field("n", "integer", minimum, maximum)
    assert faults(field, [low, high, low - 1, high + 1, None, -(2**63), 2**63 - 1]) == [2, 3, 5, 6]


@given(values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=6), low=st.integers(-100, 100))
@settings(max_examples=60, deadline=None)
@example(values=[None, 2**53 + 1], low=0)
def test_integers_are_judged_exactly_beside_missing_ones(values: list[int | None], low: int) -> None:
    """A null in the column does not turn its neighbours into floats."""
    wanted = [i for i, value in enumerate(values) if value is not None and not low <= value <= INTEGER_LIMIT]
    assert faults(Field("n", "integer", float(low)), values) == wanted


@given(values=st.lists(st.floats() | st.none(), max_size=8))
@settings(max_examples=80, deadline=None)
def test_numbers_that_pass_can_be_standardised_without_overflow(values: list[float | None]) -> None:
    """Sums of squares of a million such numbers stay finite."""
    bad = set(faults(Field("x", "float"), values))
    good = np.array([v for i, v in enumerate(values) if i not in bad and v is not None], np.float64)
    assert np.isfinite(np.square(good) * 1e6).all()
    assert len(good) == sum(v is not None and abs(v) <= MAGNITUDE_LIMIT for v in values)


@pytest.mark.parametrize("kind", ["float", "integer", "category", "text", "timestamp"])
def test_a_missing_value_is_a_fault_only_where_one_is_required(kind: Any) -> None:
    empty = [None, None]
    assert faults(Field("x", kind), empty) == []
    assert faults(Field("x", kind, required=True), empty) == [0, 1]


@pytest.mark.parametrize("kind", ["category", "text"])
@pytest.mark.parametrize("character", ["a", "é", "𝄞"])
def test_texts_are_measured_in_characters(kind: Any, character: str) -> None:
    """Not in bytes: letters with accents count as one."""
    assert faults(Field("t", kind), [character * TEXT_LIMIT, character * (TEXT_LIMIT + 1), None, ""]) == [1]


@pytest.mark.parametrize("kind", ["category", "text"])
@given(texts=st.lists(st.none() | st.text(st.sampled_from("a\0é")), max_size=5), before=st.sampled_from(["", "\0", "é\0"]))
@settings(max_examples=60, deadline=None)
def test_a_text_with_nul_is_refused_wherever_it_stands(kind: Any, texts: list[str | None], before: str) -> None:
    """SQLite's functions and C libraries would see another, shorter text. Slices of a column are judged by themselves."""
    field = Field("t", kind)
    wanted = [i for i, text in enumerate(texts) if text is not None and "\0" in text]
    assert faults(field, texts) == wanted
    part = pa.array([before, *texts, before]).slice(1, len(texts))
    batch = pa.RecordBatch.from_arrays([part], names=["t"])
    assert [p.index for p in problems(batch, Schema((field, Field("x", "float")), target="y"))] == wanted


@pytest.mark.parametrize("text", ["a\0", "x" * (ID_LIMIT + 1)], ids=["nul", "long"])
def test_ids_obey_rules_of_their_own(text: str) -> None:
    batch = pa.RecordBatch.from_pydict({"id": ["x" * ID_LIMIT, text, None], "x": [1.0, 2.0, 3.0]})
    assert [(p.index, p.field) for p in problems(batch, Schema((Field("x", "float"),), target="y"))] == [(1, "id")]


def test_times_are_within_the_years_1_and_9999_to_the_microsecond() -> None:
    """Which are the times that Python, and with it every answer in JSON, can show."""
    inside = [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), None]
    assert pa.array(inside, TIMESTAMP).cast(pa.int64()).to_pylist() == [FIRST_TIME_US, LAST_TIME_US, None]
    micros = [FIRST_TIME_US, LAST_TIME_US, None, FIRST_TIME_US - 1, LAST_TIME_US + 1, -(2**63), 2**63 - 1]
    times = pa.array(micros, pa.int64()).cast(TIMESTAMP)
    assert np.flatnonzero(beyond_calendar(times)).tolist() == [3, 4, 5, 6]
    batch = pa.RecordBatch.from_arrays([times], names=["at"])
    schema = Schema((Field("at", "timestamp"), Field("x", "float")), target="y", timestamp="at")
    assert [p.index for p in problems(batch, schema)] == [3, 4, 5, 6]


def test_the_target_has_the_magnitude_of_a_float_and_may_be_missing() -> None:
    batch = pa.RecordBatch.from_pydict({"y": [1e100, None, 1.1e100, math.nan]})
    assert [p.index for p in problems(batch, Schema((Field("x", "float"),), target="y"))] == [2, 3]


def test_faults_come_by_record_and_each_is_named() -> None:
    """Every fault of every record: by index, then in the order of the schema."""
    schema = Schema((Field("a", "float", 0.0), Field("b", "category", required=True)), target="y")
    batch = pa.RecordBatch.from_pydict(
        {"a": [-1.0, 1.0, -2.0], "b": pa.array([None, "x", None], pa.string()), "y": [math.inf, 1.0, 1.0]}
    )
    assert [(p.index, p.field) for p in problems(batch, schema)] == [(0, "a"), (0, "b"), (0, "y"), (2, "a"), (2, "b")]


def test_columns_that_are_not_there_are_not_judged() -> None:
    """Questions have no target, and the normalizer may look at some columns only."""
    assert problems(pa.RecordBatch.from_pydict({"b": ["x"]}), Schema((Field("a", "float", required=True),), target="y")) == []


def test_no_row_is_no_fault() -> None:
    schema = Schema((Field("at", "timestamp"), Field("a", "float"), Field("n", "integer"), Field("t", "text")), target="y")
    assert problems(pa.RecordBatch.from_pylist([], schema=schema.raw), schema) == []


def in_utc(text: str) -> datetime | None:
    """What the standard library makes of a text, as a time in UTC; None where it is none."""
    try:
        time = datetime.fromisoformat(text.strip())
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


ISO_LIKE = st.from_regex(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9](:[0-6][0-9](:[0-6][0-9]([.,][0-9]{1,9})?)?)?)?"
    r"(Z|[+-][0-9]{2}(:?[0-9]{2}){0,2})?",
    fullmatch=True,
)
WRITTEN_TIMES = st.builds(
    lambda time, zone, sep, spec: (time if zone is None else time.replace(tzinfo=timezone(zone))).isoformat(sep, spec),
    st.datetimes(),
    st.none()
    | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(lambda d: timedelta(minutes=d // timedelta(minutes=1))),
    st.sampled_from("T "),
    st.sampled_from(["minutes", "seconds", "milliseconds", "microseconds"]),
)


@given(texts=st.lists(ISO_LIKE | WRITTEN_TIMES | st.text(max_size=12).filter(bool), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
@example(texts=["0001-01-01T10:00:00.1234567+23:59"])
@example(texts=["9999-12-31T23:59:59-00:01", "2026-01-01"])
@example(texts=["2026-01-31T10:00:00+02:00:30.5", "2026-01-31"])
@example(texts=["2026-01-31 10:00:00.123456789", " 2026-01-31 ", "20260131", "2026-W05-6"])
def test_times_are_those_of_the_standard_library_whatever_their_neighbours(texts: list[str]) -> None:
    """The fast path and the slow one agree, so a time does not depend on the batch that it came in."""
    try:
        column = pa.array(texts, pa.string())
    except UnicodeEncodeError:  # lone surrogates never get so far
        return
    times, bad = parse_times(column)
    wanted = [in_utc(text) for text in texts]
    assert times.to_pylist() == wanted
    assert bad.tolist() == [time is None for time in wanted]
    alone = [parse_times(pa.array([text]))[0].to_pylist()[0] for text in texts]
    assert alone == wanted


def test_missing_times_stay_missing_and_are_no_fault() -> None:
    times, bad = parse_times(pa.array([None, "", "2026-01-01", "soon"]))
    assert (times.null_count, bad.tolist()) == (3, [False, False, False, True])
