"""From cells as a file has them to records of the schema, and the stage that parts them from the rejects.

Invariants:
- What becomes of a cell depends on the cell and its field's kind alone, never on its neighbours, so
  batch cuts have no part in it.
- A record is in `raw` or in `rejected`, never in both and never in neither; a truth that comes beside it is in `outcomes`.
- Only types are checked here (and that numbers are finite); bounds are the normalizer's business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.events import Event
from correnteza.records import ID, INTEGER_LIMIT, OFFSET, TIMESTAMP, Schema
from correnteza.stage import Step
from correnteza.times import parse_times

REJECTED = pa.schema(
    [
        pa.field("source_row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("record", pa.string()),
    ]
)
"""Columns of the log `rejected`: a row per record, with its first fault; `source_row` counts from 1 and is null for
posted records; `field` is empty when it is the record as a whole; `record` is JSON of what came."""

FAULT = "#fault"
"""Column of batches that hold cells rather than records. No field can have this name."""
FAULT_TYPE = pa.struct([pa.field("field", pa.string()), pa.field("reason", pa.string()), pa.field("record", pa.string())])
"""What is wrong with a row; null when nothing is. A null `record` is filled from the row's cells."""

OUTCOMES = pa.schema([pa.field("id", pa.string()), pa.field("target", pa.float64())])
"""Columns of the log `outcomes`: the truth for a record or a prediction, in the target's unit."""
TRUTH = "#truth"
"""Column of batches that carry truths beside their records, or instead of them; see `delay`."""
TRUTH_TYPE = pa.struct(list(OUTCOMES))
"""A truth: the id of an earlier record, and its target; null when none is due."""

RECORD_LIMIT = 100_000
"""Longest record that is kept whole among the rejects, in characters of JSON."""
NOT_UTF8 = "\uffff"
"""Stands where a file had bytes that are no UTF-8; Unicode keeps this character out of real text."""
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_EXPECTED = {
    "float": "is not a finite number",
    "integer": "is not a whole number below 2**53",
    "timestamp": "is not a time; expected ISO 8601, as in 2026-01-31T12:00:00Z",
    "category": "is not UTF-8 text or a finite number; convert the file to UTF-8",
    "text": "is not UTF-8 text or a finite number; convert the file to UTF-8",
}

Mask = npt.NDArray[np.bool_]


class GeneratorStage:
    """Takes what a source yields into the logs `raw`, `rejected` and `outcomes`; keeps no state.

    Args:
        schema: the schema of the records.
    """

    name = "source"

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def initial(self) -> None:
        """See `Stage.initial`."""

    def dump(self, state: None) -> bytes:  # noqa: ARG002 - there is none
        """See `Stage.dump`."""
        return b""

    def load(self, blob: bytes) -> None:
        """See `Stage.load`."""

    def step(self, state: None, batch: pa.RecordBatch) -> Step[None]:
        """See `Stage.step`. Batches without the column `FAULT` hold records and are taken as they are."""
        outputs = _outcomes(batch)
        if ID not in batch.schema.names:
            return Step(outputs, state)
        step = self._records(state, typed(batch, self._schema))
        return replace(step, outputs={**step.outputs, **outputs})

    def _records(self, state: None, batch: pa.RecordBatch) -> Step[None]:
        names = self._schema.raw.names
        if FAULT not in batch.schema.names:
            return Step({"raw": batch.select(names)}, state)
        bad = batch.column(FAULT).is_valid()
        good, rejects = batch.filter(pc.invert(bad)), batch.filter(bad)
        outputs = {"raw": good.select(names)} if good.num_rows else {}
        if not rejects.num_rows:
            return Step(outputs, state)
        rejected = _rejected(rejects)
        return Step({**outputs, "rejected": rejected}, state, (_event(rejected, batch.num_rows),))


def _outcomes(batch: pa.RecordBatch) -> dict[str, pa.RecordBatch]:
    """The truths of a batch as rows of the log `outcomes`, if it has any."""
    truths = batch[TRUTH].drop_null() if TRUTH in batch.schema.names else pa.nulls(0, TRUTH_TYPE)
    return {"outcomes": pa.RecordBatch.from_arrays(truths.flatten(), schema=OUTCOMES)} if len(truths) else {}


