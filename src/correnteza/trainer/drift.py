"""Has the world changed? Drift of fields, of the target and of the error, seen in the means of blocks of rows.

Invariants:
- Blocks end at fixed counts of rows. Detections and state do not depend on how the rows are cut into calls,
  nor on restarts: the detector is fed again with the block means in the state, which are its whole past.
- An outlier in a block has no part in its mean, and a block's mean has a bounded part in the detector, so a value
  of 1e300 is neither a drift nor the end of the state.
- Memory and time per row do not grow with the stream.

The detector is River's ADWIN (Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SIAM
International Conference on Data Mining, 2007), which drops the old part of its window when the means of two parts
differ by more than chance. It presumes values in [0, 1]. So it is fed with the blocks' trimmed means in units of
their own reference deviation, bounded: autocorrelation within a block is in that deviation, too. The reference is
taken anew after a drift and after every `MOST_BLOCKS - KEPT_BLOCKS` blocks; the window never holds more than
`MOST_BLOCKS`.

Of a category, a block's figure is the total variation distance of its codes from those of the reference: 0 when
each has the same share as there, 1 when there is none in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from correnteza.features import Floats

FIELD_ROWS = 32
"""Rows of a block of a field or the target."""
FIELD_DELTA = 0.01
"""ADWIN's confidence for a field. Measured: at most 0.2 false alarms in 10,000 independent rows; a shift by one
deviation is seen after about 110 rows."""
ERROR_ROWS = 10
"""Rows of a block of errors; 8 to 12 detect about equally soon."""
ERROR_DELTA = 0.02
"""For errors: at most 0.2 false alarms in 10,000 independent rows, heavy tails and one outlier in a hundred included;
an error 1.5, 2 and 3 times as large is seen after about 150, 60 and 40 rows."""
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
MISSING_FLOOR = 0.05
"""The least reference deviation of a share of missing values."""
CODES = 32
"""Shares of category codes are counted modulo this."""
LARGEST = 1e300

What = Literal["value", "missing", "category"]


@dataclass(frozen=True, slots=True)
class Detection:
    """A drift.

    Args:
        row: after which it was detected, counted within the call from 0.
        width_rows: rows up to this one that are of the new world, about; at least one block.
        before: mean of the old world: of the values in their unit, the share of missing values, or the distance.
        after: mean of the new world.
        what: of what: the values, the share of missing values, or the shares of categories.
        name: of the field, where there are several.
    """

    row: int
    width_rows: int
    before: float
    after: float
    what: What = "value"
    name: str = ""


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
        after = replace(self, figures=tuple(figures), mean=mean, deviation=deviation, live=_Live(adwin))
        return changes, after

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


@dataclass(frozen=True, slots=True)
class Monitor:
    """Watches one column: a field, the target, or the errors; start with `Monitor(...)` or `Monitor.of_errors()`.

    Args:
        delta: ADWIN's confidence, between 0 and 1; less is later and surer.
        block_rows: rows of a block, at least 5.
        only_up: whether only a rise counts as a drift, as with errors.
        codes: whether the values are category codes (whole numbers, 0 or more) instead of numbers.
        rows: so far.
        drifted: rows at the last drift; None before the first.
        pending: values of the unfinished block, NaN where missing, shape [rows].
        value: the blocks' trimmed means, or distances of categories.
        missing: the blocks' shares of missing values.
        counts: how often each code occurred in the reference, shape [CODES].
        counted: blocks in the counts.

    >>> rng = np.random.default_rng(0)
    >>> values = np.concatenate([rng.normal(size=1000), rng.normal(3, 1, 1000)])
    >>> (detection,), _ = Monitor().extend(values)
    >>> detection.row, detection.width_rows, round(detection.after)
    (1119, 128, 3)
    """

    delta: float = FIELD_DELTA
    block_rows: int = FIELD_ROWS
    only_up: bool = False
    codes: bool = False
    rows: int = 0
    drifted: int | None = None
    pending: tuple[float, ...] = field(default=(), compare=False)
    value: Series = Series()
    missing: Series = Series(MISSING_FLOOR)
    counts: tuple[int, ...] = (0,) * CODES
    counted: int = 0

    @classmethod
    def of_errors(cls, delta: float = ERROR_DELTA, block_rows: int = ERROR_ROWS) -> Monitor:
        """One for absolute errors, in the order of the rows."""
        return cls(delta=delta, block_rows=block_rows, only_up=True)

    def extend(self, values: Floats) -> tuple[list[Detection], Monitor]:
        """Go on by some rows.

        Args:
            values: in the order of the rows, NaN where missing, shape [rows].

        Returns:
            The drifts, in the order of the rows, and what is next.
        """
        detections, (after,) = _extend((self,), np.asarray(values, dtype=np.float64)[:, None])
        return detections[0], after

    def score(self) -> float:
        """How far the last `SCORED_BLOCKS` blocks are from the reference, in deviations of a block; 0 or more."""
        return max(self.value.score(), self.missing.score())

    def plain(self) -> dict[str, Any]:
        """As values that JSON has; a few kilobytes."""
        series = {"value": self.value.plain(), "missing": self.missing.plain()}
        names = ("delta", "block_rows", "only_up", "codes", "rows", "drifted", "counted")
        pending = [None if math.isnan(value) else value for value in self.pending]
        return {name: getattr(self, name) for name in names} | series | {"pending": pending, "counts": list(self.counts)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Monitor:
        """What `plain` was made of, exactly."""
        series = {name: Series.of(plain[name]) for name in ("value", "missing")}
        pending = tuple(math.nan if value is None else value for value in plain["pending"])
        return cls(**{**plain, **series, "pending": pending, "counts": tuple(plain["counts"])})

    def _over(self, blocks: Floats, means: Floats, missing: Floats) -> tuple[list[Detection], Monitor]:
        """After finished blocks: their values, shape [blocks, rows], trimmed means and shares of missing ones."""
        found: list[tuple[What, Change]] = []
        changes, lost = self.missing.extend(missing.tolist(), self.delta)
        found += [("missing", change) for change in changes]
        known = np.flatnonzero(missing < 1.0)
        if self.codes:
            changes, after = self._categories(blocks[known])
        else:
            changes, value = self.value.extend(means[known].tolist(), self.delta)
            after = replace(self, value=value)
        found += [("category" if self.codes else "value", replace(c, block=int(known[c.block]))) for c in changes]
        rising = [(what, c) for what, c in found if c.after > c.before or not self.only_up]
        drifts = [self._detection(what, change) for what, change in sorted(rising, key=lambda of: of[1].block)]
        drifted = self.rows + drifts[-1].row + 1 if drifts else self.drifted
        return drifts, replace(after, missing=lost, rows=self.rows + blocks.size, drifted=drifted)

    def _detection(self, what: What, change: Change) -> Detection:
        last = (change.block + 1) * self.block_rows - 1
        return Detection(last, change.width * self.block_rows, change.before, change.after, what)

    def _categories(self, blocks: Floats) -> tuple[list[Change], Monitor]:
        """The drifts among blocks of codes, shape [blocks, rows], and what is next."""
        counts, counted, value = np.array(self.counts), self.counted, self.value
        changes = []
        for block, histogram in enumerate(_histograms(blocks)):
            if counted < FIRST_BLOCKS:
                counts, counted = counts + histogram, counted + 1
                continue
            shares = histogram / histogram.sum() - counts / counts.sum()
            found, value = value.extend([round(0.5 * float(np.abs(shares).sum()), 4)], self.delta)
            if any(change.after > change.before for change in found):
                changes += [replace(change, block=block) for change in found]
                counts, counted, value = np.zeros_like(counts), 0, replace(value, figures=(), live=None)
        return changes, replace(self, counts=tuple(counts.tolist()), counted=counted, value=value)


@dataclass(frozen=True, slots=True)
class Monitors:
    """Watches columns of the same rows, `names`, by a monitor for each; start with `Monitors.start(names)`."""

    names: tuple[str, ...]
    monitors: tuple[Monitor, ...]

    @classmethod
    def start(
        cls, names: Sequence[str], codes: Sequence[str] = (), delta: float = FIELD_DELTA, block_rows: int = FIELD_ROWS
    ) -> Monitors:
        """New ones for columns by name; those in `codes` have category codes. The rest as in `Monitor`."""
        return cls(tuple(names), tuple(Monitor(delta, block_rows, codes=name in codes) for name in names))

    def extend(self, values: Floats) -> tuple[list[Detection], Monitors]:
        """Go on by some rows: see `Monitor.extend`.

        Args:
            values: in the order of the rows, NaN where missing, shape [rows, columns].
        """
        found, after = _extend(self.monitors, np.asarray(values, dtype=np.float64))
        named = [replace(each, name=name) for name, of in zip(self.names, found, strict=True) for each in of]
        return sorted(named, key=lambda each: each.row), replace(self, monitors=after)

    def scores(self) -> dict[str, float]:
        """`Monitor.score` by name."""
        return {name: monitor.score() for name, monitor in zip(self.names, self.monitors, strict=True)}

    def drifted(self) -> dict[str, int | None]:
        """Rows at the last drift by name; None where there was none."""
        return {name: monitor.drifted for name, monitor in zip(self.names, self.monitors, strict=True)}

    def plain(self) -> dict[str, Any]:
        """As values that JSON has."""
        return {"names": list(self.names), "monitors": [monitor.plain() for monitor in self.monitors]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Monitors:
        """What `plain` was made of, exactly."""
        return cls(tuple(plain["names"]), tuple(Monitor.of(monitor) for monitor in plain["monitors"]))


def _extend(monitors: tuple[Monitor, ...], values: Floats) -> tuple[list[list[Detection]], tuple[Monitor, ...]]:
    """Monitors that have seen the same rows, and their next ones, shape [rows, monitors]."""
    if not monitors or not len(values):
        return [[] for _ in monitors], monitors
    size = monitors[0].block_rows
    pending = np.array([monitor.pending for monitor in monitors]).T
    known = len(pending)
    together = np.concatenate([pending, np.clip(values, -LARGEST, LARGEST)])
    whole = len(together) // size
    blocks = np.ascontiguousarray(together[: whole * size].reshape(whole, size, together.shape[1]).transpose(2, 0, 1))
    means, missing = _trimmed(blocks)
    found, after = [], []
    for column, monitor in enumerate(monitors):
        drifts, following = monitor._over(blocks[column], means[column], missing[column]) if whole else ([], monitor)
        found.append([replace(drift, row=drift.row - known) for drift in drifts])
        rest = tuple(together[whole * size :, column].tolist())
        after.append(replace(following, pending=rest))
    return found, tuple(after)


def _trimmed(blocks: Floats) -> tuple[Floats, Floats]:
    """Means without the smallest and largest known value (NaN without any), shares of missing values: [columns, blocks]."""
    ordered = np.sort(blocks, axis=2)  # NaN comes last
    rows = blocks.shape[2]
    known = np.count_nonzero(~np.isnan(ordered), axis=2)
    cut = known >= 5
    last = known - cut
    inside = (np.arange(rows) >= cut[:, :, None]) & (np.arange(rows) < last[:, :, None])
    sums = np.where(inside, ordered, 0.0).sum(axis=2)
    with np.errstate(invalid="ignore"):
        return sums / (last - cut), 1.0 - known / rows


def _histograms(blocks: Floats) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """How often each code occurs in each block, shape [blocks][CODES]."""
    known = ~np.isnan(blocks)
    codes = np.where(known, np.mod(np.abs(blocks), CODES), 0.0).astype(np.int64)
    places = codes + CODES * np.arange(len(blocks))[:, None]
    return list(np.bincount(places[known], minlength=CODES * len(blocks)).reshape(-1, CODES))


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
