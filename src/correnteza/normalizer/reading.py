"""Records and their outcomes as one stream, for features that remember the target.

    raw      --\\
    outcomes ---> [RecordsAndOutcomes] --> NormalizerStage     (one commit, with the cursor of both)

A batch has the columns of `raw`, and `OUTCOME`: null for a record; in a row for an outcome all else is null, and
`offset` is that of the last record before it, 0 when there is none.

Invariants:
- The cursor says how far both logs were read, so neither a record nor an outcome is read twice or left out.
- Which outcome falls between which records is decided when they are read; the stage's log `memory` keeps it.
- While records wait to be read, no more outcomes are read than records: what was not known when a record was made
  is not to be known when it is read late. Records do not wait for the log of outcomes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from correnteza.errors import CursorError, LogUnavailableError, OffsetRemovedError
from correnteza.events import Events
from correnteza.log.base import Slice, traces_of
from correnteza.normalizer.deriving import OUTCOME, OUTCOME_TYPE
from correnteza.records import OFFSET
from correnteza.stage import Source

OUTCOMES = pa.schema(list(OUTCOME_TYPE))
"""Columns of the generator's log `outcomes`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Cursors of both logs, and the offset of the last record."""

    raw: str | None = None
    outcomes: str | None = None
    offset: int = 0

    @classmethod
    def of(cls, cursor: str | None) -> _Place:
        if cursor is None:
            return cls()
        try:
            return cls(**json.loads(cursor))
        except (ValueError, TypeError):
            raise CursorError(f"records and outcomes: position {cursor[:200]!r} is not one of theirs") from None


class RecordsAndOutcomes:
    """The two logs as one source.

    Args:
        raw: the generator's log `raw`.
        outcomes: the generator's log `outcomes`.
        told: where it is told that outcomes or records were lost.
    """

    def __init__(self, raw: Source, outcomes: Source, told: Events) -> None:
        self._raw = raw
        self._outcomes = outcomes
        self._told = told

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        """Rows behind a cursor: records, then outcomes. `back` is not for this source. See `Log.read`."""
        place = _Place.of(after)
        # Outcomes are looked for first, so that one that waits does not wait for a record too; what is taken of
        # them is then settled by how many records there are.
        news = self._news(place, limit // 2) if limit > 1 else None
        ready = 0 if news is None else news.batch.num_rows
        records = self._records(place, limit - ready, 0.0 if ready else wait_s)
        count = records.batch.num_rows
        if news is not None and records.lag_rows and ready > count:
            news = self._news(place, count) if count else None
        offset = records.batch.column(OFFSET)[-1].as_py() if count else place.offset
        following = place.outcomes if news is None else news.next
        text = json.dumps(asdict(_Place(records.next, following, offset)), separators=(",", ":"))
        batch = records.batch if news is None else _together(records.batch, news.batch, offset)
        lag_rows = records.lag_rows + (0 if news is None else news.lag_rows)
        return Slice(batch, text, lag_rows, traces_of(records, news))

    def _records(self, place: _Place, limit: int, wait_s: float) -> Slice:
        try:
            return self._raw.read(place.raw, limit, wait_s)
        except OffsetRemovedError as error:
            self._told.emit("gap", str(error), first=error.first)
            return self._raw.read(None, limit, wait_s)

    def _news(self, place: _Place, limit: int) -> Slice | None:
        try:
            return self._outcomes.read(place.outcomes, limit)
        except OffsetRemovedError as error:
            self._told.emit("gap", f"outcomes were removed before they were read: {error}", first=error.first)
            return self._outcomes.read(None, limit)
        except LogUnavailableError:
            return None


def _together(records: pa.RecordBatch, outcomes: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    """Records, then outcomes, with the columns of both."""
    if not outcomes.num_rows:
        return records
    told = pa.StructArray.from_arrays([outcomes.column(f.name) for f in OUTCOME_TYPE], fields=list(OUTCOME_TYPE))
    columns = []
    for field in records.schema:
        missing = pa.nulls(outcomes.num_rows, field.type)
        if field.name == OFFSET:
            missing = pa.array(np.full(outcomes.num_rows, offset, np.int64))
        columns.append(pa.concat_arrays([records.column(field.name), missing]))
    columns.append(pa.concat_arrays([pa.nulls(records.num_rows, OUTCOME_TYPE), told]))
    return pa.RecordBatch.from_arrays(columns, names=[*records.schema.names, OUTCOME])
