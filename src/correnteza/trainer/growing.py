"""Trees of scikit-learn, grown in as many threads as there are.

Invariant: the trees are a function of the rows, the parameters and the seed; threads change nothing but the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from correnteza.features import Floats
from correnteza.trainer import estimators
from correnteza.trainer.leaves import Grown, Singles

FORESTS = ("RandomForestRegressor", "ExtraTreesRegressor")
"""Estimators of scikit-learn's `ensemble` that can grow a few trees at a time."""
LEAST_PER_LEAF = 100
"""A window of fewer than this many rows per row of a leaf gets smaller leaves."""
OF_MEDIANS = ("absolute_error",)
"""Criteria whose leaves say no mean, so that further rows cannot be added to them."""
MANY = 4_000
"""Trees times rows from which several threads are worth their start."""


@dataclass(frozen=True, slots=True)
class Grower:
    """Grows trees.

    Args:
        estimator: import path of one of `FORESTS`.
        params: its parameters.
        threads: that grow trees where there is much to grow.
    """

    estimator: str
    params: Mapping[str, Any]
    threads: int = 1

    @property
    def of_medians(self) -> bool:
        """Whether leaves say medians, and cannot learn."""
        return self.params.get("criterion") in OF_MEDIANS

    @property
    def samples(self) -> bool:
        """Whether it is left to us how many rows a tree is grown on: not where it is all of them, or the parameters say."""
        forest = estimators.build(self.estimator, self.params, 0)
        return bool(forest.bootstrap) and forest.max_samples is None

    def grow(self, trees: int, features: Floats, targets: Floats, seed: int, most_rows: int | None = None) -> list[Any]:
        """Trees as scikit-learn has them.

        Args:
            trees: how many.
            features: NaN is missing, shape [rows, features].
            targets: in the target's unit, shape [rows].
            seed: of the bootstrap samples and of ties.
            most_rows: that the sample of a tree has, at most, where `samples`; None is as many as there are.

        Raises:
            ConfigError: the estimator or its parameters are wrong.
        """
        leaf = self.params.get("min_samples_leaf", 1)
        if isinstance(leaf, int):
            leaf = min(leaf, max(1, len(targets) // LEAST_PER_LEAF))
        forest = estimators.build(self.estimator, {**self.params, "n_estimators": trees, "min_samples_leaf": leaf}, seed)
        if most_rows is not None and most_rows < len(targets):
            forest.set_params(max_samples=most_rows)
        sampled = len(targets) if most_rows is None else min(most_rows, len(targets))
        with _threads(self.threads if trees > 1 and trees * sampled >= MANY else 1, forest):
            return list(forest.fit(estimators.limited(features), targets).estimators_)

    def filled(self, trees: list[Any], features: Floats, targets: Floats) -> list[Grown]:
        """The trees with what all the rows say in their leaves.

        Args:
            trees: that `grow` made of these rows.
            features: shape [rows, features].
            targets: shape [rows].
        """
        if self.of_medians:
            return [Grown.of(tree) for tree in trees]
        rows = rounded(features)
        return [Grown.filled(tree, rows, targets) for tree in trees]


def rounded(features: Floats) -> Singles:
    """Features as trees compare them, of the same shape."""
    singles: Singles = estimators.limited(features).astype(np.float32)
    return singles


def is_forest(path: str) -> bool:
    """Whether the estimator at an import path can grow a few trees at a time."""
    return path.startswith("sklearn.ensemble.") and path.rpartition(".")[2] in FORESTS


@contextmanager
def _threads(count: int, forest: Any) -> Iterator[None]:
    """Let a forest grow in so many threads; joblib waits for each, where it would look every 10 ms whether it is done."""
    if count == 1:
        yield
        return
    from joblib import parallel_config
    from joblib.parallel import ThreadingBackend

    class Waiting(ThreadingBackend):  # type: ignore[misc]
        supports_retrieve_callback = False

    forest.set_params(n_jobs=count)
    with parallel_config(Waiting(), n_jobs=count):
        yield
