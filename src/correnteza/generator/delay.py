"""Labels that come late: records without their target, and the truth some rows later.

Row `n` of the delayed stream is record `n` without its target, together with the truth of record
`n - delay_rows`; after the last record come rows that hold a truth alone. So the delay is counted in
rows of the source: what is sent is a pure function of the source and the position, whatever the clock.

Invariants:
- Each record's truth is sent once, behind its record, in the order of the records. Record and truth are
  re-derived from the position alone, so a killed process sends neither twice.
- A record that is rejected, or that has no target, has no truth to send.
- A delay that was changed between two starts takes effect at once: truths that are overdue come first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.errors import CursorError
from correnteza.generator.stage import FAULT, TRUTH, TRUTH_TYPE, typed
from correnteza.log.base import Slice
from correnteza.records import ID, OFFSET, Schema
from correnteza.stage import Source


def delay_rows(settings: config.Generator) -> int:
    """The label delay in rows of the source.

    The rate is the configured one, whatever it was changed to since. Without one (0 or inf), rows count as
    `interval_s` apart, which is their event time in the demo.

    >>> delay_rows(config.Generator(label_delay_s=30, records_per_second=20))
    600
    >>> delay_rows(config.Generator(label_delay_s=30, records_per_second=math.inf, interval_s=0.1))
    300
    """
    rate = settings.records_per_second
    rows_per_s = rate if 0 < rate < math.inf else 1.0 / settings.interval_s
    return math.ceil(settings.label_delay_s * rows_per_s)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the stream stands.

    Args:
        head: cursor of the source behind the last record that was sent.
        tail: cursor of the source behind the last record whose truth was sent.
        pending: records between the two.
    """

    head: str | None
    tail: str | None
    pending: int

    @classmethod
    def of(cls, cursor: str | None) -> _Place:
        """The place that a cursor stands for; one of the source itself is a place where nothing is pending."""
        if cursor is None or not cursor.startswith("{"):
            return cls(cursor, cursor, 0)
        try:
            place = cls(**json.loads(cursor))
        except (ValueError, TypeError):
            raise CursorError(f"delayed source: position {cursor[:200]!r} is not one of its own") from None
        return place

    def text(self) -> str:
        """The cursor of this place; that of the source itself where nothing is pending."""
        if self.pending or self.head is None:
            return json.dumps(asdict(self), separators=(",", ":"))
        return self.head


class Delayed:
    """A source whose targets come later than its records; with a delay of 0, the source as it is.

    Args:
        source: of the records; a pure function of its cursor, which never waits, and takes a limit of 0.
        again: makes the same source once more, for the truths; called when there is one to send.
        schema: of the records.
        rows: by how many rows a truth comes later than its record.
    """

    def __init__(self, source: Source, again: Callable[[], Source], schema: Schema, rows: int) -> None:
        self._source = source
        self._again = again
        self._schema = schema
        self._rows = rows
        self._second: Source | None = None

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        """Rows behind a cursor; empty only behind the last one. `back` is not for this source. See `Log.read`.

        Raises:
            CursorError: the cursor is neither of this stream nor of its source.
        """
        place = _Place.of(after)
        if place.pending > self._rows:
            return self._truths(place, min(limit, place.pending - self._rows))
        part = self._source.read(place.head, limit)
        rows = part.batch.num_rows
        if not rows:
            return self._truths(replace(place, head=part.next), min(limit, place.pending))
        if not self._rows:
            return Slice(part.batch, _Place(part.next, part.next, 0).text(), part.lag_rows)
        due = max(0, place.pending + rows - self._rows)
        truths, tail = self._due(place.tail, due)
        batch = self._without_target(part.batch)
        column = pa.concat_arrays([pa.nulls(rows - due, TRUTH_TYPE), truths])
        batch = pa.RecordBatch.from_arrays([*batch.columns, column], names=[*batch.schema.names, TRUTH])
        return Slice(batch, _Place(part.next, tail, place.pending + rows - due).text(), part.lag_rows)

    def _truths(self, place: _Place, rows: int) -> Slice:
        """Rows that hold a truth alone."""
        truths, tail = self._due(place.tail, rows)
        offsets = pa.array(np.arange(1, rows + 1, dtype=np.int64))
        batch = pa.RecordBatch.from_arrays([offsets, truths], names=[OFFSET, TRUTH])
        return Slice(batch, _Place(place.head, tail, place.pending - rows).text(), 0)

    def _due(self, tail: str | None, rows: int) -> tuple[pa.Array, str | None]:
        """The next truths, null where a record has none, and the cursor behind them."""
        parts = [pa.nulls(0, TRUTH_TYPE)]
        while rows:
            self._second = self._second or self._again()
            part = self._second.read(tail, rows)
            if not part.batch.num_rows:
                raise CursorError(f"delayed source: {rows} records behind {tail!r} are gone; was its file changed?")
            parts.append(_truths_of(typed(part.batch, self._schema), self._schema.target))
            rows, tail = rows - part.batch.num_rows, part.next
        return pa.concat_arrays(parts), tail

    def _without_target(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Typed records without their target; a target that cannot be read is still a fault."""
        batch = typed(batch, self._schema)
        place = batch.schema.get_field_index(self._schema.target)
        return batch.set_column(place, self._schema.target, pa.nulls(batch.num_rows, pa.float64()))


def _truths_of(records: pa.RecordBatch, target: str) -> pa.Array:
    """What is true of each record, null where there is nothing to tell."""
    known = pc.and_(pc.is_valid(records[target]), pc.is_valid(records[ID]))
    if FAULT in records.schema.names:
        known = pc.and_(known, pc.is_null(records[FAULT]))
    return pa.StructArray.from_arrays(
        [records[ID], records[target].cast(pa.float64())], fields=list(TRUTH_TYPE), mask=pc.invert(known)
    )
