"""How many records are not learned from, because their target lies absurdly far from the others: counted, and told.

Invariant: what is counted is a function of the window's targets; an event comes at the first, and whenever there are twice as
many, so that a flood stays short.
"""

from __future__ import annotations

from correnteza.events import Events
from correnteza.trainer.forest import REACH, TAIL, bounds
from correnteza.trainer.window import Window


class LeftOut:
    """Looks at the window of one learner, from one thread.

    Args:
        events: where it is told.
        window_rows: labelled rows that a version learns from at most.

    Attributes:
        rows: of the last `window_rows` labelled rows, those that a version which learns from all of them leaves out.
    """

    def __init__(self, events: Events, window_rows: int) -> None:
        self.rows = 0
        self._events = events
        self._window_rows = window_rows
        self._labelled = 0
        self._told = 0

    def look(self, window: Window, labelled: int) -> int:
        """The rows that are left out now.

        Args:
            window: the labelled rows.
            labelled: how many there were since the stream began; nothing is counted again as long as it is the same.
        """
        if labelled == self._labelled or not len(window):
            return self.rows
        self._labelled = labelled
        targets = window.targets(self._window_rows)
        low, high = bounds(targets)
        self.rows = int(((targets < low) | (targets > high)).sum())
        if self.rows == 0 or self.rows >= max(1, 2 * self._told):
            self._tell(len(targets), low, high)
        return self.rows

    def _tell(self, rows: int, low: float, high: float) -> None:
        self._told = self.rows
        if not self.rows:
            return
        reason = (
            f"{self.rows:,} of the last {rows:,} labelled records are not learned from: their targets are not within "
            f"{low:.4g} and {high:.4g}, {REACH:g} times the range of the middle {1 - 2 * TAIL:.0%} beyond that range"
        )
        self._events.emit("targets_left_out", reason, rows=self.rows, low=low, high=high)
