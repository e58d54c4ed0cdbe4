"""What the trainer answers, as JSON Schema for its OpenAPI document."""

from __future__ import annotations

from typing import Any

SENTENCES: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
OBJECT: dict[str, Any] = {"type": "object"}
METRICS: dict[str, Any] = {
    "type": ["object", "null"],
    "description": "rows, mae, rmse, r2, bias, coverage, width, errors of two naive predictions, skill.",
}
EVALUATION: dict[str, Any] = {
    "type": "object",
    "required": ["model_version", "metric_rows", "level", "rolling", "windows", "versions", "total"],
    "properties": {
        "rolling": {**METRICS, "title": "Over the last metric_rows rows."},
        "windows": {"type": "array", "items": METRICS, "title": "Over the last 100, 1,000, ... of them."},
        "versions": {"type": "array", "items": METRICS, "title": "Of the same rows, by model version."},
        "total": {
            "type": ["object", "null"],
            "title": "Since the stream began; null while no learner runs.",
            "properties": {"overall": METRICS, "versions": {"type": "array", "items": METRICS}},
        },
    },
}
ACCEPTED: dict[str, Any] = {
    "type": "object",
    "required": ["accepted", "request", "earliest_in_s", "training"],
    "properties": {
        "accepted": {"type": "boolean"},
        "request": {"type": "integer", "description": "Its number; requests that wait together have one training."},
        "earliest_in_s": {"type": "number", "description": "What is left of trainer.request_cooldown_s, in seconds."},
        "training": {"type": "boolean", "description": "Whether another training has to end first."},
    },
}
