"""The learner's stage: every labelled row is predicted by the version in service before it may be learned from.

Invariants:
- A row is predicted by a version that was trained on rows before it, never on it or on later ones.
- Outputs and state do not depend on how the stream is cut into batches: sums are added in the order of
  the rows, and intervals change after fixed numbers of rows.
- The state that is written down is small; past errors are read back from the log `evaluations`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats
from correnteza.records import ID, OFFSET, Schema
from correnteza.stage import Step
from correnteza.trainer.evaluation import EVALUATIONS, Intervals

NAME = "learner"
LOG = "evaluations"


class Scorer(Protocol):
    """A model version as the learner uses it: it predicts normalized rows."""

    @property
    def version(self) -> int:
        """Its number."""

    def predict(self, rows: pa.RecordBatch) -> Floats:
        """Predictions for rows of the log `normalized`, in the target's unit, shape [rows].

        A row's prediction does not depend on the other rows of the batch, bit for bit.
        """


@dataclass(frozen=True, slots=True)
class State:
    """Where the learner stands.

    Args:
        intervals: past errors and the half-width in force.
        offset: of the last row read from `normalized`; 0 before the first.
        rows: labelled rows so far.
        target_sum: sum of their targets in the order of the rows, in the target's unit.
        fresh: the labelled rows of the last step, to be learned from once it is committed; not written down.
    """

    intervals: Intervals
    offset: int = 0
    rows: int = 0
    target_sum: float = 0.0
    fresh: pa.RecordBatch | None = None


class LearnerStage:
    """Scores rows of `normalized` and writes `evaluations`.

    Args:
        schema: of the records.
        evaluate_every: of every so many rows one is scored, by its offset.
        level: of the prediction intervals, between 0 and 1.
        metric_rows: errors that an interval is made from, at most.

    Attributes:
        scorer: the version in service; None before the first. Changed between steps only.
        errors: absolute errors of the last scored rows at the restart, shape [rows]; `load` takes them up.
    """

    name = NAME
    outputs = {LOG: EVALUATIONS}  # noqa: RUF012 - never changed; the shape of every stage

    def __init__(self, schema: Schema, *, evaluate_every: int, level: float, metric_rows: int) -> None:
        self.scorer: Scorer | None = None
        self.errors: Floats = np.empty(0)
        self._target = schema.target
        self._evaluate_every = evaluate_every
        self._level = level
        self._metric_rows = metric_rows

    def initial(self) -> State:
        """See `Stage.initial`."""
        return State(Intervals(self._level, self._metric_rows))

    def dump(self, state: State) -> bytes:
        """See `Stage.dump`; Python writes floats so that they read back exactly."""
        values = {
            "offset": state.offset,
            "rows": state.rows,
            "target_sum": state.target_sum,
            "scored": state.intervals.scored,
            "half_width": state.intervals.half_width,
        }
        return json.dumps(values, sort_keys=True).encode()

    def load(self, blob: bytes) -> State:
        """See `Stage.load`."""
        values = json.loads(blob)
        intervals = replace(
            self.initial().intervals, scored=values["scored"], half_width=values["half_width"], errors=self.errors
        )
        return State(intervals, values["offset"], values["rows"], values["target_sum"])

    def step(self, state: State, batch: pa.RecordBatch) -> Step[State]:
        """See `Stage.step`."""
        fresh = batch.filter(pc.is_valid(batch[self._target]))
        targets = fresh[self._target].to_numpy()
        sums = np.cumsum(np.concatenate([[state.target_sum], targets]))  # adds in the order of the rows, unlike np.sum
        counts = state.rows + np.arange(len(targets))
        baseline = np.divide(sums[:-1], counts, out=np.full(len(targets), np.nan), where=counts > 0)
        scored = fresh[OFFSET].to_numpy() % self._evaluate_every == 0
        outputs, intervals = self._score(state.intervals, fresh.filter(pa.array(scored)), baseline[scored])
        after = State(intervals, batch[OFFSET][-1].as_py(), state.rows + len(targets), float(sums[-1]), fresh)
        return Step(outputs, after)

    def _score(
        self, intervals: Intervals, rows: pa.RecordBatch, baseline: Floats
    ) -> tuple[dict[str, pa.RecordBatch], Intervals]:
        if self.scorer is None or not rows.num_rows:
            return {}, intervals
        target = rows[self._target].to_numpy()
        prediction = self.scorer.predict(rows)
        halves, intervals = intervals.extend(np.abs(target - prediction))
        columns = [
            rows[OFFSET],
            rows["raw_offset"],
            rows[ID],
            pa.array(np.full(rows.num_rows, self.scorer.version)),
            pa.array(target),
            pa.array(prediction),
            pa.array(prediction - halves, from_pandas=True),
            pa.array(prediction + halves, from_pandas=True),
            pa.array(baseline, from_pandas=True),
        ]
        return {LOG: pa.RecordBatch.from_arrays(columns, schema=EVALUATIONS)}, intervals
