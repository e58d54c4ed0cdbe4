"""A wrong estimator or parameter is one line that says what to write instead."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from correnteza import config
from correnteza.errors import ConfigError
from correnteza.trainer import estimators, service


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("RandomForestRegressor", {}, "expected an import path"),
        ("", {}, "expected an import path"),
        (".ensemble.X", {}, "expected an import path"),
        ("sklearn.ensembles.RandomForestRegressor", {}, "cannot import sklearn.ensembles"),
        ("sklearn.ensemble.RandomForestRegresor", {}, "did you mean 'RandomForestRegressor'?"),
        ("sklearn.linear_model.LogisticRegression", {}, "is not a scikit-learn regressor"),
        ("sklearn.preprocessing.StandardScaler", {}, "is not a scikit-learn regressor"),
        ("datetime.datetime", {}, "is not a scikit-learn regressor"),
        ("sklearn.linear_model.Ridge", {"alfa": 1}, "trainer.params.alfa: .*did you mean 'alpha'?"),
        ("sklearn.ensemble.RandomForestRegressor", {"n_estimators": -5}, "must be an int in the range"),
        ("sklearn.ensemble.StackingRegressor", {}, "estimators"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_fix_in_one_line(path: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        estimators.check(path, params)
    assert "\n" not in str(caught.value)


def test_checked_apart_it_is_refused_in_the_same_words_and_nothing_of_it_is_loaded_here() -> None:
    path = "xmlrpc.server.SimpleXMLRPCServer"
    with pytest.raises(ConfigError, match="is not a scikit-learn regressor") as caught:
        estimators.check_apart(path, {})
    assert "\n" not in str(caught.value)
    assert "xmlrpc.server" not in sys.modules
    estimators.check_apart("sklearn.linear_model.Ridge", {"alpha": 2.0})


def test_a_restart_waits_for_no_check_unless_the_estimator_or_its_parameters_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was refused is checked again."""
    checked: list[dict[str, Any]] = []
    monkeypatch.setattr(estimators, "check_apart", lambda path, params: checked.append(params))
    ridge, note = "sklearn.linear_model.Ridge", tmp_path / "new" / "checked.json"
    for alpha in (1.0, 1.0, 2.0, 2.0):
        estimators.check_once(ridge, {"alpha": alpha}, note)
    assert checked == [{"alpha": 1.0}, {"alpha": 2.0}]
    monkeypatch.undo()
    for _ in range(2):
        with pytest.raises(ConfigError):
            estimators.check_once(ridge, {"alpho": 1.0}, note)


def test_a_trainer_with_a_wrong_estimator_does_not_start(tmp_path: Path) -> None:
    """And says so before it has written anything."""
    pipeline, trainer = config.Pipeline(data_dir=tmp_path), config.Trainer(params={"n_estimatorz": 5})
    with socket.socket() as unused, pytest.raises(ConfigError, match=r"^trainer\.params\.n_estimatorz: .*'n_estimators'"):
        service.main(config.Settings(pipeline=pipeline, trainer=trainer), unused)
    assert not [*tmp_path.iterdir()]


def test_seed_and_one_thread_are_set_unless_the_parameters_say_otherwise() -> None:
    forest = "sklearn.ensemble.RandomForestRegressor"
    built = estimators.build(forest, {}, seed=7).get_params()
    assert (built["random_state"], built["n_jobs"]) == (7, 1)
    told = estimators.build(forest, {"random_state": 3, "n_jobs": 2}, seed=7).get_params()
    assert (told["random_state"], told["n_jobs"]) == (3, 2)


def test_features_are_finite_for_estimators_that_need_it_and_the_original_is_not_changed() -> None:
    features = np.array([[np.nan, np.inf], [-np.inf, 0.5]])
    before = features.copy()
    ridge = estimators.prepared(estimators.build("sklearn.linear_model.Ridge", {}, 0), features)
    forest = estimators.prepared(estimators.build("sklearn.ensemble.RandomForestRegressor", {}, 0), features)
    limit = estimators.FEATURE_LIMIT
    np.testing.assert_array_equal(ridge, [[0.0, limit], [-limit, 0.5]])
    np.testing.assert_array_equal(forest, [[np.nan, limit], [-limit, 0.5]])
    np.testing.assert_array_equal(features, before)
