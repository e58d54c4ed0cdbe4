"""Append-only codes of category values.

Invariants:
- A value keeps its code for ever; codes count from 1 in the order in which values first came. 0 is `other`.
- A missing value has no code, and neither has the empty text, which stands for it in serving.
- A field never has more than `max_categories` codes; the values that come later are `other`, reported once per field.
- `Codes` is never changed: new values make a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import CATEGORIES, OTHER, Ints


@dataclass(frozen=True, slots=True)
class FieldCodes:
    """The codes of one category field.

    Args:
        codes: value to code, in the order of the codes.
        capped: whether a value had to be `other` because all codes were given away.
    """

    codes: Mapping[str, int] = field(default_factory=dict)
    capped: bool = False

    @classmethod
    def of(cls, values: Sequence[str], capped: bool) -> FieldCodes:
        """The codes of values in their order, from 1."""
        return cls({value: code for code, value in enumerate(values, 1)}, capped)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `encode` made of a column.

    Args:
        codes: a float64 Arrow array: the code of each row, null where the value is missing.
        new: values that got a code, in the order of their codes.
        new_rows: the row at which each of them first stands.
        state: the codes after the rows; the very object that was passed in when nothing is new.
    """

    codes: pa.Array
    new: tuple[str, ...]
    new_rows: tuple[int, ...]
    state: FieldCodes


def encode(state: FieldCodes, column: pa.Array, max_categories: int) -> Encoded:
    """Give each value of a column its code, and new values new ones while there are any.

    Args:
        state: the codes before the column; stays as it is.
        column: texts, null where missing.
        max_categories: most codes that the field may have.

    Only the distinct values are looked at one by one.

    >>> done = encode(FieldCodes({"nurse": 1}), pa.array(["cook", None, "nurse", "pilot", "cook"]), max_categories=2)
    >>> done.codes.to_pylist(), done.new, done.new_rows, done.state.capped
    ([2.0, None, 1.0, 0.0, 2.0], ('cook',), (0,), True)
    """
    distinct = column.dictionary_encode()
    values: list[str] = distinct.dictionary.to_pylist()  # in the order of their first rows
    unknown = [v for v in values if v and v not in state.codes]
    new = tuple(unknown[: max(0, max_categories - len(state.codes))])
    capped = state.capped or len(new) < len(unknown)
    if new:
        first = len(state.codes) + 1
        after = FieldCodes({**state.codes, **{v: code for code, v in enumerate(new, first)}}, capped)
    else:
        after = state if capped == state.capped else FieldCodes(state.codes, capped)
    table = pa.array([float(after.codes.get(v, OTHER)) if v else None for v in values], pa.float64())
    return Encoded(pc.take(table, distinct.indices), new, _first_rows(distinct, values, new), after)


def _first_rows(distinct: pa.DictionaryArray, values: Sequence[str], new: Sequence[str]) -> tuple[int, ...]:
    if not new:
        return ()
    indices = pc.fill_null(distinct.indices, len(values)).to_numpy(zero_copy_only=False)
    places, rows = np.unique(indices, return_index=True)
    wanted = set(new)
    return tuple(int(row) for place, row in zip(places, rows, strict=True) if place < len(values) and values[place] in wanted)


def category_rows(encoded: Mapping[str, Encoded], offsets: Ints, first: int) -> pa.RecordBatch:
    """The new values of all fields as rows of the log `categories`, by row and then in the order of the fields.

    Args:
        encoded: what `encode` made of each field's column.
        offsets: the raw offset of each row, shape [rows].
        first: the offset of the first row in the log `normalized`.
    """
    found = [
        (row, place, name, value, code)
        for place, (name, done) in enumerate(encoded.items())
        for row, value, code in zip(done.new_rows, done.new, _new_codes(done), strict=True)
    ]
    found.sort(key=lambda item: item[:2])
    columns = [
        [int(offsets[row]) for row, *_ in found],
        [first + row for row, *_ in found],
        [name for _, _, name, _, _ in found],
        [value for *_, value, _ in found],
        [code for *_, code in found],
    ]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, CATEGORIES, strict=True)], schema=CATEGORIES
    )


def _new_codes(done: Encoded) -> range:
    last = len(done.state.codes)
    return range(last - len(done.new) + 1, last + 1)
