"""Records from a file: CSV, Parquet or NDJSON, the same rows in the same order at every start.

Invariants:
- Rows are a pure function of the file and their number; how often the file was opened has no part in it.
- Memory is bounded by the size of a block, except for `order_by_time`, which holds the whole file.
- Columns are as the file has them; `generator.stage.typed` makes records of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.errors import ConfigError, CursorError, DamagedLogError
from correnteza.generator.files import DAMAGE, Block, RecordFile, file_at
from correnteza.generator.stage import FAULT, FAULT_TYPE, read_cells, typed
from correnteza.log.base import Slice
from correnteza.records import ID, OFFSET, Schema

ENDINGS = (".csv", ".csv.gz", ".parquet", ".ndjson", ".ndjson.gz")
_CURSOR = re.compile(r"replay\.(\d{1,18})\.(.+)", re.DOTALL)


class ReplaySource:
    """Replays a file; its cursors hold the row number and the name of the file.

    Args:
        settings: path, delimiter, null_values, order_by_time and limit count here.
        schema: the schema of the pipeline. Other columns of the file are ignored, but for `id`.

    Raises:
        ConfigError: the file is not there or not of a kind that is read, or lacks a field of the schema.
    """

    def __init__(self, settings: config.Generator, schema: Schema) -> None:
        self._path = _checked_path(settings.path)
        self._limit = settings.limit
        self._schema = schema
        self._ordered = settings.order_by_time
        if self._ordered and schema.timestamp is None:
            raise ConfigError("generator.order_by_time = true: the schema has no timestamp; set schema.timestamp to a field")
        self._file = _opened(self._path, settings, schema)
        self._wanted = _wanted(self._path, self._file.columns, schema)
        self._blocks: Iterator[Block] | None = None
        self._before = 0
        self._block = typed(self._whole(0, _nothing(self._wanted)), schema)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        """Rows behind a cursor of this source; empty only behind the last one. Never waits. See `Log.read`.

        Raises:
            CursorError: the cursor is not one of this file.
            DamagedLogError: the file breaks off or cannot be read further; carries the row.
        """
        row = max(0, self._parse(after) - back)
        most = limit if self._limit is None else min(limit, max(0, self._limit - row))
        batch = self._from(row).slice(0, most) if most else self._block.slice(0, 0)
        return Slice(batch, f"replay.{row + batch.num_rows}.{self._path.name}", 0)

    def _parse(self, after: str | None) -> int:
        """How many rows stand before a cursor."""
        match = None if after is None else _CURSOR.fullmatch(after)
        if after is None:
            return 0
        if match is None or match[2] != self._path.name:
            raise CursorError(
                f"source replay of {self._path.name}: position {after[:200]!r} is not one of this file; was generator.source "
                "or generator.path changed? use another pipeline.name or pipeline.data_dir"
            )
        return int(match[1])

    def _from(self, row: int) -> pa.RecordBatch:
        """What is at hand from the row behind `row` on; no rows at the end of the file."""
        if self._blocks is None or row < self._before:
            self._before, self._block = row, self._block.slice(0, 0)
            self._blocks = self._in_time() if self._ordered else self._in_file(row)
        try:
            while row >= self._before + self._block.num_rows:
                self._before, self._block = next(self._blocks)
        except StopIteration:
            return self._block.slice(0, 0)
        except DAMAGE as error:
            self._blocks = None
            first = self._before + self._block.num_rows + 1
            reason = f"{self._path}: cannot be read from row {first} on ({error}); replace the file with a whole one"
            raise DamagedLogError(reason, first) from error
        return self._block.slice(row - self._before)

    def _in_file(self, row: int) -> Iterator[Block]:
        for before, block in self._file.blocks(self._wanted, row):
            yield before, self._whole(before, block)

    def _in_time(self) -> Iterator[Block]:
        """All rows as one block, those of the same time as in the file, those without a time last."""
        parts = [typed(block, self._schema) for _, block in self._in_file(0)]
        if parts:
            rows = pa.concat_batches(parts)
            yield 0, rows.take(pc.sort_indices(rows, [(self._schema.timestamp, "ascending", "at_end")]))

    def _whole(self, before: int, block: pa.RecordBatch) -> pa.RecordBatch:
        """A block with row numbers, and ids where the file has none."""
        numbers = pa.array(np.arange(before + 1, before + block.num_rows + 1))
        stem = self._path.name.split(".")[0]
        ids = pc.binary_join_element_wise(stem, numbers.cast(pa.string()), "-")
        if ID in block.schema.names:
            given = block.column(ID)
            ids = pc.coalesce(given if pa.types.is_string(given.type) else read_cells(given, "text")[0], ids)
        names = [*self._schema.raw.names[1:], FAULT]
        return pa.RecordBatch.from_arrays([numbers, ids, *map(block.column, names)], names=[OFFSET, ID, *names])


def _checked_path(path: Path | None) -> Path:
    if path is None or not path.is_file():
        raise ConfigError(f"generator.path = {str(path)!r}: no such file; give the path of the file to replay")
    if not path.name.lower().endswith(ENDINGS):
        raise ConfigError(f"generator.path = {str(path)!r}: not a kind of file that is read; expected {', '.join(ENDINGS)}")
    return path


def _opened(path: Path, settings: config.Generator, schema: Schema) -> RecordFile:
    try:
        return file_at(path, settings, schema)
    except DAMAGE as error:
        raise ConfigError(f"generator.path = {str(path)!r}: cannot be read ({error}); give a whole file") from error


def _wanted(path: Path, columns: Sequence[str], schema: Schema) -> list[str]:
    """The columns that are read; every one but `id` must be there."""
    needed = schema.raw.names[1:]
    for name in needed:
        if columns.count(name) != 1:
            close = difflib.get_close_matches(name, columns, 1)
            found = "stands there twice" if name in columns else "is not there"
            hint = f"did you mean {close[0]!r}?" if close and name not in columns else f"its columns are {', '.join(columns)}"
            raise ConfigError(f"generator.path = {str(path)!r}: column {name!r} of [schema] {found}; {hint[:2000]}")
    return [ID, *needed] if columns.count(ID) == 1 else list(needed)


def _nothing(wanted: Sequence[str]) -> pa.RecordBatch:
    names = [*wanted, FAULT]
    return pa.RecordBatch.from_arrays([*(pa.nulls(0) for _ in wanted), pa.nulls(0, FAULT_TYPE)], names=names)
