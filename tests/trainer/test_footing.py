"""Laws of what trees stand on: all rows and trees where they tell, and fewer where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from correnteza.features import Floats
from correnteza.trainer import footing
from correnteza.trainer.footing import Footing, lines_of, tried
from correnteza.trainer.growing import MANY, Grower

FOREST = "sklearn.ensemble.RandomForestRegressor"
PARAMS: Mapping[str, Any] = {"min_samples_leaf": 3}


def steps(seed: int, noise: float, rows: int = 1500) -> tuple[Floats, Floats]:
    """A target of many steps in two of three fields, with noise of some deviation; the steps have one of about 5."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 3))
    return x, 8 * np.floor(4 * x[:, 0]) * np.sign(x[:, 1]) + noise * rng.normal(size=rows)


def footing_of(features: Floats, targets: Floats, estimator: str = FOREST) -> Footing:
    lines = lines_of(features, targets, features.shape[1], None)
    return tried(features, targets, 3, lines, Grower(estimator, PARAMS))


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_trees_are_spared_where_noise_hides_what_more_of_them_would_tell(seed: int) -> None:
    assert footing_of(*steps(seed, noise=20.0)).flat
    assert not footing_of(*steps(seed, noise=0.0)).flat


def test_few_rows_are_never_spared() -> None:
    assert not footing_of(*steps(1, 20.0, footing.FLAT_LEAST - 1)).flat
    assert footing_of(*steps(1, 20.0, footing.FLAT_LEAST)).flat


@pytest.mark.parametrize("estimator", [FOREST, "sklearn.ensemble.ExtraTreesRegressor"])
def test_a_footing_is_a_function_of_its_rows_and_seed(estimator: str) -> None:
    one, other = (footing_of(*steps(2, 20.0), estimator) for _ in range(2))
    assert (one.flat, one.deviation) == (other.flat, other.deviation)
    assert (one.linear.slopes == other.linear.slopes).all()


@pytest.mark.parametrize(("flat", "trees"), [(True, [1, 1, 2, 8]), (False, [1, 2, 3, 15])])
def test_there_is_always_a_tree_where_the_recipe_names_one(flat: bool, trees: list[int]) -> None:
    standing = Footing(footing_of(*steps(1, 1.0, 20)).linear, 1.0, flat)
    assert [standing.of(named) for named in (1, 2, 3, 15)] == trees


def test_a_tree_is_grown_on_so_many_rows_and_knows_all_of_them() -> None:
    """The rows of its sample are drawn anew for each tree; its leaves say the mean of all rows, in it or not."""
    features, targets = steps(1, 1.0)
    grower = Grower(FOREST, PARAMS)
    few = grower.grow(2, features, targets, 3, most_rows=100)
    assert [tree.tree_.weighted_n_node_samples[0] for tree in few] == [100, 100]
    assert few[0].tree_.node_count != few[1].tree_.node_count or (few[0].tree_.threshold != few[1].tree_.threshold).any()
    for tree in grower.filled(few, features, targets):
        leaves = tree.tree.children_left == -1
        assert tree.counts[leaves].sum() == len(targets)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [(FOREST, {"max_samples": 50}), (FOREST, {"bootstrap": False}), ("sklearn.ensemble.ExtraTreesRegressor", {})],
)
def test_where_the_parameters_say_of_samples_nothing_can_be_tried_and_nothing_is_spared(
    estimator: str, params: Mapping[str, Any]
) -> None:
    """Trees that know a quarter of the rows would be the very same trees."""
    features, targets = steps(1, noise=20.0)
    grower = Grower(estimator, {**PARAMS, **params})
    assert not grower.samples
    assert not tried(features, targets, 3, lines_of(features, targets, 3, None), grower).flat


def test_threads_change_nothing_but_the_time() -> None:
    features, targets = steps(1, 1.0)
    assert 4 * len(targets) > MANY
    one, two = (Grower(FOREST, PARAMS, threads).grow(4, features, targets, 3) for threads in (1, 2))
    for mine, other in zip(one, two, strict=True):
        assert (mine.tree_.threshold == other.tree_.threshold).all()
        assert (mine.tree_.value == other.tree_.value).all()
