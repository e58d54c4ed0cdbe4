"""When does the mean of a series change? The detector behind `drift`, over the figures of blocks of rows.

Invariants:
- Detections and state do not depend on restarts: the detector is fed again with the figures in the state, which are its
  whole past.
- A figure has a bounded part in the detector. Memory and time per figure do not grow with the series.

The detector is River's ADWIN (Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SIAM
International Conference on Data Mining, 2007), which drops the old part of its window when the means of two parts
differ by more than chance. It presumes values in [0, 1]. So it is fed with figures in units of their own reference
deviation, bounded. The reference is taken anew after a drift and after every `MOST_BLOCKS - KEPT_BLOCKS` blocks; the
window never holds more than `MOST_BLOCKS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIRST_BLOCKS = 12
"""Blocks before the first detection, and after a detection before the next; the reference is taken from them."""
KEPT_BLOCKS = 48
MOST_BLOCKS = 96
SHORTEST_BLOCKS = 2
"""Least blocks of a new world, so that a freak block alone is none."""
SCORED_BLOCKS = 4
"""Blocks whose mean is compared with the reference in a score."""
GAIN = 2.0
"""Figures are fed in units of the reference deviation over this; it weighs ADWIN's two terms against each other."""
BOUND = 16.0
"""What is fed is between -BOUND and BOUND. More sees large drifts sooner, and takes freak blocks for drifts."""
LARGEST = 1e300


@dataclass(slots=True)
class _Live:
    """A detector that goes on with the state that was made last; an older one feeds another."""

    adwin: Any  # River's ADWIN, which has no types; None once it went on


@dataclass(frozen=True, slots=True)
class Change:
    """A drift of a series: the block that showed it, counted within the call, blocks of the new world, means."""

    block: int
    width: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Series:
    """The blocks' figures of one thing that is watched.

    Args:
        floor: least reference deviation, in the unit of the figures.
        figures: since the detector's anchor, oldest first; at most `MOST_BLOCKS`.
        mean: of the reference; None before the first.
        deviation: of a block's figure in the reference.
    """

    floor: float = 0.0
    figures: tuple[float, ...] = ()
    mean: float | None = None
    deviation: float = 0.0
    live: _Live | None = field(default=None, compare=False, repr=False)

    def extend(self, fresh: Sequence[float], delta: float) -> tuple[list[Change], Series]:
        """Go on by the figures of some blocks, always with the same confidence."""
        if not fresh:
            return [], self
        figures, mean, deviation = list(self.figures), self.mean, self.deviation
        adwin = self._detector(delta)
        changes = []
        for block, figure in enumerate(fresh):
            figures.append(figure)
            settled = adwin is not None
            if adwin is not None and mean is not None:
                adwin.update(_unit(figure, mean, deviation))
                if adwin.width < len(figures):
                    changes.append(_change(block, figures, mean, deviation))
                    adwin, settled = None, False
                elif len(figures) >= MOST_BLOCKS:
                    del figures[:-KEPT_BLOCKS]
                    adwin = None
            while adwin is None and len(figures) >= FIRST_BLOCKS:
                mean, deviation = _reference(figures, self.floor)
                adwin = _fed(delta, figures, mean, deviation)
                if adwin.width < len(figures):
                    change = _change(block, figures, mean, deviation)
                    changes += [change] if settled else []  # else it is the rest of the last drift
                    adwin, settled = None, False
        return changes, Series(self.floor, tuple(figures), mean, deviation, _Live(adwin))

    def score(self) -> float:
        """How far the last blocks are from the reference, in its deviations; 0 as long as there is none."""
        last = self.figures[-SCORED_BLOCKS:]
        if self.mean is None or not last:
            return 0.0
        return min(abs(sum(last) / len(last) - self.mean) / self.deviation, LARGEST)

    def plain(self) -> dict[str, Any]:
        """As values that JSON has."""
        names = ("floor", "mean", "deviation")
        return {name: getattr(self, name) for name in names} | {"figures": list(self.figures)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Series:
        """What `plain` was made of, exactly."""
        return cls(**{**plain, "figures": tuple(plain["figures"])})

    def _detector(self, delta: float) -> Any:
        if len(self.figures) < FIRST_BLOCKS or self.mean is None:
            return None
        if self.live is not None and self.live.adwin is not None:
            adwin, self.live.adwin = self.live.adwin, None
            return adwin
        return _fed(delta, self.figures, self.mean, self.deviation)


def _reference(figures: Sequence[float], floor: float) -> tuple[float, float]:
    """Mean and deviation without the smallest and the largest; no squares, so that nothing overflows."""
    ordered = np.sort(figures)[1:-1]
    mean = float(np.mean(ordered))
    deviation = 1.5 * float(np.mean(np.abs(ordered - mean)))
    return mean, max(deviation, floor, 1e-9 * abs(mean), 1e-300)


def _unit(figure: float, mean: float, deviation: float) -> float:
    return min(max(GAIN * ((figure - mean) / deviation), -BOUND), BOUND)


def _fed(delta: float, figures: Sequence[float], mean: float, deviation: float) -> Any:
    from river import drift

    adwin: Any = drift.ADWIN(delta=delta, clock=1, min_window_length=SHORTEST_BLOCKS, grace_period=1)  # type: ignore[no-untyped-call]
    for figure in figures:
        adwin.update(_unit(figure, mean, deviation))
    return adwin


def _change(block: int, figures: list[float], mean: float, deviation: float) -> Change:
    """The change that ADWIN has seen; the figures of the old world are removed.

    ADWIN lets go of the old world little by little. The likeliest place of one change is that with the largest
    difference of means in units of its deviation (Hinkley, "Inference about the change-point in a sequence of
    random variables", Biometrika 57, 1970).
    """
    units = np.array([_unit(figure, mean, deviation) for figure in figures])
    old = np.arange(1, len(units))
    excess = np.cumsum(units - np.mean(units))[:-1]
    place = int(old[np.argmax(np.abs(excess) / np.sqrt(old * (len(units) - old)))])
    before, after = figures[:place], figures[place:]
    figures[:] = after
    surely = after[1:] or after  # the first may lie across the change
    return Change(block, len(after), sum(before) / len(before), sum(surely) / len(surely))
