"""A whole memory as rows of the log `snapshots`, and back.

Invariant: a row holds at most `PIECE_BYTES` of data (or one row of a table), and a snapshot is read only when all its
rows are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from correnteza.errors import DamagedLogError
from correnteza.log.base import OwnedLog

LOG = "snapshots"
SCHEMA = pa.schema(
    [
        pa.field("memory_offset", pa.int64()),
        pa.field("piece", pa.int64()),
        pa.field("pieces", pa.int64()),
        pa.field("data", pa.binary()),
    ]
)
"""Columns of the log: the last row of `memory` that the snapshot holds, the piece from 1 on of how many, an Arrow stream."""
PIECE_BYTES = 16 * 2**20
KEYS, TAIL, WAITING, EARLY = "keys\0", "tail\0", "waiting", "early"
"""Names of the tables, the first two followed by the field of the key; that of a tail by the source too."""


def tail(by: str | None, source: str) -> str:
    """The name of a tail's table."""
    return f"{TAIL}{by or ''}\0{source}"


def last(log: OwnedLog) -> pa.RecordBatch:
    """The rows of the last snapshot in the log; none before the first."""
    end = log.bounds().next - 1
    if not end:
        return log.read(None, 1).batch
    pieces = log.read(log.cursor(end - 1), 1).batch["pieces"][0].as_py()
    return log.read(log.cursor(end - pieces), pieces).batch


def rows_of(tables: Mapping[str, pa.RecordBatch], offset: int) -> list[pa.RecordBatch]:
    """A memory's tables as rows of the log, each a batch of its own."""
    pieces = [data for name, table in tables.items() for data in _pieces(name, table)]
    return [
        pa.RecordBatch.from_pydict(
            {"memory_offset": [offset], "piece": [place], "pieces": [len(pieces)], "data": [data]}, schema=SCHEMA
        )
        for place, data in enumerate(pieces, 1)
    ]


def _pieces(name: str, table: pa.RecordBatch) -> Iterator[bytes]:
    table = table.replace_schema_metadata({"table": name})
    rows = max(1, PIECE_BYTES * table.num_rows // max(1, 2 * table.nbytes))  # half of it, for texts differ in length
    for start in range(0, max(1, table.num_rows), rows):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table.slice(start, rows))
        yield sink.getvalue().to_pybytes()


def read(rows: pa.RecordBatch) -> tuple[int, dict[str, pa.RecordBatch]]:
    """The offset of a snapshot, and its tables.

    Raises:
        DamagedLogError: pieces are missing, or cannot be read.
    """
    offsets, places, wanted = (rows.column(name).to_pylist() for name in ("memory_offset", "piece", "pieces"))
    if not offsets or len(set(offsets)) != 1 or places != list(range(1, wanted[0] + 1)):
        raise DamagedLogError(f"log snapshots: has pieces {places} of {wanted[:1]}; expected all pieces of one snapshot")
    parts: dict[str, list[pa.RecordBatch]] = {}
    try:
        for data in rows.column("data"):
            with pa.ipc.open_stream(data.as_buffer()) as stream:
                name = stream.schema.metadata[b"table"].decode()
                parts.setdefault(name, []).extend(stream)
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise DamagedLogError(f"log snapshots: a piece at memory offset {offsets[0]} cannot be read: {error}") from None
    return offsets[0], {name: pa.concat_batches(batches) for name, batches in parts.items()}
