# mypy: ignore-errors
"""A BentoML service around the forest, without batching; arrays are numpy's, as its documentation has it."""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Forest:
    """The service."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predictions of rows of features."""
        return self.model.predict(rows)
