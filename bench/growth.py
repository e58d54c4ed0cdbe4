"""Time per record, memory and disk from 10^5 to 10^7 records, with retention on: a table, and a plot in `growth.svg`.

The three hops of `bench/pipeline.py`, in one pipeline that goes on and on. At each point, after so many records,
equal segments are timed, and memory and databases are measured when retention has caught up. All three should
be flat: what a record costs must not depend on how many there were.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import pipeline
import system
from system import System, wait_for

POINTS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
SEGMENTS = 3
SEGMENT_ROWS = 100_000
RETENTION_ROWS = 80_000
"""Below the first point, so that retention is at work at all of them."""
HORIZON_ROWS = 15_000
"""Rows that wait for their outcome: the trainer holds them back beside two windows, so both together stay below that."""
PANEL = (300, 200)
MARGIN = 46
CURVES = {"us_per_record": "µs per record", "memory_mb": "memory of all processes, MB", "disk_mb": "databases, MB"}


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured after so many records.

    Args:
        records: made before the segments.
        us_per_record: median of the segments, in microseconds.
        memory_mb: resident memory of all processes, in 10^6 bytes.
        disk_mb: all databases with their journals, in 10^6 bytes.
    """

    records: int
    us_per_record: float
    memory_mb: float
    disk_mb: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only up to a million records")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".svg"), help="where the plot goes")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    points = measure(POINTS[:3] if arguments.quick else POINTS)
    arguments.plot.write_text(svg(points), encoding="utf-8")
    first, last = points[0], points[-1]
    figures = {
        "records": last.records,
        "growth_ratio": round(last.us_per_record / first.us_per_record, 3),
        "memory_ratio": round(last.memory_mb / first.memory_mb, 3),
        "disk_ratio": round(last.disk_mb / first.disk_mb, 3),
    }
    system.report("bench/growth.py", figures, lines(points))


def measure(points: tuple[int, ...]) -> list[Point]:
    """All points, in one pipeline."""
    settings = pipeline.settings(RETENTION__ROWS=RETENTION_ROWS, RETENTION__EVERY_S=1, TRAINER__LABEL_HORIZON_ROWS=HORIZON_ROWS)
    with System(settings, pipeline.SERVICES) as running:
        return [_point(running, records) for records in points]


def _point(running: System, records: int) -> Point:
    missing = records - pipeline.made(running)
    if missing > 0:
        pipeline.segment(running, missing)
    took_us = [pipeline.segment(running, SEGMENT_ROWS) for _ in range(SEGMENTS)]
    wait_for(lambda: kept(running) <= RETENTION_ROWS, 60, "retention to catch up")
    found = Point(records, statistics.median(took_us), running.memory_bytes() / 1e6, pipeline.disk(running) / 1e6)
    print(found, flush=True)
    return found


def kept(running: System) -> int:
    """Rows of the longest of the logs that grow with the records."""
    logs = [running.get(name, "/status")["logs"]["records"] for name in ("generator", "normalizer")]
    return max(int(log["rows"]) for log in logs)


def lines(points: list[Point]) -> list[str]:
    """The result in words: a line for each point."""
    head = f"three hops, {RETENTION_ROWS:,} rows kept in each log, medians of {SEGMENTS} segments of {SEGMENT_ROWS:,} records"
    return [
        head,
        *(
            f"after {point.records:,} records: **{point.us_per_record:.2f} µs per record**, "
            f"memory {point.memory_mb:.0f} MB, databases {point.disk_mb:.1f} MB"
            for point in points
        ),
    ]


def svg(points: list[Point]) -> str:
    """The plot: a panel for each figure over the number of records (logarithmic), from zero.

    Args:
        points: at least two, in their order.
    """
    width, height = PANEL
    size = f'width="{width * len(CURVES)}" height="{height}" font-family="sans-serif" font-size="11"'
    panels = [_panel(points, name, title, width * i) for i, (name, title) in enumerate(CURVES.items())]
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{background}\n' + "\n".join(panels) + "\n</svg>\n"


def _panel(points: list[Point], name: str, title: str, left: int) -> str:
    width, height = PANEL
    values = [float(getattr(point, name)) for point in points]
    top = _round_up(max(values))
    low, high = (math.log10(points[i].records) for i in (0, -1))

    def x(records: int) -> float:
        return left + MARGIN + (math.log10(records) - low) / (high - low) * (width - 2 * MARGIN)

    def y(value: float) -> float:
        return height - MARGIN - value / top * (height - 2 * MARGIN)

    places = [(x(point.records), y(value)) for point, value in zip(points, values, strict=True)]
    curve = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    texts = [f'<text x="{left + width / 2}" y="20" text-anchor="middle">{title}</text>']
    texts += [f'<text x="{left + MARGIN - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>' for v in (0.0, top / 2, top)]
    texts += [
        f'<text x="{x(point.records):.1f}" y="{height - MARGIN + 16}" text-anchor="middle">{_short(point.records)}</text>'
        for point in points
    ]
    axes = f"M{left + MARGIN},{y(top):.1f} V{y(0):.1f} H{left + width - MARGIN}"
    return "\n".join(
        [
            f'<path d="{axes}" fill="none" stroke="gray"/>',
            f'<polyline points="{curve}" fill="none" stroke="steelblue" stroke-width="2"/>',
            *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="steelblue"/>' for a, b in places),
            *texts,
        ]
    )


def _round_up(value: float) -> float:
    """The next number with one digit that is not zero, so that the axis ends at a round one."""
    step = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / step) * step


def _short(records: int) -> str:
    """A number of records, as in `300k`.

    >>> _short(300_000), _short(10_000_000)
    ('300k', '10M')
    """
    return f"{records // 10**6}M" if records >= 10**6 else f"{records // 1000}k"


if __name__ == "__main__":
    main()
