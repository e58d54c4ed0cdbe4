"""The adaptive forest: builds what a recipe names from the rows that it names.

    prediction = sum over experts of weight * (linear part + mean of the trees)

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
from correnteza.trainer import estimators, linear
from correnteza.trainer.linear import Linear
from correnteza.trainer.recipe import Base, Cohort, Expert, Recipe
from correnteza.trainer.trees import send_missing

FORESTS = ("RandomForestRegressor", "ExtraTreesRegressor")
"""Estimators of scikit-learn's `ensemble` that can grow a few trees at a time."""
TRIAL_ROWS = 2000
"""Rows on which it is tried whether a linear part helps."""
TRIAL_TREES = 10
LEAST_PER_LEAF = 20
"""A window of fewer than this many rows per row of a leaf gets smaller leaves."""
TAIL = 0.02
"""Share of the targets at either end that may be absurd."""
REACH = 10.0
"""How far a target may be beyond the others, in units of the range of all but the tails."""
GENERATIONS = 3
"""Versions whose parts are remembered."""
MANY = 20_000
"""Trees times rows from which several threads are worth their start."""
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
    """

    numbers: Ints
    features: Floats
    targets: Floats
    n_numeric: int
    n_derived: int = 0

    def between(self, first: int, last: int, plain: bool = False) -> tuple[Floats, Floats]:
        """Features and targets of the rows `first` to `last`, without those whose target is absurd.

        Args:
            first: number of the first row.
            last: number of the last row.
            plain: whether derived features are hidden: a column of zeros is never split on, and has no slope.

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
        return sound(features, self.targets[start:stop])


