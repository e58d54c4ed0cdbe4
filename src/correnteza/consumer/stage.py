"""What becomes of an answer: a row of `results`, or of `rejected`, and its part in the rolling error.

Invariants:
- Every row that comes in goes out once: to `results` when it was answered, to `rejected` when the
  trainer refused it; in the order in which it came.
- The rolling error is that of exactly the last `metric_rows` answers whose truth is known, whatever
  the batches were: the state holds their errors, not running sums that drift.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import DamagedLogError
from correnteza.events import Event
from correnteza.features import Floats
from correnteza.stage import Step

Mode = Literal["random", "records"]

ASKED = pa.schema(
    [
        pa.field("record_id", pa.string()),
        pa.field("input", pa.string()),
        pa.field("target", pa.float64()),
        pa.field("prediction", pa.float64()),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("model_version", pa.int64()),
        pa.field("prediction_id", pa.string()),
        pa.field("latency_ms", pa.float64()),
        pa.field("refused", pa.string()),
    ]
)
"""What the stage reads, behind `offset`: a record, what was asked, and the answer or why it was refused."""

RESULTS = pa.schema(
    [
        pa.field("mode", pa.string()),
        pa.field("record_id", pa.string()),
        pa.field("raw_offset", pa.int64()),
        pa.field("input", pa.string()),
        pa.field("prediction", pa.float64()),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("model_version", pa.int64()),
        pa.field("prediction_id", pa.string()),
        pa.field("latency_ms", pa.float64()),
        pa.field("target", pa.float64()),
        pa.field("error", pa.float64()),
    ]
)
"""Columns of the log `results`. `latency_ms` is that of the request that brought the answer; `error` is
prediction minus target, in the target's unit; both it and `target` are null where the truth is not known."""

REJECTED = pa.schema(
    [
        pa.field("mode", pa.string()),
        pa.field("record_id", pa.string()),
        pa.field("raw_offset", pa.int64()),
        pa.field("input", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
"""Columns of the log `rejected`: records without an answer, and why."""


@dataclass(frozen=True, slots=True)
class State:
    """What a consumer keeps from batch to batch.

    Args:
        answered: rows written to `results`.
        refused: rows written to `rejected`.
        labelled: rows of `results` with a known truth.
        errors: prediction minus target of the last of them, oldest first, shape [at most metric_rows].
    """

    answered: int
    refused: int
    labelled: int
    errors: Floats

    @property
    def rolling_mae(self) -> float | None:
        """Mean absolute error over `errors`, in the target's unit; None before the first."""
        return float(np.abs(self.errors).mean()) if self.errors.size else None


_HEAD = struct.Struct("<4s3Q")
_MAGIC = b"CON1"


class ConsumerStage:
    """Files answers; a pure stage (see `stage.Stage`).

    Args:
        mode: `records`, or `random` where there is neither an offset in `raw` nor a truth.
        metric_rows: answers in the rolling error.

    >>> stage = ConsumerStage("records", metric_rows=10)
    >>> row = {"offset": 7, "record_id": "a", "input": "{}", "target": 3.0, "prediction": 5.0, "latency_ms": 1.0}
    >>> batch = pa.RecordBatch.from_pylist([row], schema=pa.schema([pa.field("offset", pa.int64()), *ASKED]))
    >>> step = stage.step(stage.initial(), batch)
    >>> step.outputs["results"].select(["raw_offset", "prediction", "error"]).to_pylist()
    [{'raw_offset': 7, 'prediction': 5.0, 'error': 2.0}]
    >>> step.state.rolling_mae
    2.0
    """

    def __init__(self, mode: Mode, metric_rows: int) -> None:
        self.mode = mode
        self._metric_rows = metric_rows

    @property
    def name(self) -> str:
        """Name under which position and state are kept."""
        return f"consumer_{self.mode}"

    def initial(self) -> State:
        """The state before the first answer."""
        return State(0, 0, 0, np.zeros(0))

    def dump(self, state: State) -> bytes:
        """The counts, then the errors as little-endian doubles."""
        return _HEAD.pack(_MAGIC, state.answered, state.refused, state.labelled) + state.errors.astype("<f8").tobytes()

    def load(self, blob: bytes) -> State:
        """The state that `dump` wrote; a smaller `metric_rows` than then keeps the newest errors.

        Raises:
            DamagedLogError: these are other bytes.
        """
        if len(blob) < _HEAD.size or (len(blob) - _HEAD.size) % 8 or blob[:4] != _MAGIC:
            raise DamagedLogError(f"stage {self.name}: its saved state ({len(blob)} bytes) is not one; restore the database")
        _, answered, refused, labelled = _HEAD.unpack_from(blob)
        errors = np.frombuffer(blob, "<f8", offset=_HEAD.size).astype(np.float64)
        return State(answered, refused, labelled, errors[-self._metric_rows :])

    def step(self, state: State, batch: pa.RecordBatch) -> Step[State]:
        """File each row of a batch with the columns of `ASKED`."""
        was_refused = batch["refused"].is_valid()
        refused = batch.filter(was_refused)
        results = self._results(batch.filter(pc.invert(was_refused)))
        errors = results["error"].drop_null().to_numpy()
        after = State(
            state.answered + results.num_rows,
            state.refused + refused.num_rows,
            state.labelled + len(errors),
            np.concatenate([state.errors, errors])[-self._metric_rows :],
        )
        outputs = {"results": results, "rejected": self._rejected(refused)}
        return Step({n: b for n, b in outputs.items() if b.num_rows}, after, tuple(self._events(state.refused, refused)))

    def _results(self, answered: pa.RecordBatch) -> pa.RecordBatch:
        target = answered["target"] if self.mode == "records" else pa.nulls(answered.num_rows, pa.float64())
        error = pc.subtract(answered["prediction"], target)
        return _rows(RESULTS, answered, {**self._where(answered), "target": target, "error": error})

    def _rejected(self, refused: pa.RecordBatch) -> pa.RecordBatch:
        return _rows(REJECTED, refused, {**self._where(refused), "reason": refused["refused"]})

    def _where(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        offsets = rows["offset"] if self.mode == "records" else pa.nulls(rows.num_rows, pa.int64())
        return {"mode": pa.repeat(self.mode, rows.num_rows), "raw_offset": offsets}

    def _events(self, before: int, refused: pa.RecordBatch) -> Iterator[Event]:
        """An event at the 1st, 2nd, 4th, 8th, ... refused record: none is silent, and a flood stays short."""
        for count, row in enumerate(refused.to_pylist(), start=before + 1):
            if count & (count - 1) == 0:
                detail = {"mode": self.mode, "refused": count, "offset": row["offset"], "record_id": row["record_id"]}
                yield Event("record_refused", row["refused"], detail)


def _rows(schema: pa.Schema, rows: pa.RecordBatch, own: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """A batch of `schema` with the columns of `own`, and the others from `rows`."""
    return pa.RecordBatch.from_arrays([own[f.name] if f.name in own else rows[f.name] for f in schema], schema=schema)
