"""What a posted body becomes: rows to store, rejects, or a refusal with reasons.

Invariant: a posted record passes the same checks as everywhere (`validation.problems`); it is stored
whole, together with all others of its request, or it is answered with a reason.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.codec import (
    ARROW,
    BAD_RECORDS,
    ID_LIMIT,
    JSON,
    MAX_PROBLEMS,
    NDJSON,
    Codec,
    Decoded,
    plain_values,
    problem_of,
)
from correnteza.errors import InputError, Problem
from correnteza.events import Event
from correnteza.generator.receiver import Post, digest
from correnteza.generator.stage import record_text, rejected_rows
from correnteza.records import ID, Field, Schema
from correnteza.validation import beyond_calendar, problems

OUTCOMES = pa.schema([pa.field("id", pa.string()), pa.field("target", pa.float64())])
"""Columns of the log `outcomes`: the truth for a record or a prediction, in the target's unit."""
_JUDGED_AS = Schema((Field("feature", "float"),), target="target")
"""Id and target of an outcome obey the same rules as those of a record."""


class Outcome(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One posted outcome."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LIMIT)] | int
    target: float


def records_post(codec: Codec, body: bytes, content_type: str | None, skip: bool, key: str | None) -> Post:
    """Posted records as rows of `raw`, with ids where the sender gave none.

    Args:
        codec: of the records.
        body: one object, an array, NDJSON or an Arrow stream.
        content_type: its media type; None means JSON.
        skip: whether valid records are stored when others are not; those go to `rejected`.
        key: the idempotency key, or None.

    Raises:
        InputError: it cannot be read, or a record is invalid and `skip` is not set.
    """
    sha256 = digest("/records?on_error=skip" if skip else "/records", body) if key is not None else ""
    if (record := codec.accept(body, content_type)) is not None:
        if record.id is None or record.id == "":
            record.id = f"{uuid.uuid4().hex}-1"
        return Post("raw", {}, {}, key, sha256, record=record)
    decoded = codec.decode(body, content_type)
    bad = sorted({p.index for p in decoded.problems})
    if not bad:
        return Post("raw", {"raw": _with_ids(decoded.batch)}, {}, key, sha256)
    if not skip:
        reason = f"{len(bad)} of {decoded.batch.num_rows} records are invalid; nothing was stored"
        raise InputError(f"{reason}; correct them, or send ?on_error=skip to store the others", decoded.problems)
    good = np.ones(decoded.batch.num_rows, bool)
    good[bad] = False
    rejected = _rejects(decoded, bad, body, content_type)
    outputs = {"raw": _with_ids(decoded.batch.filter(pa.array(good))), "rejected": rejected}
    listed = [{"index": p.index, "field": p.field, "reason": p.reason} for p in decoded.problems[:MAX_PROBLEMS]]
    answer = {"errors": listed, "error_count": len(decoded.problems)}
    return Post("raw", outputs, answer, key, sha256, (_event(rejected, decoded.batch.num_rows),))


def _rejects(decoded: Decoded, bad: Sequence[int], body: bytes, media: str | None) -> pa.RecordBatch:
    """Rows of the log `rejected`: each bad record with its first fault."""
    first: dict[int, Problem] = {}
    for problem in decoded.problems:
        first.setdefault(problem.index, problem)
    kind = _media(media)
    values = [] if kind == ARROW else plain_values(body, kind == NDJSON)[0]
    came = _shown(decoded.batch.take(pa.array(bad))) if kind == ARROW else [values[i] for i in bad]
    ids = [record.get(ID) if isinstance(record, dict) else None for record in came]
    return rejected_rows(
        (str(given)[:ID_LIMIT] if isinstance(given, str | int) else None, first[i].field, first[i].reason, record_text(record))
        for i, given, record in zip(bad, ids, came, strict=True)
    )


def _event(rejected: pa.RecordBatch, rows: int) -> Event:
    first = rejected.slice(0, 1).to_pylist()[0]
    field = f"field {first['field']!r}: " if first["field"] else ""
    reason = f"{rejected.num_rows} of {rows} posted records; the first: {field}{first['reason']}"
    return Event("records_rejected", reason, {"rejected": rejected.num_rows})


def _with_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with ids of our own where the sender gave none; no two requests draw the same."""
    ids = batch.column(ID)
    if not ids.null_count:
        return batch
    # Scalars of a stated type: without one, pyarrow looks for pandas at every call.
    prefix, dash = pa.scalar(uuid.uuid4().hex, pa.string()), pa.scalar("-", pa.string())
    numbers = pa.array(np.arange(1, batch.num_rows + 1)).cast(pa.string())
    return batch.set_column(0, batch.schema.field(0), pc.coalesce(ids, pc.binary_join_element_wise(prefix, numbers, dash)))


def _media(content_type: str | None) -> str:
    return (content_type or JSON).split(";")[0].strip().lower()


def _shown(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as plain values; where a time lies outside the years that Python knows, microseconds stand for the times."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and beyond_calendar(batch.column(place)).any():
            batch = batch.set_column(place, field.name, batch.column(place).cast(pa.int64()))
    return batch.to_pylist()  # type: ignore[no-any-return]


def outcomes_post(body: bytes, content_type: str | None, key: str | None) -> Post:
    """Posted outcomes as rows of `outcomes`, all or none; see `outcomes` for the parameters and errors."""
    sha256 = digest("/outcomes", body) if key is not None else ""
    return Post("outcomes", {"outcomes": outcomes(body, content_type)}, {}, key, sha256)


def outcomes(body: bytes, content_type: str | None) -> pa.RecordBatch:
    """Posted outcomes as rows of the log.

    Args:
        body: an object, an array of objects, or NDJSON.
        content_type: its media type; None means JSON.

    Raises:
        InputError: it cannot be read, or an outcome is invalid.

    >>> outcomes(b'{"id": "p1", "target": 3}', None).to_pylist()
    [{'id': 'p1', 'target': 3.0}]
    """
    media = _media(content_type)
    if media not in (JSON, NDJSON):
        raise InputError(f"Content-Type {media[:80]!r} is not read here; send {JSON} or {NDJSON}", status=415)
    found: list[Outcome] = []
    faults: list[Problem] = []
    for index, item in enumerate(plain_values(body, media == NDJSON)[0]):
        try:
            found.append(msgspec.convert(item, Outcome))
        except (msgspec.ValidationError, OverflowError) as error:
            faults.append(problem_of(index, str(error), missing="is missing; an outcome has an id and a target"))
            if len(faults) > BAD_RECORDS:
                break
    columns = [pa.array([str(o.id) for o in found], pa.string()), pa.array([o.target for o in found], pa.float64())]
    batch = pa.RecordBatch.from_arrays(columns, schema=OUTCOMES)
    faults = faults or problems(batch, _JUDGED_AS)
    if faults:
        raise InputError(f"{len(faults)} outcomes are invalid; nothing was stored", faults)
    return batch
