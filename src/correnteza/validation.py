"""Whether records are valid, and if not, why: the one place with these rules.

Invariant: a record that passes here can be standardised, learned from and predicted on without an
overflow or an exception. The same rules hold for `POST /records`, `POST /predict` and the normalizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import Problem
from correnteza.records import ID, INTEGER_LIMIT, MAGNITUDE_LIMIT, TEXT_LIMIT, Field, Schema

Mask = npt.NDArray[np.bool_]

ID_LIMIT = 200
"""Longest id, in characters."""
ACCEPTED_ID: Any = (
    Annotated[str, msgspec.Meta(max_length=ID_LIMIT)] | Annotated[int, msgspec.Meta(ge=-INTEGER_LIMIT, le=INTEGER_LIMIT)]
)
"""The rules for an id as a type for msgspec; see `accepted`."""
_REQUIRED = "is missing; a value is required"
NUL = "\0"
"""SQLite's own functions and most C libraries end a text there, so it would not be the same text everywhere."""
WITHOUT_NUL = "^[^\\u0000]*$"
"""The same as a pattern, for documents."""
FIRST_TIME_US, LAST_TIME_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and last microsecond of the years 1 and 9999."""


def problems(batch: pa.RecordBatch, schema: Schema) -> list[Problem]:
    """Every fault of every record, by index and then by field.

    Args:
        batch: rows with (at least) the schema's fields and target as columns of the schema's types; their `id`, if any.
        schema: what they must obey.

    >>> s = Schema((Field("age", "float", minimum=0),), target="y")
    >>> b = pa.RecordBatch.from_pydict({"age": [3.0, -1.0], "y": [1.0, float("inf")]})
    >>> [(p.index, p.field) for p in problems(b, s)]
    [(1, 'age'), (1, 'y')]
    """
    found: list[Problem] = []
    names = {*batch.schema.names}
    if ID in names:
        found.extend(_of_texts(batch.column(ID), ID, ID_LIMIT))
    for field in (*schema.fields, Field(schema.target, "float")):
        if field.name in names:
            found.extend(_of_column(batch.column(field.name), field))
    return sorted(found, key=lambda p: p.index) if found else found


def _of_column(column: pa.Array, field: Field) -> Iterator[Problem]:
    if field.required and column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        yield from _each(missing, field.name, _REQUIRED)
    if column.null_count == len(column):
        return
    if field.numeric:
        yield from _of_numbers(column, field)
    elif field.kind == "timestamp":
        yield from _each(beyond_calendar(column), field.name, "is not a time within the years 1 and 9999")
    else:
        yield from _of_texts(column, field.name, TEXT_LIMIT)


def _of_numbers(column: pa.Array, field: Field) -> Iterator[Problem]:
    low, high = limits(field)
    values = _filled(column)
    bad = ~((values >= low) & (values <= high))  # so that NaN is bad too
    if column.null_count:
        bad &= column.is_valid().to_numpy(zero_copy_only=False)
    if not bad.any():
        return
    for index in np.flatnonzero(bad):
        yield Problem(int(index), field.name, _outside(values[index], low, high))


def of_number(value: float | None, field: Field) -> str:
    """What `problems` says of one number of a numeric field; empty where it is valid.

    >>> of_number(-1.0, Field("age", "float", minimum=0, maximum=120)), of_number(None, Field("age", "float"))
    ('-1.0 is not within 0 and 120', '')
    """
    if value is None:
        return _REQUIRED if field.required else ""
    low, high = limits(field)
    return "" if low <= value <= high else _outside(value, low, high)


def _outside(value: Any, low: float, high: float) -> str:
    return f"{value!s} is not within {low:g} and {high:g}"


def _filled(column: pa.Array) -> npt.NDArray[Any]:
    """The values, 0 for missing ones, which would turn integers into floats; a typed scalar costs a tenth of a plain one."""
    whole = pc.fill_null(column, pa.scalar(0, column.type)) if column.null_count else column
    values: npt.NDArray[Any] = whole.to_numpy(zero_copy_only=False)
    return values


def limits(field: Field) -> tuple[float, float]:
    """The smallest and the largest valid number; whole ones for integers, because 2**53 + 1 is 2**53 as a float."""
    limit = float(INTEGER_LIMIT) if field.kind == "integer" else MAGNITUDE_LIMIT
    low = -limit if field.minimum is None else max(field.minimum, -limit)
    high = limit if field.maximum is None else min(field.maximum, limit)
    return (math.ceil(low), math.floor(high)) if field.kind == "integer" else (low, high)


def accepted(field: Field) -> Any:
    """The rules for one value as a type for msgspec: what it takes from JSON is valid, except that a time is any text.

    A decoder made of these says yes at once to what is right. It is too strict on NUL, which JSON can only have as
    an escape, and on very large whole numbers for ids and categories; what it refuses must be looked at with `problems`.
    """
    shortest = int(field.required)  # the empty text is a missing value
    text = Annotated[str, msgspec.Meta(min_length=shortest, max_length=TEXT_LIMIT)]
    kind: Any = text
    if field.numeric:
        low, high = limits(field)
        kind = Annotated[float if field.kind == "float" else int, msgspec.Meta(ge=low, le=high)]
    elif field.kind == "category":
        kind = text | Annotated[int, msgspec.Meta(ge=-INTEGER_LIMIT, le=INTEGER_LIMIT)]
    return kind if field.required else kind | None


def _of_texts(column: pa.Array, name: str, limit: int) -> Iterator[Problem]:
    _, offsets, data = column.buffers()
    if not len(column) or data is None:
        return
    # Two looks at the buffers, far cheaper than a look at each text; only where they find something follows that.
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
    if np.diff(ends).max() > limit:
        lengths = _filled(pc.utf8_length(column))
        yield from _each(lengths > limit, name, f"is longer than {limit} characters")
    if (np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] == 0).any():
        held = pc.fill_null(pc.match_substring(column, NUL), False).to_numpy(zero_copy_only=False)
        yield from _each(held, name, "holds the character NUL (U+0000); take it out")


def beyond_calendar(times: pa.Array) -> Mask:
    """Which times lie outside the years 1 to 9999, which most software cannot show."""
    micros = _filled(times.cast(pa.int64()))
    beyond: Mask = (micros < FIRST_TIME_US) | (micros > LAST_TIME_US)
    return beyond


def _each(bad: Mask, name: str, reason: str) -> Iterator[Problem]:
    return (Problem(int(index), name, reason) for index in np.flatnonzero(bad))
