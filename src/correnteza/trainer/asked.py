"""What was asked for a prediction, as a row of the log `normalized`: the features really predicted on.

Invariant: a record that was asked becomes the same row that the normalizer would have made of it with one
scaler version and the codes given up to one raw row; statistics and codes learn nothing from it.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from correnteza.codec import NDJSON, Codec
from correnteza.errors import DamagedLogError, InputError
from correnteza.features import OTHER, Codes, Scaler
from correnteza.records import ID, OFFSET, Schema


def normalized(predictions: pa.RecordBatch, schema: Schema, scaler: Scaler, codes: Codes, raw_offset: int) -> pa.RecordBatch:
    """Rows of the log `predictions` as rows of the log `normalized`, without target.

    Args:
        predictions: at least one row, with the column `offset` in front.
        schema: of the records.
        scaler: the version to express the numbers in.
        codes: per category field its values in the order of their codes.
        raw_offset: of the raw row that scaler and codes stem from.

    Raises:
        DamagedLogError: what was asked cannot be read.
    """
    records = _decoded(predictions, schema)
    rows = predictions.num_rows
    columns = {name: pa.nulls(rows, kind) for name, kind in zip(schema.normalized.names, schema.normalized.types, strict=True)}
    columns["raw_offset"] = pa.array([raw_offset] * rows, pa.int64())
    columns["scaler_version"] = pa.array([scaler.version] * rows, pa.int64())
    columns[ID] = predictions["prediction_id"]
    if schema.timestamp is not None:
        columns[schema.timestamp] = records[schema.timestamp]
    for place, name in enumerate(schema.numeric):
        shifted = pc.subtract(records[name].cast(pa.float64()), float(scaler.mean[place]))
        columns[name] = pc.divide(shifted, float(scaler.scale[place]))
    for name in schema.categories:
        columns[name] = _coded(records[name], codes[name])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema.normalized)


def _coded(texts: pa.Array, values: object) -> pa.Array:
    places = pc.index_in(texts, value_set=pa.array(values, pa.string()))
    codes = pc.coalesce(pc.add(places.cast(pa.float64()), 1.0), pa.scalar(float(OTHER)))
    return pc.if_else(texts.is_valid(), codes, pa.scalar(None, pa.float64()))


def _decoded(predictions: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    body = "\n".join(predictions["record"].to_pylist()).encode()
    try:
        decoded = Codec(schema, partial=True).decode(body, NDJSON)
    except InputError as error:
        raise _damaged(predictions, error.problems[0].index if error.problems else 0, str(error)) from None
    if decoded.problems:
        raise _damaged(predictions, decoded.problems[0].index, decoded.problems[0].reason)
    return decoded.batch


def _damaged(predictions: pa.RecordBatch, index: int, reason: str) -> DamagedLogError:
    offset = predictions[OFFSET][index].as_py()
    return DamagedLogError(f"log predictions: the record at offset {offset} cannot be read ({reason})", offset)
