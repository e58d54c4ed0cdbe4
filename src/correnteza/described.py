"""Records as documents describe them: JSON Schema, and a valid example.

Invariant: what is described here is what `validation` demands, limit by limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from correnteza import validation
from correnteza.records import INTEGER_LIMIT, MAGNITUDE_LIMIT, TEXT_LIMIT, Field, Schema
from correnteza.validation import ID_LIMIT


def json_schema(columns: pa.Schema, title: str, fields: Sequence[Field] = ()) -> dict[str, Any]:
    """A JSON Schema (2020-12) of rows.

    Args:
        columns: their Arrow schema.
        title: what they are.
        fields: where clients send the rows, the fields with their bounds.
    """
    known = {f.name: f for f in fields}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "properties": {column.name: _property(column, known.get(column.name), bool(fields)) for column in columns},
        "required": [f.name for f in fields],
    }


def example(schema: Schema) -> dict[str, Any]:
    """A valid record without id and target, for documents.

    >>> example(Schema((Field("age", "integer", maximum=0), Field("job", "category")), target="y"))
    {'age': 0, 'job': 'a'}
    """
    values: dict[str, Any] = {"category": "a", "text": "some text", "timestamp": "2026-01-31T12:00:00Z"}
    return {field.name: _near_one(field) if field.numeric else values[field.kind] for field in schema.fields}


def _near_one(field: Field) -> float:
    low, high = validation.limits(field)
    number = min(max(1.0, low), high)
    return int(number) if field.kind == "integer" else number


def _property(column: pa.Field, field: Field | None, sent: bool) -> dict[str, Any]:
    """A column; where clients send it, with the limits that hold for everything that is sent."""
    null = [] if field is not None and field.required else ["null"]
    if pa.types.is_timestamp(column.type):
        return {"type": ["string", *null], "format": "date-time"}
    if pa.types.is_string(column.type):
        whole = ["integer"] if sent and (field is None or field.kind == "category") else []
        limits = {"maxLength": ID_LIMIT if field is None else TEXT_LIMIT, "pattern": validation.WITHOUT_NUL}
        return {"type": ["string", *whole, *null], **(limits if sent else {})}
    kind = "integer" if pa.types.is_integer(column.type) else "number"
    limit = INTEGER_LIMIT if kind == "integer" else MAGNITUDE_LIMIT
    low, high = (field.minimum, field.maximum) if field else (None, None)
    bounds = {"minimum": -limit if low is None else low, "maximum": limit if high is None else high}
    return {"type": [kind, *null], **(bounds if sent else {})}
