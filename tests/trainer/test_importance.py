"""What a version leans on: the rise of its error when a column is shuffled."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from correnteza.trainer.importance import importances
from correnteza.trainer.predictor import Predictor


class Sum:
    """Predicts 10 a, 3 for each word "yes", and looks at nothing else."""

    numbers = ("a", "unused")
    categories = ("word",)

    def predict(self, numbers: Any, categories: Any) -> Any:
        return 10 * numbers[:, 0] + 3 * (categories[:, 0] == "yes")


def test_what_matters_more_stands_first_what_is_not_looked_at_has_none_and_the_records_stay_as_they_were() -> None:
    chance = np.random.default_rng(1)
    numbers = chance.normal(size=(200, 2))
    words = chance.choice(np.array(["yes", "no"], object), size=(200, 1))
    before = numbers.copy(), words.copy()
    found = importances(cast(Predictor, Sum()), numbers, words, Sum().predict(numbers, words))
    assert list(found) == ["a", "word", "unused"]
    assert found["unused"] == 0.0
    assert found["a"] > 2 * found["word"] > 0.5
    assert np.array_equal(numbers, before[0])
    assert np.array_equal(words, before[1])
