"""Between what people send (JSON, NDJSON, Arrow streams) and batches.

Invariants:
- Whatever the bytes are, the answer is a batch, a list of problems or an InputError; nothing else.
- A decoded batch has exactly the columns of `Schema.raw`; missing values are nulls.
- What a body becomes in memory is bounded by a multiple of its length, whatever lengths it declares.
- Where a JSON object has a key twice, the last one counts, as in every other JSON parser.
- The fast path costs one compiled decoder; the slow path, which finds every fault of every record,
  is taken only when the fast one has failed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import validation
from correnteza.errors import InputError, Problem
from correnteza.records import ID, INTEGER_LIMIT, MAGNITUDE_LIMIT, TEXT_LIMIT, TIMESTAMP, Field, Schema

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = (JSON, NDJSON, ARROW)
MAX_PROBLEMS = 100
"""Most faults that one answer lists."""
ID_LIMIT = validation.ID_LIMIT
BAD_RECORDS = 10_000
"""Most invalid records in a JSON body; with more of them it is not worth while to name each."""
EXPANSION = 16
"""Texts that the rows of an Arrow column share may come to so many times the length of the body."""
ECHO = 100  # characters of a client's name that are sent back at most

_EMPTY, _MISSING = pa.scalar("", pa.string()), pa.scalar(None, pa.string())
"""Made once and with a type: given a plain text, pyarrow looks for pandas at every call, which costs more than all else."""
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
        self._one = msgspec.json.Decoder(self.record)
        self._many = msgspec.json.Decoder(list[self.record])  # type: ignore[name-defined]

    def decode(self, body: bytes, content_type: str | None) -> Decoded:
        """Decode a request body.

        Args:
            body: its bytes.
            content_type: its media type; None means JSON.

        Raises:
            InputError: it cannot be read at all (400), or is of another media type (415).
        """
        media = (content_type or JSON).split(";")[0].strip().lower()
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

    def _fast(self, body: bytes, lines: bool) -> tuple[list[Any], bool]:
        if lines:
            return self._one.decode_lines(body), False
        if body.lstrip()[:1] == b"[":
            return self._many.decode(body), False
        return [self._one.decode(body)], True

    def _slow(self, items: Sequence[Any], single: bool) -> Decoded:
        records, found = [], []
        required = [field.encode_name for field in msgspec.structs.fields(self.record) if field.required]
        blank = msgspec.convert(dict.fromkeys(required), self.record)
        for index, item in enumerate(items):
            try:
                records.append(msgspec.convert(item, self.record, strict=True))
            except (msgspec.ValidationError, OverflowError) as error:
                records.append(blank)
                found.append(problem_of(index, str(error)))
                if len(found) > BAD_RECORDS:
                    raise InputError(f"more than {BAD_RECORDS} of {len(items)} records are invalid", found) from None
        return self._checked(records, found, single)

    def _checked(self, records: Sequence[Any], found: Sequence[Problem], single: bool) -> Decoded:
        columns: list[pa.Array] = [_texts([r.id for r in records])]
        found = list(found)
        bad = {p.index for p in found}
        for field, attribute in zip(self.schema.fields, self._attributes, strict=True):
            values = [getattr(r, attribute) for r in records]
            column, faults = _column(values, field)
            columns.append(column)
            found.extend(p for p in faults if p.index not in bad)
        columns.append(pa.array([r.target for r in records] if self._target else [None] * len(records), pa.float64()))
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema.raw)
        found.extend(p for p in validation.problems(batch, self.schema) if p.index not in bad)
        return Decoded(batch, tuple(sorted(found, key=lambda p: p.index)), single)

    def _from_arrow(self, body: bytes) -> Decoded:
        table = _arrow_table(body)
        found = self._columns_at_fault(table.column_names)
        if found:
            raise InputError(_UNFIT, found)
        columns: list[pa.Array] = []
        for field in self.schema.raw:
            there = field.name in table.column_names
            column = table[field.name] if there else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            try:
                columns.append(_fitted(column, field.type, EXPANSION * len(body)))
            except pa.ArrowException as error:
                reason = f"a column of {column.type} cannot become {field.type}: {str(error)[:200]}"
                raise InputError(_UNFIT, [Problem(0, field.name, reason)]) from None
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema.raw)
        return Decoded(batch, tuple(validation.problems(batch, self.schema)), False)

    def _columns_at_fault(self, names: list[str]) -> list[Problem]:
        known = [*self.schema.raw.names] if self._target else [n for n in self.schema.raw.names if n != self.schema.target]
        found = [Problem(0, name[:ECHO], "is not a field of the schema") for name in names if name not in known]
        found += [Problem(0, name, "stands there twice") for name in known if names.count(name) > 1]
        if self._target:
            there = {*names, ID, self.schema.target}
            found += [
                Problem(0, f.name, "is missing; send nulls if unknown") for f in self.schema.fields if f.name not in there
            ]
        return found


def _struct(schema: Schema, partial: bool) -> Any:
    """A msgspec type for one record; attributes are f0, f1, ... because field names may be any text."""
    empty = (None,) if partial else ()
    fields = [(f"f{i}", _TYPES[f.kind], *empty) for i, f in enumerate(schema.fields)]
    names = {f"f{i}": f.name for i, f in enumerate(schema.fields)}
    optional: list[tuple[Any, ...]] = [("id", _Id | int | None, None)]
    if not partial:
        optional.append(("target", float | None, None))
        names["target"] = schema.target
    return msgspec.defstruct("Record", [*fields, *optional], kw_only=True, forbid_unknown_fields=True, rename=names, gc=False)


def _column(values: list[Any], field: Field) -> tuple[pa.Array, list[Problem]]:
    if field.kind == "timestamp":
        return _times(values, field.name)
    if field.kind in ("category", "text"):
        return _texts(values), []
    return pa.array(values, field.arrow.type), []


def _texts(values: list[Any]) -> pa.Array:
    """Texts, and whole numbers as their text; the empty text is a missing value."""
    return pa.array([str(v) if v is not None and v != "" else None for v in values], pa.string())


def _times(values: list[Any], name: str) -> tuple[pa.Array, list[Problem]]:
    column, bad = parse_times(pa.array(values, pa.string()))
    reason = "is not a time; expected ISO 8601, as in 2026-01-31T12:00:00Z"
    return column, [Problem(int(i), name, f"{str(values[i])[:80]!r} {reason}") for i in np.flatnonzero(bad)]


def parse_times(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Times in ISO 8601 (date, or date and time after a space or T, with or without a zone; UTC when none).

    Args:
        texts: string array; nulls and empty texts stay missing.

    Returns:
        The times in UTC, and a mask of the values that are no times (null in the first).

    >>> times, bad = parse_times(pa.array(["2026-01-31", "2026-01-31 10:00:00+02:00", "soon"]))
    >>> times.to_pylist()[1].isoformat(), bad.tolist()
    ('2026-01-31T08:00:00+00:00', [False, False, True])
    """
    texts = _empty_as_null(texts)
    for kind in (TIMESTAMP, pa.timestamp("us")):
        try:
            times = texts.cast(kind).cast(TIMESTAMP)
        except pa.ArrowInvalid:
            continue
        bad = validation.beyond_calendar(times)
        return (pc.if_else(pa.array(~bad), times, None) if bad.any() else times), bad
    values = [_time(text) for text in texts.to_pylist()]
    bad = np.array([value is None for value in values]) & texts.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(values, TIMESTAMP), bad


