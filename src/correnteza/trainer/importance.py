"""Which columns a model version leans on.

Source: permutation importance, Breiman, "Random forests", Machine Learning 45, 2001.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from correnteza.features import Floats
from correnteza.trainer.predictor import Predictor


def importances(
    predictor: Predictor, numbers: Floats, categories: npt.NDArray[Any], targets: Floats, seed: int = 0
) -> Mapping[str, float]:
    """By how much the mean absolute error of some records rises when a column is shuffled among them; the largest first.

    A column that only repeats another one has little importance, and so has that other: either can be done without.

    Args:
        predictor: the version.
        numbers: in their own units, NaN is missing, shape [rows, numbers].
        categories: texts, "" is missing, shape [rows, categories].
        targets: shape [rows]; at least one.
        seed: of the shuffle.

    Returns:
        In the target's unit, by column; below 0 where the shuffled column is, by chance, the better one.
    """
    numbers, categories = numbers.copy(), categories.copy()  # they are shuffled in place, a column at a time
    order = np.random.default_rng(seed).permutation(len(targets))
    held: list[tuple[str, npt.NDArray[Any], int]] = [
        *((name, numbers, place) for place, name in enumerate(predictor.numbers)),
        *((name, categories, place) for place, name in enumerate(predictor.categories)),
    ]
    usual, found = _mae(predictor, numbers, categories, targets), dict[str, float]()
    for name, table, place in held:
        column = table[:, place].copy()
        table[:, place] = column[order]
        found[name] = _mae(predictor, numbers, categories, targets) - usual
        table[:, place] = column
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _mae(predictor: Predictor, numbers: Floats, categories: npt.NDArray[Any], targets: Floats) -> float:
    return float(np.abs(predictor.predict(numbers, categories) - targets).mean())
