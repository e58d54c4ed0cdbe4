"""Answers of an ONNX model.

Invariant: nothing here unpickles anything; the module imports NumPy and ONNX Runtime, and neither
scikit-learn nor joblib nor onnx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float64]

ROWS_AT_ONCE = 1024
"""Rows in one run of a session, so that memory does not grow with the batch."""


class Predictor:
    """A model version: raw fields in, predictions out. Safe to use from several threads.

    Args:
        model: what `onnx.export` returned.

    Attributes:
        numbers: names of the numeric fields, in the order of the columns.
        categories: names of the category fields, in the order of the columns.
        target: name of the predicted number.
        scaler_version: the scaler version inside.
        schema_sha256: fingerprint of the schema that it was trained for.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model)
        about = self._session.get_modelmeta().custom_metadata_map
        self.numbers: tuple[str, ...] = tuple(json.loads(about["numbers"]))
        self.categories: tuple[str, ...] = tuple(json.loads(about["categories"]))
        self.target: str = about["target"]
        self.scaler_version = int(about["scaler_version"])
        self.schema_sha256: str = about["schema_sha256"]

    def predict(self, numbers: Floats, categories: npt.NDArray[Any]) -> Floats:
        """Predictions in the target's unit, shape [rows].

        Args:
            numbers: in their own units, NaN is missing, shape [rows, numbers]; also when there are no such fields.
            categories: texts (dtype object), "" is missing, shape [rows, categories]; also when there are no such fields.
        """
        feed: dict[str, npt.NDArray[Any]] = {}
        if self.numbers:
            feed["numbers"] = numbers
        if self.categories:
            feed["categories"] = categories
        return _run(self._session, feed, len(numbers))


class FeaturePredictor:
    """The part of a model version behind encoder and scaler, for rows that are normalized already.

    Args:
        model: what `onnx.feature_model` returned.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model)

    def predict(self, features: Floats) -> Floats:
        """Predictions in the target's unit, shape [rows], of rows in the model's scaler version, shape [rows, features]."""
        return _run(self._session, {"features": features}, len(features))


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena keeps the memory of the largest batch for ever; without one a call costs as much.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feed: Mapping[str, npt.NDArray[Any]], rows: int) -> Floats:
    if rows <= ROWS_AT_ONCE:
        return _once(session, feed)
    parts = range(0, rows, ROWS_AT_ONCE)
    return np.concatenate(
        [_once(session, {name: values[i : i + ROWS_AT_ONCE] for name, values in feed.items()}) for i in parts]
    )


def _once(session: Any, feed: Mapping[str, npt.NDArray[Any]]) -> Floats:
    prediction: Floats = session.run(None, feed)[0]
    return prediction[:, 0]
