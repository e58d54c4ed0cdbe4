"""Rows per second of the logs themselves, in one process: memory, and SQLite with WAL and synchronous=FULL.

The demo's people in batches of 10,000 rows. Memory: all rows are appended, then read; the time of both counts.
SQLite: appends, each of which is a durable commit, and reads of the same rows, each by itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa

import system
from correnteza.config import Settings
from correnteza.generator.people import PeopleSource
from correnteza.log.base import Log
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.records import OFFSET

BATCH_ROWS = 10_000
GOALS = {"memory_rows_per_s": 1_000_000, "sqlite_append_rows_per_s": 400_000, "sqlite_read_rows_per_s": 800_000}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=50, help=f"batches of {BATCH_ROWS:,} rows in each run")
    parser.add_argument("--runs", type=int, default=5, help="of which the median counts")
    parser.add_argument("--quick", action="store_true", help="3 runs of 20 batches")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    batches, runs = (20, 3) if arguments.quick else (arguments.batches, arguments.runs)
    batch = people()
    found = [run(batch, batches) for _ in range(runs)]
    figures = {name: round(statistics.median(one[name] for one in found)) for name in GOALS}
    system.report("bench/logs.py", figures, lines(figures, found, batches))


def people() -> pa.RecordBatch:
    """Rows of the demo, without offsets."""
    settings = Settings()
    rows = PeopleSource(settings.generator, settings.schema_of_records).read(None, BATCH_ROWS).batch
    return rows.drop_columns([OFFSET])


def run(batch: pa.RecordBatch, batches: int) -> dict[str, float]:
    """Rows per second, once."""
    rows = batch.num_rows * batches
    memory = MemoryStore().log("raw", batch.schema)
    both_s = append(memory, batch, batches) + read(memory, rows)
    with tempfile.TemporaryDirectory(prefix="correnteza-bench-") as folder:
        store = SqlStore(Path(folder) / "logs.db")
        log = store.log("raw", batch.schema)
        append_s, read_s = append(log, batch, batches), read(log, rows)
        store.close()
    return {
        "memory_rows_per_s": rows / both_s,
        "sqlite_append_rows_per_s": rows / append_s,
        "sqlite_read_rows_per_s": rows / read_s,
    }


def append(log: Log, batch: pa.RecordBatch, batches: int) -> float:
    """Append the batch again and again; seconds."""
    began = time.perf_counter()
    for _ in range(batches):
        log.append(batch)
    return time.perf_counter() - began


def read(log: Log, rows: int) -> float:
    """Read the log from its start to its end; seconds.

    Raises:
        AssertionError: it does not hold so many rows.
    """
    began, after, found = time.perf_counter(), None, 0
    while found < rows:
        part = log.read(after, BATCH_ROWS)
        assert part.batch.num_rows, f"{found} rows; expected {rows}"
        after, found = part.next, found + part.batch.num_rows
    return time.perf_counter() - began


def lines(figures: dict[str, int], found: list[dict[str, float]], batches: int) -> list[str]:
    """The result in words."""
    what = {
        "memory_rows_per_s": "memory, append and read",
        "sqlite_append_rows_per_s": "SQLite, append",
        "sqlite_read_rows_per_s": "SQLite, read",
    }
    each = {name: ", ".join(f"{one[name]:,.0f}" for one in found) for name in figures}
    head = f"{batches} batches of {BATCH_ROWS:,} rows, one process, nothing else; medians"
    return [
        head,
        *(
            f"{what[name]}: **{figures[name]:,} rows/s** (runs: {each[name]}; goal {goal:,}: "
            f"{'met' if figures[name] >= goal else 'missed'})"
            for name, goal in GOALS.items()
        ),
    ]


if __name__ == "__main__":
    main()
