"""The adaptive forest: builds what a recipe names from the rows that it names.

    prediction = sum over experts of weight * (line + mean of the trees)

An expert's line is the one of four that helps its trees most: none, a ridge regression, one with squares, or the last
known target as it is. By a trial, too, there are all the trees that the recipe names, or a share of them (`footing`).
Its trees go on learning (`leaves`): when a cohort is grown, the trees before it take the rows that are new since then
into their leaves.

Invariants:
- `build` is a function of its arguments; what was built before is remembered only to save time.
- Each part is fitted on the rows that the recipe names, but for those whose target is absurd (`bounds`), so that
  a few of them cannot bend it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from correnteza.errors import TrainingFailedError
from correnteza.features import Floats, Ints
from correnteza.trainer import linear
from correnteza.trainer.footing import Footing, lines_of, tried
from correnteza.trainer.growing import Grower, rounded
from correnteza.trainer.leaves import Grown, Singles
from correnteza.trainer.linear import Carried, Linear
from correnteza.trainer.recipe import Base, Cohort, Expert, Recipe
from correnteza.trainer.trees import send_missing

TAIL = 0.02
"""Share of the targets at either end that may be absurd."""
REACH = 10.0
"""How far a target may be beyond the others, in units of the range of all but the tails."""
GENERATIONS = 3
"""Versions whose parts are remembered."""
SPREAD_TREES = 10
SPREAD_FLOOR = 0.1
"""Least spread, as a share of the mean one."""
SPREAD_LEAST = 0.02
"""Least spread, as a share of the deviation of the targets: a line through a few rows leaves nothing in the leaves."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labelled rows at hand, in one scaler version.

    Args:
        numbers: which labelled row of the stream each is, ascending, shape [rows].
        features: standardised numbers, then category codes; NaN is missing; shape [rows, features].
        targets: in the target's unit, shape [rows].
        n_numeric: how many of the features are numbers.
        n_derived: how many of the numbers, the last ones, are derived features.
        carried: the number that is the last known target; None where there is none.
    """

    numbers: Ints
    features: Floats
    targets: Floats
    n_numeric: int
    n_derived: int = 0
    carried: Carried | None = None

    def between(self, first: int, last: int, plain: bool = False, since: int = 0) -> tuple[Floats, Floats]:
        """Features and targets of the rows `first` to `last`, without those whose target is absurd.

        Args:
            first: number of the first row.
            last: number of the last row.
            plain: whether derived features are hidden: a column of zeros is never split on, and has no slope.
            since: of these rows, only those from this number on are wanted.

        Raises:
            TrainingFailedError: not all of them are at hand.
        """
        start, stop = np.searchsorted(self.numbers, [first, last + 1])
        if stop - start != last - first + 1:
            raise TrainingFailedError(f"labelled rows {first} to {last} are needed, and {stop - start} of them are at hand")
        features = self.features[start:stop]
        if plain:
            features = features.copy()
            features[:, self.n_numeric - self.n_derived : self.n_numeric] = 0.0
        return sound(features, self.targets[start:stop], max(0, since - first))


def sound(features: Floats, targets: Floats, skipped: int = 0) -> tuple[Floats, Floats]:
    """The rows whose target is within `bounds` of all these targets: only they are learned from.

    Args:
        features: shape [rows, features].
        targets: shape [rows].
        skipped: first rows that are not wanted themselves.
    """
    low, high = bounds(targets)
    features, targets = features[skipped:], targets[skipped:]
    kept = (targets >= low) & (targets <= high)
    return (features, targets) if kept.all() else (features[kept], targets[kept])


def bounds(targets: Floats) -> tuple[float, float]:
    """Between what targets are learned from; others are left out, in learning alone.

    The middle 96 % of the targets span a range; what is more than ten such ranges beyond it is left out: one
    record in a hundred with a target a million times too large is, a lognormal tail is not. (To clip it would not
    be enough: a forest spends leaves on such rows, and they bend its mean.)

    >>> bounds(np.array([1.0, 2.0, 3.0] * 30 + [1e9]))
    (-19.0, 23.0)
    """
    low, high = float(np.quantile(targets, TAIL, method="higher")), float(np.quantile(targets, 1 - TAIL, method="lower"))
    reach = REACH * (high - low)
    if not reach > 0.0 or not np.isfinite(reach):  # one value nearly everywhere says nothing of the others
        return float(targets.min()), float(targets.max())
    return low - reach, high + reach


@dataclass(slots=True)
class Memo:
    """Parts that were built before, by what they were built from."""

    parts: dict[Any, Any] = field(default_factory=dict)
    _used: list[set[Any]] = field(default_factory=lambda: [set() for _ in range(GENERATIONS)])

    def get(self, key: Any, make: Any) -> Any:
        """The part, made if it is not there."""
        self._used[0].add(key)
        if key not in self.parts:
            self.parts[key] = make()
        return self.parts[key]

    def lacks(self, key: Any, trees: int) -> bool:
        """Whether fewer trees of a cohort are remembered than are wanted; they are forgotten then."""
        if len(self.parts.get(key, ())) >= trees:
            return False
        self.parts.pop(key, None)
        return True

    def remember(self, mixture: Mixture) -> None:
        """Take the parts of a version that was built by another process."""
        recipe = mixture.recipe
        for expert, member in zip(recipe.experts, mixture.members, strict=True):
            self.parts[base_key(recipe, expert)] = member.footing
            place = 0
            for number, cohort in enumerate(expert.cohorts):
                key, kept = cohort_key(recipe, expert, number), member.footing.of(cohort.kept)
                if len(self.parts.get(key, ())) < kept:
                    self.parts[key] = list(member.trees[place : place + kept])
                place += kept

    def forget_unused(self) -> None:
        """Drop what none of the last versions was made of; the next one may go on from any of them."""
        alive = set().union(*self._used)
        self.parts = {key: part for key, part in self.parts.items() if key in alive}
        self._used = [set(), *self._used[:-1]]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """An expert, built.

    Args:
        footing: what its trees stand on.
        trees: oldest first.
    """

    footing: Footing
    trees: tuple[Grown, ...]

    def predict(self, prepared: Floats) -> Floats:
        """In the target's unit, shape [rows]."""
        rounded = prepared.astype(np.float32)
        answer: Floats = self.footing.linear.predict(prepared)[:, 0] + self.leaves(rounded)
        return answer

    def leaves(self, rounded: Singles) -> Floats:
        """The mean of the trees, in the target's unit, shape [rows]."""
        answer: Floats = np.sum([tree.predict(rounded) for tree in self.trees], axis=0) / len(self.trees)
        return answer


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A model version, built; `predict` is what its graph must answer.

    Args:
        recipe: what it is made of.
        members: its experts, in the order of the recipe.
        n_numeric: how many of the features are numbers.
    """

    recipe: Recipe
    members: tuple[Member, ...]
    n_numeric: int

    def linear(self) -> Linear:
        """The linear parts of all predictions in `recipe.numbers`, each a column."""
        parts = [member.footing.linear for member in self.members]
        if self.recipe.local is not None:
            parts.append(self._local(self.recipe.local.intercept, np.array(self.recipe.local.slopes)))
        return linear.joined(parts)

    def answers(self, prepared: Floats) -> Floats:
        """The predictions of `recipe.numbers`, in the target's unit, shape [rows, predictions]."""
        rounded = prepared.astype(np.float32)
        leaves = [member.leaves(rounded) for member in self.members]
        if self.recipe.local is not None:
            leaves.append(leaves[0])
        answer: Floats = np.stack(leaves, axis=1) + self.linear().predict(prepared)
        return answer

    def predict(self, prepared: Floats) -> Floats:
        """The mixture, in the target's unit, shape [rows].

        Args:
            prepared: what `estimators.prepared` returned, shape [rows, features].
        """
        mixed: Floats = (self.answers(prepared) * np.array(self.recipe.weights)).sum(axis=1)
        return mixed

    def _local(self, intercept: float, slopes: Floats) -> Linear:
        """The local correction on top of the first expert's linear part."""
        first, count = self.members[0].footing.linear, self.n_numeric
        return replace(first, intercepts=first.intercepts + intercept, slopes=first.slopes + slopes[None, :count])


