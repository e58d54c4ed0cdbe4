"""The log `memory`: what enters the memory, row by row, in columns enough to make it anew.

Invariant: rows of this log, in order, decide the memory; nothing else does.
A row of kind `record` is a valid record. One of kind `label` is a target that became known later: it has the offset in
this log, the time and the keys of the record that it is for. One of kind `early` is a target whose record has not
come; when that comes, a row of kind `label` follows at once.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats
from correnteza.records import ID, TIMESTAMP, Schema

LOG = "memory"
RECORD, LABEL, EARLY = "record", "label", "early"
KEY, VALUE = "key:", "value:"
"""Before the names of the columns that hold keys, and values of sources."""
OF, TIME = "record", "event_time"


def bys_of(schema: Schema) -> tuple[str | None, ...]:
    """The fields that tell memories apart, each once; None for the single one."""
    return tuple(dict.fromkeys(one.by for one in schema.derived if one.remembers))


def sources_of(schema: Schema) -> tuple[str, ...]:
    """What is remembered: each field, or the target, once."""
    return tuple(dict.fromkeys(one.source for one in schema.derived if one.remembers))


def log_schema(schema: Schema) -> pa.Schema:
    """Columns of the log `memory`, without `offset`."""
    keys = [pa.field(KEY + by, schema.raw.field(by).type) for by in bys_of(schema) if by is not None]
    values = [pa.field(VALUE + name, pa.float64()) for name in sources_of(schema)]
    first = [pa.field("kind", pa.string()), pa.field(OF, pa.int64()), pa.field(ID, pa.string())]
    return pa.schema([*first, pa.field(TIME, TIMESTAMP), *keys, *values])


def of_records(records: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Rows of the log for valid records.

    Args:
        records: as in the log `raw`.
        schema: with the definitions.
    """
    rows = records.num_rows
    columns: dict[str, pa.Array] = {
        "kind": pa.repeat(RECORD, rows),
        OF: pa.nulls(rows, pa.int64()),
        ID: records.column(ID),
        TIME: records.column(schema.timestamp) if schema.timestamp else pa.nulls(rows, TIMESTAMP),
    }
    columns.update({KEY + by: records.column(by) for by in bys_of(schema) if by is not None})
    columns.update({VALUE + name: value_of(records.column(name)) for name in sources_of(schema)})
    wanted = log_schema(schema)
    return pa.RecordBatch.from_arrays([columns[name] for name in wanted.names], schema=wanted)


def value_of(column: pa.Array) -> pa.Array:
    """A source's values as numbers; of texts and times it counts only that they are there."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.float64())
    return pc.if_else(column.is_valid(), pa.scalar(1.0), pa.scalar(None, pa.float64()))


def numbers(column: pa.Array) -> Floats:
    """A column as float64, NaN where missing; -0.0 becomes 0.0, so that equal values have equal bits."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64) + 0.0
