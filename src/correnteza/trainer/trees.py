"""Tree ensembles of scikit-learn as flat arrays, as ONNX's operator TreeEnsemble (ai.onnx.ml 5) takes them.

Invariants:
- For every row, the flat ensemble reaches the same leaves as the fitted estimator, missing values
  included; predictions differ by the rounding of one sum at most.
- No Python code runs per node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from correnteza.errors import TrainingFailedError
from correnteza.features import Floats, Ints

if TYPE_CHECKING:
    from correnteza.trainer.forest import Member, Mixture
    from correnteza.trainer.leaves import Grown

Flags = npt.NDArray[np.bool_]

SQUARED = math.sqrt(2.0)
"""Deviation of the square of a standard normal number."""
SPREAD_ROWS = 20
"""Rows, at least, whose deviation is taken for how far targets lie apart."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of one tree, or of several behind one another, as arrays with an entry per node.

    Args:
        left: where a row goes whose value is at most the threshold; an index into these arrays.
        right: where other rows go.
        leaf: whether the node is a leaf; then only `value` counts.
        feature: column that is compared.
        threshold: what it is compared with.
        missing_left: whether a missing value goes left.
        value: what a leaf adds to the prediction.
        target: to which of several predictions.
    """

    left: Ints
    right: Ints
    leaf: Flags
    feature: Ints
    threshold: Floats
    missing_left: Flags
    value: Floats
    target: Ints


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trees whose leaves add up to a prediction.

    Args:
        nodes: of all trees.
        roots: index of each tree's first node, shape [trees].
        base: added to the sum of the leaves.
        float32: whether the estimator rounds its features to float32 before it compares them.
        exponential: whether the prediction is the exponential of the sum.
        targets: how many predictions there are.
    """

    nodes: Nodes
    roots: Ints
    base: float = 0.0
    float32: bool = True
    exponential: bool = False
    targets: int = 1


def flatten(fitted: Any) -> Ensemble | None:
    """The trees of a fitted estimator; None when it is not one of the kinds that are known here.

    Known are single trees, random forests, extra trees, bagged trees and gradient boosting, histogram-based too.

    Raises:
        TrainingFailedError: it splits on sets of categories.
    """
    from sklearn import ensemble, tree

    if isinstance(fitted, tree.DecisionTreeRegressor):
        return _joined([_of_tree(fitted.tree_, 1.0)])
    if isinstance(fitted, (ensemble.RandomForestRegressor, ensemble.ExtraTreesRegressor)):
        share = 1.0 / len(fitted.estimators_)
        return _joined([_of_tree(member.tree_, share) for member in fitted.estimators_])
    if isinstance(fitted, ensemble.BaggingRegressor):
        return _of_bagging(fitted)
    if isinstance(fitted, ensemble.GradientBoostingRegressor):
        return _of_boosting(fitted)
    if isinstance(fitted, ensemble.HistGradientBoostingRegressor):
        return _of_histograms(fitted)
    return None


def _of_bagging(fitted: Any) -> Ensemble | None:
    from sklearn.tree import DecisionTreeRegressor

    if not all(isinstance(member, DecisionTreeRegressor) for member in fitted.estimators_):
        return None
    share = 1.0 / len(fitted.estimators_)
    trees = []
    for member, columns in zip(fitted.estimators_, fitted.estimators_features_, strict=True):
        nodes = _of_tree(member.tree_, share)
        trees.append(replace(nodes, feature=np.asarray(columns)[np.where(nodes.leaf, 0, nodes.feature)]))
    return _joined(trees)


def _of_boosting(fitted: Any) -> Ensemble | None:
    start = getattr(fitted.init_, "constant_", None)
    if start is None and fitted.init_ != "zero":
        return None
    trees = [_of_tree(member.tree_, fitted.learning_rate) for member in fitted.estimators_[:, 0]]
    return _joined(trees, base=0.0 if start is None else float(np.ravel(start)[0]))


def _of_histograms(fitted: Any) -> Ensemble:
    tables = [stage[0].nodes for stage in fitted._predictors]
    if any(table["is_categorical"].any() for table in tables):
        raise TrainingFailedError(
            "a HistGradientBoostingRegressor with categorical_features cannot be served with ONNX; "
            "take categorical_features out of trainer.params"
        )
    base = float(np.ravel(fitted._baseline_prediction)[0])
    return _joined(
        [_of_table(table) for table in tables], base=base, float32=False, exponential=fitted.loss in ("poisson", "gamma")
    )


def of_mixture(mixture: Mixture) -> Ensemble:
    """All trees of a mixture; the predictions are those of its experts, in their order, without their linear parts."""
    trees = [
        _of_grown(tree, 1.0 / len(member.trees), target)
        for target, member in enumerate(mixture.members)
        for tree in member.trees
    ]
    return replace(_joined(trees), targets=len(mixture.members))


