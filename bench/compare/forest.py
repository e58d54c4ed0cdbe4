"""The forest that everybody serves, and the records that it is asked about: same seed, same data everywhere.

`python forest.py FOLDER` trains and writes FOLDER/model.joblib. It is run once in each environment,
because a file of one scikit-learn version is not promised to load in another; that all of them answer the
same is checked afterwards over HTTP. It needs numpy, scikit-learn and joblib, nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = tuple(f"x{i}" for i in range(10))
TARGET = "y"
SEED = 20_240_101
TRAINING_ROWS = 5_000
TREES = 100
LEAF_ROWS = 5


def data(rows: int, seed: int = SEED) -> tuple[Any, Any]:
    """Numeric features, shape [rows, 10], and a target that depends on them, shape [rows].

    >>> data(2)[0].shape
    (2, 10)
    """
    rng = np.random.RandomState(seed)  # its streams are frozen; those of default_rng may change with numpy
    features = rng.normal(10.0, 3.0, size=(rows, len(FIELDS)))
    target = 5.0 * features[:, 0] + features[:, 1] * features[:, 2] - 3.0 * np.abs(features[:, 3]) + rng.normal(size=rows)
    return features, target


def records(rows: int, seed: int) -> list[dict[str, float]]:
    """Records without their target."""
    return [dict(zip(FIELDS, values, strict=True)) for values in data(rows, seed)[0].tolist()]


def train() -> Any:
    """The fitted forest."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(TREES, min_samples_leaf=LEAF_ROWS, random_state=SEED % 1000).fit(*data(TRAINING_ROWS))


if __name__ == "__main__":
    import joblib

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(train(), folder / "model.joblib")