def build(recipe: Recipe, rows: Rows, estimator: str, params: Mapping[str, Any], memo: Memo, threads: int = 1) -> Mixture:
    """Fit what is not remembered.

    Args:
        recipe: what to build.
        rows: those that the recipe names, as far as `memo` lacks the parts.
        estimator: import path of one of `FORESTS`.
        params: its parameters.
        memo: parts that were built before; is filled, and forgets what this recipe does not use.
        threads: that grow trees where there is much to grow; the trees are the same.

    Raises:
        ConfigError: the estimator or its parameters are wrong.
        TrainingFailedError: rows are missing.
    """
    members = grow(recipe, rows, estimator, params, memo, threads)
    memo.forget_unused()
    return Mixture(recipe, members, rows.n_numeric)


def grow(
    recipe: Recipe, rows: Rows, estimator: str, params: Mapping[str, Any], memo: Memo, threads: int = 1
) -> tuple[Member, ...]:
    """The experts of a recipe, as `build` makes them; all that was remembered still is."""
    builder = _Builder(recipe, rows, Grower(estimator, params, threads), memo)
    return tuple(builder.member(expert) for expert in recipe.experts)


@dataclass(frozen=True, slots=True, eq=False)
class _Builder:
    recipe: Recipe
    rows: Rows
    grower: Grower
    memo: Memo

    def member(self, expert: Expert) -> Member:
        footing: Footing = self.memo.get(base_key(self.recipe, expert), lambda: self._footing(expert))
        trees: list[Grown] = []
        for number, cohort in enumerate(expert.cohorts):
            grown = self._cohort(footing, expert, number, len(expert.cohorts) - 1)
            trees += grown[len(grown) - footing.of(cohort.kept) :]
        return Member(footing, tuple(trees))

    def _footing(self, expert: Expert) -> Footing:
        features, targets = self.rows.between(expert.base.first, expert.base.last, expert.plain)
        carried = None if expert.plain else self.rows.carried
        lines = lines_of(features, targets, self.rows.n_numeric, carried)
        return tried(features, targets, expert.base.seed, lines, self.grower)

    def _cohort(self, footing: Footing, expert: Expert, number: int, until: int) -> list[Grown]:
        """The trees of a cohort as they were when a later one had been grown, or itself."""
        cohort, key = expert.cohorts[number], cohort_key(self.recipe, expert, number, until)
        self.memo.lacks(key, footing.of(cohort.kept))
        own = until == number
        made: list[Grown] = self.memo.get(
            key, lambda: self._grown(footing, expert, cohort) if own else self._learned(footing, expert, number, until)
        )
        return made

    def _grown(self, footing: Footing, expert: Expert, cohort: Cohort) -> list[Grown]:
        features, targets = self.rows.between(cohort.first, cohort.last, expert.plain)
        rest = footing.rest(features, targets)
        trees = self.grower.grow(footing.of(cohort.trees), features, rest, cohort.seed, footing.most_rows)
        send_missing(trees, features, cohort.seed)
        return self.grower.filled(trees, features, rest)

    def _learned(self, footing: Footing, expert: Expert, number: int, until: int) -> list[Grown]:
        """The trees with the rows in their leaves that are new with a later cohort."""
        before = self._cohort(footing, expert, number, until - 1)
        if self.grower.of_medians:
            return before
        new, last = expert.cohorts[until], expert.cohorts[until - 1].last
        features, targets = self.rows.between(new.first, new.last, expert.plain, since=last + 1)
        rest, rows = footing.rest(features, targets), rounded(features)
        return [tree.learned(rows, rest) for tree in before[len(before) - footing.of(expert.cohorts[number].kept) :]]


def base_key(recipe: Recipe, expert: Expert) -> tuple[int, Base]:
    """What a linear part is remembered under."""
    return recipe.scaler_version, expert.base


def cohort_key(recipe: Recipe, expert: Expert, number: int, until: int | None = None) -> Any:
    """What the trees of a cohort are remembered under, however many of them are left.

    Args:
        recipe: that the expert is of.
        expert: the expert.
        number: place of the cohort.
        until: place of the cohort up to which its leaves have learned; the last one if it is not given.
    """
    learned = tuple((later.first, later.last) for later in expert.cohorts[number + 1 : None if until is None else until + 1])
    cohort = expert.cohorts[number]
    return recipe.scaler_version, expert.base, replace(cohort, kept=cohort.trees), learned
