"""The derived features of questions: what was asked, completed with what the memory says as of now.

Invariants:
- A question's features are those that its records would get as the next rows of the stream; the records of one
  question do not see each other.
- A record without an event time is asked about now, by this machine's clock; one that has it, about that time.
- What was derived is stored with the answer, so that an outcome is learned from with what was predicted on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats
from correnteza.memory.single import Value
from correnteza.records import TIMESTAMP, Schema
from correnteza.trainer.following import Following
from correnteza.trainer.questions import Question, attributes_of, values_in

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FEW = 16
"""Records that are looked up one by one rather than as columns."""


class Deriving:
    """Completes questions. Safe to use from several threads.

    Args:
        schema: with the definitions.
        memory: what earlier records left.
        clock: Unix time in microseconds.
    """

    def __init__(self, schema: Schema, memory: Following, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._schema = schema
        self._memory = memory
        self._clock = clock
        self._timestamp = schema.timestamp or ""
        self.names = tuple(name for one in schema.derived for name in one.columns)
        needed = {name for one in schema.derived for name in (*one.of, one.by)} - {schema.target, None}
        self._fields = [(field.name, field.kind) for field in schema.fields if field.name in needed | {self._timestamp}]
        self._attributes: dict[Any, list[tuple[str, str, str]]] = {}
        fields = [(f"d{i}", float | None, None) for i in range(len(self.names))]
        rename = {f"d{i}": name for i, name in enumerate(self.names)}
        self._derived = msgspec.defstruct("Derived", fields, omit_defaults=True, rename=rename, gc=False)

    def complete(self, question: Question) -> Question:
        """The question with its derived features.

        Raises:
            NoModelError: there is no memory yet.
        """
        rows = len(question.ids)
        if not self.names:
            return question
        if 0 < rows <= FEW and not isinstance(question.records, pa.RecordBatch):
            made = [self._one(record) for record in question.records]
        else:
            made = self._many(question).tolist()
        numbers = np.concatenate([question.numbers, np.array(made).reshape(rows, len(self.names))], axis=1)
        derived = [self._derived(*_without_nan(row)) for row in made]
        return Question(numbers, question.categories, question.ids, question.records, question.single, derived)

    def of_key(self, by: str | None, key: str | int | None, time_us: int | None) -> dict[str, float | None]:
        """The features of a record that has no more than a key.

        Args:
            by: the field that the key is of; None for none.
            key: its value.
            time_us: event time, in microseconds of Unix time; None is now.
        """
        times = {self._timestamp: self._clock() if time_us is None else time_us} if self._timestamp else {}
        made = self._memory.one({} if by is None else {by: key}, times)
        return dict(zip(self.names, _without_nan(made), strict=True))

    def _one(self, record: Any) -> list[float]:
        values: dict[str, Value] = {}
        times_us: dict[str, int] = {}
        for name, kind, attribute in self._needed(type(record)):
            value = getattr(record, attribute)
            if kind == "timestamp":
                if value is not None:
                    times_us[name] = _time_us(value)
            else:
                values[name] = _text(value) if kind in ("category", "text") else value
        if self._timestamp and self._timestamp not in times_us:
            times_us[self._timestamp] = self._clock()
        return self._memory.one(values, times_us)

    def _needed(self, struct: Any) -> list[tuple[str, str, str]]:
        """Name, kind and attribute of the fields that are needed, for structs of a type; there are few types."""
        if struct not in self._attributes:
            attributes = attributes_of(struct)
            self._attributes[struct] = [(name, kind, attributes[name]) for name, kind in self._fields if name in attributes]
        return self._attributes[struct]

    def _many(self, question: Question) -> Floats:
        columns = {name: self._column(question, name) for name, _ in self._fields}
        if self._timestamp:
            now = pa.scalar(self._clock(), pa.int64()).cast(TIMESTAMP)
            columns[self._timestamp] = pc.fill_null(columns[self._timestamp], now)
        rows = len(question.ids)
        if not columns:  # nothing but the target is remembered, in one memory
            columns[""] = pa.nulls(rows)
        made = self._memory.vector(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
        found = np.empty((rows, len(self.names)))
        for place, name in enumerate(self.names):
            found[:, place] = made[name]
        return found

    def _column(self, question: Question, name: str) -> pa.Array:
        records, kind = question.records, self._schema.raw.field(name).type
        if isinstance(records, pa.RecordBatch):
            return records.column(name)
        values = values_in(records, name)
        if kind == TIMESTAMP:
            return pa.array([None if value is None else _time_us(value) for value in values], pa.int64()).cast(TIMESTAMP)
        return pa.array([_text(value) for value in values] if pa.types.is_string(kind) else values, kind)


def _without_nan(values: Sequence[float]) -> list[float | None]:
    return [None if value != value else value for value in values]


def _text(value: str | int | None) -> str | None:
    return None if value is None or value == "" else str(value)


def _time_us(value: datetime) -> int:
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND
