"""Regressors of River (`learn_one`, `predict_one`) behind scikit-learn's `fit` and `predict`, and what is served of them.

Invariants:
- `fit` starts anew and learns the rows one by one in their order, so equal rows in equal order give an equal model.
- What is served is an estimator that has an ONNX graph, and every answer, in the evaluation too, is given by that
  graph: the error that is shown is that of what is served, never that of the model in River it was made from.
- A model whose served form answers too differently is refused, with the figure.

A model that is linear on the window's rows is served exactly. Any other is *distilled*: a forest is fitted to its
predictions for the window's rows (Bucilua, Caruana and Niculescu-Mizil, "Model compression", KDD 2006).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.features import Floats
from correnteza.records import MAGNITUDE_LIMIT

AGREEMENT = 0.9
"""The lowest R2 between the served forest and the model in River, on rows that the forest was not fitted to."""
HELD_OUT = 3
"""Of every so many rows one is held out to measure that."""
DISTILLED_ROWS = 30
"""The fewest rows from which a forest's agreement can be told."""
LINEAR_TOLERANCE = 1e-9
"""How far a linear model may be from the coefficients read off it, as a share of the predictions' size."""

_KEY = "trainer.estimator"


def build(path: str, params: Mapping[str, Any], seed: int) -> RiverRegressor:
    """The regressor, not fitted, seeded unless the parameters say otherwise.

    Args:
        path: import path of a River regressor, as in `river.tree.HoeffdingTreeRegressor`.
        params: its parameters, by name.
        seed: its `seed`, if it has one and `params` gives none.

    Raises:
        ConfigError: no such module or class, not a regressor of River, no such parameter, or one that it needs.

    >>> build("river.linear_model.LinearRegression", {"l2": 0.1}, seed=7)
    RiverRegressor(params={'l2': 0.1}, path='river.linear_model.LinearRegression')
    >>> build("river.forest.ARFRegressor", {"n_models": 3}, seed=7).params
    {'seed': 7, 'n_models': 3}
    """
    known = inspect.signature(_class_at(path)).parameters
    for name in params:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise ConfigError(f"trainer.params.{name}: {path} has no such parameter; it takes {takes}")
    seeded = {"seed": seed} if "seed" in known else {}
    made = RiverRegressor(path, {**seeded, **params})
    made.check()
    return made


class RiverRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor of River that takes matrices. Missing values have to be filled before, as for most of scikit-learn.

    Args:
        path: import path of the class.
        params: its parameters, by name.

    >>> lots = np.tile([[0.0], [1.0]], (500, 1))
    >>> fitted = RiverRegressor("river.tree.HoeffdingTreeRegressor", {}).fit(lots, 3.0 * lots[:, 0])
    >>> fitted.predict(np.array([[1.0]])).round(1).tolist()
    [3.0]
    """

    def __init__(self, path: str, params: Mapping[str, Any]) -> None:
        self.path = path
        self.params = params

    def check(self) -> None:
        """Refuse parameters with which the class cannot be made.

        Raises:
            ConfigError: the class refuses them.
        """
        self._made()

    def fit(self, features: Floats, targets: Floats) -> RiverRegressor:
        """Learn the rows in their order, from nothing.

        Args:
            features: shape [rows, features], no NaN.
            targets: shape [rows].
        """
        model = self._made()
        for row, target in zip(np.asarray(features).tolist(), np.asarray(targets).tolist(), strict=True):
            model.learn_one(dict(enumerate(row)), target)
        self.model_ = model
        self.n_features_in_ = np.shape(features)[1]
        return self

    def predict(self, features: Floats) -> Floats:
        """The model's own predictions, one by one; 0.0 where it gives none yet.

        Args:
            features: shape [rows, features], no NaN.

        Returns:
            Shape [rows].
        """
        answers = (self.model_.predict_one(dict(enumerate(row))) for row in np.asarray(features).tolist())
        return np.array([0.0 if answer is None else float(answer) for answer in answers])

    def _made(self) -> Any:
        try:
            return _class_at(self.path)(**self.params)
        except (TypeError, ValueError) as error:
            text = " ".join(str(error).split())
            raise ConfigError(f"trainer.params = {dict(self.params)!r}: {self.path} refuses them: {text}") from None


class DistilledForest(RandomForestRegressor):  # type: ignore[misc]
    """A forest that stands for a model which knows no missing values, so it is asked with 0.0 in their place, as that is."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = False
        return tags