def _time(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text.strip()) if text else None
        return time if time is None else time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # no time at all, or one outside the years 1 to 9999 in UTC
        return None


def _empty_as_null(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    return pc.if_else(pc.equal(column, _EMPTY), _MISSING, column)


def _fitted(chunks: pa.ChunkedArray, kind: pa.DataType, most_bytes: int) -> pa.Array:
    """A column as one array of the schema's type; raises ArrowException where it cannot be."""
    column = chunks.combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    if _shared_bytes(column) > most_bytes:
        raise pa.ArrowInvalid(f"written out, its texts come to more than {EXPANSION} times the body")
    if pa.types.is_dictionary(column.type):
        return _empty_as_null(column.dictionary.cast(kind).take(column.indices))
    return _empty_as_null(column.cast(kind))


def _shared_bytes(column: pa.Array) -> int:
    """What the texts come to where rows may share them, as in dictionaries and views; 0 for all other types."""
    if pa.types.is_dictionary(column.type) and not pa.types.is_primitive(column.type.value_type):
        lengths = _lengths(column.dictionary).take(column.indices)
    elif pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        lengths = _lengths(column)
    else:
        return 0
    return pc.sum(lengths).as_py() or 0


def _lengths(texts: pa.Array) -> pa.Array:
    if not (pa.types.is_string_view(texts.type) or pa.types.is_binary_view(texts.type)):
        return pc.binary_length(texts)
    views = np.frombuffer(texts.buffers()[1], np.int32, 4 * len(texts), 16 * texts.offset)
    return pa.array(views[::4])  # a view is four numbers, of which the first is the length


def _arrow_table(body: bytes) -> pa.Table:
    try:
        if any(_compressed(message) for message in pa.ipc.MessageReader.open_stream(body)):
            raise InputError("the Arrow stream is compressed, which is not read here; write it without compression", status=400)
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
        table.column_names  # noqa: B018 - fails where a name is no text
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise InputError(f"the body is not an Arrow IPC stream: {str(error)[:200]}", status=400) from None
    if table.num_rows > len(body):  # columns of nulls take no space: a short body could declare any number of rows
        reason = f"the Arrow stream declares {table.num_rows} rows in {len(body)} bytes; send columns of other types than null"
        raise InputError(reason, status=400)
    return table


def _compressed(message: pa.ipc.Message) -> bool:
    """Whether a message's buffers are compressed, in which case a few bytes may stand for gigabytes.

    The metadata is the flatbuffers table `Message` of Arrow's format/Message.fbs: its field 2 is the header, which
    is a RecordBatch, or a DictionaryBatch with a RecordBatch as field 1; field 3 of that is the compression.
    """
    if message.type not in ("record batch", "dictionary"):
        return False
    metadata = memoryview(message.metadata)
    place = _table_in(metadata, struct.unpack_from("<I", metadata)[0], 2)
    if message.type == "dictionary":
        place = _table_in(metadata, place, 1)
    return _table_in(metadata, place, 3) != 0


def _table_in(buffer: memoryview, table: int, number: int) -> int:
    """Where the table in field `number` of a flatbuffers table stands; 0 when the field is not set."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    inside = 4 + 2 * number < struct.unpack_from("<H", buffer, fields)[0]
    offset = struct.unpack_from("<H", buffer, fields + 4 + 2 * number)[0] if inside else 0
    return int(table + offset + struct.unpack_from("<I", buffer, table + offset)[0]) if offset else 0


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


def problem_of(index: int, message: str) -> Problem:
    """What msgspec says of the record at `index`, as a problem: the path at the message's end becomes the field."""
    match = _PATH.search(message)
    reason = message[: match.start()] if match else message
    field = match[1] if match else ""
    named = re.match(r"Object (?:contains unknown|missing required) field `([^`]*)`", reason)
    if named:
        reason = "is not a field of the schema" if "unknown" in reason else "is missing; send null if it is unknown"
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
