"""What `POST /predict` is asked: bodies in, arrays for the model out.

Invariants:
- The fast path accepts only what `codec.Codec` accepts too, and reads it in the same way; everything
  else goes to the codec, which knows every fault by record and field.
- A missing field and a null are missing values; an unknown field, the target among them, is refused.
- A request has at most `MAX_ROWS` records, which is known before memory is taken for each: three bytes make one.
- Many records are taken column by column; no loop of Python's own goes over them but that for texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import validation
from correnteza.codec import ARROW, ECHO, JSON, NDJSON, Codec, nul_in, plain_values
from correnteza.errors import InputError, Problem
from correnteza.features import Floats
from correnteza.records import ID, Field, Schema
from correnteza.trainer.upstream import columns

MAX_ROWS = 100_000
"""Most records in one request."""
_RAW, _RAWS = msgspec.json.Decoder(msgspec.Raw), msgspec.json.Decoder(list[msgspec.Raw])
LIST = (b"[", b" ", b"\n", b"\t", b"\r")
"""What a body begins with that may be an array."""

_ORDERS = 16
"""Orders of columns whose decoders are kept."""


class _Columns(msgspec.Struct, forbid_unknown_fields=True):
    """The form `{"columns": [...], "rows": [[...], ...]}`."""

    columns: list[str]
    rows: msgspec.Raw


class _AnyColumns(msgspec.Struct, forbid_unknown_fields=True):
    """The same, whatever is inside."""

    columns: list[Any]
    rows: list[Any]


Records: TypeAlias = Sequence[Any] | pa.RecordBatch
"""Records as structs or plain objects, or as columns without the target."""


@dataclass(frozen=True, slots=True)
class Question:
    """Records to predict.

    Args:
        numbers: in their own units, NaN is missing, shape [rows, numeric fields].
        categories: texts, "" is missing, shape [rows, category fields].
        ids: of the records, None where a record has none.
        records: the records themselves, for `texts_of`.
        single: whether one object was sent rather than an array.
        derived: what was derived for each record, as structs for `texts_of`; empty where no feature is derived.
    """

    numbers: Floats
    categories: npt.NDArray[np.object_]
    ids: Sequence[str | None]
    records: Records
    single: bool
    derived: Sequence[Any] = ()


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
        self._columns = msgspec.json.Decoder(_Columns)
        self._order = lru_cache(_ORDERS)(lambda names: _Order(schema, names))

    def read(self, body: bytes, content_type: str | None) -> Question:
        """Read a body.

        Args:
            body: one JSON object or an array of them, NDJSON, an Arrow stream, or as JSON
                `{"columns": [names], "rows": [[values], ...]}`.
            content_type: its media type; None means JSON.

        Raises:
            InputError: it is refused; lists every fault with the record's index and the field.
        """
        media = JSON if content_type is None else content_type.partition(";")[0].strip().lower()
        if len(body) > MAX_ROWS and media != ARROW:
            _refuse_more(self._count(body, media))
        if media in (JSON, NDJSON) and not nul_in(body):
            try:
                if media == NDJSON:
                    return self._many_asked(self._one.decode_lines(body) or self._many.decode(b""))
                if body[:1] in LIST:
                    return self._many_asked(self._many.decode(body))
                return self.few([self._one.decode(body)])
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                pass  # the codec finds out what is wrong, or accepts what is only unusual
            if media == JSON and (question := self._columns_asked(body)) is not None:
                return question
        return self._slowly(body, content_type)

    def _count(self, body: bytes, media: str) -> int:
        """How many records there are, or, where that is not too many, an upper bound of it."""
        at_most = max(body.count(b"{"), body.count(b"["))
        if at_most <= MAX_ROWS:
            return at_most
        try:
            if media == NDJSON:
                return len(_RAW.decode_lines(body))
            return len(_RAWS.decode(body if body[:1] in LIST else self._columns.decode(body).rows))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return 0  # it is no sequence of records, and will be refused as what it is

    def record(self, body: bytes) -> Any | None:
        """The record of a body that is one JSON object, for `few`; None for any other, and for what `read` refuses."""
        try:
            return None if nul_in(body) else self._one.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None

    def refuse(self, body: bytes) -> None:
        """Raise what `read` raises for a body that `record` did not take, mostly at a small part of the cost."""
        values, single = plain_values(body, lines=False)
        if single and not (isinstance(values[0], dict) and "columns" in values[0]):
            problems = self._codec.faults(values[0])
            if problems:
                raise _refused([self._explained(problem) for problem in problems])
        self.read(body, JSON)

    def few(self, records: Sequence[Any]) -> Question:
        """A question for some records, as `record` returns them; row by row, which for a few is faster."""
        rows = [msgspec.structs.astuple(record) for record in records]
        numbers = np.array([row[1 : 1 + self._numeric] for row in rows], np.float64)
        texts = [[_text(value) for value in row[1 + self._numeric : 1 + self._features]] for row in rows]
        categories = np.array(texts, object).reshape(len(rows), self._features - self._numeric)
        return Question(numbers, categories, [_id(row[0]) for row in rows], records, single=len(rows) == 1)

    def _many_asked(self, records: list[Any]) -> Question:
        names = dict(zip(self._schema.features, _attributes(self._features), strict=True))
        columns = {name: _values(records, attribute) for name, attribute in names.items()}
        return self._asked(columns, _values(records, ID), records)

    def _columns_asked(self, body: bytes) -> Question | None:
        """The question of a body in the form of columns; None when it is none or something is wrong with it."""
        try:
            found = self._columns.decode(body)
            columns, records = self._order(tuple(found.columns)).read(found.rows)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, LookupError):
            return None
        return self._asked(columns, [*columns.get(ID, [None] * len(records))], records)

    def _asked(self, columns: Mapping[str, Sequence[Any]], ids: list[Any], records: list[Any]) -> Question:
        """A question for many, from the values of each field that was sent."""
        numbers = np.full((len(records), self._numeric), np.nan)
        categories = np.full((len(records), self._features - self._numeric), "", object)
        for matrix, names in ((numbers, self._schema.numeric), (categories, self._schema.categories)):
            for place, name in enumerate(names):
                if name in columns:
                    matrix[:, place] = columns[name] if matrix is numbers else _texts(columns[name])
        return Question(numbers, categories, _ids(ids), records, single=False)

    def _slowly(self, body: bytes, content_type: str | None) -> Question:
        decoded = self._codec.decode(self._without_columns(body), content_type)
        if decoded.problems:
            raise _refused([self._explained(problem) for problem in decoded.problems])
        batch = decoded.batch
        _refuse_more(batch.num_rows)
        texts = np.empty((batch.num_rows, len(self._schema.categories)), object)
        for place, name in enumerate(self._schema.categories):
            texts[:, place] = pc.fill_null(batch[name], "").to_numpy(zero_copy_only=False)
        numbers = columns(batch, self._schema.numeric)
        return Question(numbers, texts, batch[ID].to_pylist(), batch.drop_columns([self._schema.target]), decoded.single)

    def _without_columns(self, body: bytes) -> bytes:
        """A body in the form of columns as an array of objects, for the codec; any other as it is.

        Raises:
            InputError: names or numbers of columns are wrong.
        """
        if b'"columns"' not in body or b'"rows"' not in body:
            return body
        try:
            found = msgspec.json.decode(body, type=_AnyColumns)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError):
            return body
        problems = [*self._unknown_columns(found.columns), *_uneven(found)]
        if problems:
            raise _refused([self._explained(problem) for problem in problems])
        return msgspec.json.encode([dict(zip(found.columns, row, strict=True)) for row in found.rows])

    def _unknown_columns(self, names: list[Any]) -> Iterator[Problem]:
        known = {ID, *(field.name for field in self._schema.fields)}
        for place, name in enumerate(names):
            if not isinstance(name, str) or name not in known:
                yield Problem(0, str(name)[:ECHO], "is not a field of the schema")
            elif name in names[:place]:
                yield Problem(0, name, "stands there twice")

    def _explained(self, problem: Problem) -> Problem:
        if problem.field != self._schema.target:
            return problem
        return replace(problem, reason="is the target, which is what is asked for; leave it out")


class _Order:
    """Reads rows whose values stand in the order of some columns.

    Args:
        schema: of the records.
        names: of the columns.

    Raises:
        KeyError: a name is not in the schema, stands there twice, or is missing although it is required.
    """

    def __init__(self, schema: Schema, names: tuple[str, ...]) -> None:
        types = {ID: validation.ACCEPTED_ID | None, **{field.name: _type(field) for field in schema.fields}}
        missing = {field.name for field in schema.fields if field.required} - {*names}
        if len({*names}) != len(names) or not names or missing:
            raise KeyError(names)
        attributes = _attributes(len(names))
        fields = [(a, types[name]) for a, name in zip(attributes, names, strict=True)]
        row = msgspec.defstruct("Row", fields, array_like=True, forbid_unknown_fields=True, gc=False)
        self._attributes = attributes
        self._names = names
        self._decode = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
        rename = dict(zip(attributes, names, strict=True))
        self._record = msgspec.defstruct("Record", [(a, Any, None) for a in attributes], rename=rename, omit_defaults=True)

    def read(self, rows: msgspec.Raw) -> tuple[dict[str, Sequence[Any]], list[Any]]:
        """The values by column, and the records as structs for `texts_of`.

        Raises:
            MsgspecError: the rows are not of this form, or a value is refused.
        """
        found = self._decode(rows)
        values = [_values(found, attribute) for attribute in self._attributes]
        return dict(zip(self._names, values, strict=True)), list(map(self._record, *values))


def _attributes(count: int) -> list[str]:
    """Names of the attributes of a struct, because field names may be any text."""
    return [f"f{i}" for i in range(count)]


def _values(records: Iterable[Any], attribute: str) -> list[Any]:
    """One attribute of each; a list per attribute keeps the garbage collector quiet, a tuple per record would not."""
    return list(map(attrgetter(attribute), records))


def values_in(records: Sequence[Any], name: str) -> list[Any]:
    """The values that the structs of a question, all of one kind, have in a field; None where it is missing."""
    attribute = attributes_of(records[0]).get(name) if records else None
    return [None] * len(records) if attribute is None else _values(records, attribute)


def attributes_of(record: Any) -> dict[str, str]:
    """The attributes of a struct by the names of the fields that they hold."""
    return dict(zip(record.__struct_encode_fields__, record.__struct_fields__, strict=True))


def _refuse_more(rows: int) -> None:
    if rows > MAX_ROWS:
        raise InputError(f"the request has {rows:,} records; send at most {MAX_ROWS:,} at a time", status=413)


def _uneven(found: _AnyColumns) -> Iterator[Problem]:
    for index, row in enumerate(found.rows):
        if not isinstance(row, list) or len(row) != len(found.columns):
            yield Problem(index, "", f"is not a list of {len(found.columns)} values, one for each of the columns")


def _refused(problems: list[Problem]) -> InputError:
    return InputError(f"{len({p.index for p in problems})} of the records are refused; see errors", problems)


def _text(value: str | int | None) -> str:
    return value if type(value) is str else "" if value is None else str(value)


def _texts(values: Sequence[Any]) -> Sequence[str]:
    """Texts of many, which mostly are texts already."""
    return values if {*map(type, values)} == {str} else [_text(value) for value in values]


def _id(value: str | int | None) -> str | None:
    return None if value is None or value == "" else str(value)


def _ids(values: list[Any]) -> list[str | None]:
    """The ids of many, of which mostly none has one."""
    return values if values.count(None) == len(values) else [_id(value) for value in values]


def _struct(schema: Schema) -> Any:
    """A msgspec type for one record: id, numbers, categories, then the other fields; attributes are f0, f1, ..."""
    names = dict.fromkeys((*schema.features, *(f.name for f in schema.fields)))
    by_name = {f.name: f for f in schema.fields}
    fields: list[tuple[Any, ...]] = [(ID, validation.ACCEPTED_ID | None, None)]
    fields += [(f"f{i}", _type(by_name[name]), *(() if by_name[name].required else (None,))) for i, name in enumerate(names)]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct(
        "Question", fields, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=rename, gc=False
    )


def _type(field: Field) -> Any:
    if field.kind != "timestamp":
        return validation.accepted(field)
    return datetime if field.required else datetime | None
