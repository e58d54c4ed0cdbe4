"""Which rows may go, and the thread that lets them go.

Invariant: a row that a registered reader has not passed stays, unless `hard_rows` says otherwise;
then its loss is an event, never silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from correnteza.errors import LogError
from correnteza.events import Events
from correnteza.log.base import Bounds, OwnedLog, Policy, Reader, Store


def new_first(bounds: Bounds, policy: Policy, aged: int, readers: Iterable[Reader]) -> tuple[int, int]:
    """The offset at which the log may begin from now on.

    Args:
        bounds: where it begins and ends now.
        policy: what is to be kept.
        aged: first offset that is not too old yet.
        readers: that are registered.

    Returns:
        The new first offset, and how many of the removed rows some reader had not passed.

    >>> new_first(Bounds(1, 101, 100), Policy(rows=10), 1, [Reader(50)])
    (51, 0)
    >>> new_first(Bounds(1, 101, 100), Policy(rows=10, hard_rows=20), 1, [Reader(50)])
    (81, 30)
    """
    wanted = aged if policy.rows is None else max(aged, bounds.next - policy.rows)
    known = list(readers)
    first = min([wanted, *(reader.passed + 1 - reader.keep_rows for reader in known)])
    if policy.hard_rows is not None:
        first = max(first, bounds.next - policy.hard_rows)
    first = min(max(first, bounds.first), bounds.next)
    return first, unread_rows(bounds, first, known)


def unread_rows(bounds: Bounds, first: int, readers: Iterable[Reader]) -> int:
    """How many of the rows before `first` some reader has not passed, of those that are there."""
    return max([0, *(first - 1 - max(reader.passed, bounds.first - 1) for reader in readers)])


class Janitor:
    """Applies a policy to every bounded log of a store, in a thread of its own.

    Args:
        store: whose logs; None has none.
        policy: what is to be kept.
        events: where lost unread rows are told.
        every_s: seconds from one pass to the next.
    """

    def __init__(self, store: Store | None, policy: Policy, events: Events, every_s: float) -> None:
        self._store = store
        self._policy = policy
        self._events = events
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the pass under way."""
        self._stop.set()
        self._thread.join(5.0)

    def sweep(self, now: float) -> None:
        """One pass over all logs; `now` is Unix time in seconds."""
        for log in self._store.bounded() if self._store else ():
            try:
                self._trim(log, now)
            except LogError as error:
                self._events.emit("retention_failed", str(error), log=log.name)

    def _trim(self, log: OwnedLog, now: float) -> None:
        trimmed = log.trim(self._policy, now)
        if trimmed.unread:
            cap = self._policy.hard_rows
            reason = f"log {log.name}: {trimmed.unread} rows were removed unread, because it held more than hard_rows={cap}"
            self._events.emit("unread_rows_removed", reason, log=log.name, rows=trimmed.unread)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.sweep(time.time())
