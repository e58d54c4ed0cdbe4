"""Served answers are scikit-learn's: skew, missing values, unseen categories, several scaler versions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

from correnteza.definition import Feature
from correnteza.errors import TrainingFailedError
from correnteza.features import OTHER, Scaler, Scalers
from correnteza.records import Field, Schema
from correnteza.trainer.estimators import build, prepared
from correnteza.trainer.forest import Memo, Rows
from correnteza.trainer.forest import build as build_mixture
from correnteza.trainer.onnx import export
from correnteza.trainer.predictor import ROWS_AT_ONCE, Predictor
from correnteza.trainer.recipe import Base, Cohort, Expert, Local, Recipe
from correnteza.trainer.window import Window

SCHEMA = Schema((Field("age", "float"), Field("job", "category"), Field("hours", "integer"), Field("city", "category")), "y")
CODES = {"job": ["nurse", "a\x00b", "São Paulo", "nurse "], "city": ["x"]}
LIMIT = 1e100
"""Largest number of a valid record."""


class Skewed(RandomForestRegressor):  # type: ignore[misc]
    """Predicts otherwise than its trees."""

    def predict(self, features: Any) -> Any:
        return super().predict(features) + 1.0


def scalers_of(versions: int, seed: int) -> Scalers:
    rng = np.random.default_rng(seed)
    known = Scalers(SCHEMA.numeric)
    for version in range(1, versions + 1):
        mean, scale = rng.normal(40, 10, 2), np.exp(rng.normal(0, 2, 2))
        known.versions[version] = Scaler(version, mean, scale)
    return known


def encoded(categories: np.ndarray) -> np.ndarray:
    """Category texts as codes, the way that the normalizer encodes."""
    columns = [
        [np.nan if text == "" else float(CODES[name].index(text) + 1 if text in CODES[name] else OTHER) for text in column]
        for name, column in zip(SCHEMA.categories, categories.T, strict=True)
    ]
    return np.array(columns).T.reshape(categories.shape)


def raw_rows(n: int, seed: int, missing: float = 0.15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, categories and targets of `n` raw records."""
    rng = np.random.default_rng(seed)
    numbers = np.column_stack([rng.normal(40, 12, n), rng.integers(0, 80, n).astype(float)])
    categories = np.column_stack([rng.choice([*CODES["job"], "unseen"], n), rng.choice([*CODES["city"], "y"], n)]).astype(
        object
    )
    numbers[rng.random(numbers.shape) < missing] = np.nan
    categories[rng.random(categories.shape) < missing] = ""
    targets = 1000 + np.nan_to_num(numbers[:, 0]) ** 2 + 300 * (categories[:, 0] == "nurse") + rng.normal(0, 5, n)
    return numbers, categories, targets


