"""Records that come late are put in the same order, whatever instants the normalizer is killed at."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

from .conftest import Pipeline
from .test_kill import put

ROWS = 4_000
LATE_S = 60
KILLS = 4

TOML = """
[schema]
target = "y"
timestamp = "at"
fields = {{ a = "float", kind = "category" }}

[generator]
source = "replay"
path = "{path}"
records_per_second = 0

[normalizer]
block_rows = 256
batch_rows = 100
lateness_s = {late_s}
idle_s = inf
"""
RETENTION = "[retention]\nrows = 1500\nevery_s = 0.2\n"


def held(pipeline: Pipeline) -> tuple[int, int]:
    """Raw rows that the normalizer has read, and those of them that wait for their time."""
    status = pipeline.get("normalizer", "/status") or {}
    return status.get("raw_rows", 0), status.get("held_rows", 0)


def stream(path: Path, late_s: int) -> Path:
    """A record each second, up to `late_s` late, and one that comes long after all."""
    chance = random.Random(7)
    rows = [
        [f"r{i}", f"2026-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z", i % 71, f"k{i // 300}", i] for i in range(ROWS)
    ]
    arrival = [i + chance.uniform(0, late_s) for i in range(ROWS)]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "at", "a", "kind", "y"])
        out.writerows(rows[i] for i in sorted(range(ROWS), key=lambda i: arrival[i]))
        out.writerow(["last", "2026-01-01T12:00:00Z", 1, "k0", 1])
    return path


def test_the_order_is_the_same_whenever_the_normalizer_is_killed(
    pipelines: Callable[[str, str], Pipeline], tmp_path: Path
) -> None:
    """And that of the times; retention upstream keeps what still waits, and lets the rest go."""
    path = stream(tmp_path / "late.csv", LATE_S)
    pipeline = pipelines("late", TOML.format(path=path, late_s=LATE_S))
    file = pipeline.folder / "correnteza.toml"
    settings = file.read_text(encoding="utf-8")
    file.write_text(settings + RETENTION, encoding="utf-8")
    pipeline.start("generator")
    pipeline.wait(lambda: pipeline.lives("generator"), "the generator")
    file.write_text(settings, encoding="utf-8")  # what the normalizer makes is kept
    pipeline.start("normalizer")
    readers = "select count(*) from correnteza_readers where reader = 'normalizer'"
    pipeline.wait(lambda: pipeline.query("generator", readers)[0][0], "the normalizer to register")
    put(pipeline.url("generator", "/rate"), {"records_per_second": 600})
    chance = random.Random(3)
    for _ in range(KILLS):
        pipeline.wait(lambda: pipeline.lives("normalizer"), "the normalizer")
        pipeline.patience.wait(chance.uniform(0.0, 0.4))
        pipeline.kill("normalizer")
        pipeline.start("normalizer")
    put(pipeline.url("generator", "/rate"), {"records_per_second": "inf"})
    pipeline.wait(lambda: held(pipeline) == (ROWS, 1), "all rows but the last to be let go")
    pipeline.wait(lambda: (pipeline.get("generator", "/status") or {})["logs"]["records"]["rows"] <= 1500, "retention")
    assert pipeline.stop() == {"normalizer": 0, "generator": 0}, pipeline.last_words()
    assert not pipeline.query("normalizer", "select * from events where kind in ('gap', 'late_records')")
    found = pipeline.query("normalizer", "select offset, id, y from normalized order by offset")
    assert found == [(i + 1, f"r{i}", float(i)) for i in range(ROWS)]
    codes = pipeline.query("normalizer", "select value, normalized_offset from categories order by code")
    assert codes == [(f"k{i}", 300 * i + 1) for i in range(-(-ROWS // 300))]
