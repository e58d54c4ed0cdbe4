"""The rows of the ledger: arriving records, and outcomes with the features that were really predicted on.

Invariant: the features of an outcome's row are those of its record in `normalized`, or those of the question in
`predictions`, expressed in the scaler version and codes of the last record before the outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import LogError
from correnteza.features import Scaler
from correnteza.records import ID, OFFSET, Schema, empty, with_offsets
from correnteza.trainer.asked import normalized
from correnteza.trainer.labels import ADDED, LEARNED, Taken
from correnteza.trainer.recent import Recent
from correnteza.trainer.upstream import Upstream

_ANSWER = {
    "answer_version": "model_version",
    "answer_prediction": "prediction",
    "answer_lower": "lower",
    "answer_upper": "upper",
}
_PLAIN = [name for name in ADDED.names if name not in _ANSWER]


class Examples:
    """Makes rows of the ledger.

    Args:
        upstream: knows scaler versions and codes.
        schema: of the records.
        kept_rows: about how many records and predictions are kept; their owner forgets them.

    Attributes:
        records: those that came without a target.
        predictions: that outcomes may refer to.
        lost_offset: that of the record before the last outcome that was left out, because what it is for is not kept; or 0.
    """

    def __init__(self, upstream: Upstream, schema: Schema, kept_rows: int) -> None:
        self.records = Recent(ID, kept_rows)
        self.predictions = Recent("prediction_id", kept_rows)
        self.lost_offset = 0
        self._upstream = upstream
        self._schema = schema
        self._nothing = with_offsets(empty(schema.normalized), 1)
        self._answers = pa.schema([ADDED.field(name) for name in _ANSWER])
        self._version, self._raw_offset, self._offset = 1, 0, 0

    def arrive(self, rows: pa.RecordBatch) -> None:
        """Keep the records that have no target, and stand at the last one."""
        if rows[self._schema.target].null_count:
            self.records.add(rows.filter(pc.is_null(rows[self._schema.target])))
        self.stand_at(rows, rows.num_rows - 1)

    def stand_at(self, rows: pa.RecordBatch, place: int) -> None:
        """Express predictions like the record at this place."""
        self._version, self._raw_offset, self._offset = (
            rows[name][place].as_py() for name in ("scaler_version", "raw_offset", OFFSET)
        )

    def rows(self, arrivals: pa.RecordBatch | None, taken: Sequence[Taken], strict: bool = True) -> pa.RecordBatch:
        """Rows for records, then for outcomes.

        Args:
            arrivals: rows of `normalized`.
            taken: the outcomes.
            strict: whether one whose record or prediction is not kept is an error; if not, it is left out.
        """
        arrivals = self._nothing if arrivals is None else arrivals
        added = [pa.nulls(arrivals.num_rows, kind) for kind in ADDED.types]
        names = [*arrivals.schema.names, *ADDED.names]
        records = pa.RecordBatch.from_arrays([*arrivals.columns, *added], names=names)
        if not taken:
            return records
        body, kept = self._bodies(taken)
        if strict and len(kept) < len(taken):
            raise LogError(f"ledger: {len(taken) - len(kept)} outcomes are joined to rows that are not kept")
        if len(kept) < len(taken):
            self.lost_offset = taken[-1].read_offset
        labels = pa.RecordBatch.from_arrays(self._columns(body, kept), schema=records.schema)
        return pa.concat_batches([records, labels])

    def interleaved(
        self, records: pa.RecordBatch, low: int, groups: deque[tuple[int, list[Taken]]]
    ) -> Iterator[pa.RecordBatch]:
        """Rows for those records above the offset `low`, and behind each for the outcomes that were taken there.

        Args:
            records: at least one row of `normalized`.
            low: the offset.
            groups: outcomes by the offset of the record before them; those that were used are taken out.
        """
        offsets = records[OFFSET].to_numpy()
        begin = int(np.searchsorted(offsets, low, side="right"))
        while groups and groups[0][0] <= offsets[-1]:
            at, group = groups.popleft()
            end = int(np.searchsorted(offsets, at, side="right"))
            if end:  # else the records before it are no longer there
                self.stand_at(records, end - 1)
                yield self.rows(records.slice(begin, end - begin), group, strict=False)
                begin = end
        if begin < records.num_rows:
            yield self.rows(records.slice(begin), ())

    def _columns(self, body: pa.RecordBatch, kept: Sequence[Taken]) -> list[pa.Array]:
        columns = {name: body[name] for name in [*self._schema.normalized.names, *_ANSWER]}
        columns[ID] = pa.array([one.id for one in kept], pa.string())
        columns[self._schema.target] = pa.array([one.target for one in kept], pa.float64())
        for name in _PLAIN:
            columns[name] = pa.array([getattr(one, name) for one in kept], ADDED.field(name).type)
        offsets = pa.array([one.read_offset for one in kept], pa.int64())
        return [offsets, *(columns[name] for name in [*self._schema.normalized.names, *ADDED.names])]

    def _bodies(self, taken: Sequence[Taken]) -> tuple[pa.RecordBatch, list[Taken]]:
        """Features and answers of outcomes, and the outcomes that have them."""
        learned = [one.effect in LEARNED for one in taken]
        of_records = [i for i, one in enumerate(taken) if learned[i] and one.of_offset is not None]
        of_predictions = [i for i, one in enumerate(taken) if learned[i] and one.of_offset is None]
        bare = [i for i in range(len(taken)) if not learned[i]]
        parts, places = [self._nulls(len(bare))], [bare]
        rows, held = self.records.take([taken[i].of_offset or 0 for i in of_records])
        if rows is not None:
            parts.append(self._with_answers(rows.drop_columns([OFFSET]), None))
            places.append([of_records[i] for i in held])
        rows, held = self.predictions.take([taken[i].prediction_offset or 0 for i in of_predictions])
        if rows is not None:
            parts.append(self._with_answers(self._asked(rows), rows))
            places.append([of_predictions[i] for i in held])
        order = np.argsort(np.concatenate([np.asarray(some, np.int64) for some in places]))
        kept = sorted(i for some in places for i in some)
        return pa.concat_batches(parts).take(pa.array(order)), [taken[i] for i in kept]

    def _asked(self, predictions: pa.RecordBatch) -> pa.RecordBatch:
        if self._schema.numeric:
            scaler = self._upstream.scalers.versions[self._version]
        else:
            scaler = Scaler(self._version, np.zeros(0), np.ones(0))
        return normalized(predictions, self._schema, scaler, self._upstream.codes(self._offset), self._raw_offset)

    def _nulls(self, rows: int) -> pa.RecordBatch:
        kinds = self._schema.normalized
        return self._with_answers(
            pa.RecordBatch.from_arrays([pa.nulls(rows, kind) for kind in kinds.types], schema=kinds), None
        )

    def _with_answers(self, rows: pa.RecordBatch, predictions: pa.RecordBatch | None) -> pa.RecordBatch:
        if predictions is None:
            answers = [pa.nulls(rows.num_rows, kind) for kind in self._answers.types]
        else:
            answers = [predictions[_ANSWER[name]] for name in self._answers.names]
        names = [*self._schema.normalized.names, *self._answers.names]
        return pa.RecordBatch.from_arrays([*rows.columns, *answers], names=names)
