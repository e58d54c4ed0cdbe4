"""How far an interval reaches, so that it holds the target as often as it says, whatever the stream does.

Invariants:
- The multiplier of a row is made of rows of finished blocks only, so it can be served before the row is known.
- It changes after fixed counts of scored rows and at no other time; results and state do not depend on how
  the rows are cut into calls.
- Whatever the scores are, it is a finite number, 0 or more.

The interval of a row is prediction ± multiplier * spread; its score is |target - prediction| / spread. The multiplier
follows the quantile of the scores by adaptive conformal inference (Gibbs and Candès, "Adaptive Conformal Inference
Under Distribution Shift", NeurIPS 2021) in the form of the quantile tracker of Angelopoulos, Candès and Tibshirani
("Conformal PID Control for Time Series Prediction", NeurIPS 2023), q <- q + rate * (missed - (1 - level)), applied to
the logarithm of the score. So a step is a share of the multiplier, in any unit. Theirs is the guarantee: over any T rows
the share of covered rows is off the level by at most (range of the log-scores + a step) / (rate * T), with no assumption
about the stream. On streams with abrupt, gradual and recurring drift, it was as sharp as quantiles of a
sliding window with an adapted level (windows of 200 to 1,000 scores), or sharper, and it needs no window.

The tracker walks; where the scores change by orders of magnitude, it is put where the last block's scores
are. Otherwise a model without any error for a while would leave nothing to come back from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from correnteza.features import Floats

FIRST_ROWS = 50
"""Scored rows before the first multiplier; it is their conformal quantile."""
BLOCK_ROWS = 25
"""Scored rows between two changes after that."""
RATE = 0.06
"""Step per row, in units of the multiplier's logarithm. More follows drift more closely; less is steadier, so sharper."""
FAR = 10.0
"""The multiplier is at most so many times the largest score of the last block."""
NEAR = 0.5
"""It is at least so many times the last block's median score, times the level."""
LARGEST = 1e300
SMALLEST = 1e-300


@dataclass(frozen=True, slots=True)
class Conformal:
    """The multiplier in force; start with `Conformal(level)`.

    Args:
        level: share of the rows whose target the interval is to hold, between 0 and 1.
        rate: of the tracker, above 0; see `RATE`.
        multiplier: in force for the next row, without unit; None as long as there are too few scores.
        rows: scored rows since the stream began.
        pending: scores of the block that has not ended, shape [fewer than `FIRST_ROWS`].

    >>> errors = np.tile([1.0, 2.0, 3.0, 4.0], 50)
    >>> multipliers, after = Conformal(0.5).extend(errors, np.ones(200))
    >>> multipliers[[0, 49, 50]].tolist()
    [nan, nan, 2.0]
    """

    level: float
    rate: float = RATE
    multiplier: float | None = None
    rows: int = 0
    pending: tuple[float, ...] = ()

    def extend(self, errors: Floats, spreads: Floats) -> tuple[Floats, Conformal]:
        """Go on by some scored rows.

        Args:
            errors: absolute errors in the order of the rows, in the target's unit, shape [rows].
            spreads: local spreads that the intervals were or are made with, in the target's unit, above 0, shape [rows].

        Returns:
            The multiplier that was in force at each row (NaN where there was none), shape [rows], and what is next.
        """
        scores = np.concatenate([np.array(self.pending), _scores(errors, spreads)])
        known = len(self.pending)
        multipliers = np.empty(len(scores))
        current, start = self.multiplier, 0
        while len(scores) - start >= (rows := FIRST_ROWS if current is None else BLOCK_ROWS):
            multipliers[start : start + rows] = math.nan if current is None else current
            current = self._after(current, scores[start : start + rows])
            start += rows
        multipliers[start:] = math.nan if current is None else current
        pending = tuple(scores[start:].tolist())
        after = replace(self, multiplier=current, rows=self.rows + len(scores) - known, pending=pending)
        return multipliers[known:], after

    def plain(self) -> dict[str, Any]:
        """As values that JSON has."""
        return {**asdict(self), "pending": list(self.pending)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Conformal:
        """What `plain` was made of, exactly."""
        return cls(**{**plain, "pending": tuple(plain["pending"])})

    def _after(self, current: float | None, block: Floats) -> float:
        """The multiplier after a block of scores, when `current` was in force in it."""
        ordered = np.sort(block)
        rows = len(ordered)
        if current is None:
            return float(ordered[min(math.ceil((rows + 1) * self.level), rows) - 1])
        missed = rows - int(np.searchsorted(ordered, current, side="right"))
        step = self.rate * (missed - (1.0 - self.level) * rows)
        stepped = max(current, SMALLEST) * math.exp(step)
        lowest = NEAR * self.level * float(ordered[rows // 2])
        return min(max(stepped, lowest), FAR * float(ordered[-1]), LARGEST)


def _scores(errors: Floats, spreads: Floats) -> Floats:
    """The scores; where an interval cannot be made (a spread of 0 or none), any error is out of it."""
    with np.errstate(over="ignore"):
        scores = np.asarray(errors, dtype=np.float64) / np.maximum(spreads, SMALLEST)
    return np.clip(np.nan_to_num(scores, nan=LARGEST, posinf=LARGEST), 0.0, LARGEST)
