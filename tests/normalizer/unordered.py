"""Streams whose records are late, and what the rules say of them, record by record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from correnteza.normalizer.watermark import FAR_ROWS, NEVER, Rule
from correnteza.records import TIMESTAMP, Field, Schema, with_offsets

SCHEMA = Schema((Field("at", "timestamp"), Field("x", "float", minimum=-1e6), Field("kind", "category")), "y", "at")

Row = tuple[int, str | None]
"""The number of a record, from 1, and what is noted of it."""


def records(times: Sequence[int | None], schema: Schema = SCHEMA, first: int = 1) -> pa.RecordBatch:
    """Records of these times (in microseconds) with offsets; all else depends on the time alone."""
    rng = [np.random.default_rng(abs(t or 0)) for t in times]
    columns = {
        "id": [f"r{t}" for t in times],
        "at": pa.array(times, TIMESTAMP),
        "x": [float(r.normal()) for r in rng],
        "kind": [f"k{r.integers(0, 9)}" for r in rng],
        "y": [float(r.normal()) for r in rng],
    }
    return with_offsets(pa.RecordBatch.from_pydict(columns, schema.raw), first)


def reference(times: Sequence[int | None], rule: Rule, flushes: Sequence[int] = ()) -> tuple[list[Row], list[int]]:
    """Which records go on, and in which order; and those that still wait, by time.

    Args:
        times: of the records.
        rule: what decides.
        flushes: behind how many records nothing came for a while.
    """
    out: list[Row] = []
    held: list[tuple[int, int]] = []  # time and number
    highest = watermark = NEVER
    far: list[int] = []

    def go(until: int, note: str | None) -> None:
        nonlocal held
        out.extend((number, note) for time, number in sorted(held) if time <= until)
        held = [one for one in held if one[0] > until]

    for number, time in enumerate(times, 1):
        if time is None:
            out.append((number, None))
        elif highest != NEVER and abs(time - highest) > rule.future_us:
            far.append(time)
            anew = len(far) == FAR_ROWS
            out.append((number, "anew" if anew else "ahead" if time > highest else "late"))
            if anew:
                go(FAR_ROWS * rule.future_us + 2**61, None)
                highest = min(far)
                watermark, far = highest - rule.lateness_us, []
        else:
            highest, far = max(highest, time), []
            if time < watermark:
                out.append((number, "late"))
                watermark = max(watermark, highest - rule.lateness_us)
            else:
                was, watermark = watermark, max(watermark, highest - rule.lateness_us)
                held.append((time, number))
                if time == was:
                    go(time, None)
                go(highest - rule.lateness_us, None)
                while len(held) > rule.reorder_rows:
                    watermark = min(held)[0]
                    go(watermark, "full")
        if number in flushes:
            go(highest, "flushed")
            watermark = max(watermark, highest)
    return out, [number for _, number in sorted(held)]
