"""How well each expert did lately: a mean of its errors that forgets.

Invariants:
- Adding rows one by one or many at a time gives the same sums, bit for bit.
- Every error counts at most `CLIP` times the best expert's mean error before it, so a single absurd target
  neither overflows nor outweighs all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from correnteza.features import Floats

MEMORY_ROWS = 30
"""An error counts 1/e after so many rows."""
KEEP = 1.0 - 1.0 / MEMORY_ROWS
CLIP = 5.0
LARGEST = 1e150
ABSURD = 1e6
"""A mean so many times as large as the next error was none; the first error of all has nothing to be clipped by."""
KEEP_BIAS = 0.6


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
        bias, sums = self.bias, _Sums.of([self.plain, self.corrected])

        def rows() -> Iterator[tuple[float, float]]:
            nonlocal bias
            for error in errors.tolist():
                limit = CLIP * sums.errors[0] / sums.weights[0] if sums.errors[0] > 0.0 else LARGEST
                yield abs(error), abs(error - bias)
                bias = KEEP_BIAS * bias + (1.0 - KEEP_BIAS) * min(max(error, -limit), limit)

        sums.add(rows())
        return Drag(bias, *sums.scores())


class _Sums:
    """Scores while rows are added to them: the same numbers in lists.

    Attributes:
        errors: see `Score.errors`, by expert.
        weights: see `Score.weight`.
    """

    def __init__(self, rows: list[int], errors: list[float], weights: list[float], totals: list[float]) -> None:
        self.errors = errors
        self.weights = weights
        self._rows = rows
        self._totals = totals
        self._added = 0

    @classmethod
    def of(cls, scores: Sequence[Score]) -> _Sums:
        """The numbers of some scores."""
        columns = zip(*((score.rows, score.errors, score.weight, score.total) for score in scores), strict=True)
        rows, errors, weights, totals = (list(column) for column in columns)
        return cls(rows, errors, weights, totals)

    def scores(self) -> list[Score]:
        """The scores with what was added."""
        columns = zip(self._rows, self.errors, self.weights, self._totals, strict=True)
        return [Score(rows + self._added, *others) for rows, *others in columns]

    def add(self, rows: Iterable[Sequence[float]]) -> None:
        """Add the absolute errors of some rows, by expert; one loop without calls, for it goes over every row of the stream."""
        sums, weights, totals, places = self.errors, self.weights, self._totals, range(len(self.errors))
        for row in rows:
            least = math.inf
            for place in places:
                if weights[place] and sums[place] / weights[place] < least:
                    least = sums[place] / weights[place]
            limit = CLIP * least or math.inf
            for place in places:
                error, weight = row[place], weights[place]
                if weight and sums[place] > ABSURD * error * weight > 0.0:
                    sums[place] = weight = totals[place] = 0.0  # the errors before were those of absurd targets
                counted = error if error < limit else limit
                counted = counted if counted < LARGEST else LARGEST
                totals[place] += counted
                sums[place] = KEEP * sums[place] + counted
                weights[place] = KEEP * weight + 1.0
            self._added += 1


def extended(scores: Mapping[int, Score], numbers: Sequence[int], errors: Floats) -> dict[int, Score]:
    """The scores after some rows; experts that are not among `numbers` keep theirs.

    Args:
        scores: by expert.
        numbers: the experts that were tested.
        errors: their absolute errors, in order, in the target's unit, shape [rows, experts].
    """
    sums = _Sums.of([scores.get(number, Score()) for number in numbers])
    sums.add(errors.tolist())
    return {**scores, **dict(zip(numbers, sums.scores(), strict=True))}
