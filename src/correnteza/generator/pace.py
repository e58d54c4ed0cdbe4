"""A source at a rate, and the source that never has anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyarrow as pa

from correnteza.log.base import Slice
from correnteza.pace import Pace
from correnteza.records import empty, with_offsets
from correnteza.stage import Source

PART_S = 0.1
"""Rows go in parts worth so many seconds of the rate, so that 100 rows a second are 10 commits and not 100."""
BURST_S = 1.0
"""What a slow commit delayed is made up for, up to so many seconds of the rate."""


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
        self._pace = Pace(rate, part_s=PART_S, burst_s=BURST_S, clock=clock, wait=wait)
        self.position: str | None = None
        """Cursor of the last read, which is where the reader stands; None before its first commit."""
        self.ended = False
        """Whether the source had nothing more at the last read."""

    @property
    def rate(self) -> float:
        """Rows per second; setting it takes effect at once."""
        return self._pace.rate

    @rate.setter
    def rate(self, rows_per_s: float) -> None:
        self._pace.rate = rows_per_s

    def close(self) -> None:
        """Let no further read wait."""
        self._pace.close()

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """Rows behind a cursor as soon as the rate allows; empty when it does not within `wait_s`. See `Log.read`."""
        self.position = after
        end = self._clock() + wait_s
        rows = self._pace.take(limit, wait_s)
        part = self._source.read(after, rows, 0.0, back)
        if rows:
            self._pace.give_back(rows - part.batch.num_rows)
            self.ended = not part.batch.num_rows
            if self.ended:  # a reader that asks again at once would keep a core busy
                self._pace.idle(end - self._clock())
        return part
