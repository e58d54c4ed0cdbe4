"""Bounds of a memory, which its followers have to share: they decide what is forgotten, and when."""

from __future__ import annotations

from dataclasses import dataclass

from correnteza.memory.waiting import HORIZON_ROWS


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a memory.

    Args:
        keys: per `by`; the least recently seen go.
        rows: values of a key that a window of seconds reaches back to at most.
        block_rows: keys go and snapshots are taken every so many rows.
        snapshot_rows: fewest rows between two snapshots.
        horizon_rows: see `Waiting`.
    """

    keys: int = 1_000_000
    rows: int = 10_000
    block_rows: int = 8192
    snapshot_rows: int = 100_000
    horizon_rows: int = HORIZON_ROWS
