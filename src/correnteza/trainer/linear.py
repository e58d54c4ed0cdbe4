"""The linear part of an expert: ridge regression on numbers and categories.

A forest is a step function: it spends most of its leaves on what a line says in one number, and says
nothing beyond the rows that it has seen. So a line goes first, which may be bent, and the trees learn what it leaves.

Invariants:
- Its answer is bounded: each number counts as far as the range of the rows that it was fitted on, and
  a tenth of that range beyond. A missing number counts as 0, which is the mean, and where there are curves as what it
  says on average, which is something else; unknown categories count as none.
- The answer is `intercept + sum(x * (slopes + curves * x)) + effect of each category` with the clipped numbers x, so a few
  of them are computed at once (`joined`), in NumPy and in ONNX alike, and each as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from correnteza.features import Floats
from correnteza.trainer.estimators import FEATURE_LIMIT

PENALTY = 1.0
"""Of squared coefficients; the numbers are standardised, so it is worth one row."""
BEYOND = 0.1
CURVED_WITHIN = 6.0
"""Deviations from its mean within which all of a number must lie to have a curve: squares of rare large values would rule."""
CURVED_OFF = 1e3
"""Deviations from 0, at most, at which the mean of such a number lies: beyond, its square has too few digits left."""
MOST_CODES = 200
"""Categories with an effect of their own; rarer ones come later and count as none."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Linear parts, one or several.

    Args:
        low: smallest value of each number that counts, shape [parts, numbers].
        high: largest, shape [parts, numbers].
        intercepts: shape [parts].
        slopes: shape [parts, numbers].
        curves: of the squares of the numbers, shape [parts, numbers].
        absent: what a missing number says more than a 0, in the target's unit, shape [parts, numbers].
        effects: per category field the effect of each code, shape [codes, parts].
    """

    low: Floats
    high: Floats
    intercepts: Floats
    slopes: Floats
    curves: Floats
    absent: Floats
    effects: tuple[Floats, ...]

    def predict(self, features: Floats) -> Floats:
        """What the parts say, in the target's unit, shape [rows, parts].

        Args:
            features: standardised numbers, then category codes; NaN is missing; shape [rows, features].
        """
        count = self.slopes.shape[1]
        numbers = features[:, None, :count]
        within = np.clip(np.nan_to_num(numbers, nan=0.0), self.low, self.high)
        said = within * (self.slopes + self.curves * within) + np.where(np.isnan(numbers), self.absent, 0.0)
        answer: Floats = said.sum(axis=2) + self.intercepts
        for place, effects in enumerate(self.effects):
            answer += effects[indices(features[:, count + place], len(effects))]
        return answer


def indices(codes: Floats, size: int) -> np.ndarray:
    """The row of an effect table for each code: itself, or the last one, which is all zeros, for missing and unknown codes."""
    known = (codes >= 0) & (codes < size - 1)  # False for NaN
    return np.where(known, codes, size - 1).astype(np.int64)


def none(features: Floats, numbers: int) -> Linear:
    """A linear part that says 0.

    Args:
        features: standardised numbers, then category codes; NaN is missing; shape [rows, features].
        numbers: how many of the leading columns are numbers.
    """
    low, high = _range(_numbers(features, numbers, FEATURE_LIMIT))
    effects = (np.zeros((1, 1)),) * (features.shape[1] - numbers)
    nothing = np.zeros((1, numbers))
    return Linear(low, high, np.zeros(1), nothing, nothing.copy(), nothing.copy(), effects)


@dataclass(frozen=True, slots=True)
class Carried:
    """The number among the features that is the last known target.

    Args:
        place: its column.
        mean: that it was standardised with, in the target's unit.
        scale: likewise.
    """

    place: int
    mean: float
    scale: float


def carry(features: Floats, numbers: int, carried: Carried) -> Linear:
    """A line that says the last known target, and its mean where there is none.

    Args:
        features: standardised numbers, then category codes; NaN is missing; shape [rows, features].
        numbers: how many of the leading columns are numbers.
        carried: which of them it is.
    """
    part = none(features, numbers)
    part.slopes[0, carried.place] = carried.scale
    part.low[0, carried.place], part.high[0, carried.place] = -FEATURE_LIMIT, FEATURE_LIMIT
    return replace(part, intercepts=np.array([carried.mean]))


def fit(features: Floats, targets: Floats, numbers: int, curved: bool = False) -> Linear:
    """A linear part by ridge regression (Hoerl and Kennard, Technometrics 12, 1970).

    Args:
        features: standardised numbers, then category codes; NaN is missing; shape [rows, features].
        targets: in the target's unit, finite, shape [rows].
        numbers: how many of the leading columns are numbers.
        curved: whether the squares of the numbers are taken, too (Box and Wilson, J. Royal Stat. Soc. B 13, 1951).
    """
    values = _numbers(features, numbers, FEATURE_LIMIT)
    lines, centre, scale = _standardised(values)
    tables = [_table(features[:, place]) for place in range(numbers, features.shape[1])]
    columns, middle, spread = [lines], np.zeros(numbers), np.full(numbers, np.inf)
    if curved:
        bent = (np.abs(lines).max(axis=0) <= CURVED_WITHIN) & (np.abs(centre) <= CURVED_OFF * scale)
        squares, middle, spread = _standardised(np.where(bent, lines**2, 0.0))
        columns = [np.where(np.isnan(features[:, :numbers]), 0.0, each) for each in (lines, squares)]  # as `absent` says
    design = np.hstack([*columns, *(rows for rows, _ in tables)])
    mean = float(targets.mean())
    size = float(np.abs(targets - mean).max()) or 1.0  # keeps the sums finite whatever the unit
    squared, seen = design.T @ design, design.T @ ((targets - mean) / size)
    weights = np.linalg.solve(squared + PENALTY * np.eye(len(seen)), seen) * size
    curves = weights[numbers : 2 * numbers] / spread if curved else np.zeros(numbers)
    intercept = mean - centre / scale @ weights[:numbers] + ((centre / scale) ** 2 - middle) @ curves
    slopes, curves = weights[:numbers] / scale - 2.0 * centre / scale**2 * curves, curves / scale**2
    effects, place = [], design.shape[1] - sum(codes for _, codes in tables)
    for _, codes in tables:
        effects.append(np.append(weights[place : place + codes], 0.0)[:, None])
        place += codes
    low, high = _range(values)
    absent = slopes * centre + curves * (values**2).mean(axis=0) - _at_zero(slopes, curves, low[0], high[0])
    absent = absent[None, :] if curved else np.zeros((1, numbers))
    return Linear(low, high, np.array([intercept]), slopes[None, :], curves[None, :], absent, tuple(effects))


def _at_zero(slopes: Floats, curves: Floats, low: Floats, high: Floats) -> Floats:
    """What numbers of 0 say, shape [numbers]."""
    zero = np.clip(0.0, low, high)
    said: Floats = zero * (slopes + curves * zero)
    return said


def _standardised(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Columns about 0 with a deviation of 1, their means, and what they were divided by: infinity for a constant column."""
    centre, scale = values.mean(axis=0), values.std(axis=0)
    steady = np.where(scale > 1e-9 * np.maximum(np.abs(centre), 1.0), scale, np.inf)
    return (values - centre) / steady, centre, steady


