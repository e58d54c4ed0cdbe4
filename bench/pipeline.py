"""Throughput of the three persisted hops: generator, normalizer, learner, over HTTP.

Every service is a process of its own with its own SQLite file (WAL, synchronous=FULL). The generator
makes the demo's people as fast as it can; the clock runs from the first record until the learner has
committed the last one. The learner predicts one of every 200 rows before it learns from it, and
retrains all the while. `growth_ratio` is the time per record over the last tenth of the stream
divided by that over the first 100,000 records (or the first tenth, if that is less).
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from typing import Any

import requests

from system import System, report, wait_for

SERVICES = ("generator", "normalizer", "trainer")
EVALUATE_EVERY = 200


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=3, help="runs of a million records, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="one run of 300,000 records")
    arguments = parser.parse_args()
    if arguments.quick:
        runs = [run(300_000)]
        long = runs[0]
    else:
        runs = [run(1_000_000) for _ in range(arguments.runs)]
        long = run(arguments.records)
    rate = statistics.median(one["records_per_s"] for one in runs)
    figures = {
        "records_per_s": round(rate),
        "records_lost": sum(one["records_lost"] for one in [*runs, long]),
        "growth_ratio": round(long["growth_ratio"], 3),
        "records": runs[0]["records"],
        "records_of_growth": long["records"],
        "memory_mb_early": round(long["memory_early"] / 1e6),
        "memory_mb_late": round(long["memory_late"] / 1e6),
    }
    each = ", ".join(f"{one['records_per_s']:,.0f}" for one in runs)
    report(
        "bench/pipeline.py",
        figures,
        [
            f"{runs[0]['records']:,} records, three persisted hops: median **{rate:,.0f} records/s** (runs: {each})",
            f"records lost: {figures['records_lost']}",
            f"time per record at the end of {long['records']:,} records: {figures['growth_ratio']} times that at the beginning",
            f"memory of all processes: {figures['memory_mb_early']} MB early, {figures['memory_mb_late']} MB at the end",
            f"the learner scored one of every {EVALUATE_EVERY} rows and made {long['versions']} versions in the long run",
        ],
    )


def run(records: int) -> dict[str, Any]:
    """One run; its figures."""
    settings = {
        "GENERATOR__LIMIT": records,
        "GENERATOR__RECORDS_PER_SECOND": 0,
        "GENERATOR__BATCH_ROWS": 20_000,
        "NORMALIZER__BATCH_ROWS": 20_000,
        "TRAINER__BATCH_ROWS": 20_000,
        "TRAINER__EVALUATE_EVERY": EVALUATE_EVERY,
        "RETENTION__ROWS": 500_000,
    }
    with System(settings, SERVICES) as system:
        began = time.monotonic()
        requests.put(system.url("generator", "/rate"), json={"records_per_second": "inf"}, timeout=10).raise_for_status()
        marks = [(began, 0)]
        memory = []
        while marks[-1][1] < records:
            wait_for(lambda: learned(system) > marks[-1][1], 60, f"progress behind record {marks[-1][1]}")
            marks.append((time.monotonic(), learned(system)))
            memory.append(system.memory_bytes())
        took_s = marks[-1][0] - began
        logs = [system.get(name, "/status")["logs"]["records"]["next_offset"] - 1 for name in ("generator", "normalizer")]
        early = min(100_000, records // 10)
        return {
            "records": records,
            "records_per_s": records / took_s,
            "records_lost": sum(abs(records - rows) for rows in (*logs, learned(system))),
            "growth_ratio": seconds_per_record(marks, records - records // 10, records) / seconds_per_record(marks, 0, early),
            "memory_early": memory[len(memory) // 5],
            "memory_late": memory[-1],
            "versions": len(system.get("trainer", "/models")),
        }


def learned(system: System) -> int:
    """Rows that the learner has committed."""
    return int(system.get("trainer", "/status")["learned_rows"])


def seconds_per_record(marks: list[tuple[float, int]], start: int, end: int) -> float:
    """Time per record between two row numbers, by linear interpolation of the marks."""
    return (when(marks, end) - when(marks, start)) / (end - start)


def when(marks: list[tuple[float, int]], row: int) -> float:
    """When the learner was at a row."""
    for (t0, r0), (t1, r1) in pairwise(marks):
        if r0 <= row <= r1:
            return t0 + (t1 - t0) * (row - r0) / (r1 - r0)
    raise ValueError(f"row {row} is beyond the last mark {marks[-1]}")


if __name__ == "__main__":
    main()
