"""Features that remember nothing: parts of a time, and arithmetic of a record's own fields.

Invariant: each value is a function of the record's own fields alone. Missing or impossible (a logarithm of zero, a
ratio to zero) is NaN. Times are in UTC.

Source of the calendar: days since 1970-01-01 to years and months by `datetime64`; 1970-01-01 was a Thursday.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from correnteza.definition import Feature
from correnteza.features import Floats, Ints

DAY_US = 86_400_000_000
THURSDAY = 3
"""Weekday of 1970-01-01; Monday is 0."""


def compute(feature: Feature, batch: pa.RecordBatch) -> dict[str, Floats]:
    """The columns of a feature that remembers nothing.

    Args:
        feature: its definition.
        batch: records, with the fields that it is made from.

    >>> from datetime import datetime, UTC
    >>> rows = pa.RecordBatch.from_pydict({"at": pa.array([datetime(2026, 1, 5, 18, 30)], pa.timestamp("us", tz="UTC"))})
    >>> compute(Feature("hour", ("at",), "hour"), rows)["hour"].tolist()
    [18.0]
    """
    if feature.how in ARITHMETIC:
        operands = [batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in feature.of]
        with np.errstate(all="ignore"):
            return {feature.name: ARITHMETIC[feature.how](*operands)}
    return _of_time(feature, batch.column(feature.source))


def _of_time(feature: Feature, times: pa.Array) -> dict[str, Floats]:
    missing = times.is_null().to_numpy(zero_copy_only=False)
    times_us = times.cast(pa.int64()).fill_null(0).to_numpy()
    how = feature.how.removesuffix("_cyclic")
    if how == "holiday":
        values = {feature.name: _holidays(times_us, feature.country or "")}
    elif feature.how.endswith("_cyclic"):
        turns = _PARTS[how](times_us) * (2 * np.pi / _LENGTHS[how])
        values = {f"{feature.name}_sin": np.sin(turns), f"{feature.name}_cos": np.cos(turns)}
    else:
        values = {feature.name: _PARTS[how](times_us)}
    return {name: np.where(missing, np.nan, column) for name, column in values.items()}


def _hour(times_us: Ints) -> Floats:
    return np.asarray(times_us % DAY_US // (DAY_US // 24), np.float64)


def _weekday(times_us: Ints) -> Floats:
    """Monday is 0."""
    return np.asarray((times_us // DAY_US + THURSDAY) % 7, np.float64)


def _month(times_us: Ints) -> Floats:
    """January is 1."""
    months = times_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    return np.asarray(months % 12 + 1, np.float64)


def _day_of_year(times_us: Ints) -> Floats:
    """The first of January is 1."""
    days = times_us.astype("datetime64[us]").astype("datetime64[D]")
    return np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) + 1, np.float64)


def _is_weekend(times_us: Ints) -> Floats:
    return np.asarray(_weekday(times_us) >= 5, np.float64)


def _holidays(times_us: Ints, code: str) -> Floats:
    """1 on a day that is a public holiday there, else 0."""
    import holidays

    country, _, part = code.partition("-")
    days, places = np.unique(times_us // DAY_US, return_inverse=True)
    calendar = holidays.country_holidays(country, subdiv=part or None)
    known = [day in calendar for day in days.astype("datetime64[D]").tolist()]
    return np.array(known, np.float64)[places]


_PARTS: dict[str, Callable[[Ints], Floats]] = {
    "hour": _hour,
    "weekday": _weekday,
    "month": _month,
    "day_of_year": _day_of_year,
    "is_weekend": _is_weekend,
}
_LENGTHS = {"hour": 24.0, "weekday": 7.0, "month": 12.0, "day_of_year": 365.25}


def _ratio(one: Floats, other: Floats) -> Floats:
    return np.where(other == 0, np.nan, one / other)


def _log(one: Floats) -> Floats:
    return np.where(one > 0, np.log(one), np.nan)


ARITHMETIC: dict[str, Callable[..., Floats]] = {
    "ratio": _ratio,
    "difference": lambda one, other: one - other,
    "product": lambda one, other: one * other,
    "log": _log,
}
