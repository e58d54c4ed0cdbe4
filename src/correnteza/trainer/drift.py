"""Has the world changed? Drift of fields, of the target and of the error, seen in the means of blocks of rows.

Invariants:
- Blocks end at fixed counts of rows. Detections and state do not depend on how the rows are cut into calls,
  nor on restarts.
- An outlier in a block has no part in its mean, and a block's mean has a bounded part in the detector, so a value
  of 1e300 is neither a drift nor the end of the state.
- Memory and time per row do not grow with the stream.

The detector is that of `series`. It is fed with the blocks' trimmed means in units of their own reference deviation:
autocorrelation within a block is in that deviation, too.

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
from correnteza.trainer.series import FIRST_BLOCKS, LARGEST, MOST_BLOCKS, Change, Series

FIELD_ROWS = 32
"""Rows of a block of a field or the target."""
FIELD_DELTA = 0.01
"""ADWIN's confidence for a field. Measured: at most 0.2 false alarms in 10,000 independent rows; a shift by one
deviation is seen after about 110 rows."""
QUIET_ROWS = MOST_BLOCKS * FIELD_ROWS
"""A field that has drifted within so many rows, which are all that its detector remembers, is moving: see `Episode`."""
ERROR_ROWS = 10
"""Rows of a block of errors; 8 to 12 detect about equally soon."""
ERROR_DELTA = 0.02
"""For errors: at most 0.2 false alarms in 10,000 independent rows, heavy tails and one outlier in a hundred included;
an error 1.5, 2 and 3 times as large is seen after about 150, 60 and 40 rows."""
MISSING_FLOOR = 0.05
"""The least reference deviation of a share of missing values."""
CODES = 32
"""Shares of category codes are counted modulo this."""

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
        told: whether it is news: not one more step of a field that keeps moving.
    """

    row: int
    width_rows: int
    before: float
    after: float
    what: What = "value"
    name: str = ""
    told: bool = True


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which something keeps moving, as what goes with the season does.

    The first drift of an episode is told; a further one only when its mean is so far out that the range of the episode's
    means has at least doubled. So a field that goes round is told once or a few times, and a leap out of its round at once.

    Args:
        row: of the last drift, counted from the first row of the stream.
        low: lowest mean, of the time just before the episode among them.
        high: highest mean.
    """

    row: int
    low: float
    high: float

    def entered(self, row: int, drift: Detection) -> tuple[bool, Episode]:
        """Whether a further drift is told, and the episode with it."""
        beyond = max(self.low - drift.after, drift.after - self.high)
        told = drift.what != "category" and beyond > self.high - self.low
        return told, Episode(row, min(self.low, drift.after), max(self.high, drift.after))


@dataclass(frozen=True, slots=True)
class Monitor:
    """Watches one column: a field, the target, or the errors; start with `Monitor(...)` or `Monitor.of_errors()`.

    Args:
        delta: ADWIN's confidence, between 0 and 1; less is later and surer.
        block_rows: rows of a block, at least 5.
        only_up: whether only a rise counts as a drift, as with errors.
        codes: whether the values are category codes (whole numbers, 0 or more) instead of numbers.
        quiet_rows: after so many rows without a drift the next one begins an episode; 0: each does.
        rows: so far.
        drifted: rows at the last drift; None before the first.
        pending: values of the unfinished block, NaN where missing, shape [rows].
        value: the blocks' trimmed means, or distances of categories.
        missing: the blocks' shares of missing values.
        counts: how often each code occurred in the reference, shape [CODES].
        counted: blocks in the counts.
        episodes: the last one of each thing that is watched of the column.

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
    quiet_rows: int = 0
    rows: int = 0
    drifted: int | None = None
    pending: tuple[float, ...] = field(default=(), compare=False)
    value: Series = field(default_factory=Series)
    missing: Series = field(default_factory=lambda: Series(MISSING_FLOOR))
    counts: tuple[int, ...] = (0,) * CODES
    counted: int = 0
    episodes: Mapping[What, Episode] = field(default_factory=dict)

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
        names = ("delta", "block_rows", "only_up", "codes", "quiet_rows", "rows", "drifted", "counted")
        episodes = {what: [of.row, of.low, of.high] for what, of in self.episodes.items()}
        pending = [None if math.isnan(value) else value for value in self.pending]
        return (
            {name: getattr(self, name) for name in names}
            | series
            | {"pending": pending, "counts": list(self.counts), "episodes": episodes}
        )

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Monitor:
        """What `plain` was made of, exactly."""
        series = {name: Series.of(plain[name]) for name in ("value", "missing")}
        pending = tuple(math.nan if value is None else value for value in plain["pending"])
        episodes = {what: Episode(*of) for what, of in plain["episodes"].items()}
        return cls(**{**plain, **series, "pending": pending, "counts": tuple(plain["counts"]), "episodes": episodes})

    def _over(
        self, blocks: Floats, means: Floats, missing: Floats, pending: tuple[float, ...]
    ) -> tuple[list[Detection], Monitor]:
        """After finished blocks: their values, shape [blocks, rows], trimmed means, shares of missing ones, what follows."""
        found: list[tuple[What, Change]] = []
        changes, lost = self.missing.extend(missing.tolist(), self.delta)
        found += [("missing", change) for change in changes]
        known = np.flatnonzero(missing < 1.0)
        counts, counted = self.counts, self.counted
        if self.codes:
            changes, value, counts, counted = self._categories(blocks[known])
        else:
            changes, value = self.value.extend(means[known].tolist(), self.delta)
        found += [("category" if self.codes else "value", replace(c, block=int(known[c.block]))) for c in changes]
        rising = [(what, c) for what, c in found if c.after > c.before or not self.only_up]
        drifts = [self._detection(what, change) for what, change in sorted(rising, key=lambda of: of[1].block)]
        drifted = self.rows + drifts[-1].row + 1 if drifts else self.drifted
        drifts, episodes = self._told(drifts)
        after = replace(
            self,
            rows=self.rows + blocks.size,
            drifted=drifted,
            pending=pending,
            value=value,
            missing=lost,
            counts=counts,
            counted=counted,
            episodes=episodes,
        )
        return drifts, after

    def _told(self, drifts: list[Detection]) -> tuple[list[Detection], Mapping[What, Episode]]:
        """The drifts with what is news among them, and the episodes with them."""
        if not drifts:
            return drifts, self.episodes
        found, episodes = [], dict(self.episodes)
        for drift in drifts:
            told, row, known = True, self.rows + drift.row + 1, episodes.get(drift.what)
            if known is not None and row - known.row < self.quiet_rows:
                told, episodes[drift.what] = known.entered(row, drift)
            else:
                episodes[drift.what] = Episode(row, min(drift.before, drift.after), max(drift.before, drift.after))
            found.append(replace(drift, told=told))
        return found, episodes

    def _detection(self, what: What, change: Change) -> Detection:
        last = (change.block + 1) * self.block_rows - 1
        return Detection(last, change.width * self.block_rows, change.before, change.after, what)

    def _categories(self, blocks: Floats) -> tuple[list[Change], Series, tuple[int, ...], int]:
        """The drifts among blocks of codes, shape [blocks, rows]; and the next distances, counts, and blocks in them."""
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
        return changes, value, tuple(counts.tolist()), counted


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
        return cls(
            tuple(names), tuple(Monitor(delta, block_rows, codes=name in codes, quiet_rows=QUIET_ROWS) for name in names)
        )

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
        rest = tuple(together[whole * size :, column].tolist())
        if whole:
            drifts, following = monitor._over(blocks[column], means[column], missing[column], rest)
        else:
            drifts, following = [], replace(monitor, pending=rest)
        found.append([replace(drift, row=drift.row - known) for drift in drifts])
        after.append(following)
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
