"""How fast a source may go: a rate that several threads can take from and anybody can change.

Invariants:
- Over any span of time no more units go than rate x span, plus one burst.
- A burst is what `BURST_S` seconds are worth, at least one unit; time spent paused or busy elsewhere
  is not made up for beyond that.
- A changed rate is in force at once, also for a thread that is waiting.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from correnteza.errors import InputError

BURST_S = 0.1
_ROUNDING = 1e-9
"""Share of a unit that may be missing, so that rounding does not cost another wait."""


class Pace:
    """A token bucket: units arrive at a rate, and `take` hands them out.

    Args:
        rate_per_s: units per second; 0 pauses, inf never waits.
        clock: monotonic time in seconds.

    Raises:
        InputError: the rate is negative or not a number.

    >>> pace = Pace(20.0, clock=lambda: 0.0)  # at a standstill of time: one burst, then nothing
    >>> pace.take(100, stop_after_s=0.0), pace.take(100, stop_after_s=0.0)
    (2, 0)
    >>> pace.rate = math.inf
    >>> pace.take(100, stop_after_s=0.0)
    100
    """

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._rate = _checked(rate_per_s)
        self._units = self._burst
        self._counted_at = clock()

    @property
    def rate(self) -> float:
        """Units per second; setting it takes effect at once."""
        return self._rate

    @rate.setter
    def rate(self, rate_per_s: float) -> None:
        checked = _checked(rate_per_s)
        with self._changed:
            self._count()
            self._rate = checked
            self._units = min(self._units, self._burst)
            self._changed.notify_all()

    def take(self, most: int, stop_after_s: float) -> int:
        """Wait until at least one unit may go.

        Args:
            most: most units to take, at least 1.
            stop_after_s: longest wait, in seconds.

        Returns:
            How many units may go now, from 1 to `most`; 0 when the time is over without one.
        """
        with self._changed:
            end = self._clock() + stop_after_s
            while True:
                if ready := self._ready(most):
                    return ready
                left_s = end - self._clock()
                if left_s <= 0:
                    return 0
                self._wait(min(left_s, self._next_in_s()))

    @property
    def _burst(self) -> float:
        return 1.0 if math.isinf(self._rate) else max(1.0, self._rate * BURST_S)

    def _count(self) -> None:
        """Add the units that have arrived since the last call."""
        now = self._clock()
        if not math.isinf(self._rate):
            self._units = min(self._burst, self._units + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now

    def _ready(self, most: int) -> int:
        if math.isinf(self._rate):
            return most
        self._count()
        if not self._rate:
            return 0
        ready = min(most, int(self._units + _ROUNDING))
        self._units = max(0.0, self._units - ready)
        return ready

    def _next_in_s(self) -> float:
        return (1.0 - self._units) / self._rate if self._rate else math.inf

    def _wait(self, seconds: float) -> None:
        """Sleep, at most so long, until the rate is changed."""
        self._changed.wait(min(seconds, threading.TIMEOUT_MAX))


def _checked(rate_per_s: float) -> float:
    if math.isnan(rate_per_s) or rate_per_s < 0:
        raise InputError(f"rate {rate_per_s} per second: expected a number from 0 (paused) upwards, or inf (never waits)")
    return float(rate_per_s)
