"""The error over time: the log `evaluations` in blocks of rows, each with the figures of its rows.

Invariants:
- Blocks end at multiples of `block_rows` of the offset, so a block that is full never changes, and a reader that asks
  for what is new gets the same curve as one that asks for all of it.
- An answer holds at most `MOST_BLOCKS` blocks, whatever the length of the log; it is read in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats, Ints
from correnteza.log.base import OwnedLog
from correnteza.trainer.evaluation import READ_ROWS, floats

MOST_BLOCKS = 500
MOST_BLOCK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Block:
    """The figures of consecutive rows of `evaluations`.

    Args:
        first_offset: of the log.
        last_offset: of the log.
        normalized_offset: of the last row.
        model_version: that of the last row.
        rows: rows whose target is known; the figures are theirs, and None where there is no such row.
        mae: mean absolute error, in the target's unit.
        baseline_mae: that of the running mean of the targets.
        coverage: share of the targets inside their interval, from 0 to 1.
        challenger_rows: rows that a challenger answered, too.
        challenger_mae: its mean absolute error on them.
        delay_s: mean of the label delays, in seconds; None where labels came with their records.
    """

    first_offset: int
    last_offset: int
    normalized_offset: int
    model_version: int
    rows: int
    mae: float | None
    baseline_mae: float | None
    coverage: float | None
    challenger_rows: int
    challenger_mae: float | None
    delay_s: float | None


def curve(log: OwnedLog, after: int, block_rows: int, blocks: int) -> list[Block]:
    """The last blocks of the log, oldest first; the last one may still grow.

    Args:
        log: the log `evaluations`.
        after: only blocks that go on behind this offset.
        block_rows: rows of a block.
        blocks: how many, at most.
    """
    bounds = log.bounds()
    if after >= bounds.next - 1:
        return []
    newest = (bounds.next - 2) // block_rows
    oldest = max((max(after, bounds.first - 1)) // block_rows, newest + 1 - blocks)
    first = max(oldest * block_rows + 1, bounds.first)
    return list(_read(log, first, bounds.next, block_rows))


def _read(log: OwnedLog, first: int, end: int, block_rows: int) -> Iterator[Block]:
    """The blocks of the rows from `first` up to, but not including, `end`."""
    most = max(1, READ_ROWS // block_rows) * block_rows
    while first < end:
        rows = log.read(log.cursor(first - 1), min(most - (first - 1) % block_rows, end - first)).batch
        if not rows.num_rows:
            return
        yield from _blocks(rows, block_rows)
        first += rows.num_rows


def _blocks(rows: pa.RecordBatch, block_rows: int) -> Iterator[Block]:
    """The blocks of consecutive rows, whose first one begins a block."""
    offsets = floats(rows, "offset")
    starts = np.flatnonzero(np.diff((offsets - 1) // block_rows, prepend=-1.0))
    ends = np.append(starts[1:], len(offsets)) - 1
    target = np.where(_counts(rows), floats(rows, "target"), np.nan)
    miss = {name: np.abs(floats(rows, name) - target) for name in ("prediction", "baseline", "challenger_prediction")}
    inside = (floats(rows, "lower") <= target) & (target <= floats(rows, "upper"))
    covered = np.where(np.isnan(floats(rows, "lower") + target), np.nan, inside)
    error, baseline, challenger, coverage, delay = (
        _means(each, starts) for each in (*miss.values(), covered, floats(rows, "delay_s"))
    )
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield Block(
            first_offset=int(offsets[start]),
            last_offset=int(offsets[end]),
            normalized_offset=rows["normalized_offset"][end].as_py(),
            model_version=rows["model_version"][end].as_py(),
            rows=error[place][0],
            mae=error[place][1],
            baseline_mae=baseline[place][1],
            coverage=coverage[place][1],
            challenger_rows=challenger[place][0],
            challenger_mae=challenger[place][1],
            delay_s=delay[place][1],
        )


def _counts(rows: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows have a target that has not been corrected by a later one of them."""
    corrected = pc.is_in(rows["label_offset"], rows["replaces"].drop_null())
    counts: np.ndarray[tuple[int], np.dtype[np.bool_]] = pc.invert(corrected).to_numpy(zero_copy_only=False)
    return counts


def _means(values: Floats, starts: Ints) -> list[tuple[int, float | None]]:
    """For each block how many values are known, and their mean."""
    known = ~np.isnan(values)
    counts, sums = np.add.reduceat(known, starts, dtype=np.int64), np.add.reduceat(np.where(known, values, 0.0), starts)
    return [(n, s / n if n else None) for n, s in zip(counts.tolist(), sums.tolist(), strict=True)]
