"""What must not be taken: broken bodies, values that are no numbers, Arrow streams that lie, queries that ask for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

MARK = "refused"
"""Every record that must be refused has an id that begins with it."""
RECORD: dict[str, Any] = {
    "id": f"{MARK}-1",
    "event_time": "2026-01-31T12:00:00Z",
    "name": "Ana",
    "city": "Olinda",
    "job": "pedreira",
    "age": 31.5,
    "education_years": 11,
    "experience_years": None,
    "weekly_hours": 40,
    "income": 2500.0,
}
TYPES = {
    "id": pa.string(),
    "event_time": pa.timestamp("us", "UTC"),
    **dict.fromkeys(("name", "city", "job"), pa.string()),
    **dict.fromkeys(("age", "education_years", "experience_years", "weekly_hours", "income"), pa.float64()),
}


@dataclass(frozen=True)
class Endpoint:
    """A route that takes a body.

    Args:
        service: whose it is.
        method: of the request.
        path: of the route.
        good: a body that it would take, but for the fault that is planted in it.
        field: a number in it.
    """

    service: str
    method: str
    path: str
    good: dict[str, Any]
    field: str

    def body(self, value: bytes) -> bytes:
        """The good body with another value in the field."""
        return json.dumps({**self.good, self.field: "@"}).encode().replace(b'"@"', value)


ENDPOINTS = {
    "records": Endpoint("generator", "POST", "/records", RECORD, "age"),
    "outcomes": Endpoint("generator", "POST", "/outcomes", {"id": f"{MARK}-1", "target": 1.5}, "target"),
    "predict": Endpoint("trainer", "POST", "/predict", {"id": f"{MARK}-1", "age": 31, "job": "pedreira"}, "age"),
    "generator-rate": Endpoint("generator", "PUT", "/rate", {"records_per_second": 25}, "records_per_second"),
    "generator-drift": Endpoint("generator", "PUT", "/drift", {"factor": 1.5}, "factor"),
    "consumer-rate": Endpoint("consumer", "PUT", "/rate", {"requests_per_second": 5}, "requests_per_second"),
}


DEEP = 100_000
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty|required"),
    "blank": (lambda _: b" \n\t ", "empty|Expecting value"),
    "cut-off": (lambda good: good[:-1], "truncated|Expecting|JSON"),
    "trailing": (lambda good: good + b"}", "trailing|Extra data"),
    "words": (lambda _: b"hello", "malformed|Expecting value"),
    "single-quotes": (lambda good: good.replace(b'"', b"'"), "malformed|Expecting property name"),
    "two-documents": (lambda good: good + b"\n" + good, "trailing|Extra data"),
    "nul-behind": (lambda good: good + b"\0", "trailing|Extra data"),
    "number": (lambda _: b"3", "object"),
    "null": (lambda _: b"null", "object"),
    "text": (lambda _: b'"x"', "object"),
    "deep-arrays": (lambda _: b"[" * DEEP, "nested too deeply"),
    "deep-objects": (lambda _: b'{"a":' * DEEP, "nested too deeply"),
    "closed-deep-arrays": (lambda _: b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
    "four-million-items": (lambda _: b"[" + b"1," * (2**22 - 4) + b"1]", "1000[01] (of|outcomes)|dictionary"),
    "unknown-field": (lambda good: good[:-1] + b', "nobody-knows": 1}', "nobody-knows"),
    "unknown-surrogate": (lambda good: good[:-1] + b', "\\ud800": 1}', "surrogate|truncated|unicode"),
    "long-unknown-field": (lambda good: good[:-1] + b', "' + b"x" * 100_000 + b'": 1}', "x" * 50),
    "no-name": (lambda good: good[:-1] + b", : 1}", "malformed|Expecting property name|keys"),
}
VALUES: dict[str, tuple[bytes, str]] = {
    "text": (b'"forty"', "number|float"),
    "true": (b"true", "number|float"),
    "array": (b"[1]", "number|float"),
    "object": (b'{"a": 1}', "number|float"),
    "nan": (b"NaN", "malformed|finite"),
    "infinity": (b"Infinity", "malformed|finite"),
    "minus-infinity": (b"-Infinity", "malformed|finite"),
    "beyond-float64": (b"1e999", "out of range|finite"),
    "below-float64": (b"-1e999", "out of range|finite"),
    "ten-thousand-digits": (b"1" * 10_000, "out of range|digits"),
    "three-hundred-nines": (b"-" + b"9" * 309, "out of range|valid number"),
    "hexadecimal": (b"0x10", "malformed|delimiter"),
    "leading-zero": (b"007", "malformed|delimiter"),
    "lone-surrogate": (b'"\\ud800"', "surrogate|truncated|number|unicode"),
    "no-utf8": (b'"\xff\xfe"', "decode|utf-8"),
    "nul": (b'"\\u0000"', "number|float"),
    "raw-nul": (b'"\x00"', "malformed|control character|JSON"),
    "deep": (b'{"a":' * DEEP, "nested too deeply"),
}


def table(rows: int = 3, **changed: pa.Array) -> pa.RecordBatch:
    """Good records in Arrow, with some columns changed."""
    columns = {name: pa.nulls(rows, kind) for name, kind in TYPES.items()}
    columns["id"] = pa.array([f"{MARK}-{i}" for i in range(rows)])
    columns.update(changed)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def nothing(rows: int) -> pa.RecordBatch:
    """Any number of rows of nulls, in no memory at all."""
    return pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.null(), rows, [None])] * len(TYPES), names=list(TYPES))


def stream(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    """As the bytes of an Arrow stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(allow_64bit=True, compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def one_text(rows: int) -> pa.Array:
    """A long text that many rows share."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["z" * 9_000]))


STREAMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "json": (lambda: json.dumps(RECORD).encode(), "not an Arrow IPC stream"),
    "zeros": (lambda: bytes(1000), "not an Arrow IPC stream|age: is missing|null or length 0"),
    "file-format": (lambda: b"ARROW1\0\0" + stream(table()), "not an Arrow IPC stream"),
    "cut-in-the-schema": (lambda: stream(table())[:200], "not an Arrow IPC stream"),
    "cut-in-the-rows": (lambda: stream(table())[:-200], "not an Arrow IPC stream"),
    "huge-metadata": (lambda: b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64), "not an Arrow IPC stream"),
    "billions-of-nulls": (lambda: stream(nothing(2**33)), "declares 8589934592 rows"),
    "more-rows-than-memory": (lambda: stream(nothing(2**62)), "declares 4611686018427387904 rows"),
    "compressed": (lambda: stream(table(1000), "zstd"), "compressed"),
    "shared-text": (lambda: stream(table(100_000, job=one_text(100_000))), "job: .* more than 16 times the body"),
    "unknown-column": (lambda: stream(table().append_column("salary", pa.nulls(3))), "salary: is not a field"),
    "missing-column": (lambda: stream(table().drop_columns(["age"])), "age: is missing"),
    "doubled-column": (lambda: stream(table().append_column("age", pa.nulls(3))), "age: stands there twice"),
    "list-column": (lambda: stream(table(age=pa.array([[1.0]] * 3))), "age: a column of list"),
    "text-column": (lambda: stream(table(age=pa.array(["1", "x", "2"]))), "age: a column of string"),
    "dictionary-of-texts": (lambda: stream(table(age=pa.array(["1", "x", "2"]).dictionary_encode())), "age: a column of dict"),
    "bytes-column": (lambda: stream(table(job=pa.array([b"a", b"\xff", b"c"]))), "job: .*UTF8"),
    "nan": (lambda: stream(table(age=pa.array([1.0, float("nan"), 2.0]))), "1 age: nan is not within"),
    "infinity": (lambda: stream(table(income=pa.array([1.0, 1.0, float("inf")]))), "2 income: inf is not within"),
    "nul": (lambda: stream(table(job=pa.array(["a", "b\0", "c"]))), "1 job: holds the character NUL"),
    "far-time": (lambda: stream(table(event_time=pa.array([0, 2**62, 0], TYPES["event_time"]))), "1 event_time: is not a time"),
    "long-id": (lambda: stream(table(id=pa.array([MARK * 100, "b", "c"]))), "0 id: is longer than 200"),
}


OUTSIDE: list[tuple[dict[str, Any], str]] = [
    ({"name": "a\0b"}, "name: holds the character NUL"),
    ({"city": "\0"}, "city: holds the character NUL"),
    ({"job": "\0pedreira"}, "job: holds the character NUL"),
    ({"id": f"{MARK}\0"}, "id: holds the character NUL"),
    ({"id": MARK * 100}, "id: Expected `str` of length <= 200"),
    ({"id": int("9" * 300)}, "id: is longer than 200 characters"),
    ({"id": [1]}, "id: Expected"),
    ({"name": "é" * 10_001}, "name: Expected `str` of length <= 10000"),
    ({"name": 5}, "name: Expected `str"),
    ({"job": 5.5}, "job: Expected `int | str"),
    ({"age": -0.1}, "age: -0.1 is not within 0 and 130"),
    ({"age": 1e300}, "age: 1e+300 is not within 0 and 130"),
    ({"weekly_hours": 169}, "weekly_hours: 169.0 is not within 0 and 168"),
    ({"income": -1.1e100}, "income: -1.1e+100 is not within"),
    ({"event_time": "yesterday"}, "event_time: 'yesterday' is not a time"),
    ({"event_time": "2026-02-30"}, "event_time: '2026-02-30' is not a time"),
    ({"event_time": "99999-01-01T00:00:00Z"}, "event_time: '99999-01-01T00:00:00Z' is not a time"),
    ({"event_time": "0001-01-01T00:00:00.1234567+01:00"}, "is not a time"),
    ({"event_time": 1_700_000_000}, "event_time: Expected `str"),
]
"""Values that a record may not have, with what the refusal says."""

NOT_TAKEN: list[tuple[str, Any, str]] = [
    ("outcomes", {"id": "p1", "target": 1e101}, "1e\\+101 is not within"),
    ("outcomes", {"id": "p1", "target": None}, "float"),
    ("outcomes", {"id": "p1"}, "target: is missing; an outcome has an id and a target"),
    ("outcomes", {"target": 1}, "id"),
    ("outcomes", {"id": "", "target": 1}, "length"),
    ("outcomes", {"id": "x" * 201, "target": 1}, "200"),
    ("outcomes", {"id": int("9" * 300), "target": 1}, "200"),
    ("outcomes", {"id": "a\0", "target": 1}, "NUL"),
    ("predict", {"income": 1}, "income: is the target"),
    ("predict", {"age": -1}, "age: -1.0 is not within"),
    ("predict", {"job": "\0"}, "job: holds the character NUL"),
    ("predict", {"event_time": "soon"}, "event_time: 'soon' is not a time"),
    ("generator-rate", {}, "records_per_second"),
    ("generator-rate", {"records_per_second": -1}, "greater than or equal to 0"),
    ("generator-rate", {"records_per_second": None}, "valid number"),
    ("generator-rate", {"records_per_second": "fast"}, "inf"),
    ("consumer-rate", {"records_per_second": 1}, "requests_per_second"),
    ("consumer-rate", {"requests_per_second": "-inf"}, "inf"),
    ("records", {}, "event_time: is missing"),
    ("records", [RECORD, {**RECORD, "salary": 1}], "1 salary: is not a field"),
    ("records", [[RECORD]], "Expected `object`, got `array`"),
]
"""Endpoints and bodies in the wrong form for them, with what the refusal says."""

QUERIES: dict[str, tuple[str, str]] = {
    "after-word": ("after=yesterday", "'yesterday' is not a cursor"),
    "after-empty": ("after=", "'' is not a cursor"),
    "after-nul": ("after=%00", "is not a cursor"),
    "after-no-utf8": ("after=%ff%fe", "is not a cursor"),
    "after-number": ("after=-1", "'-1' is not a cursor"),
    "after-another-log": ("after=000000000000.5", "belongs to another log"),
    "after-many-digits": ("after=000000000000." + "9" * 19, "is not a cursor"),
    "after-long": ("after=" + "x" * 101, "query.after"),
    "limit-none": ("limit=0", "query.limit"),
    "limit-negative": ("limit=-1", "query.limit"),
    "limit-huge": ("limit=100001", "query.limit"),
    "limit-digits": ("limit=" + "9" * 10_000, "query.limit"),
    "limit-fraction": ("limit=1.5", "query.limit"),
    "limit-word": ("limit=all", "query.limit"),
    "limit-empty": ("limit=", "query.limit"),
    "limit-exponent": ("limit=1e999", "query.limit"),
    "wait-negative": ("wait_s=-0.1", "query.wait_s"),
    "wait-long": ("wait_s=31", "query.wait_s"),
    "wait-nan": ("wait_s=nan", "query.wait_s"),
    "wait-infinite": ("wait_s=inf", "query.wait_s"),
    "wait-exponent": ("wait_s=1e999", "query.wait_s"),
    "back-negative": ("back=-1", "query.back"),
    "back-huge": ("back=" + "9" * 30, "query.back"),
    "back-word": ("back=x", "query.back"),
    "reader-capital": ("reader=Me", "query.reader"),
    "reader-empty": ("reader=", "query.reader"),
    "reader-nul": ("reader=a%00", "query.reader"),
    "reader-newline": ("reader=a%0a", "query.reader"),
    "reader-long": ("reader=" + "a" * 65, "query.reader"),
    "keep-negative": ("reader=a&keep_rows=-1", "query.keep_rows"),
    "keep-exponent": ("reader=a&keep_rows=1e3", "query.keep_rows"),
    "keep-huge": ("reader=a&keep_rows=" + "9" * 30, "query.keep_rows"),
}
"""Of every log, with what the refusal says."""

UNKNOWN = ["999999", "9007199254740992"]
VERSIONS = ["0", "-1", "1.5", "nan", "inf", "1e3", "x", "%00", "%ff", "9007199254740993", "9" * 5_000, *UNKNOWN]
