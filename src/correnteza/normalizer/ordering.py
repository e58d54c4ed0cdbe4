"""The raw log in the order of event times: a source between it and the normalizer's stage.

    raw --> [InOrder] --> NormalizerStage     (one commit, with the cursor of this source)

Invariants:
- What is read is a function of the raw log, and of the moments at which nothing had come for a while; those are part of
  the cursor that is committed with what they let go. Neither batches nor restarts change it.
- What waits is nowhere but in the raw log and in memory. The cursor says where to read again, and upstream is told that
  everything from there is still needed: all from the batch on that the oldest row came in.
- With `lateness_s = 0` this is the raw log itself: the same rows, the same cursors.

The cursor is a JSON object of a few hundred characters; see `Place`.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from correnteza import config
from correnteza.errors import CursorError, LogError, LogUnavailableError, OffsetRemovedError
from correnteza.log.base import Slice
from correnteza.normalizer.watermark import Mark, Ordered, Rule, Waiting, advance, flush, noted, recalled
from correnteza.records import OFFSET, TIMESTAMP, Schema, empty, with_offsets
from correnteza.stage import Source
from correnteza.validation import FIRST_TIME_US, LAST_TIME_US


@runtime_checkable
class Keeping(Protocol):
    """A source that can be told which rows are still needed, as `HttpLog`."""

    def needs_behind(self, cursor: str | None) -> None:
        """All rows behind a cursor are needed; empty is the beginning of the log, None is what was read last."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this source stands: behind a mark, and behind some of what was let go there.

    Args:
        after: cursor of the raw log, behind which all that waits and all that is new stand; None is its beginning.
        first: lowest offset that waits; 0 when nothing does.
        mark: where the order stands.
        rule: by which the rows after it were let go.
        until: the offset up to which the rows after the mark were taken in to be let go.
        flushed: whether what waits was let go because nothing came.
        sent: how many of those that were let go have been read.
    """

    after: str | None
    first: int
    mark: Mark
    rule: Rule
    until: int
    flushed: bool = False
    sent: int = 0

    @classmethod
    def of(cls, cursor: str) -> Place:
        """The place that a cursor stands for.

        Raises:
            CursorError: it is not one of this source.
        """
        try:
            held = json.loads(cursor)
            return cls(**{**held, "mark": Mark(**held["mark"]), "rule": Rule(**held["rule"])})
        except (ValueError, TypeError, KeyError):
            raise CursorError(
                f"records in order: position {cursor[:200]!r} is not one of theirs; was the folder made by another version? "
                "use another pipeline.name or pipeline.data_dir"
            ) from None

    @property
    def lowest(self) -> int:
        """The lowest offset that is still needed."""
        return self.first or self.mark.offset + 1

    def shortened(self) -> Place:
        """Where to go on when rows behind it were removed: with what is left, none of it twice."""
        if self.sent:  # which of them were read can no longer be told
            return Place(None, 0, replace(self.mark, offset=self.until), self.rule, self.until)
        return replace(self, after=None)

    def text(self) -> str:
        """The cursor."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(slots=True)
class _Part:
    """Rows that were let go, of which `sent` were read; `before` is the place before them, `place` while they are read."""

    before: Place
    rows: pa.RecordBatch
    until: int
    flushed: bool
    sent: int = 0

    @property
    def place(self) -> Place:
        if not self.sent:
            return self.before
        return replace(self.before, until=self.until, flushed=self.flushed, sent=self.sent)


