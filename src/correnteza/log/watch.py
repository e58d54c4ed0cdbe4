"""Waiting for appends, within one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

POLL_S = 0.05
"""How often a waiting reader looks for rows that another process may have appended."""


class Watch:
    """Tells waiting readers and subscribers of one log that rows were appended. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._subscribers: dict[object, Callable[[], None]] = {}

    def notify(self) -> None:
        """Rows were appended."""
        with self._condition:
            self._condition.notify_all()
            subscribers = list(self._subscribers.values())
        for call in subscribers:
            call()

    def subscribe(self, notify: Callable[[], None]) -> Callable[[], None]:
        """As `OwnedLog.subscribe`."""
        key = object()
        with self._condition:
            self._subscribers[key] = notify
        return lambda: self._unsubscribe(key)

    def _unsubscribe(self, key: object) -> None:
        with self._condition:
            self._subscribers.pop(key, None)

    def until(self, wait_s: float) -> Iterator[None]:
        """Yield once at once, then after each notice or poll, until `wait_s` have passed."""
        deadline = time.monotonic() + wait_s
        yield
        while (left := deadline - time.monotonic()) > 0:
            with self._condition:
                self._condition.wait(min(left, POLL_S))
            yield