LOCAL_ROWS = 10
"""Errors that a local correction is fitted on."""
LOCAL_KEEP = 0.6
"""Each of them counts so much of the next one."""
LOCAL_PENALTY = 10.0
"""Of squared slopes, in rows: a line through ten errors is steep by chance alone."""
LOCAL_LEAST = 5
LOCAL_CLIP = 10.0
LOCAL_FAR = 1e4
"""Deviations beyond which a number counts no further: squares of larger ones would drown the penalty."""


def local(features: Floats, errors: Floats, units: Floats) -> tuple[float, Floats] | None:
    """A correction for the next rows, from the last errors, newer ones counting more: intercept, and a slope per number.

    Args:
        features: of the last rows, shape [rows, features].
        errors: target minus prediction, made before the row was learned from, in the target's unit, shape [rows].
        units: a usual deviation of each number over many rows, shape [numbers].

    Returns:
        None when there are too few errors.
    """
    if len(errors) < LOCAL_LEAST:
        return None
    usual = np.median(np.abs(errors)) * LOCAL_CLIP  # a single absurd target is no trend
    bounded = np.clip(errors, -usual, usual)
    values = _numbers(features / np.append(units, np.ones(features.shape[1] - len(units))), len(units), LOCAL_FAR)
    weights = LOCAL_KEEP ** np.arange(len(errors))[::-1]
    weights *= len(errors) / weights.sum()
    centre, mean = np.average(values, axis=0, weights=weights), float(np.average(bounded, weights=weights))
    # In units of many rows: what hardly moved among so few must not be given a steep slope.
    design = values - centre
    weighted = design.T * weights
    slopes = np.linalg.solve(weighted @ design + LOCAL_PENALTY * np.eye(len(units)), weighted @ (bounded - mean))
    return mean - float(centre @ slopes), slopes / units


def joined(parts: Sequence[Linear]) -> Linear:
    """Several linear parts as one, each a column.

    Args:
        parts: of the same features.
    """
    sizes = [max(len(part.effects[i]) for part in parts) for i in range(len(parts[0].effects))]
    return Linear(
        np.vstack([part.low for part in parts]),
        np.vstack([part.high for part in parts]),
        np.concatenate([part.intercepts for part in parts]),
        np.vstack([part.slopes for part in parts]),
        np.vstack([part.curves for part in parts]),
        np.vstack([part.absent for part in parts]),
        tuple(np.hstack([_padded(part.effects[i], size) for part in parts]) for i, size in enumerate(sizes)),
    )


def _padded(effects: Floats, size: int) -> Floats:
    """The table with further rows of zeros, so that the last row stays that of the unknown."""
    return np.vstack([effects, np.zeros((size - len(effects), effects.shape[1]))])


def _numbers(features: Floats, count: int, limit: float) -> Floats:
    numbers: Floats = np.clip(np.nan_to_num(features[:, :count], nan=0.0), -limit, limit)
    return numbers


def _range(values: Floats) -> tuple[Floats, Floats]:
    low, high = values.min(axis=0), values.max(axis=0)
    reach = BEYOND * (high - low)
    return (low - reach)[None, :], (high + reach)[None, :]


def _table(codes: Floats) -> tuple[Floats, int]:
    """A category column as indicators, shape [rows, codes], and how many codes there are."""
    highest = int(np.nan_to_num(codes, nan=-1.0).max())
    size = min(highest, MOST_CODES) + 1
    rows: Floats = (codes[:, None] == np.arange(size)[None, :]).astype(np.float64)
    return rows, size
