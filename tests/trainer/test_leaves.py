"""Laws of leaves that go on learning."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from correnteza.trainer.leaves import Grown

ROWS = 300
RNG = np.random.default_rng(3)
FEATURES = RNG.normal(size=(ROWS, 2)).astype(np.float32)
TARGETS = 3.0 * FEATURES[:, 0] + RNG.normal(size=ROWS)
TREE = DecisionTreeRegressor(min_samples_leaf=5, random_state=0).fit(FEATURES[:100], TARGETS[:100])


def test_a_tree_that_has_learned_nothing_more_says_what_it_was_fitted_to_say() -> None:
    np.testing.assert_allclose(Grown.of(TREE).predict(FEATURES), TREE.predict(FEATURES), rtol=1e-12)


def test_a_leaf_says_the_mean_of_all_rows_that_fell_into_it() -> None:
    grown = Grown.of(TREE).learned(FEATURES[100:], TARGETS[100:])
    leaves = TREE.apply(FEATURES)
    for leaf in np.unique(leaves):
        assert grown.values[leaf] == pytest.approx(TARGETS[leaves == leaf].mean())


def test_a_filled_tree_has_the_splits_of_its_sample_and_says_the_mean_of_all_rows() -> None:
    filled, leaves = Grown.filled(TREE, FEATURES, TARGETS), TREE.apply(FEATURES)
    assert filled.tree is TREE.tree_
    for leaf in np.unique(leaves):
        assert filled.values[leaf] == pytest.approx(TARGETS[leaves == leaf].mean())
        assert filled.counts[leaf] == (leaves == leaf).sum()


def test_a_leaf_that_no_row_reaches_says_what_it_was_fitted_to_say() -> None:
    filled = Grown.filled(TREE, FEATURES[:1], TARGETS[:1])
    reached = TREE.apply(FEATURES[:1])[0]
    others = np.arange(TREE.tree_.node_count) != reached
    np.testing.assert_array_equal(filled.values[others], TREE.tree_.value[others, 0, 0])


@given(cuts=st.lists(st.integers(100, ROWS), max_size=6))
@settings(max_examples=30, deadline=None)
def test_in_whatever_portions_rows_come_the_leaves_are_the_same_bit_for_bit(cuts: list[int]) -> None:
    once = Grown.of(TREE).learned(FEATURES[100:], TARGETS[100:])
    grown, ends = Grown.of(TREE), [100, *sorted(cuts), ROWS]
    for first, last in pairwise(ends):
        grown = grown.learned(FEATURES[first:last], TARGETS[first:last])
    np.testing.assert_array_equal(grown.sums, once.sums)
    np.testing.assert_array_equal(grown.counts, once.counts)


def test_a_tree_that_learns_leaves_the_one_before_it_as_it_was() -> None:
    """Another version may go on from it."""
    before = Grown.of(TREE)
    said = before.predict(FEATURES)
    before.learned(FEATURES[100:], TARGETS[100:])
    np.testing.assert_array_equal(before.predict(FEATURES), said)
