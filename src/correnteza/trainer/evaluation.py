"""How good the predictions were: rolling metrics, and the prediction intervals made from past errors.

Invariants:
- Every figure is a plain function of the last `metric_rows` rows of the log `evaluations`, so it is the
  same after a restart as before.
- The half-width of an interval depends on how many rows were scored, not on how they came in batches:
  it changes after every `BLOCK_ROWS` scored rows and at no other time.

Rows are evaluated *prequentially*: each is predicted before it may be learned from, so no error is
that of a model on its own training data (Gama, Sebastião and Rodrigues, "On evaluating stream
learning algorithms", Machine Learning 90, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats
from correnteza.log.base import OwnedLog
from correnteza.records import ID

BLOCK_ROWS = 50
"""Scored rows after which the half-width is taken anew; also the fewest rows that it is taken from."""
READ_ROWS = 10_000

EVALUATIONS = pa.schema(
    [
        pa.field("normalized_offset", pa.int64()),
        pa.field("raw_offset", pa.int64()),
        pa.field(ID, pa.string()),
        pa.field("model_version", pa.int64()),
        pa.field("target", pa.float64()),
        pa.field("prediction", pa.float64()),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("baseline", pa.float64()),
    ]
)
"""Columns of the log `evaluations`: a row per record that was predicted before it was learned from.

`target`, `prediction`, `lower`, `upper` and `baseline` are in the target's unit; `baseline` is the mean
of all targets before the row; `lower` and `upper` are null until there are enough errors to tell.
"""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Errors of some evaluated rows.

    Args:
        rows: how many rows.
        mae: mean absolute error, in the target's unit.
        rmse: root of the mean squared error, in the target's unit.
        r2: coefficient of determination, at most 1; None where all targets are equal.
        bias: mean of prediction minus target, in the target's unit.
        coverage: share of the rows with an interval whose target lies in it; None without such rows.
        baseline_mae: mean absolute error of predicting the running mean, in the target's unit.
    """

    rows: int
    mae: float
    rmse: float
    r2: float | None
    bias: float
    coverage: float | None
    baseline_mae: float