def served(fitted: RiverRegressor, features: Floats, seed: int) -> LinearRegression | DistilledForest:
    """The estimator of scikit-learn that is exported and answers in the place of a model of River.

    Linear models give their coefficients. For others a forest is fitted to their predictions, and its R2 with
    them measured on every third row, which it was not fitted to; the one that is served has seen all rows.

    Args:
        fitted: the model.
        features: that it was fitted to, shape [rows, features], no NaN.
        seed: of the forest.

    Raises:
        TrainingFailedError: the model diverged, the rows are too few, or the forest agrees too little.
    """
    predictions = _finite(fitted, features)
    linear = _linear(fitted, features, predictions)
    if linear is not None:
        return linear
    if len(features) < DISTILLED_ROWS:
        raise TrainingFailedError(
            f"{fitted.path} is not linear and was fitted to {len(features)} rows; expected at least {DISTILLED_ROWS} "
            "to make a forest of it; raise trainer.min_rows"
        )
    agreement = _agreement(features, predictions, seed)
    if agreement < AGREEMENT:
        raise TrainingFailedError(
            f"{fitted.path} cannot be served with ONNX: a forest made of it agrees with it by R2 = {agreement:.3f} on rows "
            f"held out, expected at least {AGREEMENT}; raise trainer.window_rows, or use an estimator of scikit-learn"
        )
    return _forest(seed).fit(features, predictions)


def _finite(fitted: RiverRegressor, features: Floats) -> Floats:
    predictions = fitted.predict(features)
    wild = ~(np.abs(predictions) <= MAGNITUDE_LIMIT)  # NaN too
    if wild.any():
        raise TrainingFailedError(
            f"{fitted.path} diverged: it predicts {float(predictions[wild][0])!r}; lower its learning rate in trainer.params"
        )
    return predictions


def _linear(fitted: RiverRegressor, features: Floats, predictions: Floats) -> LinearRegression | None:
    """The model as intercept and coefficients, read off its answers; None when other rows contradict them."""
    width = features.shape[1]
    answers = fitted.predict(np.vstack([np.zeros(width), np.eye(width)]))
    intercept, coefficients = answers[0], answers[1:] - answers[0]
    terms = np.abs(features) @ np.abs(coefficients) + np.abs(intercept) + np.abs(predictions)
    if not (np.abs(features @ coefficients + intercept - predictions) <= LINEAR_TOLERANCE * terms).all():
        return None
    linear = LinearRegression()
    linear.coef_, linear.intercept_, linear.n_features_in_ = coefficients, float(intercept), width
    return linear


def _agreement(features: Floats, predictions: Floats, seed: int) -> float:
    """R2 of a forest with the predictions that it was not fitted to; 1 where these are all equal and it says so."""
    held_out = np.arange(len(features)) % HELD_OUT == HELD_OUT - 1
    forest = _forest(seed).fit(features[~held_out], predictions[~held_out])
    right = predictions[held_out]
    scale = float(np.abs(right).max()) or 1.0  # so that no square overflows
    missed = float(np.mean(((forest.predict(features[held_out]) - right) / scale) ** 2))
    variance = float(np.var(right / scale))
    return 1.0 - missed / variance if variance > 0 else float(missed == 0)


def _forest(seed: int) -> DistilledForest:
    return DistilledForest(n_estimators=50, min_samples_leaf=1, n_jobs=1, random_state=seed)


def _class_at(path: str) -> Any:
    from river.base import Regressor

    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{_KEY} = {path!r}: cannot import {module_name} ({error}); check the spelling") from None
    kind = getattr(module, name, None)
    if kind is None:
        raise ConfigError(f"{_KEY} = {path!r}: {module_name} has no class {name!r}; known are {_regressors(module, Regressor)}")
    if not (inspect.isclass(kind) and issubclass(kind, Regressor)):
        raise ConfigError(
            f"{_KEY} = {path!r}: is not a regressor of River; use one, as in river.tree.HoeffdingAdaptiveTreeRegressor"
        )
    return kind


def _regressors(module: Any, base: type) -> str:
    names = [n for n, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)]
    return ", ".join(sorted(names)) or "none"
