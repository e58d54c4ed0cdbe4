"""The derived columns of one record as of now, in some tens of microseconds: what a prediction waits for.

Invariant: each value is, bit for bit, the one that `Memory.vector` makes of a batch with that record.

What a definition means is worked out once, when the memory is made; a question then runs through functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from correnteza.definition import EWM_SPANS, TIME_PARTS, Feature
from correnteza.features import Floats, Ints
from correnteza.memory import plain
from correnteza.memory.keys import ALONE, Key, Keys
from correnteza.memory.tails import Tails
from correnteza.memory.windows import MICROSECONDS, NO_TIME
from correnteza.records import MAGNITUDE_LIMIT, TIMESTAMP, Schema

HOUR_US = 3_600_000_000
HOURS = 1024
"""Hours whose time parts are kept, per feature."""
NAN = math.nan

Value: TypeAlias = Key | float | None
Seen: TypeAlias = tuple[Floats, Ints, int, int, int, int]
"""A tail as a record sees it: values and times of the arena, first entry, end, first entry from which times do not
fall, and the record's event time, `NO_TIME` where it has none."""
Of: TypeAlias = Callable[[Seen, Value], float]
"""Makes a feature of a tail and of the record's own value."""
Plain: TypeAlias = Callable[[Mapping[str, Value], Mapping[str, int]], Sequence[float]]
"""Makes the columns of a feature that remembers nothing, of the record's values and times."""

_WHOLE = np.array([0])
"""Reduces all of a window with `reduceat`, so that sums are those of `windows`."""


class Single:
    """Asks the keys and tails of a memory. For one thread, that of the memory.

    Args:
        schema: with the definitions.
        keys: by the field whose values they are.
        tails: by that field, and then by the source.
        rows_limit: values that a window of seconds reaches back to at most.
    """

    def __init__(
        self,
        schema: Schema,
        keys: Mapping[str | None, Keys],
        tails: Mapping[str | None, Mapping[str, Tails]],
        rows_limit: int,
    ) -> None:
        self._timestamp = schema.timestamp or ""
        self._keys = keys
        columns = [(one, name) for one in schema.derived for name in one.columns]
        places = {name: place for place, (_, name) in enumerate(columns)}
        self._width = len(columns)
        self._plain = [(places[one.columns[0]], len(one.columns), _plain(one)) for one in schema.derived if not one.remembers]
        self._groups = [
            (
                by,
                source,
                held,
                [(places[one.name], one.how == "count", _of(one, source == schema.target, rows_limit)) for one in some],
            )
            for by, mine in tails.items()
            for source, held in mine.items()
            if (some := [one for one in schema.derived if one.remembers and (one.by, one.source) == (by, source)])
        ]

    def vector(self, values: Mapping[str, Value], times_us: Mapping[str, int]) -> list[float]:
        """The derived columns, in the order of the schema; NaN is missing.

        Args:
            values: of the fields that are keys, and of numbers that features are made from; None and absent is missing.
            times_us: of the fields of kind timestamp, in microseconds of Unix time; absent is missing.
        """
        found = [NAN] * self._width
        now_us = times_us.get(self._timestamp, NO_TIME)
        for place, width, made in self._plain:
            found[place : place + width] = map(_bounded, made(values, times_us))
        for by, source, tails, features in self._groups:
            key = ALONE if by is None else values.get(by)
            slot = self._keys[by].slot_of(key)  # type: ignore[arg-type]
            if slot >= 0:
                seen = (tails.values, tails.times_us, *tails.place(slot), now_us)
                own = values.get(source)
                for place, _, make in features:
                    value = make(seen, own)
                    found[place] = value if abs(value) <= MAGNITUDE_LIMIT else NAN
            elif key is not None:
                for place, counts, _ in features:
                    found[place] = 0.0 if counts else NAN
        return found


def _bounded(value: float) -> float:
    return value if abs(value) <= MAGNITUDE_LIMIT else NAN


def _us(one: Feature) -> int:
    return round((one.seconds or 0) * MICROSECONDS)


# Features that remember nothing


def _plain(one: Feature) -> Plain:
    return _of_time(one) if one.how in TIME_PARTS else _of_fields(one)


