"""How fast a source may go, and the source that never has anything.

Invariants:
- Over any span of time no more rows go than rate x span, plus one burst of `BURST_S`.
- A source that keeps up gets every row of its rate: what a slow commit delayed is made up for, within the burst.
- Rows go in parts of `PART_S`, so that 100 rows a second are 10 commits and not 100.
- A changed rate and `close` take effect at once, also for a thread that is waiting.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from correnteza.errors import InputError
from correnteza.log.base import Slice
from correnteza.records import empty, with_offsets
from correnteza.stage import Source

PART_S = 0.1
"""What is waited for before rows go, in seconds of the rate (at least one row)."""
BURST_S = 1.0
"""What may go at once after a delay, in seconds of the rate (at least one row)."""
SHORTEST_S = 0.001
"""No wait is shorter, so that the rounding of a clock cannot make a thread wait for ever shorter times."""
_ROUNDING = 1e-6
"""Share of a row that may be missing, so that rounding does not cost another wait."""


class NoSource:
    """Never yields a row; for a generator that only takes posted records.

    Args:
        schema: what its rows would look like, without `offset`.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._nothing = with_offsets(empty(schema), 1)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        """Nothing, at once. See `Log.read`."""
        return Slice(self._nothing, after or "none", 0)


class Paced:
    """A source at a rate.

    Args:
        source: a source that never waits, takes a limit of 0, and has ended when it has no row for a higher one.
        rate: rows per second; 0 pauses, inf is as fast as possible.
        clock: monotonic time in seconds.
        wait: how to wait on a condition for some seconds; for simulated time.

    Raises:
        InputError: the rate is negative or not a number.

    >>> paced = Paced(NoSource(pa.schema([])), rate=100.0)
    >>> paced.read(None, limit=10).batch.num_rows, paced.ended
    (0, True)
    """

    def __init__(
        self,
        source: Source,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self._source = source
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._closed = False
        self._rate = _checked(rate)
        self._rows = self._worth(PART_S)
        self._counted_at = clock()
        self.position: str | None = None
        """Cursor of the last read, which is where the reader stands; None before its first commit."""
        self.ended = False
        """Whether the source had nothing more at the last read."""

    @property
    def rate(self) -> float:
        """Rows per second; setting it takes effect at once."""
        return self._rate

    @rate.setter
    def rate(self, rows_per_s: float) -> None:
        checked = _checked(rows_per_s)
        with self._changed:
            self._count()
            self._rate = checked
            self._rows = min(self._rows, self._worth(BURST_S))
            self._changed.notify_all()

    def close(self) -> None:
        """Let no further read wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """Rows behind a cursor as soon as the rate allows; empty when it does not within `wait_s`. See `Log.read`."""
        self.position = after
        end = self._clock() + wait_s
        rows = self._take(limit, end)
        part = self._source.read(after, rows, 0.0, back)
        if rows:
            self._give_back(rows - part.batch.num_rows)
            self.ended = not part.batch.num_rows
            if self.ended:
                self._idle(end)
        return part

    def _take(self, limit: int, end: float) -> int:
        """How many rows may go, as soon as some may; 0 at the time `end`."""
        with self._changed:
            while True:
                rows = self._allowed(limit)
                left_s = end - self._clock()
                if rows or left_s <= 0 or self._closed:
                    return rows
                self._wait(self._changed, min(left_s, self._next_in_s(limit)))

    def _allowed(self, limit: int) -> int:
        if math.isinf(self._rate):
            return limit
        self._count()
        if not self._rate or self._rows + _ROUNDING < min(limit, self._worth(PART_S)):
            return 0
        rows = min(limit, int(self._rows + _ROUNDING))
        self._rows = max(0.0, self._rows - rows)
        return rows

    def _next_in_s(self, limit: int) -> float:
        missing = min(limit, self._worth(PART_S)) - self._rows
        return max(SHORTEST_S, missing / self._rate) if self._rate else math.inf

    def _worth(self, seconds: float) -> float:
        """What so many seconds are worth, in rows; at least one row, but nothing while paused."""
        return max(1.0, self._rate * seconds) if self._rate else 0.0

    def _count(self) -> None:
        """Add the rows that have come due since the last call."""
        now = self._clock()
        if math.isfinite(self._rate):
            self._rows = min(self._worth(BURST_S), self._rows + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now

    def _give_back(self, rows: int) -> None:
        with self._changed:
            if math.isfinite(self._rate):
                self._rows = min(self._worth(BURST_S), self._rows + rows)

    def _idle(self, end: float) -> None:
        """Wait with a source that has ended: a reader that asks again at once would keep a core busy."""
        with self._changed:
            while not self._closed and (left_s := end - self._clock()) > 0:
                self._wait(self._changed, left_s)


def _checked(rows_per_s: float) -> float:
    if math.isnan(rows_per_s) or rows_per_s < 0:
        raise InputError(
            f"records_per_second = {rows_per_s}: expected a number from 0 (paused) upwards, or inf (as fast as possible)"
        )
    return float(rows_per_s)
