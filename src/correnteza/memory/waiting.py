"""Records without a target, by id, until their label comes; and labels until their record comes.

Invariants:
- An id means the last record with it that had no target.
- A record waits for `HORIZON_ROWS` further such records at least, and for twice as many at most; where exactly it
  is forgotten depends on how many there were, never on batches.
- A record whose label has come stays, so that a correction finds it.
- Of labels without a record the last `EARLY_ROWS` wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

HORIZON_ROWS = 100_000
EARLY_ROWS = 10_000

Record = tuple[Any, ...]
"""Its offset in the log `memory`, event time and keys."""


class Waiting:
    """The records that wait.

    Args:
        horizon_rows: how many further records one waits for at least.
    """

    def __init__(self, horizon_rows: int = HORIZON_ROWS) -> None:
        self._horizon = horizon_rows
        self._young: dict[str, Record] = {}
        self._old: dict[str, Record] = {}
        self._count = 0  # put into `_young`, those that took the place of others included
        self._early: dict[str, float] = {}
        self._early_before: dict[str, float] | None = None  # what it was at the last settle, once it has changed
        self._settled = (self._young, self._old, 0)
        self._journal: list[tuple[dict[str, Record], str, Record | None]] = []

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def put(self, ids: Sequence[str], records: Iterable[Record]) -> None:
        """Remember records, in their order."""
        pairs = zip(ids, records, strict=True)
        while part := list(islice(pairs, self._horizon - self._count)):
            self._journal += [(self._young, name, self._young.get(name)) for name, _ in part]
            self._young.update(part)
            self._count += len(part)
            if self._count == self._horizon:
                self._young, self._old, self._count = {}, self._young, 0

    def get(self, name: str | None) -> Record | None:
        """The record of an id, or None."""
        if name is None:
            return None
        found = self._young.get(name)
        return self._old.get(name) if found is None else found

    @property
    def early(self) -> Mapping[str, float]:
        """Labels that came before their record, by id."""
        return self._early

    def put_early(self, ids: Sequence[str], targets: Sequence[float]) -> int:
        """Remember labels whose record has not come; how many earlier ones were let go for them."""
        self._note_early()
        for name, target in zip(ids, targets, strict=True):
            self._early.pop(name, None)
            self._early[name] = target
        lost = max(0, len(self._early) - EARLY_ROWS)
        for name in list(islice(self._early, lost)):
            del self._early[name]
        return lost

    def drop_early(self, ids: Iterable[str]) -> None:
        """Forget early labels, if there are any for these ids."""
        if self._early:
            self._note_early()
            for name in ids:
                self._early.pop(name, None)

    def _note_early(self) -> None:
        if self._early_before is None:
            self._early_before = dict(self._early)

    def settle(self) -> None:
        """What was changed stays."""
        self._journal.clear()
        self._early_before = None
        self._settled = (self._young, self._old, self._count)

    def undo(self) -> None:
        """Be as at the last `settle`."""
        for held, name, before in reversed(self._journal):
            if before is None:
                held.pop(name, None)
            else:
                held[name] = before
        self._journal.clear()
        self._young, self._old, self._count = self._settled
        self._early = self._early if self._early_before is None else self._early_before
        self._early_before = None

    def early_rows(self) -> pa.RecordBatch:
        """The early labels as rows."""
        return pa.RecordBatch.from_pydict(
            {"id": pa.array(list(self._early), pa.string()), "target": pa.array(list(self._early.values()), pa.float64())}
        )

    def rows(self, schema: pa.Schema) -> pa.RecordBatch:
        """All of it as rows: generation, id and record; `schema` has the columns of a record."""
        ids, records, generations = [], [], []
        for generation, held in ((0, self._old), (1, self._young)):
            ids += list(held)
            records += list(held.values())
            generations += [generation] * len(held)
        columns = list(zip(*records, strict=True)) or [()] * len(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        named = {"generation": pa.array(generations, pa.int64()), "id": pa.array(ids, pa.string())}
        named["count"] = pa.array([self._count] * len(ids), pa.int64())
        return pa.RecordBatch.from_arrays([*named.values(), *arrays], names=[*named, *schema.names])

    def load(self, rows: pa.RecordBatch, early: pa.RecordBatch, schema: pa.Schema) -> None:
        """Be as `rows` and `early_rows` said."""
        self._early = dict(zip(early["id"].to_pylist(), early["target"].to_pylist(), strict=True))
        records = list(zip(*(_plain(rows.column(name)) for name in schema.names), strict=True))
        for generation, name, record in zip(rows["generation"].to_pylist(), rows["id"].to_pylist(), records, strict=True):
            (self._young if generation else self._old)[name] = record
        self._count = rows["count"][0].as_py() if rows.num_rows else 0
        self.settle()


def _plain(column: pa.Array) -> list[Any]:
    """Times as whole microseconds, the rest as it is."""
    found: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return found
