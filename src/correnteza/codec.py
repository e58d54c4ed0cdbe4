"""Between what people send (JSON, NDJSON, Arrow streams) and batches.

Invariants:
- Whatever the bytes are, the answer is a batch, a list of problems or an InputError; nothing else.
- A decoded batch has exactly the columns of `Schema.raw`; missing values are nulls.
- What a body becomes in memory is bounded by a multiple of its length, whatever lengths it declares.
- Where a JSON object has a key twice, the last one counts, as in every other JSON parser.
- The fast path costs one compiled decoder; the slow path, which finds every fault of every record,
  is taken only when the fast one has failed.
- What `Codec.accept` takes, `Codec.decode` takes too, and reads it in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from correnteza import validation
from correnteza.errors import InputError, Problem
from correnteza.ipc import EXPANSION, fitted, read_table
from correnteza.records import ID, INTEGER_LIMIT, TEXT_LIMIT, Field, Schema
from correnteza.times import parse_times, time_of

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = (JSON, NDJSON, ARROW)
MAX_PROBLEMS = 100
"""Most faults that one answer lists."""
ID_LIMIT = validation.ID_LIMIT
BAD_RECORDS = 10_000
"""Most invalid records in a JSON body; with more of them it is not worth while to name each."""
ECHO = 100  # characters of a client's name that are sent back at most

_UNFIT = "the columns of the Arrow stream do not fit the schema"
_PATH = re.compile(r" - at `\$(?:\[\.\.\.\]|\[\d+\])?\.?([^`]*)`$")
_Integer = Annotated[int, msgspec.Meta(ge=-INTEGER_LIMIT, le=INTEGER_LIMIT)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]
_Id = Annotated[str, msgspec.Meta(max_length=ID_LIMIT)]
_TYPES: dict[str, Any] = {
    "float": float | None,
    "integer": _Integer | None,
    "category": _Text | int | None,
    "text": _Text | None,
    "timestamp": str | None,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body held.

    Args:
        batch: all records, with the columns of `Schema.raw`. Where problems name a record, its row is not to be used.
        problems: every fault found, by record.
        single: whether the body was one object rather than a sequence.
    """

    batch: pa.RecordBatch
    problems: tuple[Problem, ...]
    single: bool


