"""How well each expert did lately: a mean of its errors that forgets.

Invariants:
- Adding rows one by one or many at a time gives the same sums, bit for bit.
- Every error counts at most `CLIP` times the best expert's mean error before it, so a single absurd target
  neither overflows nor outweighs all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from correnteza.features import Floats

MEMORY_ROWS = 30
"""An error counts 1/e after so many rows."""
KEEP = 1.0 - 1.0 / MEMORY_ROWS
CLIP = 5.0


@dataclass(frozen=True, slots=True)
class Score:
    """Recent errors of one expert.

    Args:
        rows: rows that it was tested on.
        errors: sum of its absolute errors, older ones counting less, in the target's unit.
        weight: sum of how much they count.
    """

    rows: int = 0
    errors: float = 0.0
    weight: float = 0.0

    @property
    def mean(self) -> float:
        """Recent mean absolute error, in the target's unit; infinite before the first row."""
        return self.errors / self.weight if self.weight else float("inf")


def extended(scores: Mapping[int, Score], numbers: Sequence[int], errors: Floats) -> dict[int, Score]:
    """The scores after some rows; experts that are not among `numbers` keep theirs.

    Args:
        scores: by expert.
        numbers: the experts that were tested.
        errors: their absolute errors, in order, in the target's unit, shape [rows, experts].
    """
    found = [scores.get(number, Score()) for number in numbers]
    sums, weights = [score.errors for score in found], [score.weight for score in found]
    places = range(len(numbers))
    for row in errors.tolist():
        known = [sums[i] / weights[i] for i in places if weights[i]]
        limit = CLIP * min(known) if known else float("inf")
        limit = limit if limit > 0.0 else float("inf")
        for i in places:
            sums[i] = KEEP * sums[i] + min(row[i], limit, 1e150)
            weights[i] = KEEP * weights[i] + 1.0
    rows = len(errors)
    changed = {
        number: replace(score, rows=score.rows + rows, errors=total, weight=weight)
        for number, score, total, weight in zip(numbers, found, sums, weights, strict=True)
    }
    return {**scores, **changed}