def normalised(scaler: Scaler, numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
    return np.column_stack([scaler.standardise(numbers), encoded(categories)])


def trained(estimator: Any, n: int = 300, seed: int = 0, **options: Any) -> tuple[Any, Scaler, np.ndarray]:
    """A fitted estimator, its scaler, and the features it was fitted on."""
    scaler = scalers_of(1, seed).versions[1]
    numbers, categories, targets = raw_rows(n, seed, **options)
    features = normalised(scaler, numbers, categories)
    return estimator.fit(prepared(estimator, features), targets), scaler, features


def answers(estimator: Any, features: np.ndarray) -> np.ndarray:
    return np.ravel(estimator.predict(prepared(estimator, features)))


numbers_drawn = st.one_of(
    st.just(float("nan")), st.floats(-200, 200), st.floats(-LIMIT, LIMIT), st.sampled_from([LIMIT, -LIMIT, 0.0])
)
texts_drawn = st.one_of(st.just(""), st.sampled_from([*CODES["job"], "x"]), st.text(max_size=8))
records_drawn = st.lists(st.tuples(numbers_drawn, numbers_drawn, texts_drawn, texts_drawn), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(records_drawn, st.integers(1, 4), st.integers(20, 120), st.integers(0, 2**20), st.booleans())
def test_served_answers_are_those_of_scaler_and_forest_for_windows_over_several_scaler_versions(
    records: list[tuple[float, float, str, str]], versions: int, n: int, seed: int, extra: bool
) -> None:
    known = scalers_of(versions, seed)
    numbers, categories, targets = raw_rows(n, seed)
    of_row = np.sort(np.random.default_rng(seed).integers(1, versions + 1, n))
    window = Window(n // 2, SCHEMA.features)
    features = np.vstack(
        [normalised(known.versions[v], numbers[i : i + 1], categories[i : i + 1]) for i, v in enumerate(of_row)]
    )
    window.add(features, of_row, targets, np.arange(n))
    expressed = window.expressed(known, len(SCHEMA.numeric), n)
    scaler = known.versions[expressed.version]
    forest = (ExtraTreesRegressor if extra else RandomForestRegressor)(5, random_state=seed)
    forest.fit(prepared(forest, expressed.features), expressed.targets)
    predictor = Predictor(export(forest, scaler, CODES, SCHEMA))

    asked = np.array([r[:2] for r in records]), np.array([r[2:] for r in records], dtype=object).reshape(-1, 2)
    served = predictor.predict(*asked)
    np.testing.assert_allclose(served, answers(forest, normalised(scaler, *asked)), rtol=1e-12)
    again = predictor.predict(numbers[-len(window) :], categories[-len(window) :])
    np.testing.assert_allclose(again, answers(forest, expressed.features), rtol=1e-12)


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("sklearn.tree.DecisionTreeRegressor", {}),
        ("sklearn.tree.ExtraTreeRegressor", {}),
        ("sklearn.ensemble.RandomForestRegressor", {"n_estimators": 5, "criterion": "absolute_error", "max_depth": 3}),
        ("sklearn.ensemble.BaggingRegressor", {"n_estimators": 5, "max_features": 0.5}),
        ("sklearn.ensemble.GradientBoostingRegressor", {"n_estimators": 10}),
        ("sklearn.ensemble.GradientBoostingRegressor", {"n_estimators": 10, "init": "zero", "loss": "huber"}),
        ("sklearn.ensemble.HistGradientBoostingRegressor", {"max_iter": 10}),
        ("sklearn.ensemble.HistGradientBoostingRegressor", {"max_iter": 10, "loss": "poisson"}),
        ("sklearn.linear_model.LinearRegression", {}),
        ("sklearn.linear_model.Ridge", {"alpha": 2.0}),
        ("sklearn.linear_model.GammaRegressor", {}),
        ("sklearn.ensemble.AdaBoostRegressor", {"n_estimators": 5}),
        ("sklearn.svm.SVR", {}),
    ],
)
def test_every_kind_of_regressor_is_served_as_it_answers_and_exported_to_the_same_bytes(
    path: str, params: dict[str, Any]
) -> None:
    estimator, scaler, features = trained(build(path, params, seed=3))
    model = export(estimator, scaler, CODES, SCHEMA, features)
    assert model == export(estimator, scaler, CODES, SCHEMA, features)
    numbers, categories, _ = raw_rows(200, seed=9)
    predictor = Predictor(model)
    served = predictor.predict(numbers, categories)
    np.testing.assert_allclose(served, answers(estimator, normalised(scaler, numbers, categories)), rtol=1e-6)
    if predictor.by_row:  # then a row has the same bits alone as beside others
        alone = [predictor.predict(numbers[i : i + 1], categories[i : i + 1])[0] for i in range(200)]
        np.testing.assert_array_equal(served, alone)


@pytest.mark.parametrize(
    ("path", "by_row"),
    [
        ("sklearn.ensemble.RandomForestRegressor", True),
        ("sklearn.ensemble.HistGradientBoostingRegressor", True),
        ("sklearn.linear_model.Ridge", False),
        ("sklearn.svm.SVR", False),
    ],
)
def test_a_model_says_whether_its_rows_are_answered_as_if_alone(path: str, by_row: bool) -> None:
    estimator, scaler, _ = trained(build(path, {}, seed=3))
    assert Predictor(export(estimator, scaler, CODES, SCHEMA)).by_row is by_row


def test_neighbours_are_served_as_they_answer_where_no_two_at_the_same_distance_leave_a_choice() -> None:
    neighbours, scaler, features = trained(build("sklearn.neighbors.KNeighborsRegressor", {}, seed=3))
    model = export(neighbours, scaler, CODES, SCHEMA, features)
    numbers, categories, _ = raw_rows(200, seed=9)
    expected = answers(neighbours, normalised(scaler, numbers, categories))
    assert np.isclose(Predictor(model).predict(numbers, categories), expected, rtol=1e-9).mean() > 0.95


@pytest.mark.parametrize("path", ["sklearn.ensemble.RandomForestRegressor", "sklearn.linear_model.Ridge"])
def test_every_version_says_how_far_targets_lie_apart_and_what_its_prediction_is_mixed_of(path: str) -> None:
    """One that is fitted anew is its only expert."""
    estimator, scaler, _ = trained(build(path, {}, seed=3))
    predictor = Predictor(export(estimator, scaler, CODES, SCHEMA))
    numbers, categories, _ = raw_rows(100, seed=4)
    said = predictor.answers(numbers, categories)
    assert (said.spread > 0).all()
    assert said.experts.shape == (100, len(predictor.experts)) == (100, 1)
    np.testing.assert_array_equal(said.experts[:, 0], said.prediction)
    np.testing.assert_array_equal(said.prediction, predictor.predict(numbers, categories))
    prediction, spread = predictor.predict_with_spread(numbers, categories)
    np.testing.assert_array_equal(prediction, said.prediction)
    np.testing.assert_array_equal(spread, said.spread)


def test_a_row_alone_gets_the_answer_that_it_gets_in_any_batch() -> None:
    forest, scaler, _ = trained(RandomForestRegressor(20, random_state=0))
    predictor = Predictor(export(forest, scaler, CODES, SCHEMA))
    numbers, categories, _ = raw_rows(2 * ROWS_AT_ONCE + 7, seed=4)
    batch = predictor.predict(numbers, categories)
    assert batch.shape == (2 * ROWS_AT_ONCE + 7,)
    for i in (*range(100), ROWS_AT_ONCE - 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 6):
        assert predictor.predict(numbers[i : i + 1], categories[i : i + 1])[0] == batch[i]
    assert predictor.predict(numbers[:0], categories[:0]).shape == (0,)


@pytest.mark.parametrize("numbers", [1, 3, 5])
@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_a_row_alone_gets_the_answer_of_any_batch_also_from_a_mixture(numbers: int, members: int) -> None:
    """Bit for bit: otherwise evaluations would depend on how the log is cut into batches."""
    schema = Schema((*(Field(f"x{i}", "float") for i in range(numbers)), Field("kind", "category")), "y")
    rng = np.random.default_rng(numbers)
    features = np.column_stack([rng.normal(size=(300, numbers)), rng.integers(0, 3, 300).astype(float)])
    targets = 100.0 + 10.0 * features[:, :numbers] @ rng.normal(size=numbers) + rng.normal(size=300)
    shares = [(1 + 50 * place, 0.9 / members) for place in range(members)]
    experts = [
        Expert(number, first, 300, share, Base(first, 300, number), (Cohort(first, 300, 4, 4, number),))
        for number, (first, share) in enumerate(shares, start=1)
    ]
    local = Local(0.1, 0.5, tuple(rng.normal(size=numbers).tolist())) if members > 1 else None
    recipe = Recipe(300, 1, tuple(experts), local, members + 1)
    rows = Rows(np.arange(1, 301), features, targets, numbers)
    mixture = build_mixture(recipe, rows, "sklearn.ensemble.RandomForestRegressor", {}, Memo())
    codes, scaler = {"kind": ["a", "b"]}, Scaler(1, np.zeros(numbers), np.ones(numbers))
    predictor = Predictor(export(mixture, scaler, codes, schema, features))
    asked = features[:, :numbers], rng.choice(["a", "b", "?", ""], (300, 1)).astype(object)
    whole = predictor.answers(*asked)
    assert predictor.by_row
    for size in (1, 2, 3, 7, 33):
        for start in range(0, 300, size):
            part = predictor.answers(*(values[start : start + size] for values in asked))
            for name in ("prediction", "spread", "experts"):
                expected = getattr(whole, name)[start : start + size]
                np.testing.assert_array_equal(getattr(part, name), expected, f"{name} of {size} rows at {start}")


def test_features_are_rounded_to_float32_before_they_are_compared_as_scikit_learn_does() -> None:
    schema, identity = Schema((Field("x", "float"),), "y"), Scaler(1, np.zeros(1), np.ones(1))
    tree = DecisionTreeRegressor().fit(np.array([[0.0], [1.0]]), np.array([10.0, 20.0]))
    above = np.array([[0.5 + 1e-12], [0.5], [0.5001]])
    served = Predictor(export(tree, identity, {}, schema)).predict(above, np.empty((3, 0), object))
    assert served.tolist() == tree.predict(above).tolist() == [10.0, 10.0, 20.0]


def test_values_missing_for_the_first_time_when_serving_go_the_way_that_scikit_learn_sends_them() -> None:
    forest, scaler, _ = trained(RandomForestRegressor(10, random_state=0), missing=0.0)
    numbers, categories, _ = raw_rows(300, seed=5, missing=0.6)
    served = Predictor(export(forest, scaler, CODES, SCHEMA)).predict(numbers, categories)
    np.testing.assert_allclose(served, answers(forest, normalised(scaler, numbers, categories)), rtol=1e-12)


def test_trees_that_are_a_single_leaf_answer_with_it() -> None:
    forest, scaler, _ = trained(RandomForestRegressor(3, min_samples_leaf=300, random_state=0))
    numbers, categories, _ = raw_rows(10, seed=5)
    served = Predictor(export(forest, scaler, CODES, SCHEMA)).predict(numbers, categories)
    np.testing.assert_allclose(served, answers(forest, normalised(scaler, numbers, categories)), rtol=1e-12)


def test_a_training_on_the_largest_valid_numbers_is_served() -> None:
    rng = np.random.default_rng(0)
    numbers, categories, targets = raw_rows(200, seed=0)
    numbers[::7, 0] = rng.choice([LIMIT, -LIMIT], len(numbers[::7]))
    scaler = Scaler(1, np.array([0.0, 0.0]), np.array([1e-3, 1.0]))
    features = normalised(scaler, numbers, categories)
    for path in (
        "sklearn.ensemble.RandomForestRegressor",
        "sklearn.linear_model.LinearRegression",
        "sklearn.ensemble.GradientBoostingRegressor",
    ):
        estimator = build(path, {}, 0)
        estimator.fit(prepared(estimator, features), targets)
        served = Predictor(export(estimator, scaler, CODES, SCHEMA, features)).predict(numbers, categories)
        np.testing.assert_allclose(served, answers(estimator, features), rtol=1e-9)


@pytest.mark.parametrize("kind", ["float", "category"])
def test_inputs_without_fields_are_left_out(kind: Any) -> None:
    schema = Schema((Field("a", kind), Field("b", kind)), "y")
    width = len(schema.numeric)
    scaler, codes = Scaler(1, np.full(width, 2.0), np.full(width, 3.0)), {"a": ["u"], "b": ["v", "w"]}
    features = np.array([[0.0, 1.0], [1.0, 2.0], [np.nan, 0.0]])
    tree = DecisionTreeRegressor().fit(features, [1.0, 2.0, 3.0])
    predictor = Predictor(export(tree, scaler, codes, schema))
    assert (predictor.numbers, predictor.categories) == (schema.numeric, schema.categories)
    numbers = scaler.restore(features) if width else np.empty((3, 0))
    categories = np.array([["?", "v"], ["u", "w"], ["", "?"]], object) if not width else np.empty((3, 0), object)
    np.testing.assert_allclose(predictor.predict(numbers, categories), [1.0, 2.0, 3.0])


def test_a_model_names_its_fields_target_schema_and_scaler() -> None:
    tree, scaler, _ = trained(DecisionTreeRegressor(max_depth=2))
    predictor = Predictor(export(tree, scaler, CODES, SCHEMA))
    assert predictor.numbers == ("age", "hours")
    assert predictor.categories == ("job", "city")
    assert (predictor.target, predictor.scaler_version, predictor.schema_sha256) == ("y", 1, SCHEMA.fingerprint)


def test_a_model_names_the_definitions_of_its_derived_features() -> None:
    defined = Feature("a_before", ("a",), "lag", rows=2)
    schema = Schema((Field("a", "float"),), "y").with_derived((defined,))
    tree = DecisionTreeRegressor().fit(np.array([[0.0, 1.0], [1.0, 0.0]]), [1.0, 2.0])
    model = onnx.load_from_string(export(tree, Scaler(1, np.zeros(2), np.ones(2)), {}, schema))
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert [Feature.from_dict(one) for one in json.loads(about["derived"])] == [defined]


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (DummyRegressor(), "DummyRegressor cannot be served with ONNX"),
        (HistGradientBoostingRegressor(max_iter=10, categorical_features=[2]), "take categorical_features out"),
        (Skewed(3, random_state=0), "answers .* where scikit-learn answers"),
    ],
)
def test_an_estimator_that_cannot_be_served_as_it_answers_is_refused(estimator: Any, words: str) -> None:
    fitted, scaler, features = trained(estimator)
    with pytest.raises(TrainingFailedError, match=words):
        export(fitted, scaler, CODES, SCHEMA, features)


def test_a_predictor_loads_neither_scikit_learn_nor_joblib_nor_onnx() -> None:
    heavy = ("sklearn", "joblib", "onnx", "scipy")
    code = f"import sys, correnteza.trainer.predictor; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
