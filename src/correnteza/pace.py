"""How fast a source may go: a rate that several threads can take from and anybody can change.

Invariants:
- Over any span of time no more units go than rate x span, plus one burst.
- A taker that keeps up gets every unit of the rate: what a delay held back is made up for, within the burst.
- A changed rate and `close` take effect at once, also for a thread that is waiting.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from correnteza.errors import InputError

BURST_S = 0.1
SHORTEST_S = 0.001
"""No wait is shorter, so that the rounding of a clock cannot make a thread wait for ever shorter times."""
_ROUNDING = 1e-6
"""Share of a unit that may be missing, so that rounding does not cost another wait."""


class Pace:
    """A token bucket: units arrive at a rate, and `take` hands them out.

    Args:
        rate_per_s: units per second; 0 pauses, inf never waits.
        part_s: what is waited for before units go, in seconds of the rate (at least one unit), so that
            100 units a second can be 10 takes and not 100.
        burst_s: what may go at once after a delay, in seconds of the rate (at least one unit).
        clock: monotonic time in seconds.
        wait: how to wait on a condition for some seconds; for simulated time.

    Raises:
        InputError: the rate is negative or not a number.

    >>> pace = Pace(20.0, clock=lambda: 0.0)  # at a standstill of time: one burst, then nothing
    >>> pace.take(100, stop_after_s=0.0), pace.take(100, stop_after_s=0.0)
    (2, 0)
    >>> pace.rate = math.inf
    >>> pace.take(100, stop_after_s=0.0)
    100
    """

    def __init__(
        self,
        rate_per_s: float,
        *,
        part_s: float = 0.0,
        burst_s: float = BURST_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self._part_s = part_s
        self._burst_s = burst_s
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._closed = False
        self._rate = _checked(rate_per_s)
        self._units = self._worth(part_s or burst_s)
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
            self._units = min(self._units, self._worth(self._burst_s))
            self._changed.notify_all()

    def close(self) -> None:
        """Let no further call wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, stop_after_s: float) -> int:
        """Wait until a part, or `most` if that is less, may go.

        Args:
            most: most units to take, at least 1.
            stop_after_s: longest wait, in seconds.

        Returns:
            How many units may go now, from 1 to `most`; 0 when the time is over, or the pace closed, without one.
        """
        with self._changed:
            end = self._clock() + stop_after_s
            while True:
                ready = self._ready(most)
                left_s = end - self._clock()
                if ready or left_s <= 0 or self._closed:
                    return ready
                self._pause(min(left_s, self._next_in_s(most)))

    def give_back(self, units: int) -> None:
        """Return units that were taken and not used."""
        with self._changed:
            if math.isfinite(self._rate):
                self._units = min(self._worth(self._burst_s), self._units + units)

    def idle(self, seconds: float) -> None:
        """Wait so long, whatever the rate; ends early only with `close`."""
        with self._changed:
            end = self._clock() + seconds
            while not self._closed and (left_s := end - self._clock()) > 0:
                self._pause(left_s)

    def _worth(self, seconds: float) -> float:
        """What so many seconds are worth, in units; at least one, but nothing while paused."""
        if math.isinf(self._rate):
            return 1.0
        return max(1.0, self._rate * seconds) if self._rate else 0.0

    def _count(self) -> None:
        """Add the units that have arrived since the last call."""
        now = self._clock()
        if math.isfinite(self._rate):
            self._units = min(self._worth(self._burst_s), self._units + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now

    def _ready(self, most: int) -> int:
        if math.isinf(self._rate):
            return most
        self._count()
        if not self._rate or self._units + _ROUNDING < min(most, self._worth(self._part_s)):
            return 0
        ready = min(most, int(self._units + _ROUNDING))
        self._units = max(0.0, self._units - ready)
        return ready

    def _next_in_s(self, most: int) -> float:
        missing = min(most, self._worth(self._part_s)) - self._units
        return max(SHORTEST_S, missing / self._rate) if self._rate else math.inf

    def _pause(self, seconds: float) -> None:
        self._wait(self._changed, min(seconds, threading.TIMEOUT_MAX))


def _checked(rate_per_s: float) -> float:
    if math.isnan(rate_per_s) or rate_per_s < 0:
        raise InputError(f"rate {rate_per_s} per second: expected a number from 0 (paused) upwards, or inf (never waits)")
    return float(rate_per_s)
