"""Planted drift: what the world's target is multiplied by at a row.

Invariant: the factor is a pure function of the row number and the settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from correnteza.config import Drift
from correnteza.features import Floats, Ints


def factors(rows: Ints, drifts: Sequence[Drift]) -> Floats:
    """The product of all drifts at each row.

    Args:
        rows: row numbers from 1, shape [rows].
        drifts: the planted changes.

    Returns:
        Shape [rows]; 1 where nothing is planted.

    >>> factors(np.array([9, 10]), [Drift(kind="abrupt", at=10, factor=2.0)]).tolist()
    [1.0, 2.0]
    >>> factors(np.array([9, 10, 15, 20, 99]), [Drift(kind="gradual", at=10, rows=10, factor=2.0)]).tolist()
    [1.0, 1.0, 1.5, 2.0, 2.0]
    >>> factors(np.array([9, 10, 14, 15, 20]), [Drift(kind="recurring", at=10, rows=5, factor=2.0)]).tolist()
    [1.0, 2.0, 2.0, 1.0, 2.0]
    """
    product = np.ones(len(rows))
    for drift in drifts:
        product *= 1.0 + (drift.factor - 1.0) * _share(rows, drift)
    return product


class Switch:
    """A drift that somebody switches while the source runs, and that every copy of the source knows of.

    Invariant: the rows that were made before a switch stay as they were: it holds from the next row on.

    >>> switch = Switch()
    >>> switch.factor = 1.5
    >>> factors(np.array([7, 8]), switch.from_row(8)).tolist(), switch.began
    ([1.0, 1.5], 8)
    """

    MOST = 32
    """Switches that are remembered one by one; of older ones only their product is."""

    def __init__(self) -> None:
        self.factor = 1.0
        """What the target of the next row is to be multiplied by, beside the planted drifts."""
        self.drifts: tuple[Drift, ...] = ()
        self.began: int | None = None
        """The row from which the factor holds; None before the first switch."""
        self._applied = 1.0

    def from_row(self, row: int) -> tuple[Drift, ...]:
        """Take the factor up from a row on, if it has changed; all switches so far."""
        factor = self.factor
        if factor != self._applied:
            self.drifts = (*_folded(self.drifts, self.MOST - 1), Drift(kind="abrupt", at=row, factor=factor / self._applied))
            self._applied, self.began = factor, row
        return self.drifts


def _folded(drifts: tuple[Drift, ...], most: int) -> tuple[Drift, ...]:
    """The same with the oldest put together."""
    while len(drifts) > most:
        first, second, *others = drifts
        drifts = (second.model_copy(update={"factor": first.factor * second.factor}), *others)
    return drifts


def _share(rows: Ints, drift: Drift) -> Floats:
    """How complete a drift is at each row, from 0 to 1.

    abrupt: at once; gradual: a straight line over `drift.rows`; recurring: on for `drift.rows`, then off for as many.
    """
    since = rows - drift.at
    if drift.kind == "gradual":
        return np.asarray(np.clip(since / drift.rows, 0.0, 1.0))
    begun = since >= 0
    if drift.kind == "recurring":
        begun &= since // drift.rows % 2 == 0
    return begun.astype(np.float64)
