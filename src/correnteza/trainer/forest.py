"""The adaptive forest: builds what a recipe names from the rows that it names.

    prediction = sum over experts of weight * (line + mean of the trees)

An expert's line is the one of four that helps its trees most: none, a ridge regression, one with squares, or the last
known target as it is.
Its trees go on learning (`leaves`): when a cohort is grown, the trees before it take the rows that are new since then
into their leaves.

Invariants:
- `build` is a function of its arguments; what was built before is remembered only to save time.
- Each part is fitted on the rows that the recipe names, but for those whose target is absurd (`bounds`), so that
  a few of them cannot bend it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from correnteza.errors import TrainingFailedError
from correnteza.features import Floats, Ints
from correnteza.trainer import estimators, linear
from correnteza.trainer.leaves import Grown, Singles
from correnteza.trainer.linear import Carried, Linear
from correnteza.trainer.recipe import Base, Cohort, Expert, Recipe
from correnteza.trainer.trees import send_missing

FORESTS = ("RandomForestRegressor", "ExtraTreesRegressor")
"""Estimators of scikit-learn's `ensemble` that can grow a few trees at a time."""
TRIAL_ROWS = 1500
"""Rows on which it is tried whether a linear part helps."""
TRIAL_TREES = 5
TRIAL_LEAST = 6
"""Fewer rows are not enough to try anything."""
LEAST_PER_LEAF = 100
"""A window of fewer than this many rows per row of a leaf gets smaller leaves."""
OF_MEDIANS = ("absolute_error",)
"""Criteria whose leaves say no mean, so that further rows cannot be added to them."""
TAIL = 0.02
"""Share of the targets at either end that may be absurd."""
REACH = 10.0
"""How far a target may be beyond the others, in units of the range of all but the tails."""
GENERATIONS = 3
"""Versions whose parts are remembered."""
MANY = 8_000
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
            self.parts[base_key(recipe, expert)] = (member.linear, member.deviation)
            place = 0
            for number, cohort in enumerate(expert.cohorts):
                key = cohort_key(recipe, expert, number)
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
        trees: oldest first.
        deviation: of the targets that the linear part was fitted on, in the target's unit.
    """

    linear: Linear
    trees: tuple[Grown, ...]
    deviation: float

    def predict(self, prepared: Floats) -> Floats:
        """In the target's unit, shape [rows]."""
        rounded = prepared.astype(np.float32)
        answer: Floats = self.linear.predict(prepared)[:, 0] + self.leaves(rounded)
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
        parts = [member.linear for member in self.members]
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
        first, count = self.members[0].linear, self.n_numeric
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
        part, deviation = self.memo.get(base_key(self.recipe, expert), lambda: self._line(expert))
        trees: list[Grown] = []
        for number, cohort in enumerate(expert.cohorts):
            grown = self._cohort(part, expert, number, len(expert.cohorts) - 1)
            trees += grown[len(grown) - cohort.kept :]
        return Member(part, tuple(trees), deviation)

    def _line(self, expert: Expert) -> tuple[Linear, float]:
        """The line that helps the trees most, and the deviation of the targets."""
        features, targets = self.rows.between(expert.base.first, expert.base.last, expert.plain)
        lines = self._lines(features, targets, expert)
        best = min(lines, key=self._trial(features, targets, expert.base.seed, lines))
        largest = float(np.abs(targets).max()) or 1.0  # keeps the squares finite
        return lines[best](slice(None)), float(np.std(targets / largest)) * largest

    def _lines(self, features: Floats, targets: Floats, expert: Expert) -> dict[str, Callable[[Any], Linear]]:
        """The lines that there may be, each to be fitted to some of the rows; the first is none."""
        numbers, carried = self.rows.n_numeric, self.rows.carried
        lines: dict[str, Callable[[Any], Linear]] = {"none": lambda rows: linear.none(features[rows], numbers)}
        lines["ridge"] = lambda rows: linear.fit(features[rows], targets[rows], numbers)
        lines["curved"] = lambda rows: linear.fit(features[rows], targets[rows], numbers, curved=True)
        if carried is not None and not expert.plain:
            lines["carried"] = lambda rows: linear.carry(features[rows], numbers, carried)
        return lines

    def _trial(
        self, features: Floats, targets: Floats, seed: int, lines: Mapping[str, Callable[[Any], Linear]]
    ) -> Callable[[str], float]:
        """How far trees behind each line are from the newest rows, which neither has seen: it is tried as it will be used."""
        rows = min(len(targets), TRIAL_ROWS)
        if rows < TRIAL_LEAST:
            return lambda name: float(name != "none")
        places = np.arange(len(targets) - rows, len(targets))
        seen, unseen = np.split(places, [2 * rows // 3])

        def error(name: str) -> float:
            said = lines[name](seen).predict(features[places])[:, 0]
            trees = self._fitted(TRIAL_TREES, features[seen], targets[seen] - said[: len(seen)], seed)
            guess = said[len(seen) :] + trees.predict(self._prepared(features[unseen]))
            return float(np.abs(targets[unseen] - guess).mean())

        return error

    def _cohort(self, part: Linear, expert: Expert, number: int, until: int) -> list[Grown]:
        """The trees of a cohort as they were when a later one had been grown, or itself."""
        cohort, key = expert.cohorts[number], cohort_key(self.recipe, expert, number, until)
        self.memo.lacks(key, cohort.kept)
        own = until == number
        made: list[Grown] = self.memo.get(
            key, lambda: self._grown(part, expert, cohort) if own else self._learned(part, expert, number, until)
        )
        return made

    def _grown(self, part: Linear, expert: Expert, cohort: Cohort) -> list[Grown]:
        features, targets = self.rows.between(cohort.first, cohort.last, expert.plain)
        rest = self._rest(part, features, targets)
        fitted = self._fitted(cohort.trees, features, rest, cohort.seed).estimators_
        send_missing(fitted, features, cohort.seed)
        if self._of_medians:
            return [Grown.of(tree) for tree in fitted]
        rounded = self._prepared(features).astype(np.float32)
        return [Grown.filled(tree, rounded, rest) for tree in fitted]

    def _learned(self, part: Linear, expert: Expert, number: int, until: int) -> list[Grown]:
        """The trees with the rows in their leaves that are new with a later cohort."""
        before = self._cohort(part, expert, number, until - 1)
        if self._of_medians:
            return before
        new, last = expert.cohorts[until], expert.cohorts[until - 1].last
        features, targets = self.rows.between(new.first, new.last, expert.plain, since=last + 1)
        rest, rounded = self._rest(part, features, targets), self._prepared(features).astype(np.float32)
        return [tree.learned(rounded, rest) for tree in before[len(before) - expert.cohorts[number].kept :]]

    @property
    def _of_medians(self) -> bool:
        return self.params.get("criterion") in OF_MEDIANS

    def _rest(self, part: Linear, features: Floats, targets: Floats) -> Floats:
        """What the line leaves of the targets."""
        rest: Floats = targets - part.predict(self._prepared(features))[:, 0]
        return rest

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


def is_forest(path: str) -> bool:
    """Whether the estimator at an import path can grow a few trees at a time."""
    return path.startswith("sklearn.ensemble.") and path.rpartition(".")[2] in FORESTS
