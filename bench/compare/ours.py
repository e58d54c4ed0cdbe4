"""Our side: the same forest in a registry, served by the real trainer; the normalizer, fed by a real generator."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from compare import forest
from correnteza import config
from correnteza.features import Scaler
from correnteza.log.sql import SqlStore
from correnteza.records import Schema
from correnteza.trainer.onnx import export
from correnteza.trainer.registry import MODELS, Meta, Registry, load_key, model_rows
from correnteza.trainer.training import Trained
from system import PORT_BASE, PORTS, System, wait_for

SCHEMA = {"target": forest.TARGET, "fields": dict.fromkeys(forest.FIELDS, "float")}
PORT = PORT_BASE + PORTS["trainer"]
PATH = "/predict"


def settings(**more: object) -> dict[str, object]:
    """What our processes run with: the schema, and defaults."""
    return {"SCHEMA__TARGET": forest.TARGET, "SCHEMA__FIELDS": json.dumps(SCHEMA["fields"]), **more}


def server() -> System:
    """The trainer with the forest in its registry, not started. Its learner runs and finds no normalizer."""
    system = System(settings(), ("trainer",))
    register(system.folder)
    return system


def register(folder: Path) -> None:
    """Write the forest as version 1 into the registry of a pipeline, and put it into service."""
    schema = config.load(overrides={"schema": SCHEMA}).schema_of_records
    store = SqlStore(folder / "trainer.db")
    try:
        registry = Registry(folder / "models", store, load_key(folder))
        row = registry.write(1, _trained(schema), _meta(schema))
        store.log("models", MODELS, bounded=False).append(model_rows(row))
        registry.promote(1, "compared with peers", pinned=True)
    finally:
        store.close()


def _trained(schema: Schema) -> Trained:
    fitted = forest.train()
    scaler = Scaler(1, np.zeros(len(schema.numeric)), np.ones(len(schema.numeric)))
    probe = forest.data(256, seed=1)[0]
    checkpoint = io.BytesIO()
    joblib.dump({"estimator": fitted, "scaler": scaler, "codes": {}, "schema": schema}, checkpoint)
    return Trained(export(fitted, scaler, {}, schema, probe), checkpoint.getvalue(), 0.0)


def _meta(schema: Schema) -> Meta:
    return Meta(
        parent=None,
        created_at=datetime.now(UTC),
        reason="bench/compare",
        decision="the only version",
        estimator="sklearn.ensemble.RandomForestRegressor",
        params={"n_estimators": forest.TREES, "min_samples_leaf": forest.LEAF_ROWS},
        seed=forest.SEED,
        rows=forest.TRAINING_ROWS,
        first_offset=1,
        last_offset=forest.TRAINING_ROWS,
        scaler_version=1,
        schema_sha256=schema.fingerprint,
        evaluation={},
    )


def prediction(answer: Any) -> float:
    """The number in an answer of `POST /predict`."""
    return float(answer["prediction"])


def hop_records_per_s(rows: int) -> float:
    """Records per second of the normalizer alone: it reads a full generator log over HTTP and commits to SQLite."""
    more = {"GENERATOR__SOURCE": "replay", "GENERATOR__RECORDS_PER_SECOND": "inf", "RETENTION__ROWS": 10 * rows}
    before = System(settings(**more, GENERATOR__PATH="records.parquet"), ("generator",))
    write_records(before.folder / "records.parquet", rows)
    with before:
        wait_for(lambda: int(before.get("generator", "/status")["logs"]["records"]["rows"]) == rows, 120, "a full log")
        with System(settings(RETENTION__ROWS=10 * rows, PIPELINE__DATA_DIR=before.folder), ("normalizer",)) as system:
            return _slope(system, rows)


def _slope(system: System, rows: int) -> float:
    """From the first committed batch to the last one, so that the start of the process does not count."""

    def done() -> int:
        return int(system.get("normalizer", "/status")["raw_rows"])

    wait_for(lambda: done() > 0, 60, "the first batch")
    began, first = time.monotonic(), done()
    wait_for(lambda: done() >= rows, 120, f"{rows} records")
    return (rows - first) / (time.monotonic() - began)


def write_records(path: Path, rows: int) -> None:
    """A Parquet file of labelled records."""
    features, target = forest.data(rows)
    columns = dict(zip(forest.FIELDS, features.T, strict=True)) | {forest.TARGET: target}
    pyarrow.parquet.write_table(pa.table(columns), path)
