"""How well each expert did lately: a mean of its errors that forgets.

Invariants:
- Adding rows one by one or many at a time gives the same sums, bit for bit.
- Every error counts at most `CLIP` times the best expert's mean error before it, so a single absurd target
  neither overflows nor outweighs all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from correnteza.features import Floats

MEMORY_ROWS = 30
"""An error counts 1/e after so many rows."""
KEEP = 1.0 - 1.0 / MEMORY_ROWS
CLIP = 5.0
LARGEST = 1e150
ABSURD = 1e6
"""A mean so many times as large as the next error was none; the first error of all has nothing to be clipped by."""
KEEP_BIAS = 0.8


@dataclass(frozen=True, slots=True)
class Score:
    """Recent errors of one expert.

    Args:
        rows: rows that it was tested on.
        errors: sum of its absolute errors, older ones counting less, in the target's unit.
        weight: sum of how much they count.
        total: sum of its absolute errors, each counting alike, in the target's unit.
    """

    rows: int = 0
    errors: float = 0.0
    weight: float = 0.0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Recent mean absolute error, in the target's unit; infinite before the first row."""
        return self.errors / self.weight if self.weight else float("inf")

    @property
    def overall(self) -> float:
        """Mean absolute error of all rows that it was tested on, in the target's unit; infinite before the first."""
        return self.total / self.rows if self.rows else float("inf")


@dataclass(frozen=True, slots=True)
class Drag:
    """How much of an expert's error the errors just before it tell: that of the expert, and that of a correction by them.

    Args:
        bias: mean of the last errors, older ones counting less, in the target's unit.
        plain: recent errors of the expert.
        corrected: recent errors of the expert and the bias together.
    """

    bias: float = 0.0
    plain: Score = Score()
    corrected: Score = Score()

    @property
    def share(self) -> float:
        """Share of the error that is left when each answer is corrected by the errors before it; 1 when it is not known."""
        if self.plain.rows < MEMORY_ROWS or not self.plain.mean > self.corrected.mean / LARGEST:
            return 1.0
        return self.corrected.mean / self.plain.mean

    def extended(self, errors: Floats) -> Drag:
        """After some rows.

        Args:
            errors: target minus prediction, in order, in the target's unit, shape [rows].
        """
        bias, scores = self.bias, {0: self.plain, 1: self.corrected}
        for error in errors.tolist():
            limit = CLIP * scores[0].mean if scores[0].weight and scores[0].mean > 0.0 else LARGEST
            scores = extended(scores, (0, 1), np.array([[abs(error), abs(error - bias)]]))
            bias = KEEP_BIAS * bias + (1.0 - KEEP_BIAS) * min(max(error, -limit), limit)
        return Drag(bias, scores[0], scores[1])


def extended(scores: Mapping[int, Score], numbers: Sequence[int], errors: Floats) -> dict[int, Score]:
    """The scores after some rows; experts that are not among `numbers` keep theirs.

    Args:
        scores: by expert.
        numbers: the experts that were tested.
        errors: their absolute errors, in order, in the target's unit, shape [rows, experts].
    """
    found = [scores.get(number, Score()) for number in numbers]
    sums, weights = [score.errors for score in found], [score.weight for score in found]
    totals = [score.total for score in found]
    places = range(len(numbers))
    for row in errors.tolist():
        known = [sums[i] / weights[i] for i in places if weights[i]]
        limit = CLIP * min(known) if known else float("inf")
        limit = limit if limit > 0.0 else float("inf")
        for i in places:
            if weights[i] and sums[i] > ABSURD * row[i] * weights[i] > 0.0:  # the errors before were those of absurd targets
                sums[i] = weights[i] = totals[i] = 0.0
            error = min(row[i], limit, LARGEST)
            totals[i] += error
            sums[i] = KEEP * sums[i] + error
            weights[i] = KEEP * weights[i] + 1.0
    rows = len(errors)
    changed = {
        number: replace(score, rows=score.rows + rows, errors=recent, weight=weight, total=total)
        for number, score, recent, weight, total in zip(numbers, found, sums, weights, totals, strict=True)
    }
    return {**scores, **changed}
