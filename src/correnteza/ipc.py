"""Arrow streams that strangers send, read within bounds.

Invariant: what a stream becomes in memory is bounded by a multiple of its length, whatever lengths it declares.
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import InputError

EXPANSION = 16
"""Texts that the rows of a column share may come to so many times the length of the body."""

_EMPTY, _MISSING = pa.scalar("", pa.string()), pa.scalar(None, pa.string())
"""Made once and with a type: given a plain text, pyarrow looks for pandas at every call, which costs more than all else."""


def read_table(body: bytes) -> pa.Table:
    """The table of an Arrow IPC stream.

    Raises:
        InputError: it is none, or declares more than it holds; says why.
    """
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


def empty_as_null(column: pa.Array) -> pa.Array:
    """A column of texts without its empty ones; any other as it is."""
    if not pa.types.is_string(column.type):
        return column
    return pc.if_else(pc.equal(column, _EMPTY), _MISSING, column)


def fitted(chunks: pa.ChunkedArray, kind: pa.DataType, most_bytes: int) -> pa.Array:
    """A column as one array of the schema's type; raises ArrowException where it cannot be."""
    column = chunks.combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    if _shared_bytes(column) > most_bytes:
        raise pa.ArrowInvalid(f"written out, its texts come to more than {EXPANSION} times the body")
    if pa.types.is_dictionary(column.type):
        return empty_as_null(column.dictionary.cast(kind).take(column.indices))
    return empty_as_null(column.cast(kind))


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
