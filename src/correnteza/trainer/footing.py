"""What an expert's trees stand on: a line, and how many trees of how many rows are worth growing. Both are tried.

    the newest rows: two thirds seen, one third unseen
        each line, with a few trees on what it leaves of the seen rows     which one helps on the unseen ones most?
        the best line, with trees that know a quarter of the seen rows     would the error fall much with more rows?

Where the error hardly falls with more rows, as where the target is noisy, it is *flat*: fewer trees do, each grown on a part
of the rows of a large window, and its leaves filled with all of them. Where the target has no noise, every row and every
tree tells, and none is spared; nor where the parameters say on how many rows a tree is grown, and nothing can be tried.

Invariant: a footing is a function of the rows, the seed and the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from correnteza.features import Floats
from correnteza.trainer import estimators, linear
from correnteza.trainer.growing import Grower, rounded
from correnteza.trainer.leaves import Grown
from correnteza.trainer.linear import Carried, Linear

TRIAL_ROWS = 1500
"""Rows on which is tried what helps."""
TRIAL_TREES = 5
TRIAL_LEAST = 6
"""Fewer rows are not enough to try anything."""
FLAT_LEAST = 1000
"""Fewer rows are not enough to tell how the error falls with more of them, and trees on them cost little."""
QUARTER = 4
FLAT = 1.25
"""With a quarter of the rows, the error is less than so many times as large where it is flat."""
FLAT_SHARE = 0.5
"""Share of the trees that are grown where it is flat."""
FLAT_ROWS = 4000
"""Rows, at most, that each of them is grown on."""

Line = Callable[[slice], Linear]
Lines = Mapping[str, Line]
"""Lines that there may be by name, each to be fitted to some of the rows; `none` is among them."""


@dataclass(frozen=True, slots=True, eq=False)
class Footing:
    """What an expert's trees stand on.

    Args:
        linear: its line.
        deviation: of the targets that the line was fitted to, in the target's unit.
        flat: whether the error hardly falls with more rows.
    """

    linear: Linear
    deviation: float
    flat: bool

    @property
    def most_rows(self) -> int | None:
        """Rows, at most, that each tree is grown on; None is without a bound."""
        return FLAT_ROWS if self.flat else None

    def of(self, trees: int) -> int:
        """How many trees there are where the recipe names so many."""
        return math.ceil(trees * FLAT_SHARE) if self.flat else trees

    def rest(self, features: Floats, targets: Floats) -> Floats:
        """What the line leaves of the targets, shape [rows]."""
        rest: Floats = targets - self.linear.predict(estimators.limited(features))[:, 0]
        return rest


def tried(features: Floats, targets: Floats, seed: int, lines: Lines, grower: Grower) -> Footing:
    """The footing that helps trees most.

    Args:
        features: of the window, NaN is missing, shape [rows, features].
        targets: in the target's unit, shape [rows].
        seed: of the trees that are tried.
        lines: that there may be.
        grower: of the expert's trees.
    """
    best, flat = "none", False
    if len(targets) >= TRIAL_LEAST:
        trial = _Trial(features, targets, seed, grower)
        best = min(lines, key=lambda name: trial.error(name, lines[name]))
        flat = len(targets) >= FLAT_LEAST and grower.samples and trial.flat(best)
    largest = float(np.abs(targets).max()) or 1.0  # keeps the squares finite
    return Footing(lines[best](slice(None)), float(np.std(targets / largest)) * largest, flat)


def lines_of(features: Floats, targets: Floats, numbers: int, carried: Carried | None) -> Lines:
    """The lines that there may be.

    Args:
        features: of the window, NaN is missing, shape [rows, features].
        targets: in the target's unit, shape [rows].
        numbers: how many of the features are numbers.
        carried: the number that is the last known target; None where there is none.
    """
    lines: dict[str, Line] = {"none": lambda rows: linear.none(features[rows], numbers)}
    lines["ridge"] = lambda rows: linear.fit(features[rows], targets[rows], numbers)
    lines["curved"] = lambda rows: linear.fit(features[rows], targets[rows], numbers, curved=True)
    if carried is not None:
        lines["carried"] = lambda rows: linear.carry(features[rows], numbers, carried)
    return lines


class _Trial:
    """The newest rows, tried as they will be used: trees know the older ones of them, and answer the newer ones.

    Args:
        features: of the window, shape [rows, features].
        targets: in the target's unit, shape [rows].
        seed: of the trees.
        grower: of the trees.
    """

    def __init__(self, features: Floats, targets: Floats, seed: int, grower: Grower) -> None:
        rows = min(len(targets), TRIAL_ROWS)
        first, self._known = len(targets) - rows, 2 * rows // 3
        self._seen = slice(first, first + self._known)
        self._features, self._targets = features[first:], targets[first:]
        self._seed = seed
        self._grower = grower
        self._tried: dict[str, tuple[Floats, list[Any]]] = {}

    def error(self, name: str, line: Line) -> float:
        """How far trees behind a line are from the unseen targets."""
        rest = self._targets - line(self._seen).predict(self._features)[:, 0]
        trees = self._grown(rest)
        self._tried[name] = rest, trees
        return self._missed(rest, [Grown.of(tree) for tree in trees])

    def flat(self, name: str) -> bool:
        """Whether trees that know a quarter of the rows, and whose leaves know all, do nearly as well behind a line."""
        rest, trees = self._tried[name]
        few = self._grown(rest, self._known // QUARTER)
        with_all, with_few = (self._missed(rest, self._filled(each, rest)) for each in (trees, few))
        return with_few < FLAT * with_all

    def _grown(self, rest: Floats, most_rows: int | None = None) -> list[Any]:
        known = self._known
        return self._grower.grow(TRIAL_TREES, self._features[:known], rest[:known], self._seed, most_rows)

    def _filled(self, trees: list[Any], rest: Floats) -> list[Grown]:
        return self._grower.filled(trees, self._features[: self._known], rest[: self._known])

    def _missed(self, rest: Floats, trees: list[Grown]) -> float:
        rows = rounded(self._features[self._known :])
        guess = np.mean([tree.predict(rows) for tree in trees], axis=0)
        return float(np.abs(rest[self._known :] - guess).mean())
