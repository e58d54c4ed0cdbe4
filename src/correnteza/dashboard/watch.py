"""Asks the services on behalf of all open pages: a thread per service, and each answer is shared.

Invariants:
- However many pages are open, a service is asked for each feed at most once per `every_s`.
- A service that hangs holds up nobody but its own thread; one that does not answer is seen at the next round.
- A feed that nobody has looked at for `WANTED_S` is no longer asked for, and after `FORGET_S` its answer is let go.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from correnteza.client import Client
from correnteza.dashboard.feeds import SERVICES, STATUS, Feed
from correnteza.errors import CorrentezaError

WANTED_S = 5.0
"""How long a feed is asked for after somebody looked at it last."""
FORGET_S = 600.0
"""And how long its answer is kept, to go on from."""
TRAIL = 120
"""Points kept of each service's rate: two minutes."""
STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer to a feed.

    Args:
        value: what was answered last; None when nothing ever was.
        error: why the last call failed; empty when it did not.
        at_s: when it was last tried, on the clock of the watch; None before.
    """

    value: Any = None
    error: str = ""
    at_s: float | None = None


@dataclass(slots=True)
class _Kept:
    feed: Feed
    wanted_s: float
    answer: Answer = field(default_factory=Answer)

    def due_s(self) -> float:
        """When it is to be asked for next."""
        return -1.0 if self.answer.at_s is None else self.answer.at_s + self.feed.every_s


class Watch:
    """Answers of the services, as fresh as the pages need them.

    Args:
        client: how the services are asked; its time-out bounds how late a hanging one is seen.
        clock: monotonic time in seconds.
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.trails: Mapping[str, deque[float | None]] = {service: deque(maxlen=TRAIL) for service in SERVICES}
        self._clock = clock
        self._kept: dict[str, dict[str, _Kept]] = {service: {} for service in SERVICES}
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, args=(s,), name=f"watch-{s}", daemon=True) for s in SERVICES]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more; waits for the calls under way, which end with the client's time-out."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(STOP_S)
        self.client.close()

    def get(self, feed: Feed) -> Answer:
        """The last answer to a feed, and the wish that it is kept fresh."""
        with self._changed:
            return self._want(feed).answer

    def first(self, feeds: Sequence[Feed], wait_s: float) -> None:
        """Wait until each of some feeds has been tried lately, or the time is over."""
        with self._changed:
            now = self._clock()
            self._changed.wait_for(lambda: all(self._tried(feed, now - WANTED_S) for feed in feeds), wait_s)

    def _tried(self, feed: Feed, since_s: float) -> bool:
        at_s = self._want(feed).answer.at_s
        return at_s is not None and at_s >= since_s

    def _want(self, feed: Feed) -> _Kept:
        kept = self._kept[feed.service].get(feed.name)
        if kept is None:
            kept = self._kept[feed.service][feed.name] = _Kept(feed, -math.inf)
        now = self._clock()
        if now - kept.wanted_s >= WANTED_S:
            self._changed.notify_all()  # its thread may be asleep
        kept.wanted_s = now
        return kept

    def _run(self, service: str) -> None:
        with self._changed:
            self._want(STATUS[service])
        while (kept := self._next(service)) is not None:
            answer = self._ask(kept)
            with self._changed:
                kept.answer = answer
                if kept.feed == STATUS[service]:
                    self.trails[service].append((answer.value or {}).get("rows_per_s"))
                self._changed.notify_all()

    def _next(self, service: str) -> _Kept | None:
        """Waits for a feed that is due; None when the watch ends."""
        with self._changed:
            while not self._stopping:
                self._forget(service)
                kept = min(self._wanted(service), key=_Kept.due_s)
                left_s = kept.due_s() - self._clock()
                if left_s <= 0:
                    return kept
                self._changed.wait(left_s)
            return None

    def _wanted(self, service: str) -> list[_Kept]:
        """What somebody looks at; the status always."""
        self._kept[service][STATUS[service].name].wanted_s = now = self._clock()
        return [kept for kept in self._kept[service].values() if now - kept.wanted_s < WANTED_S]

    def _forget(self, service: str) -> None:
        kept, now = self._kept[service], self._clock()
        for name in [name for name, each in kept.items() if now - each.wanted_s >= FORGET_S]:
            del kept[name]

    def _ask(self, kept: _Kept) -> Answer:
        try:
            return Answer(kept.feed.ask(self.client, kept.answer.value), "", self._clock())
        except (CorrentezaError, LookupError, TypeError, ValueError) as error:  # the latter of an answer in another form
            return Answer(kept.answer.value if kept.feed.lasting else None, str(error), self._clock())


def answering(watch: Watch, services: Iterable[str] = SERVICES) -> dict[str, Answer]:
    """The status of each service; its value is None for one that does not answer."""
    return {service: watch.get(STATUS[service]) for service in services}