class Codec:
    """Decodes records of one schema.

    Args:
        schema: the schema.
        partial: whether fields may be left out (for predictions); the target is then not known at all.

    >>> codec = Codec(Schema((Field("age", "float"),), target="y"))
    >>> codec.decode(b'{"age": 3, "y": 1.5}', "application/json").batch.to_pylist()
    [{'id': None, 'age': 3.0, 'y': 1.5}]
    >>> codec.decode(b'[{"age": "x"}]', "application/json").problems[0].reason
    'Expected `float | null`, got `str`'
    """

    def __init__(self, schema: Schema, partial: bool = False) -> None:
        self.schema = schema
        self.record: Any = _struct(schema, partial)
        self._attributes = [f"f{i}" for i in range(len(schema.fields))]
        self._target = not partial
        self._raw = schema.raw
        required = [field.encode_name for field in msgspec.structs.fields(self.record) if field.required]
        self._blank = msgspec.convert(dict.fromkeys(required), self.record)
        self._one = msgspec.json.Decoder(self.record)
        self._many = msgspec.json.Decoder(list[self.record])  # type: ignore[name-defined]
        self._valid = msgspec.json.Decoder(_struct(schema, partial, validation.accepted, validation.ACCEPTED_ID))
        self._numbers = [(f, a) for a, f in zip(self._attributes, schema.fields, strict=True) if f.numeric]
        self._times = [a for a, f in zip(self._attributes, schema.fields, strict=True) if f.kind == "timestamp"]
        self._row = pa.struct(list(self._raw))
        self._texts = [place for place, kind in enumerate(self._raw.types) if pa.types.is_string(kind)]

    def decode(self, body: bytes, content_type: str | None) -> Decoded:
        """Decode a request body.

        Args:
            body: its bytes.
            content_type: its media type; None means JSON.

        Raises:
            InputError: it cannot be read at all (400), or is of another media type (415).
        """
        media = _media(content_type)
        if media not in MEDIA_TYPES:
            raise InputError(f"Content-Type {media[:80]!r} is not read here; send one of {', '.join(MEDIA_TYPES)}", status=415)
        _refuse_empty(body)
        if media == ARROW:
            return self._from_arrow(body)
        try:
            records, single = self._fast(body, media == NDJSON)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError):
            return self._slow(*plain_values(body, media == NDJSON))
        return self._checked(records, (), single)

    def accept(self, body: bytes, content_type: str | None) -> Any | None:
        """One valid record as a struct for `batch`, in a few microseconds; None when `decode` must have a look.

        Args:
            body: one JSON object.
            content_type: its media type; None means JSON.

        >>> codec = Codec(Schema((Field("age", "float", minimum=0),), target="y"))
        >>> codec.batch([codec.accept(b'{"age": 3, "id": "a"}', JSON)]).to_pylist()
        [{'id': 'a', 'age': 3.0, 'y': None}]
        >>> codec.accept(b'{"age": -3}', JSON)
        """
        if _media(content_type) != JSON or nul_in(body):
            return None
        try:
            record = self._valid.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError):
            return None
        for attribute in self._times:
            text = getattr(record, attribute)
            time = time_of(text)
            if text and time is None:
                return None
            setattr(record, attribute, time)
        return record

    def batch(self, records: Sequence[Any]) -> pa.RecordBatch:
        """Records that `accept` returned, with the columns of `Schema.raw`.

        Row by row, for there are few: each column that is made by itself costs as much as a fifth of this.
        """
        return pa.RecordBatch.from_struct_array(pa.array(map(self._values, records), self._row))

    def _values(self, record: Any) -> tuple[Any, ...]:
        """The values of a record in the order of `Schema.raw`."""
        values = [*msgspec.structs.astuple(record), *(() if self._target else (None,))]
        for place in self._texts:
            values[place] = _text(values[place])
        return tuple(values)

    def faults(self, item: Any) -> list[Problem]:
        """What is wrong with a single record, found without columns; nothing where `decode` must have a look.

        Args:
            item: a plain value from JSON.

        >>> Codec(Schema((Field("age", "float", minimum=0),), target="y")).faults({"age": -3})
        [Problem(index=0, field='age', reason='-3.0 is not within 0 and 1e+100')]
        """
        try:
            record = msgspec.convert(item, self.record, strict=True)
        except (msgspec.ValidationError, OverflowError) as error:
            return [problem_of(0, str(error))]
        found = []
        for field, attribute in self._numbers:
            reason = validation.of_number(getattr(record, attribute), field)
            if reason:
                found.append(Problem(0, field.name, reason))
                item = {**item, field.name: validation.limits(field)[0]}
        return found if found and self.accept(msgspec.json.encode(item), JSON) else []

    def _fast(self, body: bytes, lines: bool) -> tuple[list[Any], bool]:
        if lines:
            return self._one.decode_lines(body), False
        if body.lstrip()[:1] == b"[":
            return self._many.decode(body), False
        return [self._one.decode(body)], True

    def _slow(self, items: Sequence[Any], single: bool) -> Decoded:
        records, found = [], []
        for index, item in enumerate(items):
            try:
                records.append(msgspec.convert(item, self.record, strict=True))
            except (msgspec.ValidationError, OverflowError) as error:
                records.append(self._blank)
                found.append(problem_of(index, str(error)))
                if len(found) > BAD_RECORDS:
                    raise InputError(f"more than {BAD_RECORDS} of {len(items)} records are invalid", found) from None
        if len(found) == len(items):  # mostly a single record, and nothing is left to be looked at
            return Decoded(self._missing(len(items)), tuple(found), single)
        return self._checked(records, found, single)

    def _missing(self, rows: int) -> pa.RecordBatch:
        """So many rows without a value."""
        return pa.RecordBatch.from_arrays([pa.nulls(rows, kind) for kind in self._raw.types], schema=self._raw)

    def _checked(self, records: Sequence[Any], found: Sequence[Problem], single: bool) -> Decoded:
        bad = {p.index for p in found}
        batch, faults = self._columns(records)
        faults += validation.problems(batch, self.schema)
        found = [*found, *(p for p in faults if p.index not in bad)]
        return Decoded(batch, tuple(sorted(found, key=lambda p: p.index)), single)

    def _columns(self, records: Sequence[Any]) -> tuple[pa.RecordBatch, list[Problem]]:
        """The records as columns, and which values are no times."""
        columns: list[pa.Array] = [_texts([r.id for r in records])]
        found: list[Problem] = []
        for field, attribute in zip(self.schema.fields, self._attributes, strict=True):
            column, faults = _column([getattr(r, attribute) for r in records], field)
            columns.append(column)
            found.extend(faults)
        columns.append(pa.array([r.target for r in records] if self._target else [None] * len(records), pa.float64()))
        return pa.RecordBatch.from_arrays(columns, schema=self._raw), found

    def _from_arrow(self, body: bytes) -> Decoded:
        table = read_table(body)
        found = self._columns_at_fault(table.column_names)
        if found:
            raise InputError(_UNFIT, found)
        columns: list[pa.Array] = []
        for field in self._raw:
            there = field.name in table.column_names
            column = table[field.name] if there else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            try:
                columns.append(fitted(column, field.type, EXPANSION * len(body)))
            except pa.ArrowException as error:
                reason = f"a column of {column.type} cannot become {field.type}: {str(error)[:200]}"
                raise InputError(_UNFIT, [Problem(0, field.name, reason)]) from None
        batch = pa.RecordBatch.from_arrays(columns, schema=self._raw)
        return Decoded(batch, tuple(validation.problems(batch, self.schema)), False)

    def _columns_at_fault(self, names: list[str]) -> list[Problem]:
        known = [*self._raw.names] if self._target else [n for n in self._raw.names if n != self.schema.target]
        found = [Problem(0, name[:ECHO], "is not a field of the schema") for name in names if name not in known]
        found += [Problem(0, name, "stands there twice") for name in known if names.count(name) > 1]
        if self._target:
            there = {*names, ID, self.schema.target}
            found += [
                Problem(0, f.name, "is missing; send nulls if unknown") for f in self.schema.fields if f.name not in there
            ]
        return found


