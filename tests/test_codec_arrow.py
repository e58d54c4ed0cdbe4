"""Laws of Arrow streams as bodies: kindred types are read, others named; no stream fills the memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza.codec import ARROW
from correnteza.errors import InputError

from .test_codec import SCHEMA, WHOLE, laws


def columns_of(rows: int = 2, **changed: pa.Array) -> pa.RecordBatch:
    """A batch with the schema's columns, all null but `kind`, and some of them changed."""
    columns: dict[str, pa.Array] = {name: nulls(rows) for name in SCHEMA.raw.names}
    columns["kind"] = pa.array(["flat"] * rows) if rows < 1000 else nulls(rows)
    columns.update(changed)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def nulls(rows: int) -> pa.Array:
    """Any number of nulls, in no memory at all."""
    return pa.Array.from_buffers(pa.null(), rows, [None])


def stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    """Batches as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(allow_64bit=True, **options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("kind", pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ("kind", pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        ("kind", pa.array(["a", "a longer text"], pa.string_view()), ["a", "a longer text"]),
        ("kind", pa.array(["a", "a longer text"], pa.string_view()).dictionary_encode(), ["a", "a longer text"]),
        ("kind", pa.array([1, 2], pa.int8()), ["1", "2"]),
        ("size m2", pa.array([1, 2], pa.int32()), [1.0, 2.0]),
        ("size m2", pa.array([1.5, None], pa.float32()), [1.5, None]),
        ("size m2", pa.array([1.5, 2.5]).dictionary_encode(), [1.5, 2.5]),
        ("rooms", pa.array([1.0, 2.0]), [1, 2]),
        ("note.text-1", pa.array(["", "x"]), [None, "x"]),
        ("at", pa.array([0, None], pa.timestamp("s")), [EPOCH, None]),
        ("at", pa.array([0, None], pa.date32()), [EPOCH, None]),
    ],
    ids=lambda value: str(value.type)[:40] if isinstance(value, pa.Array) else "",
)
def test_columns_of_kindred_types_are_read(name: str, column: pa.Array, values: list[Any]) -> None:
    decoded = laws(WHOLE, stream(columns_of(**{name: column})), ARROW)
    assert decoded is not None
    assert decoded.problems == ()
    assert decoded.batch[name].to_pylist() == values


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("size m2", pa.array([[1.0], [2.0]]), "list"),
        ("kind", pa.array([{"a": 1}, None]), "struct"),
        ("kind", pa.array([b"\xff", b"a"]), "UTF8"),
        ("kind", pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a"])), "run_end_encoded"),
        ("rooms", pa.array([1.5, 2.0]), "truncated"),
        ("rooms", pa.array([2**64 - 1, 0], pa.uint64()), "not in range"),
        ("at", pa.array(["soon", "2026-01-01"]), "parse"),
        ("at", pa.array([2**62, 0], pa.timestamp("s")), "out of bounds"),
        ("size m2", pa.array(["x", "1"]), "parse"),
    ],
    ids=["list", "struct", "no-utf8", "run-ends", "fraction", "uint64", "text-as-time", "far-time", "text-as-number"],
)
def test_columns_of_other_types_are_refused_by_name(name: str, column: pa.Array, reason: str) -> None:
    with pytest.raises(InputError, match="columns of the Arrow stream") as caught:
        WHOLE.decode(stream(columns_of(**{name: column})), ARROW)
    (problem,) = caught.value.problems
    assert problem.field == name
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("size m2", pa.array([float("nan"), 1.0])),
        ("price", pa.array([float("-inf"), 1.0])),
        ("price", pa.array(["nan", "1"])),
        ("rooms", pa.array([2**53 + 1, 1])),
        ("kind", pa.array(["a\0", "a"])),
        ("kind", pa.array(["é" * 10_001, "a"]).dictionary_encode()),
        ("id", pa.array(["x" * 201, "x" * 200])),
        ("at", pa.array([2**62, 0], pa.timestamp("us"))),
    ],
)
def test_values_out_of_bounds_are_found_in_arrow_as_in_json(name: str, column: pa.Array) -> None:
    decoded = laws(WHOLE, stream(columns_of(**{name: column})), ARROW)
    assert decoded is not None
    assert [(p.index, p.field) for p in decoded.problems] == [(0, name)]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (columns_of().append_column("x", nulls(2)), "x: is not a field"),
        (columns_of().append_column("kind", nulls(2)), "kind: stands there twice"),
        (columns_of().drop_columns(["rooms"]), "rooms: is missing"),
        (pa.RecordBatch.from_pydict({}), "kind: is missing"),
    ],
    ids=["unknown", "twice", "missing", "none"],
)
def test_columns_that_do_not_fit_the_schema_are_named(batch: pa.RecordBatch, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        WHOLE.decode(stream(batch), ARROW)
    assert any(f"{p.field}: {p.reason}".startswith(reason) for p in caught.value.problems)


def test_a_stream_of_several_batches_is_read_whole() -> None:
    one, other = columns_of(2, **{"kind": pa.array(["a", "b"])}), columns_of(1, **{"kind": pa.array(["c"])})
    assert WHOLE.decode(stream(one, other), ARROW).batch["kind"].to_pylist() == ["a", "b", "c"]


def test_every_beginning_of_a_stream_is_refused_or_holds_only_whole_batches() -> None:
    """Wherever a stream is cut off, no half of a batch is taken for a whole."""
    whole = stream(columns_of(3), columns_of(4))
    for end in range(len(whole)):
        decoded = laws(WHOLE, whole[:end], ARROW)
        assert decoded is None or decoded.batch.num_rows in (0, 3, 7)


@pytest.mark.parametrize("rows", [10**4, 10**9, 2**31, 2**45, 2**62])
def test_rows_that_take_no_space_are_refused(rows: int) -> None:
    """Else some hundred bytes would become gigabytes."""
    with pytest.raises(InputError, match=f"declares {rows} rows"):
        WHOLE.decode(stream(columns_of(rows)), ARROW)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("encode", [lambda texts: texts, lambda texts: texts.dictionary_encode()], ids=["plain", "dictionary"])
def test_a_compressed_stream_is_refused(compression: str, encode: Callable[[pa.Array], pa.Array]) -> None:
    """Four thousand bytes of zstd may stand for a gigabyte."""
    body = stream(columns_of(500, kind=encode(pa.array(["flat"] * 500))), compression=compression)
    with pytest.raises(InputError, match="compressed"):
        WHOLE.decode(body, ARROW)


@pytest.mark.parametrize("view", [False, True], ids=["dictionary", "view"])
def test_texts_that_rows_share_may_not_fill_the_memory(view: bool) -> None:
    """A long text and many references to it are refused before they are written out."""
    rows, text = 50_000, "z" * 9_000
    column: pa.Array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([text]))
    if view:
        one = struct.pack("<i4sii", len(text), text[:4].encode(), 0, 0)
        buffers = [None, pa.py_buffer(one * rows), pa.py_buffer(text.encode())]
        column = pa.Array.from_buffers(pa.string_view(), rows, buffers)
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError) as caught:
        WHOLE.decode(stream(columns_of(rows, kind=column)), ARROW)
    assert "more than 16 times the body" in caught.value.problems[0].reason
    assert pa.total_allocated_bytes() - before < 10_000_000
