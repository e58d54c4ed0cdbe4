"""Probe answers: a few rows with the answers that a version gave when it was made, kept in its `model.json`.

Invariant: a version goes into service only where it gives these answers again, in the very session that
will serve; so neither another ONNX Runtime nor another machine changes answers unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from correnteza.features import Codes, Floats, Scaler
from correnteza.records import Schema
from correnteza.trainer.predictor import Predictor

ROWS = 16
TOLERANCE = 1e-5
"""How far an answer may be from the stored one, as a share of it; single precision on another processor is nearer."""


def taken(predictor: Predictor, features: Floats, scaler: Scaler, codes: Codes, schema: Schema) -> dict[str, Any]:
    """Rows in their own units with the model's answers, as JSON values; NaN stands for missing numbers.

    Args:
        predictor: the loaded version.
        features: normalized rows, NaN is missing, shape [rows, features]; the first `ROWS` are used.
        scaler: the version that the features are in.
        codes: of the category fields.
        schema: of the records.
    """
    numbers, texts = raw(features[:ROWS], scaler, codes, schema)
    predictions = predictor.predict(numbers, texts)
    return {"numbers": numbers.tolist(), "categories": texts.tolist(), "predictions": predictions.tolist()}


def raw(features: Floats, scaler: Scaler, codes: Codes, schema: Schema) -> tuple[Floats, npt.NDArray[np.object_]]:
    """Normalized rows in their own units again: numbers, NaN is missing; texts, "" for missing and for rare ones."""
    count = len(schema.numeric)
    numbers = scaler.restore(features[:, :count]) if count else features[:, :0]
    texts = np.empty((len(features), len(schema.categories)), object)
    for place, name in enumerate(schema.categories):
        texts[:, place] = [_text(codes.get(name, ()), code) for code in features[:, count + place]]
    return numbers, texts


def check(predictor: Predictor, probe: Mapping[str, Any]) -> None:
    """Let a version answer its probe rows, which also makes its first real answer as fast as the others.

    Args:
        predictor: the loaded version.
        probe: what `taken` returned, as `model.json` holds it; empty for a version without.

    Raises:
        ValueError: an answer is another one than when the version was made.
    """
    rows = len(probe.get("predictions", ())) or 1
    numbers = np.full((rows, len(predictor.numbers)), np.nan)
    categories: npt.NDArray[Any] = np.full((rows, len(predictor.categories)), "", object)
    if probe.get("predictions"):
        numbers[:] = np.array(probe["numbers"], np.float64).reshape(numbers.shape)
        categories[:] = np.array(probe["categories"], object).reshape(categories.shape)
    found = predictor.predict(numbers, categories)
    expected = np.array(probe.get("predictions") or found, np.float64)
    wrong = ~np.isclose(found, expected, rtol=TOLERANCE, atol=0.0, equal_nan=True)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"it answers {found[row]:g} to probe row {row}, and {expected[row]:g} when it was made; was ONNX Runtime changed? "
            "train a new version"
        )


def _text(values: Any, code: float) -> str:
    """The value that a code stands for; any other, and a missing one, is as good as none."""
    return str(values[int(code) - 1]) if 1 <= code <= len(values) else ""
