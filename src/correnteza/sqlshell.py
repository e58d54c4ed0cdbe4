"""`correnteza sql`: one query over the databases of all services together, which changes nothing.

Invariants:
- Every file is opened with mode=ro, only statements that begin as queries are run, and SQLite's
  query_only holds for the connection: each alone forbids writing.
- A table that one database has goes by its bare name, or as `generator.raw`. A name that several
  have stands for the rows of all, with a first column `database`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow as pa

from correnteza.errors import ConfigError, InputError

QUERY = re.compile(r"^(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*(select|with|values|explain)\b", re.IGNORECASE | re.DOTALL)
"""What a statement must begin with, after blanks and comments."""
INFER_ROWS = 1 << 30
"""ADBC infers the type of a column from so many first rows: from all of them."""
BUSY_MS = 5_000
"""How long a statement waits for a service that repairs its database after a crash."""
OWN_TABLES = "correnteza_"
SHOWN_ROWS = 1000
"""Most rows in the form of a table."""

Form = Literal["table", "csv", "json"]


def databases(folder: Path, lineage: Path | None = None) -> dict[str, Path]:
    """The database files of a data folder, by the name of their service.

    Args:
        folder: the data folder.
        lineage: the folder of a lineage, whose files go before those of the data folder; None for the first.

    Raises:
        ConfigError: there is none.
    """
    files = {path.stem: path for place in (folder, lineage or folder) for path in sorted(place.glob("*.db"))}
    if not files:
        raise ConfigError(
            f"data folder {folder}: no database (*.db) there; run `correnteza run` first, or name the folder with --data-dir"
        )
    return files


def query(folder: Path, statement: str, lineage: Path | None = None) -> pa.Table:
    """Run one query over all databases of a data folder.

    Args:
        folder: the data folder.
        statement: one SELECT (or WITH, VALUES, EXPLAIN) statement in SQLite's dialect.
        lineage: see `databases`.

    Raises:
        ConfigError: there is no database.
        InputError: the statement is no query, or SQLite refuses it.
    """
    import adbc_driver_manager as adbc

    if not QUERY.match(statement):
        raise InputError(f"sql {_cut(statement)!r}: not a query; only select, with, values and explain are run here")
    with _opened(databases(folder, lineage)) as (cursor, tables):
        try:
            cursor.execute(statement)
            return cursor.fetch_arrow_table()
        except (adbc.Error, OSError, pa.ArrowException) as error:
            raise InputError(f"sql {_cut(statement)!r}: {_reason(error)}; tables: {_listed(tables)}") from None


@contextmanager
def _opened(files: Mapping[str, Path]) -> Iterator[tuple[Any, dict[str, list[str]]]]:
    """A cursor on all files, read-only, and the names of the tables of each."""
    import adbc_driver_manager as adbc
    import adbc_driver_sqlite.dbapi as sqlite

    with sqlite.connect(":memory:", autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(INFER_ROWS)})
        _run(cursor, f"pragma busy_timeout = {BUSY_MS}")
        tables: dict[str, list[str]] = {}
        for name, path in files.items():
            try:
                _run(cursor, f"attach {_text(path.resolve().as_uri() + '?mode=ro')} as {_name(name)}")
                tables[name] = _tables(cursor, name)
            except adbc.Error as error:
                raise ConfigError(f"{path}: SQLite cannot read it: {_reason(error)}") from None
        for statement in _unions(cursor, tables):
            _run(cursor, statement)
        _run(cursor, "pragma query_only = 1")
        yield cursor, tables


def _tables(cursor: Any, database: str) -> list[str]:
    found = f"select name from {_name(database)}.sqlite_master where type = 'table' and name not like 'sqlite!_%' escape '!'"  # noqa: S608
    return [row[0] for row in _run(cursor, found)]


def _unions(cursor: Any, tables: Mapping[str, list[str]]) -> list[str]:
    """For each name that several databases have, a view of the rows of all."""
    owners: dict[str, list[str]] = {}
    for database, names in tables.items():
        for table in names:
            owners.setdefault(table, []).append(database)
    return [_union(cursor, table, names) for table, names in owners.items() if len(names) > 1]


def _union(cursor: Any, table: str, owners: list[str]) -> str:
    columns = {owner: [row[1] for row in _run(cursor, f"pragma {_name(owner)}.table_info({_name(table)})")] for owner in owners}
    every = list(dict.fromkeys(column for names in columns.values() for column in names))
    parts = []
    for owner in owners:
        chosen = [_name(column) if column in columns[owner] else f"null as {_name(column)}" for column in every]
        source = f"{_name(owner)}.{_name(table)}"
        parts.append(f"select {_text(owner)} as database, {', '.join(chosen)} from {source}")  # noqa: S608 - names are quoted
    return f"create temp view {_name(table)} as {' union all '.join(parts)}"


def write(table: pa.Table, form: Form, stream: TextIO | None = None) -> None:
    """Write rows to a stream.

    Args:
        table: the rows.
        form: `table` for people (at most 1000 rows), `csv` with a heading line, `json` for one object per line.
        stream: where to; standard output by default.
    """
    target = stream or sys.stdout
    {"table": _write_table, "csv": _write_csv, "json": _write_json}[form](table, target)


def _write_csv(table: pa.Table, stream: TextIO) -> None:
    import csv

    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches():
        writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _write_json(table: pa.Table, stream: TextIO) -> None:
    import msgspec

    for batch in table.to_batches():
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            stream.write(msgspec.json.encode(dict(zip(table.column_names, values, strict=True))).decode() + "\n")


def _write_table(table: pa.Table, stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    numeric = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in table.schema.types]
    drawn = Table(box=box.SIMPLE_HEAD)
    for name, right in zip(table.column_names, numeric, strict=True):
        drawn.add_column(escape(name), justify="right" if right else "left", overflow="fold")
    shown = table.slice(0, SHOWN_ROWS)
    for values in zip(*(column.to_pylist() for column in shown.columns), strict=True):
        drawn.add_row(*("" if value is None else escape(str(value)) for value in values))
    # Without a terminal there is no width to keep to; the table is as wide as its cells.
    console = Console(file=stream) if stream.isatty() else Console(file=stream, width=10_000)
    console.print(drawn)
    if table.num_rows > SHOWN_ROWS:
        console.print(f"{table.num_rows - SHOWN_ROWS:,} more rows; --csv or --json writes all")


def _run(cursor: Any, statement: str) -> list[tuple[Any, ...]]:
    cursor.execute(statement)
    return list(cursor.fetchall())


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _reason(error: Exception) -> str:
    """SQLite's own words, in one line."""
    text = re.sub(r"^\w+: |\[SQLite\] |Failed to (prepare|step) query: ", "", str(error).split("\nquery:")[0])
    return " ".join(text.split())


def _listed(tables: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{database}.{table}" for database, names in tables.items() for table in names if OWN_TABLES not in table)


def _cut(text: str, limit: int = 80) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
