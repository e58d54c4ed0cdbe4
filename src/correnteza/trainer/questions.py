"""What `POST /predict` is asked: bodies in, arrays for the model out.

Invariants:
- The fast path accepts only what `codec.Codec` accepts too, and reads it in the same way; everything
  else goes to the codec, which knows every fault by record and field.
- A missing field and a null are missing values; an unknown field, the target among them, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from correnteza.codec import ID_LIMIT, JSON, Codec, encode_rows
from correnteza.errors import InputError, Problem
from correnteza.features import Floats
from correnteza.records import ID, INTEGER_LIMIT, MAGNITUDE_LIMIT, TEXT_LIMIT, Field, Schema
from correnteza.trainer.upstream import columns

_LIST = (b"[", b" ", b"\n", b"\t", b"\r")
"""What a body begins with that may be an array."""

_ESCAPED_NUL = b"\\u0000"
"""A NUL can only come in this way; texts with it are refused, and rare enough for the slow path to say so."""


@dataclass(frozen=True, slots=True)
class Question:
    """Records to predict.

    Args:
        numbers: in their own units, NaN is missing, shape [rows, numeric fields].
        categories: texts, "" is missing, shape [rows, category fields].
        ids: of the records, None where a record has none.
        records: the records themselves, for `text_of`.
        single: whether one object was sent rather than an array.
    """

    numbers: Floats
    categories: npt.NDArray[np.object_]
    ids: Sequence[str | None]
    records: Sequence[Any]
    single: bool


class Reader:
    """Reads the bodies of one schema's questions. Safe to use from several threads.

    Args:
        schema: of the records.

    >>> reader = Reader(Schema((Field("age", "float"), Field("job", "category")), target="income"))
    >>> question = reader.read(b'{"age": 31}', None)
    >>> question.numbers.tolist(), question.categories.tolist(), question.ids
    ([[31.0]], [['']], [None])
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._codec = Codec(schema, partial=True)
        record = _struct(schema)
        self._one = msgspec.json.Decoder(record)
        self._many = msgspec.json.Decoder(list[record])  # type: ignore[valid-type]
        self._numeric = len(schema.numeric)
        self._features = len(schema.features)

    def read(self, body: bytes, content_type: str | None) -> Question:
        """Read a body.

        Args:
            body: one JSON object or an array of them, NDJSON or an Arrow stream.
            content_type: its media type; None means JSON.

        Raises:
            InputError: it is refused; lists every fault with the record's index and the field.
        """
        json = content_type is None or content_type.partition(";")[0].strip().lower() == JSON
        if json and _ESCAPED_NUL not in body:
            try:
                if body[:1] in _LIST:
                    return self._asked(self._many.decode(body), single=False)
                return self._asked([self._one.decode(body)], single=True)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                pass  # the codec finds out what is wrong, or accepts what is only unusual
        return self._slowly(body, content_type)

    def _asked(self, records: list[Any], single: bool) -> Question:
        rows = [msgspec.structs.astuple(record) for record in records]
        numbers = np.array([row[1 : 1 + self._numeric] for row in rows], np.float64).reshape(len(rows), self._numeric)
        texts = [[_text(value) for value in row[1 + self._numeric : 1 + self._features]] for row in rows]
        categories = np.array(texts, object).reshape(len(rows), self._features - self._numeric)
        return Question(numbers, categories, [_id(row[0]) for row in rows], records, single)

    def _slowly(self, body: bytes, content_type: str | None) -> Question:
        decoded = self._codec.decode(body, content_type)
        if decoded.problems:
            problems = [self._explained(problem) for problem in decoded.problems]
            raise InputError(f"{len({p.index for p in problems})} of the records are refused; see errors", problems)
        batch = decoded.batch
        texts = np.array([batch[name].to_pylist() for name in self._schema.categories], object)
        texts = texts.reshape(len(self._schema.categories), batch.num_rows).T
        texts[texts == None] = ""  # noqa: E711 - compared element by element
        return Question(columns(batch, self._schema.numeric), texts, batch[ID].to_pylist(), encode_rows(batch), decoded.single)

    def _explained(self, problem: Problem) -> Problem:
        if problem.field != self._schema.target:
            return problem
        return replace(problem, reason="is the target, which is what is asked for; leave it out")


def text_of(record: Any) -> str:
    """A record of a question as JSON, without its missing values."""
    if isinstance(record, dict):
        record = {name: value for name, value in record.items() if value is not None}
    return msgspec.json.encode(record).decode()


def _text(value: str | int | None) -> str:
    return value if type(value) is str else "" if value is None else str(value)


def _id(value: str | int | None) -> str | None:
    return None if value is None or value == "" else str(value)


def _struct(schema: Schema) -> Any:
    """A msgspec type for one record: id, numbers, categories, then the other fields; attributes are f0, f1, ..."""
    names = dict.fromkeys((*schema.features, *(f.name for f in schema.fields)))
    by_name = {f.name: f for f in schema.fields}
    fields: list[tuple[Any, ...]] = [(ID, Annotated[str, Meta(max_length=ID_LIMIT)] | int | None, None)]
    fields += [(f"f{i}", *_type_and_default(by_name[name])) for i, name in enumerate(names)]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct(
        "Question", fields, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=rename, gc=False
    )


def _type_and_default(field: Field) -> tuple[Any, ...]:
    kind: Any = {
        "float": Annotated[float, _bounds(field, MAGNITUDE_LIMIT)],
        "integer": Annotated[int, _bounds(field, INTEGER_LIMIT)],
        "category": Annotated[str, Meta(max_length=TEXT_LIMIT)] | Annotated[int, Meta(ge=-INTEGER_LIMIT, le=INTEGER_LIMIT)],
        "text": Annotated[str, Meta(max_length=TEXT_LIMIT)],
        "timestamp": datetime,
    }[field.kind]
    return (kind,) if field.required else (kind | None, None)


def _bounds(field: Field, limit: float) -> Meta:
    low = -limit if field.minimum is None else field.minimum
    high = limit if field.maximum is None else field.maximum
    if field.kind == "integer":
        low, high = math.ceil(low), math.floor(high)
    return Meta(ge=low, le=high)
