"""How good the predictions were: rolling metrics over the log `evaluations`.

Invariant: every figure is a plain function of the last `metric_rows` rows of the log `evaluations`, so it is
the same after a restart as before.

Rows are evaluated *prequentially*: each is predicted before it may be learned from, so no error is
that of a model on its own training data (Gama, Sebastião and Rodrigues, "On evaluating stream
learning algorithms", Machine Learning 90, 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats
from correnteza.log.base import OwnedLog
from correnteza.records import ID

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
        pa.field("spread", pa.float64()),
        pa.field("multiplier", pa.float64()),
        pa.field("baseline", pa.float64()),
        pa.field("last_value", pa.float64()),
        pa.field("challenger_version", pa.int64()),
        pa.field("challenger_prediction", pa.float64()),
        pa.field("label_offset", pa.int64()),
        pa.field("replaces", pa.int64()),
        pa.field("delay_s", pa.float64()),
    ]
)
"""Columns of the log `evaluations`: a row per record that was predicted before it was learned from.

`target`, `prediction`, `lower`, `upper`, `spread`, `baseline`, `last_value` and `challenger_prediction` are in the
target's unit. `lower` and `upper` are `multiplier` times `spread` away from the prediction, and null until there are
enough errors to tell. `baseline` is the mean of all targets before the row, `last_value` the one before it.
`challenger_version` answered the same row in shadow; null where there was none.

A record that came without its target has a row with a null `target`, which says what was answered; when the outcome
comes there is another row with that answer, its target, the outcome's `label_offset` and the label's delay `delay_s`.
An outcome that corrects an earlier one names its `label_offset` in `replaces`: the earlier row no longer counts.
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
        last_value_mae: mean absolute error of predicting the target before, in the target's unit.
        skill: share of the better baseline's mean absolute error that the model saves, at most 1; None where that is 0.
        width: mean width of the intervals, in the target's unit; None without intervals.
    """

    rows: int
    mae: float
    rmse: float
    r2: float | None
    bias: float
    coverage: float | None
    baseline_mae: float
    last_value_mae: float
    skill: float | None
    width: float | None


def metrics(rows: pa.RecordBatch) -> Metrics | None:
    """The metrics of some rows of `EVALUATIONS`; None when there are none.

    >>> known = {"target": [10.0], "prediction": [12.0], "baseline": [0.0]}
    >>> columns = {name: [None] for name in EVALUATIONS.names} | known
    >>> m = metrics(pa.RecordBatch.from_pydict(columns, schema=EVALUATIONS))
    >>> m.mae, m.bias, m.baseline_mae
    (2.0, 2.0, 10.0)
    """
    rows = standing(rows)
    if not rows.num_rows:
        return None
    target, prediction, lower, upper, baseline, last = (
        floats(rows, name) for name in ("target", "prediction", "lower", "upper", "baseline", "last_value")
    )
    error = prediction - target
    with np.errstate(over="ignore"):
        squares, variance = float(np.mean(error**2)), float(np.var(target))
    known = ~(np.isnan(lower) | np.isnan(upper))
    mae, baseline_mae, last_mae = (_mean(np.abs(e)) for e in (error, baseline - target, last - target))
    naive = min(baseline_mae, last_mae)
    return Metrics(
        rows=rows.num_rows,
        mae=mae,
        rmse=math.sqrt(squares),
        r2=1.0 - squares / variance if 0 < variance < math.inf else None,
        bias=float(np.mean(error)),
        coverage=float(np.mean((lower <= target)[known] & (target <= upper)[known])) if known.any() else None,
        baseline_mae=baseline_mae,
        last_value_mae=last_mae,
        skill=1.0 - mae / naive if 0 < naive < math.inf else None,
        width=float(np.mean((upper - lower)[known])) if known.any() else None,
    )


def standing(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows whose target is known and has not been corrected since."""
    rows = rows.filter(pc.is_valid(rows["target"]))
    if rows["replaces"].null_count == rows.num_rows:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["label_offset"], rows["replaces"].drop_null())))


def _mean(values: Floats) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else math.nan


@dataclass(frozen=True, slots=True)
class Report:
    """The rolling metrics.

    Args:
        overall: of the last rows, whichever version predicted them.
        versions: of the same rows, by model version.
        multiplier: how many spreads an interval reaches to either side; None as long as it is not known.
    """

    overall: Metrics | None = None
    versions: dict[int, Metrics] = field(default_factory=dict)
    multiplier: float | None = None


def report(rows: pa.RecordBatch) -> Report:
    """The report on the last rows of the log `evaluations`.

    Args:
        rows: the rows that the metrics roll over.
    """
    versions = {}
    for version in sorted(pc.unique(rows["model_version"]).to_pylist()):
        of_version = metrics(rows.filter(pc.equal(rows["model_version"], version)))
        if of_version is not None:
            versions[version] = of_version
    known = rows["multiplier"].drop_null()
    multiplier = known[-1].as_py() if len(known) else None
    return Report(metrics(rows), versions, multiplier)


def windows(rows: pa.RecordBatch) -> list[Metrics]:
    """The metrics of the last 100, 1,000, 10,000 ... of some rows of `EVALUATIONS`, as far as there are so many."""
    rows, found, size = standing(rows), [], 100
    while size < rows.num_rows:
        found.append(metrics(rows.slice(rows.num_rows - size)))
        size *= 10
    return [each for each in found if each is not None]


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


def rows_since(log: OwnedLog, offset: int, rows: int) -> pa.RecordBatch:
    """The last rows of a log `evaluations`, back to those of a record that came at an offset of `normalized` or before it.

    Args:
        log: the log.
        offset: of the record.
        rows: how many to try first.
    """
    while True:
        last = last_rows(log, rows)
        arrived = last.filter(pc.is_null(last["label_offset"]))["normalized_offset"]
        if last.num_rows < rows or (len(arrived) and arrived[0].as_py() <= offset):
            return last
        rows *= 2


def floats(rows: pa.RecordBatch, name: str) -> Floats:
    """A column as float64; what is missing is NaN."""
    values: Floats = rows[name].to_numpy(zero_copy_only=False)
    return values.astype(np.float64, copy=False)
