"""The derived columns of a step, and the memory that they are made from.

Invariants:
- Which memory a step starts from is said by the state alone: the number of rows of the log `memory` before it. The
  memory held here is brought there first: what a step did that was not committed is undone.
- A record's own target, and outcomes that were read after it, have no part in its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from correnteza.errors import DamagedLogError
from correnteza.events import Event
from correnteza.features import Floats
from correnteza.memory import Limits, Memory, Taken, entries, snapshots
from correnteza.records import ID, MAGNITUDE_LIMIT, Schema

OUTCOME = "#outcome"
"""Column of a batch whose rows are records or outcomes: the outcome, null for a record."""
OUTCOME_TYPE = pa.struct([pa.field("id", pa.string()), pa.field("target", pa.float64())])

Mask = npt.NDArray[np.bool_]
Recall = Callable[[], Memory]
"""Makes the memory that was committed last."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What a step derives.

    Args:
        records: the valid records, with the derived columns behind the others.
        outputs: rows of the logs that the memory is made anew from.
        offset: of the last row of the log `memory` after the step.
        events: what happened out of the ordinary.
    """

    records: pa.RecordBatch
    outputs: dict[str, pa.RecordBatch]
    offset: int
    events: tuple[Event, ...]


class Deriving:
    """Makes the derived columns. For one thread.

    Args:
        schema: with the definitions.
        limits: bounds of the memory.
        recall: for a state that the memory held here is not at; None where the stage is never started again.
    """

    def __init__(self, schema: Schema, limits: Limits, recall: Recall | None) -> None:
        self._schema = schema
        self._memory = Memory(schema, limits)
        self._recall = recall

    @property
    def remembers(self) -> bool:
        """Whether there is anything to remember."""
        return any(one.remembers for one in self._schema.derived)

    @property
    def snapshot_offset(self) -> int:
        """Where the last snapshot was taken, in the log `memory`."""
        return self._memory.snapshot_offset

    @property
    def outputs(self) -> dict[str, pa.Schema]:
        """Columns of the logs that the memory is made anew from."""
        return {entries.LOG: self._memory.log_schema, snapshots.LOG: snapshots.SCHEMA} if self.remembers else {}

    def step(self, offset: int, batch: pa.RecordBatch, records: pa.RecordBatch, valid: Mask) -> Derived:
        """Derive the columns of a batch.

        Args:
            offset: of the last row of the log `memory` before it.
            batch: records and outcomes in their order.
            records: the records among them.
            valid: which of these are valid, shape [records].

        Raises:
            DamagedLogError: the logs of the memory do not reach to `offset`.
        """
        good = records if valid.all() else records.filter(pa.array(valid))
        columns = self._memory.plain_columns(good)
        if not self.remembers:
            return Derived(self._with(good, columns), {}, offset, ())
        memory = self._at(offset)
        rows, taken = [], []
        for part in _parts(batch, records, valid):
            for new in self._entries(memory, part):
                rows.append(new)
                taken.append(memory.take(new))
        columns = {**columns, **_columns(taken)}
        outputs = {entries.LOG: pa.concat_batches(rows)}
        pieces = [piece for one in taken for piece in one.snapshots]
        if pieces:
            outputs[snapshots.LOG] = pa.concat_batches(pieces)
        return Derived(self._with(good, columns), outputs, memory.offset, tuple(_events(taken)))

    def _at(self, offset: int) -> Memory:
        """The memory after a row of its log."""
        if self._memory.offset == offset:
            self._memory.settle()
        else:
            self._memory.undo()
        if self._memory.offset != offset and self._recall is not None:
            self._memory = self._recall()
        if self._memory.offset != offset:
            raise DamagedLogError(
                f"log {entries.LOG}: the memory made of it ends at offset {self._memory.offset}, and the state at {offset}; "
                "restore the database from a copy, or begin a new pipeline"
            )
        return self._memory

    def _entries(self, memory: Memory, part: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Rows of the log `memory`, each batch to be taken before the next is made."""
        if OUTCOME in part.schema.names:
            yield self._labels(memory, part)
            return
        new, done = memory.entries_of(part), 0
        if memory.early:
            ids = part.column(ID).to_pylist()
            waits = part.column(self._schema.target).is_null().to_numpy(zero_copy_only=False)
            for row in [row for row, name in enumerate(ids) if waits[row] and name in memory.early]:
                yield new.slice(done, row + 1 - done)
                done = row + 1
                if ids[row] in memory.early:
                    yield memory.labels_of([ids[row]], [memory.early[ids[row]]])
        yield new.slice(done)

    def _labels(self, memory: Memory, outcomes: pa.RecordBatch) -> pa.RecordBatch:
        ids, targets = outcomes.column(OUTCOME).flatten()
        known = np.abs(targets.to_numpy(zero_copy_only=False)) <= MAGNITUDE_LIMIT
        kept = pa.array(known)
        return memory.labels_of(ids.filter(kept).to_pylist(), targets.filter(kept).to_pylist())

    def _with(self, records: pa.RecordBatch, columns: Mapping[str, Floats]) -> pa.RecordBatch:
        """The records with their derived columns, in the order of the schema."""
        names = [name for one in self._schema.derived for name in one.columns]
        arrays = [pa.array(columns[name], from_pandas=True) for name in names]  # NaN to null
        return pa.RecordBatch.from_arrays([*records.columns, *arrays], names=[*records.schema.names, *names])


def records_of(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The records of a batch, without its outcomes."""
    if OUTCOME not in batch.schema.names:
        return batch
    records = batch.filter(batch.column(OUTCOME).is_null()) if batch.column(OUTCOME).null_count < batch.num_rows else batch
    return records.drop_columns([OUTCOME])


def _parts(batch: pa.RecordBatch, records: pa.RecordBatch, valid: Mask) -> Iterator[pa.RecordBatch]:
    """Valid records, and outcomes, as they follow each other."""
    if OUTCOME not in batch.schema.names:
        yield records if valid.all() else records.filter(pa.array(valid))
        return
    outcome = batch.column(OUTCOME).is_valid().to_numpy(zero_copy_only=False)
    done = 0  # records
    edges = [0, *(np.flatnonzero(np.diff(outcome)) + 1).tolist(), batch.num_rows]
    for begin, end in pairwise(edges):
        if outcome[begin]:
            yield batch.slice(begin, end - begin).select([OUTCOME])
        else:
            yield records.slice(done, end - begin).filter(pa.array(valid[done : done + end - begin]))
            done += end - begin


def _columns(taken: list[Taken]) -> dict[str, Floats]:
    names = taken[0].columns if taken else {}
    return {name: np.concatenate([one.columns[name] for one in taken]) for name in names}


def _events(taken: list[Taken]) -> Iterator[Event]:
    for one in taken:
        for by, count in one.gone.items():
            reason = f"{count} keys of {by!r} were forgotten: more than [normalizer] memory_keys; those seen longest ago went"
            yield Event("keys_forgotten", reason, {"by": by, "keys": count})
        if one.lost:
            reason = f"{one.lost} outcomes are for no record that is known; features of the target never saw them"
            yield Event("outcomes_forgotten", reason, {"outcomes": one.lost})
    for by in dict.fromkeys(by for one in taken for by in one.keyless):
        count = sum(one.keyless.get(by, 0) for one in taken)
        reason = f"{count} records have no {by!r}; features by it are missing in them, and they are not remembered there"
        yield Event("key_missing", reason, {"by": by, "records": count})
