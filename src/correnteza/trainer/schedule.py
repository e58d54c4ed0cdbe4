"""When the next model is trained.

Invariant: `RowsSchedule` is a function of the number of labelled rows alone, so the same log gives the
same trainings, also when a process was killed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 300.0


class Schedule(Protocol):
    """Says when a training is due. `attempted` is the number of labelled rows at the last attempt."""

    @property
    def waits(self) -> bool:
        """Whether the reader waits for a training to end."""

    def rows_left(self, rows: int) -> int | None:
        """Labelled rows from `rows` to the next training; None when it does not depend on rows."""

    def due(self, rows: int, attempted: int) -> bool:
        """Whether a training is due after `rows` labelled rows."""

    def started(self) -> None:
        """A training was started."""

    def ended(self, failed: bool) -> None:
        """It ended."""


@dataclass(frozen=True, slots=True)
class RowsSchedule:
    """A training every so many labelled rows. One that failed is tried again at the next such row.

    Args:
        first: labelled rows before the first training.
        every: labelled rows from one to the next.

    >>> schedule = RowsSchedule(first=100, every=30)
    >>> [rows for rows in range(200) if schedule.due(rows, attempted=0)]
    [100, 130, 160, 190]
    >>> schedule.rows_left(0), schedule.rows_left(100), schedule.rows_left(101)
    (100, 30, 29)
    """

    first: int
    every: int
    waits = True

    def rows_left(self, rows: int) -> int | None:
        """See `Schedule.rows_left`."""
        return self.first - rows if rows < self.first else self.every - (rows - self.first) % self.every

    def due(self, rows: int, attempted: int) -> bool:
        """See `Schedule.due`."""
        return rows > attempted and rows >= self.first and (rows - self.first) % self.every == 0

    def started(self) -> None:
        """See `Schedule.started`."""

    def ended(self, failed: bool) -> None:
        """See `Schedule.ended`."""


class SecondsSchedule:
    """A training every so many seconds while labelled rows arrive; after failures with growing pauses.

    Args:
        every_s: seconds from the start of one to the start of the next; 0 is without pause, new rows or not.
        clock: monotonic time in seconds.

    >>> now = [0.0]
    >>> schedule = SecondsSchedule(10.0, clock=lambda: now[0])
    >>> schedule.due(500, attempted=0), schedule.started(), schedule.ended(failed=False), schedule.due(600, attempted=500)
    (True, None, None, False)
    >>> now[0] = 10.0
    >>> schedule.due(600, attempted=500), schedule.due(500, attempted=500)
    (True, False)
    """

    waits = False

    def __init__(self, every_s: float, clock: Callable[[], float]) -> None:
        self._every_s = every_s
        self._clock = clock
        self._due_at = clock()
        self._pause_s = 0.0

    def rows_left(self, rows: int) -> int | None:  # noqa: ARG002 - the protocol's parameter
        """See `Schedule.rows_left`."""
        return None

    def due(self, rows: int, attempted: int) -> bool:
        """See `Schedule.due`."""
        wanted = rows > attempted or self._pause_s > 0 or not self._every_s
        return wanted and self._clock() >= self._due_at

    def started(self) -> None:
        """See `Schedule.started`."""
        self._due_at = self._clock() + self._every_s

    def ended(self, failed: bool) -> None:
        """See `Schedule.ended`."""
        self._pause_s = min(max(2 * self._pause_s, PAUSE_FIRST_S), PAUSE_MAX_S) if failed else 0.0
        self._due_at = max(self._due_at, self._clock() + self._pause_s)
