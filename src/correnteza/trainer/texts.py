"""Records of questions as the JSON texts that are stored of them.

Invariant: a number is written in the fewest digits that give the same bits again; a missing value is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.trainer.questions import Records

_AT_ONCE = 500
"""Records that one call into C encodes, so that other threads get their turn within a fraction of a millisecond."""


def texts_of(records: Records, derived: Sequence[Any] = ()) -> pa.Array:
    """The records of a question as JSON texts, without their missing values.

    Args:
        records: of the question.
        derived: as many further objects, whose members follow those of the records; none where it is empty.

    >>> texts_of([{"age": 3}]).to_pylist(), texts_of(pa.RecordBatch.from_pydict({"a": [1, None]})).to_pylist()
    (['{"age":3}'], ['{"a":1}', '{}'])
    >>> texts_of([{"age": 3}, {}], [{"hour": 18.0}, {"hour": 19.0}]).to_pylist()
    ['{"age":3,"hour":18.0}', '{"hour":19.0}']
    """
    if isinstance(records, pa.RecordBatch):
        texts = _texts_of_batch(records)
        return _joined(texts.to_pylist(), _lines(derived)) if derived else texts
    lines = _lines([_plain(record) if type(record) is dict else record for record in records])
    return _joined(lines, _lines(derived)) if derived else pa.array(lines, pa.string())


def _joined(texts: list[str], further: list[str]) -> pa.Array:
    """Objects with the members of two, each as JSON."""
    pairs = zip(texts, further, strict=True)
    return pa.array(
        [f"{one[:-1]}{',' if min(len(one), len(other)) > 2 else ''}{other[1:]}" for one, other in pairs], pa.string()
    )


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}


def _lines(values: Sequence[Any]) -> list[str]:
    """Each value as JSON."""
    encode = msgspec.json.Encoder().encode_lines  # its lines have no line break inside
    parts = (encode(values[i : i + _AT_ONCE]).decode() for i in range(0, len(values), _AT_ONCE))
    return [line for part in parts for line in part.split("\n")[:-1]]


def _texts_of_batch(batch: pa.RecordBatch) -> pa.Array:
    members = [
        pc.if_else(column.is_valid(), pc.binary_join_element_wise(f"{_json(name)}:", values, ",", ""), "")
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if column.null_count < len(column)
        for values in [_values_as_json(column)]
    ]
    nothing = pa.array([""] * batch.num_rows, pa.string())
    inside = pc.ascii_rtrim(pc.binary_join_element_wise(nothing, *members, ""), ",")
    return pc.binary_join_element_wise("{", inside, "}", "")


def _values_as_json(column: pa.Array) -> pa.Array:
    """Each value as JSON; numbers without a look of Python's at each, in the fewest digits that give the same bits again."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        texts = column.cast(pa.string())
        return pc.if_else(pc.equal(texts, "-0"), "-0.0", texts)  # a whole number has no such zero
    return pa.array(_lines(column.to_pylist()), pa.string())


def _json(value: str) -> str:
    return msgspec.json.encode(value).decode()
