"""Which scikit-learn regressor is trained, from its import path, and what it takes as features.

Invariant: an estimator that `build` returns is a regressor, has every parameter that was asked for,
and is seeded and single-threaded unless the parameters say otherwise; every other path or parameter
is a ConfigError that says what to write instead.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from correnteza.errors import ConfigError
from correnteza.features import Floats

FEATURE_LIMIT = 1e15
"""Features are clipped to ± this many deviations. A row that the statistics have seen is at most sqrt(n)
deviations off, so no row in earnest is touched; beyond it, squares and sums would not stay finite in float32."""

_KEY = "trainer.estimator"


def check(path: str, params: Mapping[str, Any]) -> None:
    """Refuse a path or parameters that no training could use, before anything starts.

    Args:
        path: import path of a regressor class, as in `sklearn.linear_model.Ridge`.
        params: its parameters, by name.

    Raises:
        ConfigError: no such module or class, not a regressor, no such parameter, or a value that it refuses.
    """
    build(path, params, 0)


def check_apart(path: str, params: Mapping[str, Any]) -> None:
    """As `check`, in a process of its own: who answers questions loads no scikit-learn, and none of a user's modules."""
    command = [sys.executable, "-P", "-m", __name__, path, json.dumps(dict(params))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very module
    if ended.returncode:
        raise ConfigError(ended.stderr.strip().rpartition("\n")[2] or f"{_KEY} = {path!r}: checking it ended its process")


def check_once(path: str, params: Mapping[str, Any], note: Path) -> None:
    """As `check_apart`, unless a note says that this was found right with this scikit-learn.

    Args:
        path: import path of a regressor class.
        params: its parameters, by name.
        note: the file; written when the check has passed.
    """
    checked = json.dumps({"estimator": path, "params": dict(params), "scikit-learn": metadata.version("scikit-learn")})
    if note.exists() and note.read_text(encoding="utf-8") == checked:
        return
    check_apart(path, params)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(checked, encoding="utf-8")


def build(path: str, params: Mapping[str, Any], seed: int) -> Any:
    """The estimator, not fitted.

    Args:
        path: import path of a regressor class, as in `sklearn.ensemble.RandomForestRegressor`.
        params: its parameters, by name.
        seed: its `random_state`, if it has one and `params` gives none; from 0 to 2**32 - 1.

    Raises:
        ConfigError: as `check`.

    >>> build("sklearn.ensemble.ExtraTreesRegressor", {"n_estimators": 5}, seed=7)
    ExtraTreesRegressor(n_estimators=5, n_jobs=1, random_state=7)
    """
    if path.startswith("river."):
        from correnteza.trainer import river

        return river.build(path, params, seed)
    from sklearn.base import is_regressor

    kind = _class_at(path)
    known = _parameters(kind)
    for name in params:
        if name not in known:
            raise ConfigError(f"trainer.params.{name}: {path} has no such parameter{_meant(name, known)}")
    defaults = {name: value for name, value in (("random_state", seed), ("n_jobs", 1)) if name in known}
    try:
        estimator = kind(**{**defaults, **params})
        _check_values(estimator)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer.params = {dict(params)!r}: {path} refuses them: {_line(error)}") from None
    if not is_regressor(estimator):
        raise _no_regressor(path)
    return estimator


def allows_missing(estimator: Any) -> bool:
    """Whether the estimator learns from missing values (NaN); to others they are 0.0: the mean, and `OTHER`.

    >>> allows_missing(build("sklearn.ensemble.RandomForestRegressor", {}, 0))
    True
    >>> allows_missing(build("sklearn.linear_model.Ridge", {}, 0))
    False
    """
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.allow_nan)


def prepared(estimator: Any, features: Floats) -> Floats:
    """The features as the estimator takes them, in training and in the graph alike.

    Values are clipped to ±`FEATURE_LIMIT`, so that sums of squares stay finite in float32; missing values become
    0.0 (the mean, and `OTHER`) where the estimator does not take NaN.

    Args:
        estimator: fitted or not.
        features: shape [rows, fields], NaN is missing; not changed.

    Returns:
        A new array of the same shape.
    """
    clipped = limited(features)
    return clipped if allows_missing(estimator) else np.nan_to_num(clipped, copy=False, nan=0.0)


def servable(fitted: Any, features: Floats, seed: int) -> Any:
    """The estimator that is exported: the fitted one itself, or what is served in the place of one of River.

    Args:
        fitted: the estimator.
        features: that it was fitted to, prepared, shape [rows, features].
        seed: of what has to be drawn.

    Raises:
        TrainingFailedError: nothing can be served in its place.
    """
    if not type(fitted).__module__.endswith("trainer.river"):
        return fitted
    from correnteza.trainer import river

    return river.served(fitted, features, seed)


def limited(features: Floats) -> Floats:
    """The features clipped to ±`FEATURE_LIMIT`, as a new array of the same shape."""
    clipped: Floats = np.clip(features, -FEATURE_LIMIT, FEATURE_LIMIT)
    return clipped


def _class_at(path: str) -> Any:
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{_KEY} = {path!r}: expected an import path as in sklearn.ensemble.RandomForestRegressor")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{_KEY} = {path!r}: cannot import {module_name} ({_line(error)}); check the spelling") from None
    kind = getattr(module, name, None)
    if inspect.isclass(kind) and all(hasattr(kind, method) for method in ("get_params", "fit", "predict")):
        return kind
    if kind is not None:
        raise _no_regressor(path)
    classes = [n for n, value in vars(module).items() if inspect.isclass(value)] or list(getattr(module, "__all__", ()))
    raise ConfigError(f"{_KEY} = {path!r}: {module_name} has no class {name!r}{_meant(name, classes)}")


def _parameters(kind: Any) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _check_values(estimator: Any) -> None:
    """What scikit-learn would check when fitting, now: a wrong value is a mistake in the settings."""
    if hasattr(estimator, "_parameter_constraints"):  # its own have them; estimators of others need not
        estimator._validate_params()


def _no_regressor(path: str) -> ConfigError:
    return ConfigError(
        f"{_KEY} = {path!r}: is not a scikit-learn regressor; use one, as in sklearn.ensemble.RandomForestRegressor"
    )


def _meant(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(names[:20])}" if names else "; it takes none"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    try:
        check(sys.argv[1], json.loads(sys.argv[2]))
    except ConfigError as error:
        sys.exit(str(error))
