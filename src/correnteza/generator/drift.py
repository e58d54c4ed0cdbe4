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
