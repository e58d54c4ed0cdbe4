"""The schema of a stream and the Arrow types that it stands for.

Invariant: a batch is a `pyarrow.RecordBatch` whose columns are exactly those of one of the schemas
below, in that order. A batch that was read from a log has the column `offset` (int64) in front.
Missing values are Arrow nulls, never NaN and never the empty text.

Units: `event_time` columns are UTC microseconds; every other number is in the unit of its source.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from correnteza.definition import Feature, Known, faults
from correnteza.errors import ConfigError, DefinitionError, Problem

FieldKind = Literal["float", "integer", "category", "text", "timestamp"]
KINDS: tuple[str, ...] = get_args(FieldKind)
OFFSET = "offset"
ID = "id"
RESERVED = frozenset({OFFSET, ID, "raw_offset", "scaler_version", "prediction", "lower", "upper", "model_version"})
TIMESTAMP = pa.timestamp("us", tz="UTC")
NAME_PATTERN = re.compile(r"^[A-Za-z_][A-Za-z0-9_ .\-]{0,99}$")
_USABLE = "expected a letter or _, then letters, digits, space or . _ -"
INTEGER_LIMIT = 2**53
"""Integers beyond ±2**53 are not exact in float64, so they are refused."""
MAGNITUDE_LIMIT = 1e100
"""Numbers beyond ±1e100 are refused: their squares, summed over a stream, would not stay finite."""
TEXT_LIMIT = 10_000
"""Longest text or category, in characters."""

_ARROW: dict[str, pa.DataType] = {
    "float": pa.float64(),
    "integer": pa.int64(),
    "category": pa.string(),
    "text": pa.string(),
    "timestamp": TIMESTAMP,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Args:
        name: as in the data.
        kind: `float` and `integer` are standardised, `category` is encoded, `text` and `timestamp`
            are carried along and not learned from.
        minimum: smallest valid number (inclusive), in the field's unit.
        maximum: largest valid number (inclusive), in the field's unit.
        required: whether a missing value makes the record invalid.
    """

    name: str
    kind: FieldKind
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False

    def __post_init__(self) -> None:
        where = f"schema field {self.name!r}"
        if not NAME_PATTERN.match(self.name) or self.name in RESERVED:
            raise ConfigError(
                f"{where}: not a usable name; use a letter or _ first, then letters, digits, space or . _ - "
                f"(at most 100), and none of {', '.join(sorted(RESERVED))}"
            )
        if self.kind not in KINDS:
            raise ConfigError(f"{where} has kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        if (self.minimum, self.maximum) != (None, None) and self.kind not in ("float", "integer"):
            raise ConfigError(f"{where} is a {self.kind} with minimum or maximum; only float and integer have bounds")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ConfigError(f"{where}: minimum {self.minimum} is above maximum {self.maximum}; swap them")

    @property
    def arrow(self) -> pa.Field:
        """The Arrow field that holds it."""
        return pa.field(self.name, _ARROW[self.kind])

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in ("float", "integer")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a record of the stream looks like.

    Args:
        fields: every field but the target, in their order; the timestamp among them if there is one.
        target: the name of the number to predict (always a float).
        timestamp: the name of the field with the event time, or None.
        derived: definitions of the features that the normalizer makes; their columns are the last of the fields.

    Raises:
        ConfigError: a name is used twice, the target is also a field, nothing can be learned from.

    >>> s = Schema((Field("age", "float"), Field("job", "category")), target="income")
    >>> s.features
    ('age', 'job')
    >>> s.raw.names
    ['id', 'age', 'job', 'income']
    """

    fields: tuple[Field, ...]
    target: str
    timestamp: str | None = None
    derived: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ConfigError(f"schema fields {', '.join(doubled)} stand there twice; name each once")
        if self.target in names:
            raise ConfigError(f"schema target {self.target!r} is also a field; take it out of the fields")
        Field(self.target, "float")
        if self.timestamp is not None and self.kind_of(self.timestamp) != "timestamp":
            raise ConfigError(f"schema timestamp {self.timestamp!r} is not a field of kind 'timestamp'; make it one")
        if not self.features:
            raise ConfigError("schema has no float, integer or category field; add one to learn from")

    def with_derived(self, derived: tuple[Feature, ...]) -> Schema:
        """The schema of what is learned from: these fields and, as further ones, the derived columns.

        Raises:
            DefinitionError: definitions are at fault.
        """
        known = Known({f.name: f.kind for f in self.fields}, self.target, self.timestamp)
        named = [(place, one.name, column) for place, one in enumerate(derived) for column in one.columns]
        odd = [
            Problem(place, "name", f"feature {name!r}: name {column!r} is not usable; {_USABLE}")
            for place, name, column in named
            if not NAME_PATTERN.match(column) or column in RESERVED
        ]
        if found := [*odd, *faults(derived, known)]:
            raise DefinitionError(found)
        names = [column for _, _, column in named]
        made = tuple(Field(column, "float") for column in names)
        return Schema((*self.fields, *made), self.target, self.timestamp, derived)

    @property
    def recorded(self) -> Schema:
        """The schema of the records themselves, without what is derived."""
        made = {column for one in self.derived for column in one.columns}
        return Schema(tuple(f for f in self.fields if f.name not in made), self.target, self.timestamp) if made else self

    def kind_of(self, name: str) -> str | None:
        """The kind of a field, or None when there is no such field."""
        return next((f.kind for f in self.fields if f.name == name), None)

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the fields that are standardised, in order."""
        return tuple(f.name for f in self.fields if f.numeric)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the fields that are encoded, in order."""
        return tuple(f.name for f in self.fields if f.kind == "category")

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of the model's input: first the numeric fields, then the categories."""
        return self.numeric + self.categories

    @property
    def raw(self) -> pa.Schema:
        """Arrow schema of the log `raw` (without `offset`): id, the fields, the target."""
        return pa.schema([pa.field(ID, pa.string()), *(f.arrow for f in self.fields), pa.field(self.target, pa.float64())])

    @property
    def normalized(self) -> pa.Schema:
        """Arrow schema of the log `normalized` (without `offset`).

        raw_offset, id, the event time if there is one, scaler_version, one float64 for each of
        `features` (standardised numbers; category codes, 0 for `other`), the target in its own unit.
        """
        time = [pa.field(self.timestamp, TIMESTAMP)] if self.timestamp else []
        return pa.schema(
            [
                pa.field("raw_offset", pa.int64()),
                pa.field(ID, pa.string()),
                *time,
                pa.field("scaler_version", pa.int64()),
                *(pa.field(name, pa.float64()) for name in self.features),
                pa.field(self.target, pa.float64()),
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for artefacts and fingerprints; `from_dict` reads them back."""
        derived = {"derived": [one.as_dict() for one in self.derived]} if self.derived else {}
        return {
            "target": self.target,
            "timestamp": self.timestamp,
            "fields": [
                {"name": f.name, "kind": f.kind, "minimum": f.minimum, "maximum": f.maximum, "required": f.required}
                for f in self.fields
            ],
            **derived,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the schema in hexadecimal; equal schemas have equal ones."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Schema:
        """The schema that `as_dict` described."""
        derived = tuple(Feature.from_dict(one) for one in values.get("derived", ()))
        return cls(tuple(Field(**f) for f in values["fields"]), values["target"], values["timestamp"], derived)


def with_offsets(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The batch with the column `offset` in front, counting from `first`."""
    offsets = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    return pa.RecordBatch.from_arrays([offsets, *batch.columns], names=[OFFSET, *batch.schema.names])


def kept(rows: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """The rows that a mask says; the batch itself where it says all, which costs nothing."""
    return rows if mask.true_count == rows.num_rows else rows.filter(mask)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of no rows."""
    return pa.RecordBatch.from_pylist([], schema=schema)


def as_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """One contiguous batch of a table's rows, its columns cast to `schema` and in its order."""
    parts = table.to_batches()
    batch = parts[0] if len(parts) == 1 else pa.concat_batches(parts) if parts else empty(table.schema)
    columns = []
    for field in schema:
        column = batch.column(field.name)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
