"""The memory of a stream: what earlier records leave for the features of later ones.

    rows of the log `memory` --> [Memory.take] --> one column per feature, for the rows of kind `record`
    fields of a question     --> [Memory.vector] --> the same, as of now; nothing is remembered

Invariants:
- The memory, and every value made from it, is a function of the rows of the log `memory` alone, bit for bit: not
  of how they came in batches, nor of whether it was loaded from a snapshot in between.
- A record's features are made from rows before it; its own target is not among what they see.
- Keys go, and snapshots are taken, only at whole multiples of `Limits.block_rows` rows.
- `undo` brings back what was at the last `settle`, so a step that was not committed leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.definition import Feature
from correnteza.errors import DamagedLogError
from correnteza.features import Floats, Ints
from correnteza.memory import arranged, entries, plain, snapshots, windows
from correnteza.memory.keys import ALONE, Keys
from correnteza.memory.limits import Limits
from correnteza.memory.single import Single, Value
from correnteza.memory.tails import Tails
from correnteza.memory.waiting import Waiting
from correnteza.memory.windows import NO_TIME, Rows
from correnteza.records import ID, OFFSET, Schema, empty

Columns = Mapping[str, Floats]


@dataclass(slots=True)
class Taken:
    """What became of some rows of the log.

    Args:
        columns: values per column of a feature that remembers, for the rows of kind `record`, shape [records]; NaN: missing.
        gone: keys that were let go, by `by`.
        keyless: records without a key, by `by`.
        lost: targets that were let go before their record came, or that came after it had been let go; told at ends of blocks.
        snapshots: rows of the log `snapshots`.
    """

    columns: dict[str, Floats] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    keyless: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    snapshots: list[pa.RecordBatch] = field(default_factory=list)


class Memory:
    """What is remembered of a stream. For one thread.

    Args:
        schema: with the definitions; those that remember nothing are computed too, by `vector` and `plain_columns`.
        limits: its bounds.

    Attributes:
        offset: of the last row of the log `memory` that it holds; 0 before the first.
        snapshot_offset: where the last snapshot was taken; 0 before the first.

    >>> from correnteza.records import Field
    >>> from correnteza.definition import Feature
    >>> last = Feature("last", ("y",), "lag", rows=1)
    >>> memory = Memory(Schema((Field("x", "float"),), "y").with_derived((last,)))
    >>> rows = pa.RecordBatch.from_pydict({"offset": [1, 2, 3], "id": ["a", "b", "c"], "x": [0.0] * 3, "y": [5.0, 6.0, 7.0]})
    >>> memory.take(memory.entries_of(rows)).columns["last"].tolist()
    [nan, 5.0, 6.0]
    >>> memory.vector(rows.slice(0, 1))["last"].tolist()
    [7.0]
    """

    def __init__(self, schema: Schema, limits: Limits | None = None) -> None:
        self.schema = schema
        self.limits = limits or Limits()
        self.log_schema = entries.log_schema(schema)
        self.offset = 0
        self.snapshot_offset = 0
        self._held_at_snapshot = 0
        self._lost = 0
        self._remembering = tuple(one for one in schema.derived if one.remembers)
        self._plain = tuple(one for one in schema.derived if not one.remembers)
        self._keys = {by: Keys(self.limits.keys) for by in entries.bys_of(schema)}
        self._tails = {by: self._tails_by(by) for by in self._keys}
        self._late = schema.target in entries.sources_of(schema)
        self._waiting = Waiting(self.limits.horizon_rows)
        self._record = pa.schema(
            [f for f in self.log_schema if f.name in (entries.OF, entries.TIME) or arranged.is_key(f.name)]
        )
        self._single = Single(schema, self._keys, self._tails, self.limits.rows)
        self._settled = self._scalars()

    def _features_of(self, by: str | None, source: str) -> list[Feature]:
        return [one for one in self._remembering if (one.by, one.source) == (by, source)]

    def _tails_by(self, by: str | None) -> dict[str, Tails]:
        """The tails of one `by`, by their source."""
        return {
            source: self._tails_of(by, source) for source in dict.fromkeys(f.source for f in self._remembering if f.by == by)
        }

    def _tails_of(self, by: str | None, source: str) -> Tails:
        mine = self._features_of(by, source)
        timed = any(one.seconds is not None or one.how == "since" for one in mine)
        return Tails(max(one.depth(self.limits.rows) for one in mine), timed, source == self.schema.target)

    @property
    def keys(self) -> dict[str, int]:
        """How many keys there are, by `by`; the single one without counts as an empty text."""
        return {by or ALONE: len(keys) for by, keys in self._keys.items()}

    # Rows of the log

    def entries_of(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """Valid records as rows of the log `memory`."""
        return entries.of_records(records, self.schema)

    def labels_of(self, ids: Sequence[str | None], targets: Sequence[float]) -> pa.RecordBatch:
        """Labels that came, as rows of the log; none where no feature remembers the target."""
        rows = []
        if not self._late:
            return empty(self.log_schema)
        for name, target in zip(ids, targets, strict=True):
            if name is not None:
                record = self._waiting.get(name)
                known = {} if record is None else dict(zip(self._record.names, record, strict=True))
                kind = entries.EARLY if record is None else entries.LABEL
                rows.append({"kind": kind, ID: name, **known, entries.VALUE + self.schema.target: target})
        return pa.RecordBatch.from_pylist(rows, schema=self.log_schema)

    @property
    def early(self) -> Mapping[str, float]:
        """Labels whose record has not come yet, by id; a row of kind `label` has to follow that record at once."""
        return self._waiting.early

    def take(self, rows: pa.RecordBatch, compute: bool = True) -> Taken:
        """Remember rows of the log `memory`, and make the features of the records among them.

        Args:
            rows: with or without the column `offset`; the next ones after `self.offset`.
            compute: whether columns and snapshots are wanted.
        """
        taken = Taken()
        parts: list[Columns] = []
        for part in self._parts(rows):
            kind = part.column("kind")[0].as_py()
            if kind == entries.RECORD:
                parts.append(self._take_records(part, taken, compute))
            else:
                self._take_labels(part, kind)
            self.offset += part.num_rows
            if self.offset % self.limits.block_rows == 0:
                self._end_of_block(taken, compute)
        if compute:
            names = [one.name for one in self._remembering]
            taken.columns = {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in names}
        return taken

    def replay(self, rows: pa.RecordBatch) -> None:
        """Remember rows of the log `memory` as they were read from it; rows that are held already are left out.

        Raises:
            DamagedLogError: rows are missing before them.
        """
        first = rows.column(OFFSET)[0].as_py() if rows.num_rows else self.offset + 1
        if first > self.offset + 1:
            raise DamagedLogError(
                f"log memory: rows {self.offset + 1} to {first - 1} are missing; load a later snapshot", first
            )
        known = min(rows.num_rows, self.offset + 1 - first)
        if known < rows.num_rows:
            self.take(rows.slice(known), compute=False)
        self.settle()

    def _parts(self, rows: pa.RecordBatch) -> Sequence[pa.RecordBatch]:
        """Rows of one kind each, that do not reach over the end of a block."""
        if not rows.num_rows:
            return []
        kinds = pc.index_in(rows.column("kind"), pa.array([entries.RECORD, entries.LABEL, entries.EARLY]))
        edges = set((np.flatnonzero(np.diff(kinds.to_numpy())) + 1).tolist())
        block = self.limits.block_rows
        edges |= set(range(block - self.offset % block, rows.num_rows, block))
        ends = [*sorted(edges), rows.num_rows]
        return [rows.slice(begin, end - begin) for begin, end in zip([0, *ends], ends, strict=False)]

    def _take_records(self, rows: pa.RecordBatch, taken: Taken, compute: bool) -> Columns:
        times, numbers = arranged.times_of(rows), np.arange(self.offset + 1, self.offset + 1 + rows.num_rows)
        found: dict[str, Floats] = {}
        for by, keys in self._keys.items():
            slots = keys.take(arranged.key_column(rows, by), self.offset + 1)
            missing = int((slots < 0).sum())
            if missing:
                taken.keyless[by or ALONE] = taken.keyless.get(by or ALONE, 0) + missing
            order = np.argsort(slots, kind="stable")[missing:]  # those without a key, at slot -1, come first
            for source, tails in self._tails[by].items():
                tails.room_for(keys.slots)
                values = entries.numbers(rows.column(entries.VALUE + source))
                ends = arranged.append(tails, slots[order], times[order], numbers[order], values[order])
                if compute:
                    found |= self._features(by, source, order, slots, ends, times, values)
        if self._late:
            self._remember(rows.set_column(rows.schema.get_field_index(entries.OF), entries.OF, pa.array(numbers)))
        return found

    def _features(
        self, by: str | None, source: str, order: Ints, slots: Ints, ends: Ints, times: Ints, values: Floats
    ) -> Columns:
        """The features of one source and key, for rows that stand at `ends` of their tails."""
        tails = self._tails[by][source]
        falling = np.argsort(ends, kind="stable")[::-1]
        order, ends = order[falling], ends[falling]
        begin, _, ordered = tails.bounds(slots[order])
        found = {}
        for one in self._features_of(by, source):
            column = np.zeros(len(slots)) if one.how == "count" else np.full(len(slots), np.nan)
            if one.how == "count":
                column[slots < 0] = np.nan
            reach = np.maximum(begin, ends - one.depth(self.limits.rows))
            some = Rows(reach, ends, ordered, times[order], values[order])
            column[order] = windows.compute(one, tails, some, source == self.schema.target)
            found[one.name] = arranged.bounded(column)
        return found

    def _remember(self, rows: pa.RecordBatch) -> None:
        """Note the records, with their offsets in the log, that wait for their target."""
        target = rows.column(entries.VALUE + self.schema.target)
        if target.null_count == 0:
            return
        rows = rows.filter(target.is_null())
        rows = rows.filter(rows.column(ID).is_valid())
        columns = [rows.column(name) for name in self._record.names]
        plain_columns = [(c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c).to_pylist() for c in columns]
        self._waiting.put(rows.column(ID).to_pylist(), zip(*plain_columns, strict=True))

    def _take_labels(self, rows: pa.RecordBatch, kind: str) -> None:
        ids, targets = rows.column(ID).to_pylist(), rows.column(entries.VALUE + self.schema.target).to_pylist()
        if kind == entries.EARLY:
            self._lost += self._waiting.put_early(ids, targets)
            return
        self._waiting.drop_early(ids)
        times, numbers = arranged.times_of(rows), rows.column(entries.OF).to_numpy()
        values = entries.numbers(rows.column(entries.VALUE + self.schema.target))
        for by, keys in self._keys.items():
            tails = self._tails[by].get(self.schema.target)
            if tails is not None:
                slots = keys.find(arranged.key_column(rows, by))
                order = np.argsort(slots, kind="stable")[int((slots < 0).sum()) :]
                if len(order):
                    tails.insert(arranged.grouped(slots[order], times[order], numbers[order], values[order]))

    # Ends of blocks

    def _end_of_block(self, taken: Taken, snapshot: bool) -> None:
        for by, keys in self._keys.items():
            gone = keys.too_many()
            if len(gone):
                taken.gone[by or ALONE] = taken.gone.get(by or ALONE, 0) + len(gone)
                for tails in self._tails[by].values():
                    tails.clear(gone)
        taken.lost, self._lost = taken.lost + self._lost, 0
        if self.offset - self.snapshot_offset >= max(self.limits.snapshot_rows, self._held_at_snapshot):
            self.snapshot_offset = self.offset
            tables = self._tables()
            self._held_at_snapshot = sum(table.num_rows for table in tables.values())
            if snapshot:
                taken.snapshots += snapshots.rows_of(tables, self.offset)

    def _tables(self) -> dict[str, pa.RecordBatch]:
        """All that is held, by name, in an order that depends on the rows of the log alone."""
        tables = {}
        for by, keys in self._keys.items():
            names, slots, seen = keys.in_order()
            kind = self.schema.raw.field(by).type if by is not None else pa.string()
            tables[snapshots.KEYS + (by or "")] = pa.RecordBatch.from_pydict({"key": pa.array(names, kind), "seen": seen})
            for source, tails in self._tails[by].items():
                held = tails.held(slots)
                owners = np.repeat(np.arange(len(slots)), held.counts)
                columns = {"key": owners, "time": held.times_us, "number": held.numbers, "value": held.values}
                tables[snapshots.tail(by, source)] = pa.RecordBatch.from_pydict(columns)
        if self._late:
            tables[snapshots.WAITING] = self._waiting.rows(self._record)
            tables[snapshots.EARLY] = self._waiting.early_rows()
        return tables

    def load(self, rows: pa.RecordBatch) -> None:
        """Be what a snapshot says; only for a memory that holds nothing.

        Args:
            rows: the rows of the log `snapshots` of one snapshot, all of them and in order.

        Raises:
            DamagedLogError: they are not.
        """
        self.offset, tables = snapshots.read(rows)
        self.snapshot_offset = self.offset
        self._held_at_snapshot = sum(table.num_rows for table in tables.values())
        for by, keys in self._keys.items():
            held = tables[snapshots.KEYS + (by or "")]
            slots = keys.load(held.column("key"), held.column("seen").to_numpy())
            for source, tails in self._tails[by].items():
                tails.room_for(keys.slots)
                table = tables[snapshots.tail(by, source)]
                owners, times, numbers, values = (table.column(name).to_numpy() for name in table.schema.names)
                tails.append(arranged.grouped(slots[owners], times, numbers, values))
        if self._late:
            self._waiting.load(tables[snapshots.WAITING], tables[snapshots.EARLY], self._record)
        self.settle()

    # Questions

    def plain_columns(self, records: pa.RecordBatch) -> Columns:
        """The columns of the features that remember nothing."""
        found: dict[str, Floats] = {}
        for one in self._plain:
            found |= {name: arranged.bounded(column) for name, column in plain.compute(one, records).items()}
        return found

    def vector(self, records: pa.RecordBatch) -> Columns:
        """All derived columns of some records as of now, as if each were the next record.

        Args:
            records: with the fields that features, keys and the timestamp are; `id` and the target need not be there.
        """
        found = dict(self.plain_columns(records))
        rows = records.num_rows
        times = arranged.times_us(records.column(self.schema.timestamp)) if self.schema.timestamp else np.full(rows, NO_TIME)
        for by, keys in self._keys.items():
            names = pa.repeat(ALONE, rows) if by is None else records.column(by)
            slots = keys.find(names)
            order = np.flatnonzero(slots >= 0)
            never_seen = (slots < 0) & names.is_valid().to_numpy(zero_copy_only=False)
            for source, tails in self._tails[by].items():
                own = source in records.schema.names and source != self.schema.target
                values = entries.numbers(entries.value_of(records.column(source))) if own else np.full(rows, np.nan)
                ends = tails.bounds(slots[order])[1]
                found |= self._features(by, source, order, slots, ends, times, values)
                for one in self._features_of(by, source):
                    if one.how == "count":  # the window of a key never seen is empty
                        found[one.name] = np.where(never_seen, 0.0, found[one.name])
        return found

    def one(self, values: Mapping[str, Value], times_us: Mapping[str, int]) -> list[float]:
        """What `vector` makes of a single record, sooner; see `Single.vector`."""
        return self._single.vector(values, times_us)

    def knows(self, by: str | None, key: str | int) -> bool:
        """Whether a key was seen, and has not been forgotten."""
        return by in self._keys and self._keys[by].slot_of(key) >= 0

    # Going on, or back

    def _scalars(self) -> tuple[int, int, int, int]:
        return self.offset, self.snapshot_offset, self._held_at_snapshot, self._lost

    def _revocable(self) -> Iterable[Keys | Tails | Waiting]:
        tails = [one for some in self._tails.values() for one in some.values()]
        return (*self._keys.values(), *tails, self._waiting)

    def settle(self) -> None:
        """What was taken stays."""
        for part in self._revocable():
            part.settle()
        self._settled = self._scalars()

    def undo(self) -> None:
        """Be as at the last `settle`."""
        for part in self._revocable():
            part.undo()
        self.offset, self.snapshot_offset, self._held_at_snapshot, self._lost = self._settled