def _media(content_type: str | None) -> str:
    return JSON if content_type is None else content_type.partition(";")[0].strip().lower() or JSON


def _lenient(field: Field) -> Any:
    return _TYPES[field.kind]


def _struct(schema: Schema, partial: bool, type_of: Callable[[Field], Any] = _lenient, id_type: Any = _Id | int) -> Any:
    """A msgspec type for one record, in the order of `Schema.raw`; attributes are f0, f1, ... because names may be any text."""
    empty = (None,) if partial else ()
    fields: list[tuple[Any, ...]] = [("id", id_type | None, None)]
    fields += [(f"f{i}", type_of(f), *empty) for i, f in enumerate(schema.fields)]
    names = {f"f{i}": f.name for i, f in enumerate(schema.fields)}
    if not partial:
        fields.append(("target", type_of(Field(schema.target, "float")), None))
        names["target"] = schema.target
    return msgspec.defstruct("Record", fields, kw_only=True, forbid_unknown_fields=True, rename=names, gc=False)


def _column(values: list[Any], field: Field) -> tuple[pa.Array, list[Problem]]:
    if field.kind == "timestamp":
        return _times(values, field.name)
    if field.kind in ("category", "text"):
        return _texts(values), []
    return pa.array(values, field.arrow.type), []


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: str | int | None) -> str | None:
    """A text, or a whole number as its text; the empty text is a missing value."""
    return None if value is None or value == "" else str(value)


def _times(values: list[Any], name: str) -> tuple[pa.Array, list[Problem]]:
    column, bad = parse_times(pa.array(values, pa.string()))
    reason = "is not a time; expected ISO 8601, as in 2026-01-31T12:00:00Z"
    return column, [Problem(int(i), name, f"{str(values[i])[:80]!r} {reason}") for i in np.flatnonzero(bad)]


def nul_in(body: bytes) -> bool:
    """Whether a body in JSON has the escape of a NUL, the only way in which one can come; mostly there is no escape at all."""
    return b"\\" in body and b"\\u0000" in body


def _refuse_empty(body: bytes) -> None:
    if not body or body.isspace():
        raise InputError("the body is empty; send at least one record", status=400)


def plain_values(body: bytes, lines: bool) -> tuple[list[Any], bool]:
    """JSON, or NDJSON if `lines`, as plain values, one per record, and whether the body was one rather than a sequence.

    Raises:
        InputError: it is neither; says why.
    """
    _refuse_empty(body)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode_lines if lines else msgspec.json.decode
    try:
        value = decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError) as error:
        what = "NDJSON (one object a line)" if lines else "JSON"
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"the body is not valid {what}: {reason}", status=400) from None
    if lines or isinstance(value, list):
        return value, False
    return [value], True


def problem_of(index: int, message: str, missing: str = "is missing; send null if it is unknown") -> Problem:
    """What msgspec says of the record at `index`, as a problem: the path at the message's end becomes the field.

    Args:
        index: of the record.
        message: of msgspec.
        missing: what is said of a field that is not there.
    """
    match = _PATH.search(message)
    reason = message[: match.start()] if match else message
    field = match[1] if match else ""
    named = re.match(r"Object (?:contains unknown|missing required) field `([^`]*)`", reason)
    if named:
        reason = "is not a field of the schema" if "unknown" in reason else missing
        return Problem(index, named[1][:ECHO], reason)
    return Problem(index, field, reason)


def arrow_stream(batch: pa.RecordBatch) -> bytes:
    """A batch as the bytes of an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def encode_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as plain values for `msgspec.json.encode`; times become ISO 8601 in it, missing values null."""
    return batch.to_pylist()  # type: ignore[no-any-return]
