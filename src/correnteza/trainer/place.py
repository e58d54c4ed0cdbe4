"""Where the ledger stands in its logs, and how to read back from there.

The cursor is a JSON object with the members of `Place`. It is about as long as the marks that it holds: at most
`recent.MARKS` times 25 characters, and 300 more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import CursorError, LogUnavailableError, OffsetRemovedError
from correnteza.log.base import OwnedLog
from correnteza.records import OFFSET
from correnteza.trainer.labels import Taken, of_rows
from correnteza.trainer.upstream import READ_ROWS, Upstream


@dataclass(slots=True)
class Place:
    """Positions in the logs.

    Args:
        rows: cursor of `normalized`; None at its beginning.
        offset: of the last record that was read.
        outcomes: cursor of `outcomes`; None at its beginning.
        predictions: offset up to which `predictions` was read; 0 before it was.
        labels: rows that `labels` has.
        since: the first of them that is still needed.
        counts: outcomes by effect, and records that expired, since the stream began.
        marks: when records were read; see `Marks`.
    """

    rows: str | None = None
    offset: int = 0
    outcomes: str | None = None
    predictions: int = 0
    labels: int = 0
    since: int = 1
    counts: dict[str, int] = field(default_factory=dict)
    marks: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, cursor: str) -> Place:
        """The place that a cursor stands for.

        Raises:
            CursorError: it is not one of the ledger.
        """
        try:
            return cls(**json.loads(cursor))
        except (ValueError, TypeError):
            raise CursorError(
                f"ledger: position {cursor[:200]!r} is not one of its own; was the folder made by an older version? "
                "use another pipeline.name or pipeline.data_dir"
            ) from None

    def text(self) -> str:
        """The cursor."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    def count(self, effect: str, rows: int) -> None:
        """Add to a count."""
        if rows:
            self.counts[effect] = self.counts.get(effect, 0) + rows


def records_until(upstream: Upstream, place: Place, back: int) -> Iterator[pa.RecordBatch]:
    """The last `back` records up to a place."""
    if not place.offset:
        return
    try:
        part = upstream.read(place.rows, min(back, READ_ROWS), back=back)
        while part.batch.num_rows:
            rows = part.batch.filter(pc.less_equal(part.batch[OFFSET], place.offset))
            if rows.num_rows:
                yield rows
            if part.batch[OFFSET][-1].as_py() >= place.offset:
                return
            part = upstream.read(part.next, READ_ROWS)
    except OffsetRemovedError as error:
        raise LogUnavailableError(f"normalized was shortened while it was read back: {error}") from None


def owned_rows(log: OwnedLog, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """The rows of a log from one offset to another, as far as they are still there."""
    try:
        part = log.read(log.cursor(last), min(READ_ROWS, last - first + 1), back=last - first + 1) if first <= last else None
        while part is not None and part.batch.num_rows:
            rows = part.batch.filter(pc.less_equal(part.batch[OFFSET], last))
            if rows.num_rows:
                yield rows
            if part.batch[OFFSET][-1].as_py() >= last:
                return
            part = log.read(part.next, READ_ROWS)
    except OffsetRemovedError as error:
        raise LogUnavailableError(f"{log.name} was shortened while it was read back: {error}") from None


def labels_from(log: OwnedLog, first: int, last: int) -> Iterator[tuple[int, Taken]]:
    """Rows of `labels` with their offsets."""
    for rows in owned_rows(log, first, last):
        yield from zip(rows[OFFSET].to_pylist(), of_rows(rows), strict=True)


def labels_above(log: OwnedLog, last: int, low: int) -> list[Taken]:
    """The rows of `labels` up to the offset `last` that were taken behind a record above the offset `low`."""
    found: list[Taken] = []
    while last > 0:
        page = [one for _, one in labels_from(log, max(1, last - READ_ROWS + 1), last)]
        found = [one for one in page if one.read_offset > low] + found
        if not page or page[0].read_offset <= low or len(page) < READ_ROWS:
            break
        last -= READ_ROWS
    return found
