"""What was answered, as the evaluation counts it: at once where the target is there, later where it comes late.

Invariants:
- The error that counts is that of the answer really given: for a record that came without a target the one made when
  it arrived, for a prediction the one that the server gave.
- Memory is bounded by the horizon; it can be read back from the log `evaluations`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Floats, Ints
from correnteza.records import ID, OFFSET
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.predictor import Answers
from correnteza.trainer.totals import Scored

Bools: TypeAlias = npt.NDArray[np.bool_]
Column: TypeAlias = Floats | Ints | pa.Array | None
_OF_ROW = ("raw_offset", ID)
_OF_LABEL = ("label_offset", "replaces", "delay_s")


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Answers to some rows, NaN where unknown, each of shape [rows].

    Args:
        version: that gave them.
        prediction: in the target's unit.
        spread: how far targets of such rows lie apart, in the target's unit.
        multiplier: spreads that the intervals reach to either side.
        lower: end of the interval, in the target's unit.
        upper: its other end.
    """

    version: Ints
    prediction: Floats
    spread: Floats
    multiplier: Floats
    lower: Floats
    upper: Floats

    @classmethod
    def now(cls, version: int, said: Answers) -> Given:
        """What a version says; without intervals."""
        unknown = np.full(len(said.prediction), np.nan)
        return cls(np.full(len(unknown), version), said.prediction, said.spread, unknown, unknown, unknown)

    def within(self, multipliers: Floats) -> Given:
        """The answers with intervals, where there are none yet.

        Args:
            multipliers: in force at each row, NaN where unknown, shape [rows].
        """
        multiplier = np.where(np.isnan(self.multiplier), multipliers, self.multiplier)
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = self.prediction - multiplier * self.spread, self.prediction + multiplier * self.spread
        lower = np.where(np.isnan(self.lower), low, self.lower)
        upper = np.where(np.isnan(self.upper), high, self.upper)
        return replace(self, multiplier=multiplier, lower=lower, upper=upper)

    def of(self, chosen: Bools) -> Given:
        """Those to some of the rows."""
        return Given(*(getattr(self, name)[chosen] for name in Given.__slots__))

    def columns(self) -> dict[str, Column]:
        """As columns of `EVALUATIONS`."""
        return {
            "model_version": self.version,
            "prediction": self.prediction,
            "lower": self.lower,
            "upper": self.upper,
            "spread": self.spread,
            "multiplier": self.multiplier,
        }


