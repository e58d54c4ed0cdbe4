"""Laws of cells, and of the stage that parts records from rejects."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.generator.stage import FAULT, FAULT_TYPE, REJECTED, GeneratorStage, number_text, read_cells, record_text
from correnteza.records import KINDS, OFFSET, Field, Schema, with_offsets
from correnteza.testing import check_stage

SCHEMA = Schema(
    (Field("at", "timestamp"), Field("n", "integer"), Field("x", "float"), Field("kind", "category"), Field("note", "text")),
    target="y",
    timestamp="at",
)

AWKWARD = """
1|+1|-0|007|3.0|3.5|1e3|1E+3|.5|5.|1e999|nan|inf|-Infinity|0x10|1_000|1,5|true|False|yes|9007199254740993|+-7|.| 7 |
999999999999999999999999999999|٣|\uffff|x\uffff|2011-01-01|2011-01-01 10:00:00|2011-01-01T10:00:00Z|2011-02-30|
2011-01-01T10:00:00.123456+02:00|2011-01-01T10:00:00.123456789| 2011-01-01|20110101|0001-01-01|9999-12-31T23:59:59|| |"""
texts = st.one_of(
    st.none(),
    st.sampled_from(AWKWARD.replace("\n", "").split("|")),
    st.text(max_size=8),
    st.floats().map(repr),
    st.integers().map(str),
    st.datetimes().map(lambda time: time.isoformat(" ")),
)


def read(cells: list[Any], kind: str, type_: pa.DataType | None = None) -> tuple[list[Any], list[bool]]:
    values, bad = read_cells(pa.array(cells, type_), kind)
    return values.to_pylist(), bad.tolist()


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.sampled_from(KINDS))
def test_what_becomes_of_a_cell_does_not_depend_on_its_neighbours(cells: list[str | None], kind: str) -> None:
    values, bad = read(cells, kind, pa.string())
    for cell, value, fault in zip(cells, values, bad, strict=True):
        assert read([cell], kind, pa.string()) == ([value], [fault])


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.sampled_from(KINDS))
def test_a_cell_becomes_a_value_or_is_missing_or_is_bad(cells: list[str | None], kind: str) -> None:
    values, bad = read(cells, kind, pa.string())
    for cell, value, fault in zip(cells, values, bad, strict=True):
        missing = cell is None or not cell.strip()
        assert [value is not None, missing, fault].count(True) == 1


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_every_bit(number: float) -> None:
    assert [np.float64(v).tobytes() for v in read([repr(number)], "float")[0]] == [np.float64(number).tobytes()]


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_whole_number_keeps_every_digit(number: int) -> None:
    assert read([str(number), f"{number}.0"], "integer") == ([number, number], [False, False])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.5", 3.5), ("+1", 1.0), (" 1e3 ", 1000.0), (".5", 0.5), ("5.", 5.0), ("007", 7.0), ("True", 1.0), ("FALSE", 0.0)],
)
def test_texts_that_are_numbers(text: str, value: float) -> None:
    assert read([text], "float") == ([value], [False])


@pytest.mark.parametrize(
    "text", ["x", "nan", "inf", "-Infinity", "1e999", "0x10", "1_000", "1,5", "1 2", "+-1", ".", "1e", "٣", "yes"]
)
def test_texts_that_are_no_numbers(text: str) -> None:
    assert read([text], "float") == ([None], [True])
    assert read([text], "integer") == ([None], [True])


@pytest.mark.parametrize("text", ["3.5", "1e-3", "9007199254740993", "9223372036854775808", "1e300"])
def test_numbers_that_are_not_whole_or_not_exact_are_no_integers(text: str) -> None:
    assert read([text], "integer") == ([None], [True])


@pytest.mark.parametrize(
    "text",
    [
        "2011-03-04 05:06:07",
        "2011-03-04T05:06:07",
        "2011-03-04T05:06:07Z",
        "2011-03-04 05:06:07.000000",
        "2011-03-04T07:06:07+02:00",
        "2011-03-04T03:06:07-0200",
    ],
)
def test_a_time_without_a_zone_is_in_utc_and_one_with_a_zone_is_moved_there(text: str) -> None:
    assert read([text], "timestamp") == ([datetime(2011, 3, 4, 5, 6, 7, tzinfo=UTC)], [False])


def test_a_date_is_its_midnight() -> None:
    midnight = [datetime(2011, 3, 4, tzinfo=UTC)]
    assert read(["2011-03-04"], "timestamp") == (midnight, [False])
    assert read([date(2011, 3, 4)], "timestamp") == (midnight, [False])


@pytest.mark.parametrize("cell", ["soon", "2011-02-30", "12:00", 5, 5.5, True])
def test_cells_that_are_no_times(cell: Any) -> None:
    assert read([cell], "timestamp") == ([None], [True])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/Sao_Paulo"])
def test_times_of_any_unit_and_zone_are_utc_microseconds(unit: str, zone: str | None) -> None:
    time = datetime(2011, 3, 4, 5, 6, 7, tzinfo=UTC)
    cells = pa.array([time, None], pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
    cells = cells.cast(pa.timestamp(unit, zone)) if zone else cells.cast(pa.int64()).cast(pa.timestamp(unit))
    values, bad = read_cells(cells, "timestamp")
    assert (values.to_pylist(), bad.tolist()) == ([time, None], [False, False])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([1, 2], pa.int8()), ["1", "2"]),
        (pa.array([2**64 - 1, None], pa.uint64()), ["18446744073709551615", None]),
        (pa.array([1.0, 2.5]), ["1", "2.5"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array(["a", ""], pa.large_string()), ["a", None]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.nulls(1), [None]),
    ],
)
def test_any_plain_value_is_a_category_as_its_text(cells: pa.Array, expected: list[str | None]) -> None:
    for kind in ("category", "text"):
        values, bad = read_cells(cells, kind)
        assert (values.type, values.to_pylist()) == (pa.string(), expected)
        assert not bad.any()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([1, 2**53 + 1], pa.int64()), [1, 2**53 + 1]),
        (pa.array([7, 2**64 - 1], pa.uint64()), [7, None]),
        (pa.array([1.0, 2.5, float("nan"), float("inf")]), [1, None, None, None]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([Decimal("3.0"), Decimal("3.5")]), [3, None]),
        (pa.nulls(1), [None]),
        (pa.array([date(2011, 1, 1)]), [None]),
    ],
)
def test_typed_cells_as_integers(cells: pa.Array, expected: list[int | None]) -> None:
    values, bad = read_cells(cells, "integer")
    assert (values.type, values.to_pylist()) == (pa.int64(), expected)
    assert bad.tolist() == [value is None and cell is not None for value, cell in zip(expected, cells.to_pylist(), strict=True)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([1, 2], pa.int64()), [1.0, 2.0]),
        (pa.array([0.5, float("nan"), float("-inf"), None]), [0.5, None, None, None]),
        (pa.array([0.5], pa.float32()), [0.5]),
        (pa.array([True]), [1.0]),
        (pa.array([Decimal("3.25")]), [3.25]),
        (pa.nulls(1), [None]),
        (pa.array([date(2011, 1, 1)]), [None]),
    ],
)
def test_typed_cells_as_floats(cells: pa.Array, expected: list[float | None]) -> None:
    values, bad = read_cells(cells, "float")
    assert (values.type, values.to_pylist()) == (pa.float64(), expected)
    assert bad.tolist() == [value is None and cell is not None for value, cell in zip(expected, cells.to_pylist(), strict=True)]


def test_a_text_with_bytes_that_were_no_utf8_is_bad() -> None:
    assert read(["São Paulo", "S\uffffo Paulo"], "text") == (["São Paulo", None], [False, True])


@pytest.mark.parametrize(
    ("number", "text"), [(1.0, "1"), (2.5, "2.5"), (-0.0, "0"), (1e20, "100000000000000000000"), (1e-7, "1e-07")]
)
def test_the_text_of_a_number_is_short_and_exact(number: float, text: str) -> None:
    assert number_text(number) == text
    assert float(text) == number


def cells_of(rows: list[dict[str, Any]], faults: list[dict[str, str] | None] | None = None) -> pa.RecordBatch:
    """Rows of texts as a source yields them."""
    names = SCHEMA.raw.names
    columns = [pa.array([row.get(name) for row in rows], pa.string()) for name in names]
    columns.append(pa.array(faults or [None] * len(rows), FAULT_TYPE))
    return with_offsets(pa.RecordBatch.from_arrays(columns, names=[*names, FAULT]), 1)


GOOD = {"id": "a", "at": "2011-01-01", "n": "1", "x": "2.5", "kind": "k", "note": "n", "y": "3"}


def test_rows_are_parted_and_none_is_lost() -> None:
    fault = {"field": "", "reason": "has 2 cells; expected 7", "record": '{"line": "a,b"}'}
    batch = cells_of([GOOD, {**GOOD, "id": "b", "n": "1.5", "x": "x"}, {"id": "c"}, GOOD], [None, None, fault, None])
    step = GeneratorStage(SCHEMA).step(None, batch)
    raw, rejected = step.outputs["raw"], step.outputs["rejected"]
    assert (raw.schema, rejected.schema) == (SCHEMA.raw, REJECTED)
    time = datetime(2011, 1, 1, tzinfo=UTC)
    assert raw.to_pylist() == 2 * [{"id": "a", "at": time, "n": 1, "x": 2.5, "kind": "k", "note": "n", "y": 3.0}]
    first, second = rejected.to_pylist()
    record = json.loads(first.pop("record"))
    assert first == {"source_row": 2, "id": "b", "field": "n", "reason": "'1.5' is not a whole number below 2**53"}
    assert record == {**GOOD, "id": "b", "n": "1.5", "x": "x"}
    assert second == {"source_row": 3, "id": "c", **fault}


def test_one_event_tells_how_many_were_rejected_and_names_the_first() -> None:
    batch = cells_of([GOOD, {**GOOD, "x": "x"}, {**GOOD, "y": "inf"}])
    (event,) = GeneratorStage(SCHEMA).step(None, batch).events
    assert (event.kind, event.detail) == ("records_rejected", {"rejected": 2, "first_source_row": 2})
    assert event.reason == "2 of 3 rows; the first is row 2: field 'x': 'x' is not a finite number"
    assert GeneratorStage(SCHEMA).step(None, cells_of([GOOD])).events == ()


def test_records_pass_unchanged() -> None:
    batch = with_offsets(pa.RecordBatch.from_pylist([{"id": "a", "x": 1.0, "y": 2.0}], schema=SCHEMA.raw), 9)
    step = GeneratorStage(SCHEMA).step(None, batch)
    assert step.outputs["raw"].equals(batch.drop_columns([OFFSET]))
    assert step.outputs.keys() == {"raw"}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(SCHEMA.raw.names, texts)), min_size=1, max_size=20),
    st.lists(st.integers(1, 19), max_size=4),
)
def test_batch_cuts_have_no_part_in_the_outputs(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    check_stage(GeneratorStage(SCHEMA), cells_of(rows), [cut for cut in cuts if cut < len(rows)])


def test_what_json_cannot_hold_is_still_told() -> None:
    assert json.loads(record_text({"x": float("nan"), "t": date(2011, 1, 1)})) == {"x": "nan", "t": "2011-01-01"}
    assert json.loads(record_text("x" * 1_000_000)).startswith('"xxx')
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert json.loads(record_text(deep)) == "nested too deeply to be kept"
    assert json.loads(record_text({"n": 10**10_000})) == "too large to be kept"
