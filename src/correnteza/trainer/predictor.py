"""Answers of an ONNX model.

Invariant: nothing here unpickles anything; the module imports NumPy and ONNX Runtime, and neither
scikit-learn nor joblib nor onnx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float64]

ROWS_AT_ONCE = 1024
"""Rows in one run of a session, so that memory does not grow with the batch."""
THREADS = 2
"""That share the runs of a large batch."""


OUTPUTS = ("prediction", "spread", "experts")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of some rows, in the target's unit.

    Args:
        prediction: shape [rows].
        spread: how far targets of such rows lie apart, above 0, shape [rows].
        experts: what the prediction is mixed from, shape [rows, experts].
    """

    prediction: Floats
    spread: Floats
    experts: Floats


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
        by_row: whether a row's answer is the same to the last bit however many rows are beside it.
        experts: ids of what its predictions are mixed from, in the order of the columns of `Answers.experts`.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model)
        about = self._session.get_modelmeta().custom_metadata_map
        self.numbers: tuple[str, ...] = tuple(json.loads(about["numbers"]))
        self.categories: tuple[str, ...] = tuple(json.loads(about["categories"]))
        self.target: str = about["target"]
        self.scaler_version = int(about["scaler_version"])
        self.schema_sha256: str = about["schema_sha256"]
        self.by_row = about.get("by_row") == "true"
        self.experts: tuple[int, ...] = tuple(json.loads(about["experts"]))

    def predict(self, numbers: Floats, categories: npt.NDArray[Any]) -> Floats:
        """Predictions in the target's unit, shape [rows].

        Args:
            numbers: in their own units, NaN is missing, shape [rows, numbers]; also when there are no such fields.
            categories: texts (dtype object), "" is missing, shape [rows, categories]; also when there are no such fields.
        """
        return _run(self._session, ("prediction",), self._feed(numbers, categories), len(numbers))[0][:, 0]

    def predict_with_spread(self, numbers: Floats, categories: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Predictions, and how far targets of such rows lie apart, both in the target's unit, shape [rows]."""
        answers = _run(self._session, ("prediction", "spread"), self._feed(numbers, categories), len(numbers))
        return answers[0][:, 0], answers[1][:, 0]

    def answers(self, numbers: Floats, categories: npt.NDArray[Any]) -> Answers:
        """All that the model says of some rows; see `predict`."""
        prediction, spread, experts = _run(self._session, OUTPUTS, self._feed(numbers, categories), len(numbers))
        return Answers(prediction[:, 0], spread[:, 0], experts)

    def features(self, numbers: Floats, categories: npt.NDArray[Any]) -> Floats:
        """What the model sees: standardised numbers, then category codes, shape [rows, features]."""
        return _run(self._session, ("features",), self._feed(numbers, categories), len(numbers))[0]

    def _feed(self, numbers: Floats, categories: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        feed: dict[str, npt.NDArray[Any]] = {}
        if self.numbers:
            feed["numbers"] = numbers
        if self.categories:
            feed["categories"] = categories
        return feed


def loading(model: bytes) -> Future[Predictor]:
    """The predictor of a model, being loaded by another thread."""
    return _threads().submit(Predictor, model)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena keeps the memory of the largest batch for ever; without one a call costs as much.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, names: Sequence[str], feed: Mapping[str, npt.NDArray[Any]], rows: int) -> list[Floats]:
    """Some outputs of the graph, each of shape [rows, width]."""
    if rows <= ROWS_AT_ONCE:
        answers: list[Floats] = session.run(names, feed)
        return answers

    def some(start: int) -> list[Floats]:
        part = {name: values[start : start + ROWS_AT_ONCE] for name, values in feed.items()}
        return session.run(names, part)  # type: ignore[no-any-return]

    parts = _threads().map(some, range(0, rows, ROWS_AT_ONCE))
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


@cache
def _threads() -> ThreadPoolExecutor:
    """What runs the parts of large batches, beside each other: a part has the same answers wherever it runs."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="model")
