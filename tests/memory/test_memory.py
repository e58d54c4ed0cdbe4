"""Laws of the memory: it equals the naive one, and neither cuts nor restarts change a bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.naive import Naive

from correnteza.definition import Feature
from correnteza.errors import DamagedLogError
from correnteza.memory import Limits, Memory
from correnteza.records import Field, Schema, as_batch, with_offsets

START = datetime(2026, 1, 1, tzinfo=UTC)
RAW = Schema(
    (Field("at", "timestamp"), Field("x", "float"), Field("n", "integer"), Field("k", "category"), Field("word", "text")),
    target="y",
    timestamp="at",
)
FEW = Limits(keys=2, rows=5, block_rows=7, snapshot_rows=10)

numbers = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, 0.1, -3.25, 1e16, 1e-9, 7.0]))
records = st.fixed_dictionaries(
    {
        "step_s": st.sampled_from([0, 0, 1, 1, 2, 5, -3, 100]),
        "timed": st.sampled_from([True, True, True, True, False]),
        "x": numbers,
        "n": st.one_of(st.none(), st.integers(-5, 5)),
        "k": st.sampled_from(["a", "a", "b", "c", None]),
        "word": st.sampled_from([None, "one", "two"]),
        "y": numbers,
    }
)
labels = st.fixed_dictionaries({"label_back": st.integers(1, 8), "y": st.sampled_from([2.0, 0.3, -1.0])})
streams = st.lists(st.one_of(records, records, records, labels), min_size=1, max_size=40)


@st.composite
def definitions(draw: st.DrawFn) -> Feature:
    how = draw(st.sampled_from(["lag", "mean", "min", "max", "std", "sum", "count", "delta", "ewm", "since"]))
    of = draw(st.sampled_from(["x", "y", "n", *(["k", "word", "at"] if how in ("count", "since") else [])]))
    by_rows = how == "ewm" or draw(st.booleans())
    rows = draw(st.integers(1, 6)) if by_rows and how != "since" else None
    seconds = draw(st.sampled_from([0.5, 1.0, 2.0, 7.0])) if not by_rows and how != "since" else None
    return Feature("", (of,), how, rows, seconds, draw(st.sampled_from([None, "k", "n", "word"])))


def named(features: Sequence[Feature]) -> tuple[Feature, ...]:
    made = (Feature(f"f{i}", f.of, f.how, f.rows, f.seconds, f.by) for i, f in enumerate(features))
    return tuple(made)


features = st.lists(definitions(), min_size=1, max_size=6).map(named)
cuts = st.lists(st.integers(0, 40), max_size=5)


def rows_of(stream: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with ids and times, and labels with the id that they are for.

    Raw offsets jump about, as those of late records that were put in order; they have no part in any value.
    """
    rows: list[dict[str, Any]] = []
    at = START
    ids: list[str] = []
    for i, one in enumerate(stream, 1):
        if "label_back" in one:
            rows.append({"label": ids[-one["label_back"]] if len(ids) >= one["label_back"] else "nobody", "y": one["y"]})
            continue
        at += timedelta(seconds=one["step_s"])
        ids.append(f"id{i}")
        values = {name: one[name] for name in ("x", "n", "k", "word", "y")}
        rows.append({"offset": (-37 * i) % 1009, "id": ids[-1], "at": at if one["timed"] else None, **values})
    return rows


def batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    schema = pa.schema([pa.field("offset", pa.int64()), *RAW.raw])
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


def fed(memory: Memory, rows: Sequence[dict[str, Any]]) -> tuple[list[pa.RecordBatch], dict[str, list[float]]]:
    """What a memory makes of rows, of one kind at a time: rows of its log, and the columns."""
    log: list[pa.RecordBatch] = []
    found: dict[str, list[float]] = {name: [] for f in memory.schema.derived for name in f.columns}
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and ("label" in rows[end]) == ("label" in rows[begin]) and "label" not in rows[begin]:
            end += 1
        part, begin = rows[begin:end], end
        if "label" in part[0]:
            entries = memory.labels_of([one["label"] for one in part], [one["y"] for one in part])
        else:
            entries = memory.entries_of(batch(part))
        taken = memory.take(entries)
        log.append(entries)
        for name, column in taken.columns.items():
            found[name] += column.tolist()
    return log, found


def bits(columns: dict[str, list[float]]) -> dict[str, list[str]]:
    return {name: [float(x).hex() for x in column] for name, column in columns.items()}


def state(memory: Memory) -> bytes:
    """All that is held, in bytes."""
    tables = memory._tables()
    return repr([(name, table.to_pydict()) for name, table in tables.items()]).encode()


@settings(deadline=None, max_examples=300)
@given(features, streams)
def test_every_value_is_that_of_the_naive_memory(derived: tuple[Feature, ...], stream: list[dict[str, Any]]) -> None:
    rows = rows_of(stream)
    naive = Naive(derived, "y", FEW.rows, FEW.keys, FEW.block_rows)
    expected: list[dict[str, float | None]] = []
    for row in rows:
        if "label" in row:
            naive.label(row["label"], row["y"])
        else:
            expected.append(naive.record(row))
    _, found = fed(Memory(RAW.with_derived(derived), FEW), rows)
    for one in derived:
        for place, (value, wanted) in enumerate(zip(found[one.name], [row[one.name] for row in expected], strict=True)):
            assert math.isnan(value) == (wanted is None), (one, place, value, wanted)
            if wanted is not None:
                scale = 1e16 if one.how in ("mean", "std", "sum", "ewm") else 1.0  # what summands may lose to each other
                assert value == wanted or abs(value - wanted) <= 1e-12 * max(scale, abs(wanted)), (one, place)


