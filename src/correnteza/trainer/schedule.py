"""When the next model is trained.

Invariant: `RowsSchedule` is a function of the numbers of labelled rows alone, so the same log gives the
same trainings, also when a process was killed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from correnteza.config import Trainer

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 300.0


class Schedule(Protocol):
    """Says when a training is due.

    `rows` is the number of labelled rows, `attempted` that at the last attempt, 0 before the first; `worth` is the
    number of new rows that the newest version is worth to be renewed for (`plan.due_rows`).
    """

    @property
    def waits(self) -> bool:
        """Whether the reader waits for a training to end."""

    def rows_left(self, rows: int, attempted: int, worth: int) -> int | None:
        """Labelled rows from `rows` to the next training, 0 when it is overdue; None when it does not depend on rows."""

    def due(self, rows: int, attempted: int, worth: int) -> bool:
        """Whether a training is due."""

    def started(self) -> None:
        """A training was started."""

    def ended(self, failed: bool) -> None:
        """It ended."""


@dataclass(frozen=True, slots=True)
class RowsSchedule:
    """A training every so many labelled rows. One that failed is tried again at the next such row.

    Args:
        first: labelled rows before the first training.
        every: labelled rows from one to the next; None: as many as it is worth.

    >>> schedule = RowsSchedule(first=100, every=30)
    >>> schedule.due(99, 0, 1), schedule.due(100, 0, 1), schedule.due(129, 100, 1), schedule.due(130, 100, 1)
    (False, True, False, True)
    >>> schedule.rows_left(0, 0, 1), schedule.rows_left(100, 100, 1), schedule.rows_left(101, 100, 1)
    (100, 30, 29)
    >>> RowsSchedule(first=100, every=None).rows_left(101, 100, worth=7)
    6
    """

    first: int
    every: int | None
    waits = True

    def rows_left(self, rows: int, attempted: int, worth: int) -> int | None:
        """See `Schedule.rows_left`."""
        return max(0, (attempted + (self.every or worth) if attempted else self.first) - rows)

    def due(self, rows: int, attempted: int, worth: int) -> bool:
        """See `Schedule.due`."""
        return self.rows_left(rows, attempted, worth) == 0

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
    >>> schedule.due(500, 0, 1), schedule.started(), schedule.ended(failed=False), schedule.due(600, 500, 1)
    (True, None, None, False)
    >>> now[0] = 10.0
    >>> schedule.due(600, 500, 1), schedule.due(500, 500, 1)
    (True, False)
    """

    waits = False

    def __init__(self, every_s: float, clock: Callable[[], float]) -> None:
        self._every_s = every_s
        self._clock = clock
        self._due_at = clock()
        self._pause_s = 0.0

    def rows_left(self, rows: int, attempted: int, worth: int) -> int | None:  # noqa: ARG002 - the protocol's parameters
        """See `Schedule.rows_left`."""
        return None

    def due(self, rows: int, attempted: int, worth: int) -> bool:  # noqa: ARG002 - the protocol's parameter
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


def schedule_of(settings: Trainer, clock: Callable[[], float]) -> Schedule:
    """The schedule that the section `[trainer]` asks for; `clock` is monotonic time in seconds."""
    if settings.retrain_every_rows is not None:
        every = None if settings.retrain_every_rows == "auto" else settings.retrain_every_rows
        return RowsSchedule(settings.min_rows, every)
    return SecondsSchedule(settings.retrain_every_s or 0.0, clock)
