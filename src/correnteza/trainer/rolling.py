"""The last evaluations whose target is known and stands: what the rolling metrics are of.

Invariants:
- What is held is a function of the log alone, whenever the reading began: the last `rows` rows that have a target and
  were not corrected since, among the last `rows` + `reach` rows of the log. A restart changes nothing.
- Each row of the log is read once, and memory is bounded, however many records wait for their label.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.log.base import OwnedLog
from correnteza.records import OFFSET
from correnteza.trainer.evaluation import EVALUATIONS, standing
from correnteza.trainer.tail import Tail

REACH = 2
"""Horizons of labels that are looked back over, beside the rows themselves: within one a record gets its label, and so
the log has at most an answer and a label per record in it."""
WIDEN = 4
"""By how much further back a reading begins each time that it has not found enough rows."""


class Rolling:
    """Follows the log `evaluations`. For one thread at a time.

    Args:
        log: the log.
        rows: how many rows are held at most.
        horizon_rows: for how many further records a record waits for its label.
    """

    def __init__(self, log: OwnedLog, rows: int, horizon_rows: int) -> None:
        self._log = log
        self._rows = rows
        self._reach = rows + REACH * horizon_rows
        self._tail: Tail | None = None
        self._clear()

    @property
    def multiplier(self) -> float | None:
        """How many spreads the newest interval reaches to either side; None as long as none is known."""
        return self._of_outcome if self._of_record is None else self._of_record

    def look(self) -> pa.RecordBatch:
        """The rows that are held now, in `EVALUATIONS`, oldest first."""
        if self._tail is None:
            self._tail = self._begun()
        self._follow(self._tail)
        return self._held.select(EVALUATIONS.names)

    def _begun(self) -> Tail:
        """Read as far back as is needed, and hold what was found."""
        back = self._rows
        while True:
            self._clear()
            tail = Tail(self._log, back)
            read = self._follow(tail)
            if self._held.num_rows == self._rows or read < back or back == self._reach:
                return tail
            back = min(self._reach, WIDEN * back)

    def _clear(self) -> None:
        self._of_record: float | None = None
        self._of_outcome: float | None = None
        self._held = pa.RecordBatch.from_pylist([], schema=pa.schema([pa.field(OFFSET, pa.int64()), *EVALUATIONS]))

    def _follow(self, tail: Tail) -> int:
        """Take what is new; how many rows that was."""
        read = 0
        for batch in tail.new():
            read += batch.num_rows
            self._note_multiplier(batch)
            fresh = batch.filter(pc.is_valid(batch["target"])).select(self._held.schema.names).cast(self._held.schema)
            rows = standing(pa.concat_batches([self._held, fresh]))
            rows = rows.slice(max(0, rows.num_rows - self._rows))
            gone = batch[OFFSET][-1].as_py() - self._reach
            self._held = rows.slice(int(np.searchsorted(rows[OFFSET].to_numpy(), gone, side="right")))
        return read

    def _note_multiplier(self, batch: pa.RecordBatch) -> None:
        """An outcome of a record has that of the answer, which is older than that of the records around it."""
        late = pc.and_(pc.is_valid(batch["label_offset"]), pc.is_valid(batch["normalized_offset"]))
        of_records, of_outcomes = (batch["multiplier"].filter(rows).drop_null() for rows in (pc.invert(late), late))
        self._of_record = of_records[-1].as_py() if len(of_records) else self._of_record
        self._of_outcome = of_outcomes[-1].as_py() if len(of_outcomes) else self._of_outcome
