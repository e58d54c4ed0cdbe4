"""The error over time: the log `evaluations` in blocks of rows, each with the figures of its rows.

Invariants:
- Blocks end at multiples of `block_rows` of the offset, so a block that is full never changes, and a reader that asks
  for what is new gets the same curve as one that asks for all of it.
- An answer holds at most `MOST_BLOCKS` blocks, whatever the length of the log; it is read in parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.log.base import OwnedLog
from correnteza.trainer.evaluation import READ_ROWS, Metrics, metrics, standing

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
        delay_s: median of the label delays, in seconds; None where labels came with their records.
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
    newest = (bounds.next - 2) // block_rows
    oldest = max((max(after, bounds.first - 1)) // block_rows, newest + 1 - blocks)
    first = max(oldest * block_rows + 1, bounds.first)
    return [_block(rows) for rows in _blocks(log, first, bounds.next, block_rows)]


def _blocks(log: OwnedLog, first: int, end: int, block_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows from `first` up to, but not including, `end`, block by block."""
    most = max(1, READ_ROWS // block_rows) * block_rows
    while first < end:
        wanted = min(most - (first - 1) % block_rows, end - first)
        rows = log.read(log.cursor(first - 1), wanted).batch
        if not rows.num_rows:
            return
        first += rows.num_rows
        offsets = rows["offset"].to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff((offsets - 1) // block_rows)) + 1).tolist(), rows.num_rows]
        yield from (rows.slice(start, stop - start) for start, stop in itertools.pairwise(cuts))


def _block(rows: pa.RecordBatch) -> Block:
    own = metrics(rows)
    beside = rows.filter(pc.is_valid(rows["challenger_prediction"]))
    theirs = _challenger(standing(beside)) if beside.num_rows else None
    delays = rows["delay_s"].drop_null()
    offsets = rows["offset"]
    return Block(
        first_offset=offsets[0].as_py(),
        last_offset=offsets[-1].as_py(),
        normalized_offset=rows["normalized_offset"][-1].as_py(),
        model_version=rows["model_version"][-1].as_py(),
        rows=own.rows if own else 0,
        mae=own.mae if own else None,
        baseline_mae=own.baseline_mae if own else None,
        coverage=own.coverage if own else None,
        challenger_rows=theirs.rows if theirs else 0,
        challenger_mae=theirs.mae if theirs else None,
        delay_s=float(np.median(delays.to_numpy(zero_copy_only=False))) if len(delays) else None,
    )


def _challenger(rows: pa.RecordBatch) -> Metrics | None:
    """The figures of the challenger's answers."""
    place = rows.schema.get_field_index("prediction")
    return metrics(rows.set_column(place, rows.schema.field(place), rows["challenger_prediction"]))
