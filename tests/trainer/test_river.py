"""Regressors of River: fitted in the order of the rows, served by a graph that answers as they do, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from river import linear_model, tree
from sklearn.base import clone, is_regressor

from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.features import Floats, Scaler
from correnteza.records import Field, Schema
from correnteza.trainer import estimators, onnx, river
from correnteza.trainer.predictor import Predictor

LINEAR = "river.linear_model.LinearRegression"
TREE = "river.tree.HoeffdingTreeRegressor"
SCHEMA = Schema((Field("a", "float"), Field("b", "float"), Field("c", "float")), "y")
SCALER = Scaler(3, np.array([1.0, -2.0, 30.0]), np.array([2.0, 0.5, 10.0]))


def rows(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Features and targets of a step and a slope."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, 3))
    return features, 20.0 * (features[:, 0] > 0) + features[:, 1] + 0.1 * draw.normal(size=n)


def test_fit_and_predict_are_those_of_river_one_row_after_the_other() -> None:
    features, targets = rows(400)
    by_hand: Any = tree.HoeffdingTreeRegressor(grace_period=50)
    for row, target in zip(features.tolist(), targets.tolist(), strict=True):
        by_hand.learn_one(dict(enumerate(row)), target)
    wrapped = river.build(TREE, {"grace_period": 50}, seed=1).fit(features, targets)
    expected = [by_hand.predict_one(dict(enumerate(row))) for row in features.tolist()]
    assert wrapped.predict(features).tolist() == expected


def test_fitting_again_starts_from_nothing_and_gives_the_same() -> None:
    features, targets = rows(300)
    first = river.build("river.forest.ARFRegressor", {"n_models": 2}, seed=3).fit(features, targets)
    once = first.predict(features)
    first.fit(*rows(300, seed=9))
    np.testing.assert_array_equal(first.fit(features, targets).predict(features), once)


def test_it_is_a_regressor_for_scikit_learn_that_can_be_cloned_and_takes_no_missing_values() -> None:
    built = river.build(LINEAR, {"l2": 0.5}, seed=1)
    assert is_regressor(built)
    assert clone(built).get_params() == built.get_params()
    assert not estimators.allows_missing(built)


def test_the_seed_is_set_where_the_class_has_one_unless_the_parameters_say_otherwise() -> None:
    forest = "river.forest.ARFRegressor"
    assert river.build(forest, {}, seed=7).params == {"seed": 7}
    assert river.build(forest, {"seed": 2}, seed=7).params == {"seed": 2}
    assert river.build(LINEAR, {}, seed=7).params == {}


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("river.forests.ARFRegressor", {}, "cannot import river.forests"),
        ("river.forest.ARFRegresor", {}, "has no class 'ARFRegresor'; known are AMFRegressor, ARFRegressor"),
        ("river.forest.ARFClassifier", {}, "is not a regressor of River"),
        ("river.preprocessing.StandardScaler", {}, "is not a regressor of River"),
        (TREE, {"graceperiod": 1}, "trainer.params.graceperiod: .*it takes grace_period"),
        ("river.ensemble.BaggingRegressor", {}, "refuses them: .*model"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_fix_in_one_line(path: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        river.build(path, params, 0)
    assert "\n" not in str(caught.value)


def answers(served: Any, raw: Floats) -> Floats:
    """What the exported graph answers to rows in their own units."""
    features, _ = rows(200)
    model = onnx.export(served, SCALER, {}, SCHEMA, features)
    given: Floats = Predictor(model).predict(raw, np.empty((len(raw), 0), object))
    return given


@pytest.mark.parametrize("path", [LINEAR, "river.linear_model.PARegressor", "river.linear_model.BayesianLinearRegression"])
def test_a_linear_model_is_served_by_its_own_coefficients_also_for_missing_values(path: str) -> None:
    """The graph multiplies in float32: ONNX has no linear regression in double precision."""
    features, targets = rows(400)
    fitted = river.build(path, {}, seed=1).fit(features, targets)
    served = river.served(fitted, features, seed=1)
    asked, _ = rows(100, seed=5)
    asked[3, 1] = np.nan
    given = answers(served, asked * SCALER.scale + SCALER.mean)
    right = fitted.predict(np.nan_to_num(asked))
    np.testing.assert_allclose(served.predict(np.nan_to_num(asked)), right, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(given, right, rtol=1e-5, atol=1e-5)


def test_another_model_is_served_by_a_forest_that_follows_it_also_for_missing_values() -> None:
    features, targets = rows(2000)
    fitted = river.build(TREE, {}, seed=1).fit(features, targets)
    served = river.served(fitted, features, seed=1)
    asked, _ = rows(300, seed=5)
    asked[3, 1] = np.nan
    given = answers(served, asked * SCALER.scale + SCALER.mean)
    filled = np.nan_to_num(asked)
    np.testing.assert_allclose(given, served.predict(filled), rtol=1e-9, atol=1e-9)
    assert np.corrcoef(given, fitted.predict(filled))[0, 1] > 0.95


def test_the_served_form_is_the_same_each_time() -> None:
    features, targets = rows(300)
    fitted = river.build(TREE, {}, seed=1).fit(features, targets)
    first, second = (river.served(fitted, features, seed=4).predict(features) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Noisy(linear_model.LinearRegression):
    """Answers that no forest can follow."""

    def predict_one(self, x: dict[Any, float]) -> float:
        return float(hash(tuple(x.values())) % 1000)


class Constant(linear_model.LinearRegression):
    """Always the same answer."""

    def predict_one(self, x: dict[Any, float]) -> float:
        return 5.0


class Wild(linear_model.LinearRegression):
    """Has diverged."""

    def predict_one(self, x: dict[Any, float]) -> float:
        return float("nan")


def fitted_as(model: Any, features: Floats) -> river.RiverRegressor:
    """A regressor around a model of this file."""
    made = river.build(LINEAR, {}, seed=1).fit(features, features[:, 0])
    made.model_ = model
    return made


def test_a_model_that_no_forest_follows_is_refused_with_the_figure() -> None:
    features, _ = rows(300)
    with pytest.raises(TrainingFailedError, match=r"R2 = -?\d\.\d+ on rows held out, expected at least 0.9"):
        river.served(fitted_as(Noisy(), features), features, seed=1)


def test_a_model_that_diverged_is_refused() -> None:
    features, _ = rows(50)
    with pytest.raises(TrainingFailedError, match="diverged: it predicts nan"):
        river.served(fitted_as(Wild(), features), features, seed=1)


def test_a_constant_model_is_linear() -> None:
    features, _ = rows(5)
    served = river.served(fitted_as(Constant(), features), features, seed=1)
    np.testing.assert_allclose(answers(served, features), 5.0)


def test_too_few_rows_for_a_forest_are_refused_with_both_numbers() -> None:
    features, _ = rows(29)
    with pytest.raises(TrainingFailedError, match=r"fitted to 29 rows; expected at least 30 .*raise trainer\.min_rows"):
        river.served(fitted_as(Noisy(), features), features, seed=1)


@pytest.mark.parametrize("size", [1e-100, 1e90])
def test_targets_of_any_size_that_records_may_have_give_a_finite_answer_without_a_warning(size: float) -> None:
    features, _ = rows(60)
    fitted = river.build(TREE, {}, seed=1).fit(features, size * features[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served = river.served(fitted, features, seed=1)
    assert np.isfinite(served.predict(features)).all()