def of_spread(mixture: Mixture, trees: int, floor: float, least: float) -> Ensemble:
    """How far targets lie apart in the leaves that a row falls into, in the target's unit: a few trees of the heaviest expert.

    Args:
        mixture: the model.
        trees: how many trees, at most.
        floor: least spread, as a share of the mean one.
        least: least spread, as a share of the deviation of the expert's targets.
    """
    heaviest, chosen = _heaviest(mixture, trees)
    deviations = [_deviations(tree) for tree in chosen]
    leaves = [np.where(tree.children_left < 0, tree.weighted_n_node_samples, 0.0) for tree in chosen]
    mean = float(np.average(np.concatenate(deviations), weights=np.concatenate(leaves)))
    bottom = least * heaviest.footing.deviation if heaviest.footing.deviation > 0.0 else 1.0
    if not np.isfinite(mean) or mean <= 0.0:  # all targets in a leaf are equal: nothing to tell rows apart by
        return _joined([replace(_of_tree(tree, 0.0), value=np.zeros(len(tree.feature))) for tree in chosen[:1]], base=bottom)
    shares = [replace(_of_tree(t, 0.0), value=d / len(chosen)) for t, d in zip(chosen, deviations, strict=True)]
    return _joined(shares, base=max(floor * mean, bottom))


@lru_cache(maxsize=32)
def _deviations(tree: Any) -> Floats:
    """How far targets lie apart about each node of a tree: that of the smallest part around it with enough rows, shape [nodes].

    Of the few rows of a small leaf the deviation is far too small: the splits were chosen so that it would be.
    """
    left, right, rows = tree.children_left, tree.children_right, tree.weighted_n_node_samples
    found: Floats = np.sqrt(np.maximum(tree.impurity, 0.0))
    level = np.zeros(1, np.int64)
    while len(level := level[left[level] >= 0]):
        for below in (left[level], right[level]):
            found[below] = np.where(rows[below] < SPREAD_ROWS, found[level], found[below])
        level = np.concatenate([left[level], right[level]])
    return found


def hidden(mixture: Mixture, trees: int) -> tuple[Floats, float]:
    """How much each field has the answers differ: their deviation that is unknown where the field is missing.

    In the linear part it is that of what it makes of a number, or that of the categories' effects; in a tree, that between the
    two sides of the splits on the field.

    Args:
        mixture: the model.
        trees: how many trees of the heaviest expert, at most.

    Returns:
        In the target's unit, shape [features]; and the deviation of the targets, beyond which nothing is unknown: slopes of
        fields that hardly move in a window, or move together, say more than there is.
    """
    heaviest, chosen = _heaviest(mixture, trees)
    part = heaviest.footing.linear
    effects = [float(np.std(table[:-1, 0])) if len(table) > 1 else 0.0 for table in part.effects]
    in_lines = np.array([*np.hypot(part.slopes[0], SQUARED * part.curves[0]), *effects])
    size = max(float(np.abs(tree.value).max()) for tree in chosen) or 1.0  # keeps the squares finite
    in_trees = [_between_sides(tree, len(in_lines), size) for tree in chosen]
    found: Floats = np.hypot(in_lines, np.sqrt(np.mean(in_trees, axis=0)) * size)
    return found, heaviest.footing.deviation if heaviest.footing.deviation > 0.0 else math.inf


def _between_sides(tree: Any, features: int, size: float) -> Floats:
    """Variance of a tree's answers between the sides of the splits on each feature, in squares of `size`, shape [features]."""
    inner = np.flatnonzero(tree.children_left >= 0)
    rows, value = tree.weighted_n_node_samples, tree.value[:, 0, 0] / size
    left, right = tree.children_left[inner], tree.children_right[inner]
    apart = rows[left] * rows[right] / (rows[inner] * rows[0]) * (value[left] - value[right]) ** 2
    found: Floats = np.bincount(tree.feature[inner], apart, features).astype(np.float64)
    return found


def send_missing(trees: Sequence[Any], features: Floats, seed: int) -> None:
    """Have fitted trees send a field that was never missing either way, as often as the rows went; in place.

    scikit-learn sends what is missing for the first time to the larger side of each split, so that a record with few
    fields is answered like the most frequent one. Here a tree takes a missing field for a quantile of what its rows have
    there, each tree for another one, evenly spread. So the mean over the trees is about that over what the field may be,
    as with fractions of a row (Quinlan, "C4.5", 1993, chapter 3), in one pass.

    Args:
        trees: regression trees of scikit-learn.
        features: that they were fitted on, NaN is missing, shape [rows, features].
        seed: of which tree takes which quantile.
    """
    draw, count = np.random.default_rng(seed), len(trees)
    steps = np.stack([draw.permutation(count) for _ in features.T], axis=1)
    quantiles = (steps + draw.random(steps.shape)) / count
    complete = np.isnan(features).sum(axis=0) == 0
    for tree, wanted in zip(trees, quantiles, strict=True):
        _send_missing(tree.tree_, wanted, complete)