def sound(features: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """The rows whose target is within `bounds` of all these targets: only they are learned from."""
    low, high = bounds(targets)
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
            self.parts[base_key(recipe, expert)] = (member.linear, member.deviation)
            place = 0
            for cohort in expert.cohorts:
                key = cohort_key(recipe, expert, cohort)
                if len(self.parts.get(key, ())) < cohort.kept:
                    self.parts[key] = list(member.trees[place : place + cohort.kept])
                place += cohort.kept

    def forget_unused(self) -> None:
        """Drop what none of the last versions was made of; the next one may go on from any of them."""
        alive = set().union(*self._used)
        self.parts = {key: part for key, part in self.parts.items() if key in alive}
        self._used = [set(), *self._used[:-1]]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """An expert, built.

    Args:
        linear: its linear part.
        trees: the fitted trees, oldest first.
        deviation: of the targets that the linear part was fitted on, in the target's unit.
    """

    linear: Linear
    trees: tuple[Any, ...]
    deviation: float

    def predict(self, prepared: Floats) -> Floats:
        """In the target's unit, shape [rows]."""
        rounded = prepared.astype(np.float32)
        leaves = sum(tree.tree_.predict(rounded)[:, 0] for tree in self.trees)
        answer: Floats = self.linear.predict(prepared)[:, 0] + leaves / len(self.trees)
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
        parts = [member.linear for member in self.members]
        if self.recipe.local is not None:
            parts.append(self._local(self.recipe.local.intercept, np.array(self.recipe.local.slopes)))
        return linear.joined(parts)

    def answers(self, prepared: Floats) -> Floats:
        """The predictions of `recipe.numbers`, in the target's unit, shape [rows, predictions]."""
        rounded = prepared.astype(np.float32)
        leaves = [sum(t.tree_.predict(rounded)[:, 0] for t in m.trees) / len(m.trees) for m in self.members]
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
        first, count = self.members[0].linear, self.n_numeric
        return Linear(first.low, first.high, first.intercepts + intercept, first.slopes + slopes[None, :count], first.effects)


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
    builder = _Builder(recipe, rows, estimator, params, memo, threads)
    members = tuple(builder.member(expert) for expert in recipe.experts)
    memo.forget_unused()
    return Mixture(recipe, members, rows.n_numeric)


@dataclass(frozen=True, slots=True, eq=False)
class _Builder:
    recipe: Recipe
    rows: Rows
    estimator: str
    params: Mapping[str, Any]
    memo: Memo
    threads: int

    def member(self, expert: Expert) -> Member:
        part, deviation = self.memo.get(base_key(self.recipe, expert), lambda: self._linear(expert))
        trees: list[Any] = []
        for cohort in expert.cohorts:
            key = cohort_key(self.recipe, expert, cohort)
            self.memo.lacks(key, cohort.kept)
            grown = self.memo.get(key, lambda: self._grown(part, expert, cohort))  # noqa: B023 - called at once
            trees += grown[len(grown) - cohort.kept :]
        return Member(part, tuple(trees), deviation)

    def _linear(self, expert: Expert) -> tuple[Linear, float]:
        """The linear part, and the deviation of the targets."""
        features, targets = self.rows.between(expert.base.first, expert.base.last, expert.plain)
        if self._helps(features, targets, expert.base.seed):
            part = linear.fit(features, targets, self.rows.n_numeric)
        else:
            part = linear.none(features, self.rows.n_numeric)
        largest = float(np.abs(targets).max()) or 1.0  # keeps the squares finite
        return part, float(np.std(targets / largest)) * largest

    def _helps(self, features: Floats, targets: Floats, seed: int) -> bool:
        """Whether trees behind a linear part are nearer to rows that neither has seen than trees alone."""
        rows = min(len(targets), TRIAL_ROWS)
        if rows < 6:
            return False
        places = np.random.default_rng(seed).permutation(len(targets))[:rows]
        seen, unseen = np.split(places, [2 * rows // 3])
        part = linear.fit(features[seen], targets[seen], self.rows.n_numeric)
        said = part.predict(features)[:, 0]
        errors = []
        for base in (said, np.zeros(len(targets))):
            trees = self._fitted(TRIAL_TREES, features[seen], targets[seen] - base[seen], seed)
            guess = base[unseen] + trees.predict(self._prepared(features[unseen]))
            errors.append(float(np.abs(targets[unseen] - guess).mean()))
        return errors[0] < errors[1]

    def _grown(self, part: Linear, expert: Expert, cohort: Cohort) -> list[Any]:
        features, targets = self.rows.between(cohort.first, cohort.last, expert.plain)
        rest = targets - part.predict(self._prepared(features))[:, 0]
        grown = list(self._fitted(cohort.trees, features, rest, cohort.seed).estimators_)
        send_missing(grown, features, cohort.seed)
        return grown

    def _fitted(self, trees: int, features: Floats, targets: Floats, seed: int) -> Any:
        leaf = self.params.get("min_samples_leaf", 1)
        if isinstance(leaf, int):
            leaf = min(leaf, max(1, len(targets) // LEAST_PER_LEAF))
        params = {**self.params, "n_estimators": trees, "min_samples_leaf": leaf}
        estimator = estimators.build(self.estimator, params, seed)
        if self.threads > 1 and trees * len(targets) >= MANY:
            estimator.set_params(n_jobs=self.threads)
        return estimator.fit(self._prepared(features), targets)

    @staticmethod
    def _prepared(features: Floats) -> Floats:
        return estimators.limited(features)


def base_key(recipe: Recipe, expert: Expert) -> tuple[int, Base]:
    """What a linear part is remembered under."""
    return recipe.scaler_version, expert.base


def cohort_key(recipe: Recipe, expert: Expert, cohort: Cohort) -> tuple[int, Base, Cohort]:
    """What the trees of a cohort are remembered under, however many of them are left."""
    return recipe.scaler_version, expert.base, replace(cohort, kept=cohort.trees)


def is_forest(path: str) -> bool:
    """Whether the estimator at an import path can grow a few trees at a time."""
    return path.startswith("sklearn.ensemble.") and path.rpartition(".")[2] in FORESTS