def _of_time(one: Feature) -> Plain:
    """Parts of a time are those of its hour."""

    @lru_cache(HOURS)
    def of_hour(hour: int) -> Sequence[float]:
        times = pa.array([hour * HOUR_US], pa.int64()).cast(TIMESTAMP)
        made = plain.compute(one, pa.RecordBatch.from_arrays([times], names=[one.source]))
        return [float(made[name][0]) for name in one.columns]

    missing = [NAN] * len(one.columns)

    def parts(_: Mapping[str, Value], times_us: Mapping[str, int]) -> Sequence[float]:
        time_us = times_us.get(one.source)
        return missing if time_us is None else of_hour(time_us // HOUR_US)

    return parts


def _of_fields(one: Feature) -> Plain:
    operation = plain.ARITHMETIC[one.how]

    def made(values: Mapping[str, Value], _: Mapping[str, int]) -> Sequence[float]:
        operands = [values.get(name) for name in one.of]
        if any(value is None for value in operands):
            return [NAN]
        with np.errstate(all="ignore"):
            return [operation(*(np.array([value], np.float64) for value in operands)).item()]

    return made


# Features that remember


def _of(one: Feature, of_target: bool, rows_limit: int) -> Of:
    """What a feature makes of a tail."""
    depth = one.depth(rows_limit)
    if one.how == "since":
        return _since
    if one.how == "lag":
        return _lag(one, depth)
    if one.how == "delta":
        return _delta(one, depth, of_target)
    window = _rows_window(one, depth) if one.seconds is None else _timed_window(one, depth)
    reduced = _reduced(one)
    return lambda seen, _: reduced(window(seen))


def _back(rows: int, depth: int) -> Of:
    """The value so many entries back."""

    def back(seen: Seen, _: Value) -> float:
        at = seen[3] - rows
        return seen[0].item(at) if at >= max(seen[2], seen[3] - depth) else NAN

    return back


def _since(seen: Seen, _: Value) -> float:
    begin, end, now_us = seen[2], seen[3], seen[5]
    if end == begin or now_us == NO_TIME:
        return NAN
    before = seen[1].item(end - 1)
    return (now_us - before) / MICROSECONDS if NO_TIME < before <= now_us else NAN


def _lag(one: Feature, depth: int) -> Of:
    if one.seconds is None:
        return _back(one.rows or 1, depth)
    length_us = _us(one)

    def lag(seen: Seen, _: Value) -> float:
        values, arena, begin, end, ordered, now_us = seen
        begin = max(begin, end - depth)
        if now_us == NO_TIME or begin == end:
            return NAN
        times, until_us = arena[begin:end], now_us - length_us
        if begin >= ordered:
            at = int(times.searchsorted(until_us, side="right")) - 1
        else:
            fitting = np.where(times <= until_us, times, NO_TIME)
            at = int(np.flatnonzero(fitting == fitting.max())[-1])
            at = at if times[at] <= until_us else -1
        return values.item(begin + at) if at >= 0 and times[at] != NO_TIME else NAN

    return lag


def _delta(one: Feature, depth: int, of_target: bool) -> Of:
    lag, last = _lag(one, depth), _back(1, depth)
    if not of_target:
        return lambda seen, own: NAN if own is None else own - lag(seen, None)  # type: ignore[operator]
    before = lag if one.rows is None else _back(1 + one.rows, depth)
    return lambda seen, _: last(seen, None) - before(seen, None)


def _rows_window(one: Feature, depth: int) -> Callable[[Seen], Floats]:
    rows = min(depth, (one.rows or 1) * (EWM_SPANS if one.how == "ewm" else 1))

    def window(seen: Seen) -> Floats:
        return seen[0][max(seen[2], seen[3] - rows) : seen[3]]

    return window


def _timed_window(one: Feature, depth: int) -> Callable[[Seen], Floats]:
    length_us = _us(one)

    def window(seen: Seen) -> Floats:
        values, times, begin, end, ordered, now_us = seen
        begin = max(begin, end - depth)
        if now_us == NO_TIME or begin == end:
            return values[:0]
        times = times[begin:end]
        if begin < ordered:
            return values[begin:end][(times > now_us - length_us) & (times <= now_us)]
        low = times.searchsorted(now_us - length_us, side="right")
        high = len(times) if times.item(-1) <= now_us else times.searchsorted(now_us, side="right")
        return values[begin + low : begin + high]

    return window


# What is made of a window

Reduced: TypeAlias = Callable[[Floats], float]


def _reduced(one: Feature) -> Reduced:
    if one.how == "count":
        return lambda window: float(len(window))
    made = _ewm(one.rows or 1) if one.how == "ewm" else _REDUCED[one.how]
    return lambda window: made(window) if len(window) else NAN


def _sum(window: Floats) -> float:
    return np.add.reduceat(window, _WHOLE).item()  # type: ignore[no-any-return]


def _std(window: Floats) -> float:
    distances = window - _sum(window) / len(window)
    return math.sqrt(_sum(distances * distances) / len(window))


def _ewm(span: int) -> Reduced:
    weights = (1.0 - 2.0 / (span + 1.0)) ** np.arange(EWM_SPANS * span, dtype=np.float64)
    totals = np.cumsum(weights).tolist()
    turned = weights[::-1].copy()
    return lambda window: _sum(window * turned[len(turned) - len(window) :]) / totals[len(window) - 1]


_REDUCED: dict[str, Reduced] = {
    "sum": _sum,
    "mean": lambda window: _sum(window) / len(window),
    "min": lambda window: np.minimum.reduceat(window, _WHOLE).item(),
    "max": lambda window: np.maximum.reduceat(window, _WHOLE).item(),
    "std": _std,
}
