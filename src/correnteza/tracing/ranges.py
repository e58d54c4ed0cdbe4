"""In which contexts the last rows of a log were written.

Invariants:
- It has a bound, whatever is written and read.
- A reader that sees rows also learns of their contexts: while a commit is under way, it waits for a moment.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import NamedTuple

from correnteza.tracing.contexts import NONE, Traces

MOST_RANGES = 4096
"""Ranges of rows that are remembered, per log."""
WAIT_S = 0.05
"""Longest wait for the contexts of rows that were committed this instant."""


class Range(NamedTuple):
    """Rows from offset `first` to `last`, written in one context."""

    first: int
    last: int
    context: str


def _last(one: Range) -> int:
    return one.last


class Ranges:
    """The contexts of one log's rows. Safe to use from several threads.

    Args:
        most: ranges that are remembered, the newest.
        wait_s: longest wait of a reader for a commit that is under way.

    >>> ranges = Ranges()
    >>> a, b = "00-" + 31 * "0" + "1-" + 15 * "0" + "1-01", "00-" + 31 * "0" + "2-" + 15 * "0" + "2-01"
    >>> with ranges.writing():
    ...     ranges.note(1, 10, a)
    ...     ranges.note(11, 20, b)
    >>> ranges.of(5, 10).contexts == (a,), ranges.of(10, 11).contexts == (a, b), ranges.of(21, 30).contexts
    (True, True, ())
    """

    def __init__(self, most: int = MOST_RANGES, wait_s: float = WAIT_S) -> None:
        self._most = most
        self._wait_s = wait_s
        self._ranges: list[Range] = []
        self._written = 0
        self._highest = 0
        self._changed = threading.Condition()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a commit and the notes of its rows."""
        with self._changed:
            self._written += 1
        try:
            yield
        finally:
            with self._changed:
                self._written -= 1
                self._changed.notify_all()

    def note(self, first: int, last: int, context: str) -> None:
        """Take down in which context the rows from `first` to `last` were written; "" is in none."""
        if last < first:
            return
        with self._changed:
            self._highest = max(self._highest, last)
            if not context:
                return
            before = self._ranges[-1] if self._ranges else None
            if before is not None and before.context == context and before.last == first - 1:
                self._ranges[-1] = Range(before.first, last, context)
                return
            insort(self._ranges, Range(first, last, context), key=_last)
            if len(self._ranges) >= 2 * self._most:
                del self._ranges[: -self._most]

    def of(self, first: int, last: int) -> Traces:
        """The contexts of the rows from `first` to `last`, as far as they are known."""
        with self._changed:
            self._changed.wait_for(lambda: not self._written or self._highest >= last, self._wait_s)
            start = bisect_left(self._ranges, first, key=_last)
            found = takewhile(lambda one: one.first <= last, islice(self._ranges, start, None))
            return Traces.of(one.context for one in found)


class Tables:
    """The ranges of all logs of a process, by the name of the log."""

    def __init__(self) -> None:
        self._by_log: dict[str, Ranges] = {}

    def of(self, log: str, first: int, last: int) -> Traces:
        """See `Ranges.of`."""
        known = self._by_log.get(log)
        return NONE if known is None else known.of(first, last)

    def note(self, log: str, first: int, last: int, context: str) -> None:
        """See `Ranges.note`."""
        self._by_log.setdefault(log, Ranges()).note(first, last, context)

    @contextmanager
    def writing(self, logs: Iterable[str]) -> Iterator[None]:
        """See `Ranges.writing`, for several logs."""
        begun = [self._by_log.setdefault(log, Ranges()).writing() for log in logs]
        for one in begun:
            one.__enter__()
        try:
            yield
        finally:
            for one in begun:
                one.__exit__(None, None, None)
