"""The schema of a file that nobody has described, from its first rows.

Invariants:
- Nothing is left out in silence: every column that is not learned from has a note that says why.
- Cells are read as the generator reads them, so what counts as a number or a time here is one there.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.errors import ConfigError
from correnteza.generator.files import DAMAGE, RecordFile, file_at, readable
from correnteza.generator.replay import ENDINGS
from correnteza.generator.stage import read_cells
from correnteza.records import ID, Field, Schema

HEAD_ROWS = 10_000
"""Rows that the kinds of the columns are taken from, at most."""
FEW_VALUES = 100
"""Different texts that a column may have there to be taken for a category."""
_UNKNOWN = Schema((Field("unknown", "category"),), target="target")
"""For a file whose columns are not known yet."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A schema, and what is to be said about it.

    Args:
        table: the section `[schema]`.
        notes: a sentence for each column that is left out.
    """

    table: config.SchemaTable
    notes: tuple[str, ...]


def opened(path: Path, settings: config.Generator, schema: Schema = _UNKNOWN) -> RecordFile:
    """The file, ready to be read.

    Args:
        path: a file of one of the kinds in `ENDINGS`.
        settings: delimiter and null_values count here.
        schema: of its records, if it is known.

    Raises:
        ConfigError: it is not there, not of a kind that is read, or damaged.
    """
    name = path.name.lower()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a file with records")
    if not name.endswith(ENDINGS):
        raise ConfigError(f"{path}: not a kind of file that is read; expected {', '.join(ENDINGS)}")
    try:
        return file_at(path, settings, schema)
    except DAMAGE as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a whole file") from error


def rows_of(path: Path, settings: config.Generator, schema: Schema) -> int:
    """How many rows a file has, whole or not, up to `settings.limit`.

    Raises:
        ConfigError: as `opened`, or the file breaks off.
    """
    found = 0
    try:
        for _, block in opened(path, settings, schema).blocks([schema.target], 0):
            found += block.num_rows
            if settings.limit is not None and found >= settings.limit:
                return settings.limit
    except DAMAGE as error:
        raise ConfigError(f"{path}: cannot be read from row {found + 1} on ({error}); give a whole file") from error
    return found


def guess(
    path: Path, settings: config.Generator, target: str, timestamp: str | None = None, ignored: Collection[str] = ()
) -> Guess:
    """Describe a file: numbers are `float`, texts of few values `category`, the first column of times the timestamp.

    Args:
        path: the file.
        settings: delimiter and null_values count here.
        target: the column to predict.
        timestamp: the column with the event time; None looks for one.
        ignored: columns to leave out without a note.

    Raises:
        ConfigError: as `opened`; a named column is not there or not of its kind; nothing can be learned from.
    """
    file = opened(path, settings)
    columns = list(dict.fromkeys(file.columns))
    for flag, name in (("--target", target), ("--timestamp", timestamp), *(("--ignore", name) for name in ignored)):
        if name is not None and name not in columns:
            raise ConfigError(f"{flag} {name}: {path} has no such column; {_meant(name, columns)}")
    head = _head(path, file, [name for name in columns if file.columns.count(name) == 1])
    _check(head, "--target", target, "float", "number")
    kinds = {name: _kind(head, name) for name in columns if name not in {target, timestamp, ID, *ignored}}
    if timestamp is not None:
        _check(head, "--timestamp", timestamp, "timestamp", "time in ISO 8601")
    else:
        timestamp = next((name for name, (kind, _) in kinds.items() if kind == "timestamp"), None)
    fields = {name: kind for name, (kind, _) in kinds.items() if kind in ("float", "category")}
    if not fields:
        raise ConfigError(f"{path}: no column is left to learn {target} from; {'; '.join(_notes(kinds, timestamp))}")
    table = config.SchemaTable.model_validate({"target": target, "timestamp": timestamp, "fields": fields})
    return Guess(table, _notes(kinds, timestamp))


def _meant(name: str, columns: Sequence[str]) -> str:
    if len(columns) == 1:
        return f"its only one is {columns[0]!r}; is generator.delimiter right? set it in --config"
    close = difflib.get_close_matches(name, columns, 1)
    return f"did you mean {close[0]!r}?" if close else f"its columns are {', '.join(columns)[:2000]}"


def _head(path: Path, file: RecordFile, names: Sequence[str]) -> pa.RecordBatch:
    """The first rows, as the file has them."""
    try:
        for _, rows in file.blocks(names, 0):
            if rows.num_rows:
                return rows.slice(0, HEAD_ROWS)
    except DAMAGE as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a whole file") from error
    raise ConfigError(f"{path}: has no records; expected some to predict")


def _check(head: pa.RecordBatch, flag: str, name: str, kind: str, expected: str) -> None:
    """Refuse a column that is not of the kind that it is named for."""
    if name not in head.schema.names:
        raise ConfigError(f"{flag} {name}: the file has that column twice; rename one")
    cells = head.column(name)
    if not readable(cells.type):
        raise ConfigError(f"{flag} {name}: holds {cells.type}; expected a {expected} per record")
    if wrong := _first_bad(cells, kind):
        row, text = wrong
        raise ConfigError(f"{flag} {name}: {text!r} in row {row} is no {expected}; name another column, or mend the file")
    if cells.null_count == len(cells):
        raise ConfigError(f"{flag} {name}: is missing in the first {len(cells)} rows; expected a {expected}")


def _first_bad(cells: pa.Array, kind: str) -> tuple[int, str] | None:
    """Row (from 1) and text of the first cell that is not of a kind; None when fewer than one in ten are not.

    So few do not make another column of it: their rows are rejected, one by one, when they come.
    """
    _, bad = read_cells(cells, kind)
    there = len(cells) - cells.null_count
    if not bad.any() or bad.sum() * 10 < there:
        return None
    row = int(np.flatnonzero(bad)[0])
    return row + 1, str(cells[row].as_py())[:80]


def _kind(head: pa.RecordBatch, name: str) -> tuple[str, str]:
    """The kind of a column, or an empty text and why it is left out."""
    if name not in head.schema.names:
        return "", "the file has that column twice"
    try:
        Field(name, "float")
    except ConfigError as error:
        return "", str(error).partition(": ")[2]
    cells = head.column(name)
    if not readable(cells.type):
        return "", f"it holds {cells.type}"
    if cells.null_count == len(cells):
        return "", f"it is empty in the first {len(cells):,} rows"
    for kind in ("float", "timestamp"):
        if _first_bad(cells, kind) is None:
            return kind, ""
    texts, _ = read_cells(cells, "category")
    values = pc.count_distinct(texts).as_py()
    if values <= min(FEW_VALUES, max(2, len(cells) // 2)):
        return "category", ""
    row, text = _first_bad(cells, "float") or (1, "")
    return "", f"{text!r} in row {row} is no number, and {values:,} different texts in {len(cells):,} rows are no category"


def _notes(kinds: dict[str, tuple[str, str]], timestamp: str | None) -> tuple[str, ...]:
    notes = [f"column {name!r} is left out: {why}" for name, (kind, why) in kinds.items() if not kind]
    others = [name for name, (kind, _) in kinds.items() if kind == "timestamp" and name != timestamp]
    return (*notes, *(f"column {name!r} is left out: times are not learned from" for name in others))