class Opened:
    """Answers to records that came without a target, until their outcome comes.

    Args:
        horizon_rows: answers that are remembered, at most.
    """

    def __init__(self, horizon_rows: int) -> None:
        self._horizon = horizon_rows
        self._answers: OrderedDict[int, tuple[float, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, offsets: Ints, given: Given) -> None:
        """Remember answers to records; the same ones again change nothing.

        Args:
            offsets: of the records in `normalized`, shape [rows].
            given: what was answered.
        """
        values = zip(
            given.version.tolist(), given.prediction.tolist(), given.spread.tolist(), given.multiplier.tolist(), strict=True
        )
        self._answers.update(zip(offsets.tolist(), values, strict=True))
        while len(self._answers) > self._horizon:
            self._answers.popitem(last=False)

    def restore(self, rows: pa.RecordBatch) -> None:
        """Take up what was remembered, from the last rows of `EVALUATIONS`."""
        rows = rows.filter(pc.is_null(rows["target"]))
        names = ("model_version", "prediction", "spread", "multiplier")
        version, prediction, spread, multiplier = (rows[name].to_numpy(zero_copy_only=False) for name in names)
        unknown = np.full(rows.num_rows, np.nan)
        given = Given(version, prediction, spread, multiplier, unknown, unknown)
        self.add(rows["normalized_offset"].to_numpy(), given)

    def knows(self, rows: pa.RecordBatch) -> Bools:
        """Whether each labelled row was answered before: as a record that is remembered, or by the server.

        Args:
            rows: perhaps with the ledger's columns.
        """
        if "effect" not in rows.schema.names:
            return np.zeros(rows.num_rows, np.bool_)
        told = zip(rows["of_offset"].to_pylist(), rows["answer_version"].to_pylist(), strict=True)
        return np.array([offset in self._answers or version is not None for offset, version in told], np.bool_)

    def given(self, rows: pa.RecordBatch, now: Given) -> Given:
        """The answers that count for some labelled rows: those given before, where the label came later.

        Args:
            rows: perhaps with the ledger's columns.
            now: what the version in service says to them.
        """
        if "effect" not in rows.schema.names or rows["effect"].null_count == rows.num_rows:
            return now
        columns = [np.array(getattr(now, name), dtype=np.float64) for name in Given.__slots__]
        places = ("of_offset", "answer_version", "answer_prediction", "answer_lower", "answer_upper")
        told = zip(*(rows[name].to_pylist() for name in places), strict=True)
        for row, (offset, version, *answer) in enumerate(told):
            before = self._answers.get(offset) if offset is not None else None
            if before is not None:
                _, middle, deviation, times = before  # NaN where no interval could be given yet: none is made up later
                values = (*before, middle - times * deviation, middle + times * deviation)
            elif version is not None:
                prediction, lower, upper = (np.nan if v is None else v for v in answer)
                values = (version, prediction, np.nan, np.nan, lower, upper)
            else:
                continue
            for column, value in zip(columns, values, strict=True):
                column[row] = value
        versions, prediction, spread, multiplier, low, high = columns
        return Given(versions.astype(np.int64), prediction, spread, multiplier, low, high)


class Counted:
    """What was counted of outcomes, so that one that is corrected can be taken out again.

    Args:
        horizon_rows: outcomes that are remembered, at most; they can be read back from the log `evaluations`.
    """

    def __init__(self, horizon_rows: int) -> None:
        self._horizon = horizon_rows
        self._rows: OrderedDict[int, bytes] = OrderedDict()

    def restore(self, rows: pa.RecordBatch) -> None:
        """Take up what was remembered, from the last rows of `EVALUATIONS`."""
        self.signed(rows.filter(pc.is_valid(rows["target"])))

    def signed(self, rows: pa.RecordBatch) -> tuple[Scored, Floats]:
        """Rows as they count: in front of one that corrects another that other one once more, with -1 for a sign.

        Args:
            rows: of `EVALUATIONS`, each with a target. The same ones again change nothing.

        Returns:
            The rows, and their signs, shape [rows].
        """
        scored = Scored.of(rows)
        if rows["label_offset"].null_count == rows.num_rows:
            return scored, np.ones(rows.num_rows)
        matrix = np.stack([np.asarray(column, np.float64) for column in scored.columns()], axis=1)
        counted, signs = [], []
        for row, label, replaced in zip(matrix, rows["label_offset"].to_pylist(), rows["replaces"].to_pylist(), strict=True):
            before = self._rows.get(replaced) if replaced is not None else None
            if before is not None:
                counted.append(np.frombuffer(before))
                signs.append(-1.0)
            counted.append(row)
            signs.append(1.0)
            if label is not None:
                self._rows[label] = row.tobytes()
        while len(self._rows) > self._horizon:
            self._rows.popitem(last=False)
        columns = np.stack(counted, axis=1)
        return Scored(columns[0].astype(np.int64), *columns[1:]), np.array(signs)


def evaluation_rows(rows: pa.RecordBatch, columns: Mapping[str, Column]) -> pa.RecordBatch:
    """Rows of `EVALUATIONS`.

    Args:
        rows: of `normalized`, perhaps with the ledger's columns.
        columns: of `EVALUATIONS`, by name; NaN and what is left out is null.
    """
    made: dict[str, Any] = {"normalized_offset": _offsets(rows), **{name: rows[name] for name in _OF_ROW}}
    if "effect" in rows.schema.names:
        made |= {name: rows[name] for name in _OF_LABEL}
    made |= {name: pa.array(values, from_pandas=True) for name, values in columns.items() if values is not None}
    arrays = [
        _cast(made[field.name], field.type) if field.name in made else pa.nulls(rows.num_rows, field.type)
        for field in EVALUATIONS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=EVALUATIONS)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _offsets(rows: pa.RecordBatch) -> pa.Array:
    """Of the records in `normalized`; null for a prediction, which is no record."""
    if "effect" not in rows.schema.names:
        return rows[OFFSET]
    return pc.if_else(pc.is_null(rows["effect"]), rows[OFFSET], rows["of_offset"])
