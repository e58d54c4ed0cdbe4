"""Regressors that misbehave, for tests of what a training may do; importable by path."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor


class Hanging(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Says that it has begun, and never ends."""

    def __init__(self, marker: str = "") -> None:
        self.marker = marker

    def fit(self, features: Any, targets: Any) -> Hanging:
        Path(self.marker).touch()
        threading.Event().wait()
        return self

    def predict(self, features: Any) -> Any:
        raise NotImplementedError


class Dying(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ends its process: with a signal, or with an exit code."""

    def __init__(self, by_signal: bool = False) -> None:
        self.by_signal = by_signal

    def fit(self, features: Any, targets: Any) -> Dying:
        if self.by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)

    def predict(self, features: Any) -> Any:
        raise NotImplementedError


class Greedy(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Wants a gigabyte."""

    def fit(self, features: Any, targets: Any) -> Greedy:
        self.much_ = np.ones(2**27)
        return self

    def predict(self, features: Any) -> Any:
        raise NotImplementedError


class Raising(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Raises."""

    def fit(self, features: Any, targets: Any) -> Raising:
        raise ArithmeticError("the numbers are no good")

    def predict(self, features: Any) -> Any:
        raise NotImplementedError


class Loud(RandomForestRegressor):  # type: ignore[misc]
    """Prints and warns."""

    def fit(self, features: Any, targets: Any) -> Any:
        os.write(1, b"printed by native code\n")
        print("printed", flush=True)
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        return super().fit(features, targets)
