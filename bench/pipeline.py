"""Throughput of the three persisted hops, and whether it lasts: generator, normalizer, learner, over HTTP.

Every service is a process of its own with its own SQLite file (WAL, synchronous=FULL). The generator
makes the demo's people as fast as it can; the clock runs from the first record until the learner has
committed the last one. The learner predicts one of every 200 rows before it learns from it, and
retrains all the while.

Growth: on one pipeline, equal segments of records are timed in the same way, each until all stages are
level, first from record 100,000 on and then from record 10,000,000 on. `growth_ratio` is the median time
per record of the late segments divided by that of the early ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import requests

from system import System, report, wait_for

SERVICES = ("generator", "normalizer", "trainer")
EVALUATE_EVERY = 200
RETENTION_ROWS = 1_000_000


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000, help="records before the late segments")
    parser.add_argument("--runs", type=int, default=5, help="runs of a million records, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="one run of 500,000 records, late segments from 600,000 on")
    arguments = parser.parse_args()
    if arguments.quick:
        runs, growth = [run(500_000)], grow(600_000, segments=2, rows=100_000)
    else:
        runs = [run(1_000_000) for _ in range(arguments.runs)]
        growth = grow(arguments.records, segments=5, rows=300_000)
    figures = {
        "records_per_s": round(statistics.median(one["records_per_s"] for one in runs)),
        "records_lost": sum(one["records_lost"] for one in [*runs, growth]),
        "growth_ratio": round(growth["late_us"] / growth["early_us"], 3),
        "records": runs[0]["records"],
        "records_of_growth": growth["records"],
        "early_us_per_record": round(growth["early_us"], 2),
        "late_us_per_record": round(growth["late_us"], 2),
        "memory_mb_early": round(growth["memory_early"] / 1e6),
        "memory_mb_late": round(growth["memory_late"] / 1e6),
        "disk_mb_early": round(growth["disk_early"] / 1e6),
        "disk_mb_late": round(growth["disk_late"] / 1e6),
    }
    report("bench/pipeline.py", figures, lines(figures, runs, growth))


def lines(figures: dict[str, Any], runs: list[dict[str, Any]], growth: dict[str, Any]) -> list[str]:
    """The result in words."""
    each = ", ".join(f"{one['records_per_s']:,.0f}" for one in runs)
    return [
        f"{figures['records']:,} records, three hops: median **{figures['records_per_s']:,} records/s** (runs: {each})",
        f"records lost: {figures['records_lost']}",
        f"time per record after {growth['records']:,} records: {figures['late_us_per_record']} µs, after 100,000: "
        f"{figures['early_us_per_record']} µs; ratio **{figures['growth_ratio']}**",
        f"memory of all processes then: {figures['memory_mb_late']} MB, {figures['memory_mb_early']} MB",
        f"databases then: {figures['disk_mb_late']} MB, {figures['disk_mb_early']} MB (kept: {RETENTION_ROWS:,} rows a log)",
        f"the learner scored one of every {EVALUATE_EVERY} rows; {growth['versions']} versions were trained meanwhile",
    ]


def settings(**more: object) -> dict[str, object]:
    """What both parts run with."""
    return {
        "GENERATOR__RECORDS_PER_SECOND": 0,
        "GENERATOR__BATCH_ROWS": 20_000,
        "NORMALIZER__BATCH_ROWS": 20_000,
        "TRAINER__BATCH_ROWS": 20_000,
        "TRAINER__EVALUATE_EVERY": EVALUATE_EVERY,
        "RETENTION__ROWS": RETENTION_ROWS,
        **more,
    }


def run(records: int) -> dict[str, Any]:
    """Time for a number of records from nothing."""
    with System(settings(GENERATOR__LIMIT=records), SERVICES) as system:
        began = time.monotonic()
        set_rate(system, "inf")
        wait_for(lambda: learned(system) >= records, 600, f"{records} records")
        took_s = time.monotonic() - began
        return {"records": records, "records_per_s": records / took_s, "records_lost": lost(system, records)}


def grow(records: int, segments: int, rows: int) -> dict[str, Any]:
    """Segments early and late in one pipeline."""
    with System(settings(), SERVICES) as system:
        segment(system, 100_000)
        early = [segment(system, rows) for _ in range(segments)]
        found: dict[str, Any] = {
            "early_us": statistics.median(early),
            "memory_early": system.memory_bytes(),
            "disk_early": disk(system),
        }
        segment(system, records - made(system))
        late = [segment(system, rows) for _ in range(segments)]
        return found | {
            "late_us": statistics.median(late),
            "memory_late": system.memory_bytes(),
            "disk_late": disk(system),
            "records": records,
            "records_lost": lost(system, made(system)),
            "versions": len(system.get("trainer", "/models")),
        }


def segment(system: System, rows: int) -> float:
    """Let at least so many records through all stages; microseconds per record until the learner is level."""
    first = made(system)
    began = time.monotonic()
    set_rate(system, "inf")
    wait_for(lambda: made(system) >= first + rows, 600, f"{rows} records")
    set_rate(system, 0)
    wait_for(lambda: learned(system) == made(system), 600, "the learner to be level")
    return (time.monotonic() - began) / (made(system) - first) * 1e6


def set_rate(system: System, rate: float | str) -> None:
    """Change the generator's rate."""
    requests.put(system.url("generator", "/rate"), json={"records_per_second": rate}, timeout=10).raise_for_status()


def made(system: System) -> int:
    """Records that the generator has committed."""
    return int(system.get("generator", "/status")["logs"]["records"]["next_offset"]) - 1


def lost(system: System, records: int) -> int:
    """Records that some stage has not accounted for."""
    normalizer = system.get("normalizer", "/status")
    return sum(abs(records - rows) for rows in (made(system), normalizer["raw_rows"], learned(system)))


def disk(system: System) -> int:
    """Bytes of all databases."""
    return sum(path.stat().st_size for path in system.folder.glob("*.db*"))


def learned(system: System) -> int:
    """Rows that the learner has committed."""
    return int(system.get("trainer", "/status")["learned_rows"])


if __name__ == "__main__":
    main()
