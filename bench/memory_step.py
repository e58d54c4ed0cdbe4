"""Features with memory: records per second through the normalizer's step, and what a million keys take.

    python bench/memory_step.py [--records 200000] [--keys 1000] [--million]

Ten features over `--keys` keys, on one core: `step` and the commit to SQLite together. With `--million` each of
1,000,000 keys is seen three times, and the memory that the process then takes is printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from correnteza import config
from correnteza.definition import Feature
from correnteza.log.sql import SqlStore
from correnteza.memory import Memory
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import TIMESTAMP, Field, Schema

BATCH_ROWS = 10_000
RAW = Schema((Field("at", "timestamp"), Field("x", "float"), Field("key", "text")), target="y", timestamp="at")
FEATURES = (
    Feature("y_lag_1", ("y",), "lag", rows=1, by="key"),
    Feature("y_lag_24", ("y",), "lag", rows=24, by="key"),
    Feature("y_mean_6", ("y",), "mean", rows=6, by="key"),
    Feature("y_mean_24", ("y",), "mean", rows=24, by="key"),
    Feature("y_std_24", ("y",), "std", rows=24, by="key"),
    Feature("y_max_60_s", ("y",), "max", seconds=60.0, by="key"),
    Feature("y_mean_60_s", ("y",), "mean", seconds=60.0, by="key"),
    Feature("x_delta", ("x",), "delta", rows=1, by="key"),
    Feature("x_ewm_6", ("x",), "ewm", rows=6, by="key"),
    Feature("since", ("at",), "since", by="key"),
)
FEW = (FEATURES[0], FEATURES[2], FEATURES[7], FEATURES[9])


def batch(first: int, keys: int, in_turn: bool = False) -> pa.RecordBatch:
    """Records of keys at random, or of each key in turn; a millisecond apart."""
    chance = np.random.default_rng(first)
    numbers = np.arange(first, first + BATCH_ROWS)
    of = numbers % keys if in_turn else chance.integers(0, keys, BATCH_ROWS)
    times = 1_700_000_000_000_000 + numbers * 1000
    columns = {
        "offset": pa.array(numbers + 1),
        "id": pa.array(numbers.astype(str)),
        "at": pa.array(times, TIMESTAMP),
        "x": pa.array(chance.normal(size=BATCH_ROWS)),
        "key": pa.array(np.char.add("key ", of.astype(str))),
        "y": pa.array(chance.normal(size=BATCH_ROWS)),
    }
    return pa.RecordBatch.from_pydict(columns)


def step_rate(records: int, keys: int) -> dict[str, float]:
    """Records per second through step and commit, by the clock and by the processor's time."""
    schema = RAW.with_derived(FEATURES)
    stage = NormalizerStage(schema, config.Normalizer())
    batches = [batch(first, keys) for first in range(0, records + 2 * BATCH_ROWS, BATCH_ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(Path(folder) / "normalizer.db")
        for name, columns in stage.outputs.items():
            store.log(name, columns)
        epoch, state = store.claim(stage.name).epoch, stage.initial()
        for place, part in enumerate(batches):
            if place == 2:
                began, used = time.perf_counter(), time.process_time()
            step = stage.step(state, part)
            state = step.state
            store.commit(stage.name, epoch, str(place), stage.dump(state), step.outputs)
        took, used = time.perf_counter() - began, time.process_time() - used
        store.close()
    return {"records_per_s": round(records / took), "records_per_cpu_s": round(records / used)}


def million(keys: int = 1_000_000) -> dict[str, float]:
    """What a memory of a million keys takes, in bytes of this process and records per second."""
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    memory = Memory(RAW.with_derived(FEW))
    began, peak = time.process_time(), 0
    for first in range(0, 3 * keys, BATCH_ROWS):
        memory.take(memory.entries_of(batch(first, keys, in_turn=True)))
        memory.settle()
        peak = max(peak, process.memory_info().rss)
    used = time.process_time() - began
    after = process.memory_info().rss
    return {
        "keys": memory.keys["key"],
        "bytes": after - before,
        "peak_bytes": peak - before,
        "records_per_cpu_s": round(3 * keys / used),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--million", action="store_true")
    asked = parser.parse_args()
    found: dict[str, dict[str, float]] = {"step": step_rate(asked.records, asked.keys)}
    print(f"{len(FEATURES)} features over {asked.keys:,} keys: {found['step']['records_per_s']:,} records/s")
    if asked.million:
        found["million"] = million()
        print(f"{found['million']['keys']:,} keys: {found['million']['peak_bytes'] / 2**20:,.0f} MiB at most")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
