"""Whatever instant the normalizer is killed at, what it made with its memory is what nobody disturbed would have made."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from correnteza import config
from correnteza.log.base import OwnedLog, Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import TIMESTAMP
from correnteza.testing import wait_for

ROWS = 130_000
"""Enough for a snapshot."""
KILLS = 4


def settings_of(folder: Path) -> config.Settings:
    features = [
        {"name": "last", "of": "y", "how": "lag", "rows": 1},
        {"name": "mean", "of": "y", "how": "mean", "rows": 12, "by": "shop"},
        {"name": "spread", "of": "x", "how": "std", "seconds": 60.0, "by": "shop"},
        {"name": "hour", "of": "at", "how": "hour"},
    ]
    schema = {"target": "y", "timestamp": "at", "fields": {"x": "float", "shop": "category"}}
    table = {"pipeline": {"data_dir": str(folder)}, "schema": schema, "features": features}
    return config.load(overrides={**table, "normalizer": {"batch_rows": 3000, "memory_keys": 300}})


def fill(log: OwnedLog) -> None:
    chance = np.random.default_rng(5)
    y = chance.normal(size=ROWS)
    columns = {
        "id": pa.array(np.arange(ROWS).astype(str)),
        "at": pa.array(1_700_000_000_000_000 + np.cumsum(chance.integers(0, 900_000, ROWS)), TIMESTAMP),
        "x": pa.array(chance.normal(size=ROWS) * 10.0 ** chance.integers(-6, 6, ROWS)),
        "shop": pa.array(np.char.add("s", chance.integers(0, 400, ROWS).astype(str))),
        "y": pa.array(y, mask=y > 2),
    }
    log.append(pa.RecordBatch.from_pydict(columns, schema=log.schema))


NORMALIZER = """
import sys
from pathlib import Path

from correnteza import config
from correnteza.log.sql import SqlStore
from correnteza.normalizer import service

folder, settings = Path(sys.argv[1]), config.loads(sys.argv[2])
raw = SqlStore(folder / "raw.db").log("raw", settings.schema_of_records.raw)
service.build(settings, SqlStore(folder / "normalizer.db"), raw)[1].runners[0].run()
"""
"""The normalizer in a process of its own, until it is killed."""


def beyond(log: OwnedLog, rows: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the normalizer ended by itself"
    return log.bounds().next > rows


def rows_of(store: Store, name: str, schema: pa.Schema) -> pa.Table:
    log, parts = store.log(name, schema), []
    part = log.read(None, 50_000)
    while part.batch.num_rows:
        parts.append(part.batch)
        part = log.read(part.next, 50_000)
    return pa.Table.from_batches(parts).combine_chunks()


def test_kills_at_random_instants_change_no_row(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    raw, store = SqlStore(tmp_path / "raw.db"), SqlStore(tmp_path / "normalizer.db")
    fill(raw.log("raw", settings.schema_of_records.raw))
    stage = NormalizerStage(settings.schema_of_model, settings.normalizer)
    done = store.log("normalized", stage.outputs["normalized"])
    chance = random.Random(3)
    for kill in range(1, KILLS + 2):
        process = subprocess.Popen([sys.executable, "-c", NORMALIZER, str(tmp_path), config.dumps(settings)])
        goal = ROWS if kill > KILLS else min(ROWS - 9000, done.bounds().next + chance.randint(1, ROWS // KILLS))
        wait_for(partial(beyond, done, goal, process), f"{goal} rows")
        process.kill()
        process.wait()
    whole = MemoryStore()
    logs = {name: whole.log(name, schema) for name, schema in stage.outputs.items()}
    step = stage.step(stage.initial(), raw.log("raw", settings.schema_of_records.raw).read(None, ROWS).batch)
    for name, output in step.outputs.items():
        logs[name].append(output)
    assert {"memory", "snapshots", "categories"} <= set(step.outputs)
    for name in ("normalized", "scalers", "categories", "snapshots"):
        schema = stage.outputs[name]
        assert rows_of(store, name, schema).equals(rows_of(whole, name, schema)), name
    kept = rows_of(store, "memory", stage.outputs["memory"])
    snapshot = step.outputs["snapshots"]["memory_offset"][-1].as_py()
    assert kept.equals(rows_of(whole, "memory", stage.outputs["memory"]).slice(snapshot)), "since the snapshot"
    raw.close()
    store.close()