class InOrder:
    """The raw log, in order. For one thread; `figures` may be looked at from any.

    Args:
        source: the raw log.
        schema: of its records.
        settings: the section `[normalizer]`.
        clock: seconds, of any beginning, for `idle_s`.

    Attributes:
        figures: rows that wait, the watermark; plain values.
    """

    def __init__(
        self, source: Source, schema: Schema, settings: config.Normalizer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._needs_behind = source.needs_behind if isinstance(source, Keeping) else lambda _: None
        self._timestamp = schema.timestamp or ""
        self._rule = Rule.of(settings)
        self._idle_s = settings.idle_s
        self._clock = clock
        self._nothing = with_offsets(empty(schema.raw), 1)
        self._at: str | None = None  # the cursor that memory belongs to
        self._gap: Place | None = None  # where to go on after rows were removed
        self._shortened = False  # whether that has been told
        self._clear(Place(None, 0, Mark(), self._rule, 0))
        self.figures: dict[str, Any] = self._figures() if self._rule.lateness_us else {}

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """Up to `limit` rows behind a cursor, with the columns `ORDER` and `APART`. See `Log.read`.

        `lag_rows` counts what was not read or let go, but has not been handed on; not what waits for its time.

        Raises:
            CursorError: the cursor is neither one of this source nor one of the raw log.
            OffsetRemovedError: rows that were not handed on were removed by retention.
            LogUnavailableError: try again later.
        """
        if not self._rule.lateness_us and self._gap is None and not _is_place(after):
            self._needs_behind(None)
            return self._source.read(after, limit, wait_s, back)
        if back:
            raise LogError(f"records in order: back = {back}: this source reads on only")
        if after is None or after != self._at:
            self._go_to(after, limit)
        self._fill(limit, wait_s)
        return self._handed_on(limit)

    # Going to a cursor

    def _go_to(self, after: str | None, limit: int) -> None:
        """Have memory be that of a cursor, reading `limit` rows at a time."""
        place, self._gap = (self._gap if after is None else None), None
        self._shortened = place is not None
        if place is None:
            is_place = after is not None and _is_place(after)
            place = Place.of(after or "") if is_place else Place(after, 0, Mark(), self._rule, 0)
        self._at = None
        self._clear(place)
        try:
            self._recall(place, limit)
        except OffsetRemovedError:
            self._gap = place.shortened()
            raise
        self._at = after

    def _clear(self, place: Place) -> None:
        self._mark = place.mark
        self._waiting = Waiting.none(self._nothing.schema)
        self._parts: deque[_Part] = deque()
        self._after = place.after  # the raw log was read up to here
        self._last = 0  # offset of the last row that was read
        self._reads: list[tuple[int, str | None]] = []  # first offset of each batch that was read, and the cursor before it
        self._lag_rows = 0
        self._heard_s = self._clock()

    def _recall(self, place: Place, limit: int) -> None:
        """Read again what waited and what was being let go, and let it go as before."""
        until = place.until if place.first or place.until > place.mark.offset else 0
        later = []
        while self._last < until:
            batch = self._read(limit, 0.0, place).batch
            if not batch.num_rows and place.after is None:
                break  # retention has removed them all
            if not batch.num_rows:
                raise LogError(f"log raw: ends before the offset {until} that was read of it; was an older copy restored?")
            self._waiting = recalled(self._waiting, batch, self._timestamp, place.mark, place.first)
            later.append(_behind(batch, place.mark.offset))
        rows = pa.concat_batches(later) if later else self._nothing
        new = _behind(rows, place.until)
        self._take(rows.slice(0, rows.num_rows - new.num_rows), place.rule, place, place.sent)
        if place.flushed:
            self._let_go(flush(self._mark, self._waiting), place, place.sent, flushed=True)
        if place.rule != self._rule:
            self._let_go(flush(self._mark, self._waiting), self._place(place.rule), flushed=True)
        self._take(new, self._rule, self._place())

    # Reading on

    def _fill(self, limit: int, wait_s: float) -> None:
        """Let go enough rows, as far as there are any."""
        wait_s = self._patience_s(wait_s)
        while (ready := self._ready()) < limit:
            try:
                part = self._read(limit, 0.0 if ready else wait_s, self._parts[0].before if ready else self._place())
            except OffsetRemovedError:
                if ready:
                    return
                self._gap = replace(self._place(), after=None)
                raise
            except LogUnavailableError:
                if ready:
                    return
                raise
            if not part.batch.num_rows:
                self._idle()
                return
            self._take(_behind(part.batch, self._mark.offset), self._rule, self._place())
            wait_s = 0.0

    def _ready(self) -> int:
        """Rows that were let go and not handed on."""
        return sum(part.rows.num_rows - part.sent for part in self._parts)

    def _patience_s(self, wait_s: float) -> float:
        """How long to wait for rows, so that what waits is let go in time."""
        return min(wait_s, max(0.0, self._heard_s + self._idle_s - self._clock())) if len(self._waiting) else wait_s

    def _read(self, limit: int, wait_s: float, needed: Place) -> Slice:
        """The next rows of the raw log, which is told the place from which on rows are needed."""
        self._needs_behind(needed.after or "")
        try:
            part = self._source.read(self._after, limit, wait_s)
        except LogUnavailableError:
            self._heard_s = self._clock()  # who cannot be asked is not silent
            raise
        self._lag_rows = part.lag_rows
        if part.batch.num_rows:
            first = part.batch.column(OFFSET)[0].as_py()
            if self._after is None and needed.mark.offset and not self._shortened and first > needed.lowest:
                raise OffsetRemovedError(f"log raw: rows from offset {needed.lowest} to {first - 1} were removed", first)
            self._reads.append((first, self._after))
            self._last = part.batch.column(OFFSET)[-1].as_py()
            self._heard_s = self._clock()
        self._after = part.next
        return part

    def _idle(self) -> None:
        """Let go what waits, when nothing has come for so long."""
        if len(self._waiting) and not self._parts and self._clock() - self._heard_s >= self._idle_s:
            self._let_go(flush(self._mark, self._waiting), self._place(), flushed=True)

    def _take(self, batch: pa.RecordBatch, rule: Rule, before: Place, sent: int = 0) -> None:
        """Take rows in, and let go what the watermark reaches."""
        if batch.num_rows:
            self._let_go(advance(self._mark, self._waiting, batch, self._timestamp, rule), before, sent)

    def _let_go(self, done: Ordered, before: Place, sent: int = 0, flushed: bool = False) -> None:
        self._mark, self._waiting = done.mark, done.waiting
        if done.rows.num_rows > sent:
            self._parts.append(_Part(before, done.rows, done.mark.offset, flushed, sent))

    def _place(self, rule: Rule | None = None) -> Place:
        """Where this source stands behind all that was taken in."""
        first = self._waiting.first
        needed = first or self._mark.offset + 1  # as `Place.lowest`
        if needed > self._last:
            self._reads.clear()
        else:
            del self._reads[: bisect_right(self._reads, needed, key=lambda read: read[0]) - 1]
        after = self._reads[0][1] if self._reads else self._after
        return Place(after, first, self._mark, rule or self._rule, self._mark.offset)

    # Handing on

    def _handed_on(self, limit: int) -> Slice:
        """The next rows that were let go, and the cursor behind them."""
        rows: list[pa.RecordBatch] = []
        while self._parts and limit:
            part = self._parts[0]
            rows.append(part.rows.slice(part.sent, limit))
            part.sent += rows[-1].num_rows
            limit -= rows[-1].num_rows
            if part.sent == part.rows.num_rows:
                self._parts.popleft()
        place = self._parts[0].place if self._parts else self._place()
        plain = not self._rule.lateness_us and not self._parts and self._after is not None
        self._at = self._after if plain else place.text()
        self.figures = self._figures()
        batch = pa.concat_batches(rows) if rows else noted(self._nothing, np.empty(0, np.int64), np.empty(0, np.int64))
        return Slice(batch, self._at or "", self._lag_rows + self._ready())

    def _figures(self) -> dict[str, Any]:
        return {"held_rows": len(self._waiting), "watermark": _iso(self._mark.watermark)}


def _is_place(cursor: str | None) -> bool:
    """Whether a cursor is one of this source, and not one of the raw log."""
    return cursor is not None and cursor.startswith("{")


def _behind(batch: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    """The rows behind an offset, of a batch of the raw log."""
    return batch.slice(int(np.searchsorted(batch.column(OFFSET).to_numpy(), offset, side="right")))


def _iso(time_us: int) -> str | None:
    """A time as ISO 8601; None when there is none, or none that a calendar has."""
    if not FIRST_TIME_US <= time_us <= LAST_TIME_US:
        return None
    return str(pa.scalar(time_us, TIMESTAMP).as_py().isoformat())