def metrics(rows: pa.RecordBatch) -> Metrics | None:
    """The metrics of some rows of `EVALUATIONS`; None when there are none.

    >>> columns = {name: [0] for name in EVALUATIONS.names} | {"id": ["a"], "target": [10.0], "prediction": [12.0]}
    >>> m = metrics(pa.RecordBatch.from_pydict(columns, schema=EVALUATIONS))
    >>> m.mae, m.bias, m.baseline_mae
    (2.0, 2.0, 10.0)
    """
    if not rows.num_rows:
        return None
    target, prediction, lower, upper, baseline = (
        _floats(rows, name) for name in ("target", "prediction", "lower", "upper", "baseline")
    )
    error = prediction - target
    squares = float(np.mean(error**2))
    variance = float(np.var(target))
    known = ~np.isnan(lower)
    return Metrics(
        rows=rows.num_rows,
        mae=float(np.mean(np.abs(error))),
        rmse=math.sqrt(squares),
        r2=1.0 - squares / variance if variance > 0 else None,
        bias=float(np.mean(error)),
        coverage=float(np.mean((lower <= target)[known] & (target <= upper)[known])) if known.any() else None,
        baseline_mae=float(np.mean(np.abs(baseline - target))),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """The rolling metrics.

    Args:
        overall: of the last rows, whichever version predicted them.
        versions: of the same rows, by model version.
        half_width: what a prediction's interval reaches to either side, in the target's unit.
    """

    overall: Metrics | None = None
    versions: dict[int, Metrics] = field(default_factory=dict)
    half_width: float | None = None


def report(rows: pa.RecordBatch, level: float) -> Report:
    """The report on the last rows of the log `evaluations`.

    Args:
        rows: the rows that the metrics roll over.
        level: of the intervals, between 0 and 1.
    """
    versions = {}
    for version in sorted(pc.unique(rows["model_version"]).to_pylist()):
        of_version = metrics(rows.filter(pc.equal(rows["model_version"], version)))
        if of_version is not None:
            versions[version] = of_version
    return Report(metrics(rows), versions, half_width(residuals(rows), level))


def residuals(rows: pa.RecordBatch) -> Floats:
    """Absolute errors of rows of `EVALUATIONS`, in the target's unit, shape [rows]."""
    return np.abs(_floats(rows, "target") - _floats(rows, "prediction"))


def last_rows(log: OwnedLog, rows: int) -> pa.RecordBatch:
    """The last rows of a log, at most `rows` of them, without their offsets."""
    head = log.bounds().next - 1
    parts = []
    after, back = log.cursor(head), rows
    while True:
        part = log.read(after, min(rows, READ_ROWS), back=back)
        parts.append(part.batch)
        after, back = part.next, 0
        if not part.batch.num_rows or part.batch["offset"][-1].as_py() >= head:
            return pa.concat_batches(parts).select(log.schema.names)


def half_width(errors: Floats, level: float) -> float | None:
    """Half the width of the interval that the next target falls into with probability `level`.

    The split-conformal quantile: of n exchangeable absolute errors the ceil((n + 1) * level)-th smallest.
    Then the next error is at most as large with a probability of at least `level`, and of at most
    level + 1 / (n + 1) when there are no ties (Vovk, Gammerman and Shafer, "Algorithmic Learning in a
    Random World", 2005; Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 113, 2018).
    A stream that drifts is not exchangeable; the measured `coverage` tells how far the promise holds.

    Args:
        errors: absolute errors of rows that were not learned from, shape [rows].
        level: between 0 and 1.

    Returns:
        In the unit of the errors; None when there are fewer than `BLOCK_ROWS`, or too few for the level.

    >>> half_width(np.arange(1.0, 100.0), 0.9)
    90.0
    """
    rank = math.ceil((len(errors) + 1) * level)
    if len(errors) < BLOCK_ROWS or rank > len(errors):
        return None
    return float(np.partition(errors, rank - 1)[rank - 1])


@dataclass(frozen=True, slots=True)
class Intervals:
    """The errors that intervals are made from, and the half-width in force.

    Args:
        level: of the intervals, between 0 and 1.
        capacity: most errors that are remembered, in rows.
        scored: rows scored since the stream began.
        half_width: in force for the next row, in the target's unit; None as long as there are too few errors.
        errors: the last absolute errors, oldest first, shape [min(scored, capacity)].
    """

    level: float
    capacity: int
    scored: int = 0
    half_width: float | None = None
    errors: Floats = field(default_factory=lambda: np.empty(0), compare=False)

    def extend(self, errors: Floats) -> tuple[Floats, Intervals]:
        """Go on by some scored rows.

        Args:
            errors: their absolute errors, in order, shape [rows].

        Returns:
            The half-width that was in force at each row (NaN where there was none), shape [rows], and what is next.
        """
        together = np.concatenate([self.errors, errors])
        known = len(self.errors)
        halves = np.empty(len(errors))
        start, current = 0, self.half_width
        for end in self._block_ends(len(errors)):
            halves[start:end] = math.nan if current is None else current
            current = half_width(together[max(0, known + end - self.capacity) : known + end], self.level)
            start = end
        halves[start:] = math.nan if current is None else current
        after = replace(self, scored=self.scored + len(errors), half_width=current, errors=together[-self.capacity :])
        return halves, after

    def _block_ends(self, rows: int) -> Iterator[int]:
        """Where blocks end among the next rows, as numbers of rows."""
        return iter(range(BLOCK_ROWS - self.scored % BLOCK_ROWS, rows + 1, BLOCK_ROWS))


def _floats(rows: pa.RecordBatch, name: str) -> Floats:
    values: Floats = rows[name].to_numpy(zero_copy_only=False)
    return values.astype(np.float64, copy=False)