def _send_missing(tree: Any, wanted: Floats, complete: Flags) -> None:
    """Send what is missing the way of some quantile of each feature, shape [features]; level by level."""
    left, right, rows, ways = tree.children_left, tree.children_right, tree.weighted_n_node_samples, tree.missing_go_to_left
    quantiles = np.tile(wanted, (len(left), 1))  # among the rows of each node
    level = np.zeros(1, np.int64)
    while len(level := level[left[level] >= 0]):
        low, high, feature = left[level], right[level], tree.feature[level]
        share, quantile = rows[low] / rows[level], quantiles[level, feature]
        ways[level] = np.where(complete[feature], quantile < share, ways[level])
        quantiles[low] = quantiles[high] = quantiles[level]
        quantiles[low, feature] = np.minimum(quantile / share, 1.0)
        quantiles[high, feature] = np.maximum((quantile - share) / (1.0 - share), 0.0)
        level = np.concatenate([low, high])


def _heaviest(mixture: Mixture, trees: int) -> tuple[Member, list[Any]]:
    """The expert with the largest share in the prediction, and its last trees."""
    experts = mixture.recipe.experts
    member = mixture.members[max(range(len(experts)), key=lambda i: experts[i].weight)]
    return member, [grown.tree for grown in member.trees[-trees:]]


def _of_tree(tree: Any, weight: float, target: int = 0) -> Nodes:
    return Nodes(
        left=tree.children_left,
        right=tree.children_right,
        leaf=tree.children_left < 0,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left.astype(bool),
        value=tree.value[:, 0, 0] * weight,
        target=np.full(len(tree.feature), target),
    )


def _of_grown(grown: Grown, weight: float, target: int) -> Nodes:
    return replace(_of_tree(grown.tree, 0.0, target), value=grown.values * weight)


def _of_table(table: Any) -> Nodes:
    return Nodes(
        left=table["left"].astype(np.int64),
        right=table["right"].astype(np.int64),
        leaf=table["is_leaf"].astype(bool),
        feature=table["feature_idx"].astype(np.int64),
        threshold=table["num_threshold"],
        missing_left=table["missing_go_to_left"].astype(bool),
        value=table["value"],
        target=np.zeros(len(table), np.int64),
    )


def _joined(trees: Sequence[Nodes], base: float = 0.0, float32: bool = True, exponential: bool = False) -> Ensemble:
    trees = [_with_split(tree) for tree in trees]
    sizes = np.array([len(tree.leaf) for tree in trees])
    roots = np.cumsum(sizes) - sizes
    shift = np.repeat(roots, sizes)
    columns = {name: np.concatenate([getattr(tree, name) for tree in trees]) for name in Nodes.__slots__}
    columns["left"] = columns["left"] + shift
    columns["right"] = columns["right"] + shift
    return Ensemble(Nodes(**columns), roots, base, float32, exponential)


def _with_split(tree: Nodes) -> Nodes:
    """The tree itself, or for a single leaf a split whose both sides are that leaf: the operator's roots are splits."""
    if not tree.leaf[0]:
        return tree
    return Nodes(
        left=np.array([1, -1]),
        right=np.array([1, -1]),
        leaf=np.array([False, True]),
        feature=np.zeros(2, np.int64),
        threshold=np.zeros(2),
        missing_left=np.ones(2, bool),
        value=np.repeat(tree.value[:1], 2),
        target=np.repeat(tree.target[:1], 2),
    )


def attributes(ensemble: Ensemble) -> tuple[dict[str, Ints], dict[str, npt.NDArray[Any]]]:
    """The attributes of the operator: those that are lists of integers, and those that are tensors.

    Splits and leaves are numbered separately, each in the order of the nodes.
    """
    nodes = ensemble.nodes
    split = ~nodes.leaf
    number = np.where(nodes.leaf, np.cumsum(nodes.leaf), np.cumsum(split)) - 1
    left, right = nodes.left[split], nodes.right[split]
    integers = {
        "tree_roots": number[ensemble.roots],
        "nodes_featureids": nodes.feature[split],
        "nodes_truenodeids": number[left],
        "nodes_falsenodeids": number[right],
        "nodes_trueleafs": nodes.leaf[left],
        "nodes_falseleafs": nodes.leaf[right],
        "nodes_missing_value_tracks_true": nodes.missing_left[split],
        "leaf_targetids": nodes.target[nodes.leaf],
    }
    tensors: dict[str, npt.NDArray[Any]] = {
        "nodes_modes": np.zeros(int(split.sum()), np.uint8),  # 0 is BRANCH_LEQ
        "nodes_splits": nodes.threshold[split],
        "leaf_weights": nodes.value[nodes.leaf],
    }
    return {name: values.astype(np.int64) for name, values in integers.items()}, tensors