def _rejected(rows: pa.RecordBatch) -> pa.RecordBatch:
    faults = rows.column(FAULT)
    parts = [pc.struct_field(faults, name) for name in ("field", "reason", "record")]
    return pa.RecordBatch.from_arrays([rows.column(OFFSET), rows.column(ID), *parts], schema=REJECTED)


def _event(rejected: pa.RecordBatch, rows: int) -> Event:
    first = rejected.slice(0, 1).to_pylist()[0]
    field = f"field {first['field']!r}: " if first["field"] else ""
    reason = f"{rejected.num_rows} of {rows} rows; the first is row {first['source_row']}: {field}{first['reason']}"
    return Event("records_rejected", reason, {"rejected": rejected.num_rows, "first_source_row": first["source_row"]})


def typed(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Cells as records of the schema.

    Args:
        batch: `offset`, the columns of `schema.raw` with texts or plain values of any Arrow type, and `FAULT`;
            without `FAULT` it holds records already.
        schema: the schema.

    Returns:
        `offset`, the columns of `schema.raw` in its types, and `FAULT`. Empty cells are missing; cells that cannot
        be read as the field's kind are missing too, and `FAULT` says so.
    """
    if FAULT not in batch.schema.names:
        return batch
    kinds = [(ID, "text"), *((f.name, f.kind) for f in schema.fields), (schema.target, "float")]
    columns, found = [batch.column(OFFSET)], dict[int, tuple[str, str]]()
    for name, kind in kinds:
        cells = batch.column(name)
        column, bad = read_cells(cells, kind)
        columns.append(column)
        for row in np.flatnonzero(bad).tolist():
            found.setdefault(row, (name, f"{str(cells[row].as_py())[:80]!r} {_EXPECTED[kind]}"))
    columns.append(_faults(batch, found, [name for name, _ in kinds]))
    return pa.RecordBatch.from_arrays(columns, names=[OFFSET, *schema.raw.names, FAULT])


def _faults(batch: pa.RecordBatch, found: Mapping[int, tuple[str, str]], names: list[str]) -> pa.Array:
    """The column `FAULT`: what the source found, else what was found now."""
    known = batch.column(FAULT)
    if not found:
        return known
    faults = known.to_pylist()
    rows = sorted(row for row in found if faults[row] is None)
    records = batch.select(names).take(pa.array(rows, pa.int64())).to_pylist()
    for row, record in zip(rows, records, strict=True):
        field, reason = found[row]
        faults[row] = {"field": field, "reason": reason, "record": record_text(record)}
    return pa.array(faults, FAULT_TYPE)


def record_text(record: Any) -> str:
    """What came, as JSON; what JSON cannot hold is written as text, of a very long record only the beginning, as a text."""
    try:
        text = json.dumps(_plain(record), default=str, ensure_ascii=False).replace(NOT_UTF8, "\ufffd")
    except RecursionError:
        return '"nested too deeply to be kept"'
    except ValueError:  # whole numbers of thousands of digits
        return '"too large to be kept"'
    return text if len(text) <= RECORD_LIMIT else json.dumps(text[:RECORD_LIMIT], ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return {key: _plain(cell) for key, cell in value.items()} if isinstance(value, dict) else value


def rejected_rows(rows: Iterable[tuple[str | None, str, str, str]]) -> pa.RecordBatch:
    """Rows of the log `rejected` for posted records: id, field, reason and record of each."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    arrays = [pa.nulls(len(columns[0]), pa.int64()), *(pa.array(column, pa.string()) for column in columns)]
    return pa.RecordBatch.from_arrays(arrays, schema=REJECTED)


def read_cells(cells: pa.Array, kind: str) -> tuple[pa.Array, Mask]:
    """A column of cells as values of a field.

    Args:
        cells: texts, numbers, booleans, dates or times, of any Arrow type.
        kind: the field's kind.

    Returns:
        The values, in the Arrow type of the kind, and a mask of the cells that are none; those are null in the first.

    >>> values, bad = read_cells(pa.array(["3.0", " 4", "", "x", "5.5"]), "integer")
    >>> values.to_pylist(), bad.tolist()
    ([3, 4, None, None, None], [False, False, False, True, True])
    """
    cells = _simple(cells)
    if kind == "timestamp":
        values, bad = _times(cells)
    elif kind in ("float", "integer"):
        values, bad = _numbers(cells, kind)
    else:
        values, bad = _texts(cells)
    return values, bad & _there(cells)


def _there(cells: pa.Array) -> Mask:
    return cells.is_valid().to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _simple(cells: pa.Array) -> pa.Array:
    """Fewer types for the same values; empty texts are missing."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_large_string(cells.type) or pa.types.is_string_view(cells.type) or pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.string())
    if not pa.types.is_string(cells.type):
        return cells
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(cells), ""), pa.scalar(None, pa.string()), cells)


def _texts(cells: pa.Array) -> tuple[pa.Array, Mask]:
    if pa.types.is_string(cells.type):
        return _without(cells, pc.fill_null(pc.match_substring(cells, NOT_UTF8), False).to_numpy(zero_copy_only=False))
    if not pa.types.is_floating(cells.type):
        return cells.cast(pa.string()), np.zeros(len(cells), bool)
    coded = cells.dictionary_encode()
    words = pa.array([number_text(value) for value in coded.dictionary.to_pylist()], pa.string())
    return _without(words.take(coded.indices), ~np.isfinite(_floats(cells)))


def number_text(number: float) -> str:
    """A number as the text of a category: whole numbers without a point, others in the shortest form."""
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(number)


def _times(cells: pa.Array) -> tuple[pa.Array, Mask]:
    if pa.types.is_string(cells.type):
        values, bad = parse_times(cells)
        return values, np.asarray(bad)
    if pa.types.is_timestamp(cells.type) and cells.type.tz is not None:
        return cells.cast(TIMESTAMP, safe=False), np.zeros(len(cells), bool)
    if pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type):
        return cells.cast(pa.timestamp("us"), safe=False).cast(TIMESTAMP), np.zeros(len(cells), bool)
    return pa.nulls(len(cells), TIMESTAMP), np.ones(len(cells), bool)


def _numbers(cells: pa.Array, kind: str) -> tuple[pa.Array, Mask]:
    if kind == "integer" and pa.types.is_integer(cells.type) and cells.type != pa.uint64():
        return cells.cast(pa.int64()), np.zeros(len(cells), bool)
    floats = _numbers_of_text(cells) if pa.types.is_string(cells.type) else cells
    if pa.types.is_temporal(cells.type):
        return pa.nulls(len(cells), pa.int64() if kind == "integer" else pa.float64()), np.ones(len(cells), bool)
    floats = floats.cast(pa.float64(), safe=False)
    values = _floats(floats)
    if kind == "float":
        return _without(floats, ~np.isfinite(values))
    # Beyond 2**53 a float64 does not tell neighbouring whole numbers apart.
    bad = ~(np.isfinite(values) & (np.abs(values) < INTEGER_LIMIT) & (values == np.trunc(values)))
    whole = np.where(bad, 0.0, values).astype(np.int64)
    return pa.array(whole, pa.int64(), mask=bad), bad


def _floats(cells: pa.Array) -> npt.NDArray[np.float64]:
    """As float64; missing ones are NaN."""
    return cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _numbers_of_text(texts: pa.Array) -> pa.Array:
    """Texts as float64; those that are no numbers become null. True and false are 1 and 0."""
    texts = pc.utf8_trim_whitespace(texts)
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        texts = pc.replace_substring_regex(texts, r"^(?i:true)$", "1")
        texts = pc.replace_substring_regex(texts, r"^(?i:false)$", "0")
        numbers = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
        return pc.replace_substring_regex(numbers, r"^\+", "").cast(pa.float64())


def _without(values: pa.Array, bad: Mask) -> tuple[pa.Array, Mask]:
    """The values with the bad ones taken out."""
    return (pc.if_else(pa.array(bad), pa.scalar(None, values.type), values), bad) if bad.any() else (values, bad)