@settings(deadline=None, max_examples=100)
@given(features, streams, st.integers(0, 39))
def test_a_target_has_no_part_in_what_was_made_before_it_was_known(
    derived: tuple[Feature, ...], stream: list[dict[str, Any]], place: int
) -> None:
    """Its own record's features among it; nor has anything else of what comes later."""
    rows, schema = rows_of(stream), RAW.with_derived(derived)
    other = [{**row, "y": 77.0} if i >= place else row for i, row in enumerate(rows)]
    seen = sum("label" not in row for row in rows[: place + 1])
    found, expected = (bits(fed(Memory(schema, FEW), some)[1]) for some in (other, rows))
    for one in derived:
        assert found[one.name][:seen] == expected[one.name][:seen]


@settings(deadline=None, max_examples=150)
@given(features, streams, cuts)
def test_neither_cuts_nor_undone_steps_nor_restarts_change_a_bit(
    derived: tuple[Feature, ...], stream: list[dict[str, Any]], places: list[int]
) -> None:
    rows, schema = rows_of(stream), RAW.with_derived(derived)
    whole = Memory(schema, FEW)
    log, columns = fed(whole, rows)
    edges = sorted({0, *(p for p in places if p < len(rows)), len(rows)})
    memory = Memory(schema, FEW)
    found: dict[str, list[float]] = {name: [] for name in columns}
    entries: list[pa.RecordBatch] = []
    for begin, end in pairwise(edges):
        fed(memory, rows[begin:end])
        memory.undo()  # a commit that failed
        some, made = fed(memory, rows[begin:end])
        entries += some
        for name, column in made.items():
            found[name] += column
        memory.settle()
    assert bits(found) == bits(columns)
    assert pa.Table.from_batches(entries).equals(pa.Table.from_batches(log))
    assert state(memory) == state(whole)


@settings(deadline=None, max_examples=100)
@given(features, streams, st.integers(0, 40))
def test_a_memory_from_snapshot_and_log_goes_on_as_the_one_that_wrote_them(
    derived: tuple[Feature, ...], stream: list[dict[str, Any]], place: int
) -> None:
    rows, schema = rows_of(stream), RAW.with_derived(derived)
    first, rest = rows[:place], rows[place:]
    old, new = Memory(schema, FEW), Memory(schema, FEW)
    entries: list[pa.RecordBatch] = []
    snapshot: list[pa.RecordBatch] = []
    for row in first:
        label = "label" in row
        part = old.labels_of([row["label"]], [row["y"]]) if label else old.entries_of(batch([row]))
        snapshot = old.take(part).snapshots or snapshot
        entries.append(part)
    if snapshot:
        new.load(pa.concat_batches(snapshot))
    assert new.offset == old.snapshot_offset
    log = as_batch(pa.Table.from_batches([old.entries_of(batch([])), *entries]), old.log_schema)
    new.replay(with_offsets(log, 1))
    assert state(new) == state(old)
    assert bits(fed(new, rest)[1]) == bits(fed(old, rest)[1])
    assert state(new) == state(old)


@settings(deadline=None, max_examples=150)
@given(features, streams)
def test_what_a_question_sees_is_what_the_next_record_gets(derived: tuple[Feature, ...], stream: list[dict[str, Any]]) -> None:
    rows, memory = rows_of(stream), Memory(RAW.with_derived(derived), FEW)
    for row in rows:
        if "label" in row:
            fed(memory, [row])
            continue
        asked = {name: column.tolist() for name, column in memory.vector(batch([row]).drop_columns(["id", "y"])).items()}
        together = memory.vector(batch([row, row, row]))
        got = fed(memory, [row])[1]
        assert bits(asked) == bits(got)
        assert bits({name: column[1:2].tolist() for name, column in together.items()}) == bits(got)


@pytest.mark.parametrize("how", ["sum", "mean", "std", "ewm"])
def test_a_row_alone_and_a_row_among_ten_thousand_have_the_same_bits(how: str) -> None:
    chance = np.random.default_rng(3)
    one = Feature("f", ("x",), how, rows=37, by="k")
    schema = RAW.with_derived((one,))
    rows = [
        {
            "offset": i,
            "id": str(i),
            "at": START,
            "x": chance.normal() * 10.0 ** chance.integers(-8, 8),
            "k": f"k{i % 7}",
            "y": 0.0,
        }
        for i in range(1, 3001)
    ]
    whole, single = Memory(schema), Memory(schema)
    single.take(single.entries_of(batch(rows[:2000])))
    column = whole.take(whole.entries_of(batch(rows))).columns["f"]
    for place in range(2000, 3000):
        part = batch(rows[place : place + 1])
        assert single.vector(part)["f"][0].hex() == column[place].hex()
        assert single.take(single.entries_of(part)).columns["f"][0].hex() == column[place].hex()


def test_rows_that_are_missing_before_a_replay_are_damage() -> None:
    memory = Memory(RAW.with_derived((Feature("f", ("x",), "lag", rows=1),)))
    entries = memory.entries_of(batch([{"offset": 1, "id": "a", "x": 1.0}]))
    with pytest.raises(DamagedLogError, match="rows 1 to 4 are missing"):
        memory.replay(with_offsets(entries, 5))
