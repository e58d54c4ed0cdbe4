"""Windows of remembered values, and what features make of them.

Invariants:
- A value depends on the values of its window and their order alone, bit for bit: not on where they are kept, nor
  on which other rows are looked at with it. Sums go through `np.add.reduceat`, which adds up each window by itself.
- An empty window gives NaN, which stands for missing; its `count` is 0.
- A window holds values from before the row. One of seconds holds those with a time in (t - seconds, t].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from correnteza.definition import EWM_SPANS, WINDOWS, Feature
from correnteza.features import Floats, Ints
from correnteza.memory.tails import Tails, spread

NO_TIME = np.iinfo(np.int64).min
"""Stands for a missing event time."""
MICROSECONDS = 1e6
AT_ONCE = 1_000_000
"""Values that are copied out of the arena at a time, at most (one window's at least)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows to make features for, in falling order of `end`, so that windows never lie apart in the arena.

    Args:
        begin: the first entry that a row may look back to, shape [rows].
        end: one behind the last entry before the row.
        ordered: the entry from which times do not fall.
        times_us: event times of the rows.
        values: the source's values of the rows themselves; NaN where missing.
    """

    begin: Ints
    end: Ints
    ordered: Ints
    times_us: Ints
    values: Floats

    def some(self, chosen: npt.NDArray[np.bool_] | Ints) -> Rows:
        """Some of the rows."""
        begin, end, ordered = self.begin[chosen], self.end[chosen], self.ordered[chosen]
        return Rows(begin, end, ordered, self.times_us[chosen], self.values[chosen])


def compute(feature: Feature, tails: Tails, rows: Rows, of_target: bool) -> Floats:
    """One feature for some rows.

    Args:
        feature: one that remembers.
        tails: of its source and key.
        rows: where they stand in the tails.
        of_target: whether the source is the target, whose own value a row does not know.

    Returns:
        Shape [rows]; NaN where missing.
    """
    if feature.how == "since":
        return _since(tails, rows)
    if feature.how == "lag":
        return _lag(feature, tails, rows)
    if feature.how == "delta":
        return _delta(feature, tails, rows, of_target)
    found = np.zeros(len(rows.end)) if feature.how == "count" else np.full(len(rows.end), np.nan)
    for places, values, low, high in _windows(feature, tails, rows):
        found[places] = _REDUCED[feature.how](values, low, high, feature)
    return found


# Single values


def _taken(values: Floats, at: Ints, there: npt.NDArray[np.bool_]) -> Floats:
    return np.where(there, values[np.where(there, at, 0)], np.nan)


def _since(tails: Tails, rows: Rows) -> Floats:
    last = rows.end - 1
    there = (last >= rows.begin) & (rows.times_us != NO_TIME)
    before = tails.times_us[np.where(there, last, 0)]
    there &= (before != NO_TIME) & (before <= rows.times_us)
    return np.where(there, (rows.times_us - np.where(there, before, 0)) / MICROSECONDS, np.nan)


def _lag(feature: Feature, tails: Tails, rows: Rows) -> Floats:
    if feature.rows is not None:
        at = rows.end - feature.rows
        return _taken(tails.values, at, at >= rows.begin)
    at = _until(tails, rows, rows.times_us - _us(feature))
    return _taken(tails.values, at, at >= 0)


def _delta(feature: Feature, tails: Tails, rows: Rows, of_target: bool) -> Floats:
    if not of_target:
        return rows.values - _lag(feature, tails, rows)
    last = _taken(tails.values, rows.end - 1, rows.end > rows.begin)
    if feature.rows is None:
        return last - _lag(feature, tails, rows)
    at = rows.end - 1 - feature.rows
    return last - _taken(tails.values, at, at >= rows.begin)


def _until(tails: Tails, rows: Rows, until_us: Ints) -> Ints:
    """The entry of the latest time up to one, the last one of several; -1 where there is none or a row has no time."""
    found = np.full(len(rows.end), -1)
    timed = rows.times_us != NO_TIME
    fast = timed & (rows.begin >= rows.ordered)
    if fast.any():
        some = rows.some(fast)
        at = _first_above(tails.times_us, some.begin, some.end, until_us[fast]) - 1
        known = (at >= some.begin) & (tails.times_us[np.maximum(at, 0)] != NO_TIME)
        found[fast] = np.where(known, at, -1)
    for places in _pieces(timed & ~fast, rows.end - rows.begin):
        some = rows.some(places)
        counts = some.end - some.begin
        at = spread(some.begin, counts)
        times = tails.times_us[at]
        times = np.where(times <= np.repeat(until_us[places], counts), times, NO_TIME)
        there = counts > 0
        firsts = (np.cumsum(counts) - counts)[there]
        latest = np.full(len(counts), NO_TIME)
        latest[there] = np.maximum.reduceat(times, firsts) if len(firsts) else NO_TIME
        hits = np.where((times == np.repeat(latest, counts)) & (times != NO_TIME), at, -1)
        chosen = np.full(len(counts), -1)
        chosen[there] = np.maximum.reduceat(hits, firsts) if len(firsts) else -1
        found[places] = chosen
    return found


def _first_above(times_us: Ints, low: Ints, high: Ints, limits_us: Ints) -> Ints:
    """Per row the first entry in [low, high) whose time is above a limit, or high; times must not fall there."""
    low, high = low.copy(), high.copy()
    while True:
        open_ = low < high
        if not open_.any():
            return low
        middle = (low + high) // 2
        above = times_us[middle] > limits_us
        high = np.where(open_ & above, middle, high)
        low = np.where(open_ & ~above, middle + 1, low)


def _us(feature: Feature) -> int:
    return round((feature.seconds or 0) * MICROSECONDS)


# Windows

Window = tuple[Ints, Floats, Ints, Ints]
"""Rows, and where their windows are: values[low:high]; what lies between two windows that follow each other is short."""


def _windows(feature: Feature, tails: Tails, rows: Rows) -> Iterator[Window]:
    """The windows of all rows that have one."""
    if feature.seconds is None:
        length = EWM_SPANS * (feature.rows or 1) if feature.how == "ewm" else (feature.rows or 1)
        low = np.maximum(rows.begin, rows.end - length)
        yield np.arange(len(low)), tails.values, low, rows.end
        return
    timed = rows.times_us != NO_TIME
    fast = timed & (rows.begin >= rows.ordered)
    if fast.any():
        some = rows.some(fast)
        low = _first_above(tails.times_us, some.begin, some.end, some.times_us - _us(feature))
        yield np.flatnonzero(fast), tails.values, low, _first_above(tails.times_us, low, some.end, some.times_us)
    for places in _pieces(timed & ~fast, rows.end - rows.begin):
        yield _filtered(tails, rows.some(places), places, _us(feature))


def _filtered(tails: Tails, rows: Rows, places: Ints, length_us: int) -> Window:
    """Windows of rows among whose entries times fall: each entry is looked at, and those within are copied together."""
    counts = rows.end - rows.begin
    at = spread(rows.begin, counts)
    times, now = tails.times_us[at], np.repeat(rows.times_us, counts)
    within = (times > now - length_us) & (times <= now)
    owners = np.repeat(np.arange(len(counts)), counts)
    sizes = np.bincount(owners[within], minlength=len(counts))
    high = np.cumsum(sizes)
    return places, np.append(tails.values[at[within]], 0.0), high - sizes, high


def _pieces(chosen: npt.NDArray[np.bool_], sizes: Ints) -> Iterator[Ints]:
    """The chosen rows, in parts that have few entries together."""
    places = np.flatnonzero(chosen)
    if len(places):
        parts = np.cumsum(sizes[places]) // AT_ONCE
        yield from np.split(places, np.flatnonzero(np.diff(parts)) + 1)


# What is made of windows: values, low, high, feature -> one number per window

Reduced = Callable[[Floats, Ints, Ints, Feature], Floats]


def _each(operation: np.ufunc, values: Floats, low: Ints, high: Ints) -> Floats:
    """A ufunc over each values[low:high]; NaN for those that are empty."""
    there = high > low
    if not there.any():
        return np.full(len(low), np.nan)
    edges = np.empty(2 * int(there.sum()), np.int64)
    edges[::2], edges[1::2] = low[there], high[there]
    found = np.full(len(low), np.nan)
    found[there] = operation.reduceat(values[: edges.max() + 1], edges)[::2]
    return found


def _sum(values: Floats, low: Ints, high: Ints, feature: Feature) -> Floats:  # noqa: ARG001 - as Reduced
    return _each(np.add, values, low, high)


def _mean(values: Floats, low: Ints, high: Ints, feature: Feature) -> Floats:  # noqa: ARG001 - as Reduced
    means: Floats = _each(np.add, values, low, high) / np.maximum(high - low, 1)
    return means


def _count(values: Floats, low: Ints, high: Ints, feature: Feature) -> Floats:  # noqa: ARG001 - as Reduced
    return np.asarray(high - low, np.float64)


def _std(values: Floats, low: Ints, high: Ints, feature: Feature) -> Floats:
    """Of the window as a population; the squares are of distances from the window's own mean."""
    means = _mean(values, low, high, feature)
    found = np.full(len(low), np.nan)
    for places in _pieces(high > low, high - low):
        counts = high[places] - low[places]
        squares = (values[spread(low[places], counts)] - np.repeat(means[places], counts)) ** 2
        ends = np.cumsum(counts)
        found[places] = np.sqrt(_each(np.add, np.append(squares, 0.0), ends - counts, ends) / counts)
    return found


def _ewm(values: Floats, low: Ints, high: Ints, feature: Feature) -> Floats:
    """Weights fall by 1 - 2 / (span + 1) from the last value back, and add up to 1."""
    weights, total = ewm_weights(feature.rows or 1)
    found = np.full(len(low), np.nan)
    for places in _pieces(high > low, high - low):
        counts = high[places] - low[places]
        at = spread(low[places], counts)
        weighted = values[at] * weights[np.repeat(high[places], counts) - 1 - at]
        ends = np.cumsum(counts)
        found[places] = _each(np.add, np.append(weighted, 0.0), ends - counts, ends) / total[counts - 1]
    return found


def ewm_weights(span: int) -> tuple[Floats, Floats]:
    """Weights from the last value back, and their sums."""
    weights = (1.0 - 2.0 / (span + 1.0)) ** np.arange(EWM_SPANS * span, dtype=np.float64)
    return weights, np.cumsum(weights)


_REDUCED: dict[str, Reduced] = {
    "sum": _sum,
    "mean": _mean,
    "count": _count,
    "std": _std,
    "ewm": _ewm,
    "min": lambda values, low, high, _: _each(np.minimum, values, low, high),
    "max": lambda values, low, high, _: _each(np.maximum, values, low, high),
}
assert set(_REDUCED) == {*WINDOWS, "ewm"}  # noqa: S101 - a way without a function would be found at the first record
