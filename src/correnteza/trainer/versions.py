"""The rows of the log `models`: what is known of each model version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from correnteza.records import OFFSET, TIMESTAMP
from correnteza.trainer.artefacts import MODEL

MODELS = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("parent", pa.int64()),
        pa.field("created_at", TIMESTAMP),
        pa.field("reason", pa.string()),
        pa.field("estimator", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("first_offset", pa.int64()),
        pa.field("last_offset", pa.int64()),
        pa.field("scaler_version", pa.int64()),
        pa.field("train_s", pa.float64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("evaluation", pa.string()),
    ]
)
"""Columns of the log `models`: a row per version; `sha256` is of model.onnx, `evaluation` a JSON object."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What the learner knows of a version beside what the training made.

    Args:
        parent: the version in service when it was trained, or None.
        created_at: with a time zone.
        reason: why it was trained.
        decision: why it was promoted or refused.
        estimator: import path of the regressor.
        params: its parameters.
        seed: of the pipeline.
        rows: how many rows it was trained on.
        first_offset: of the first of them in the log `normalized`.
        last_offset: of the last of them in the log `normalized`.
        scaler_version: that they were expressed in.
        schema_sha256: `Schema.fingerprint`.
        evaluation: metrics at the promotion, as plain JSON values.
        recipe: what it is made of, as `Recipe.plain` says it; None when the estimator was fitted anew to all rows.
        read_offset: of the last row of the log `normalized` that was read when its training began.
        labels_offset: rows that the log `labels` had then; with `read_offset` it says what had been learned from, and in
            which order.
    """

    parent: int | None
    created_at: datetime
    reason: str
    decision: str
    estimator: str
    params: Mapping[str, Any]
    seed: int
    rows: int
    first_offset: int
    last_offset: int
    scaler_version: int
    schema_sha256: str
    evaluation: Mapping[str, Any]
    recipe: Mapping[str, Any] | None = None
    read_offset: int = 0
    labels_offset: int = 0


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version: a row of `MODELS`, `evaluation` parsed."""

    version: int
    parent: int | None
    created_at: datetime
    reason: str
    estimator: str
    rows: int
    first_offset: int
    last_offset: int
    scaler_version: int
    train_s: float
    size_bytes: int
    sha256: str
    evaluation: Mapping[str, Any]


def model_rows(*rows: ModelRow) -> pa.RecordBatch:
    """Rows for the log `models`, for the learner's own commit."""
    return pa.RecordBatch.from_pylist(
        [{**asdict(row), "evaluation": json.dumps(row.evaluation)} for row in rows], schema=MODELS
    )


def row_of_manifest(manifest: Mapping[str, Any]) -> ModelRow:
    """The row that belongs to a `model.json`."""
    values = {**manifest, "sha256": manifest["files"][MODEL], "created_at": datetime.fromisoformat(manifest["created_at"])}
    return ModelRow(**{field.name: values[field.name] for field in fields(ModelRow)})


def row_of_log(row: dict[str, Any]) -> ModelRow:
    """A row of the log `models` as it was read."""
    return ModelRow(**{**{k: v for k, v in row.items() if k != OFFSET}, "evaluation": json.loads(row["evaluation"])})
