"""How records stand in files: CSV, Parquet and NDJSON, read in blocks.

Invariants:
- Row `n` (from 1, blank lines not counted) is the file's n-th record, whole or not: a line that cannot be
  taken apart keeps its number and comes with a fault. Nothing in a line can stop the reading.
- Where a block ends is a function of the file alone.
- A damaged file (broken off, or not of its kind) raises one of `DAMAGE`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from correnteza import config
from correnteza.errors import ConfigError
from correnteza.generator.stage import FAULT, FAULT_TYPE, NOT_UTF8, number_text, record_text
from correnteza.records import INTEGER_LIMIT, Schema

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 16_384
LINE_BYTES = 64 << 20
"""Longest line of NDJSON; a longer one is taken for damage."""
LINE_KEPT = 1000
"""Characters that are kept of a line that cannot be taken apart."""
DAMAGE = (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error)

Block = tuple[int, pa.RecordBatch]
"""How many rows stand before it in the file, and its rows: the wanted columns and `FAULT`."""
Fault = dict[str, str] | None


class RecordFile(Protocol):
    """One way to keep records in a file."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of its columns."""

    def blocks(self, wanted: Sequence[str], row: int) -> Iterator[Block]:
        """The rows in blocks.

        Args:
            wanted: columns to read.
            row: the first block begins at the row behind this one, or before it.
        """


class Utf8Stream(io.RawIOBase):
    """A file's bytes, unpacked if it is gzip, with `NOT_UTF8` in place of each byte that is not UTF-8."""

    def __init__(self, path: Path) -> None:
        self._file = (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb")
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        """See `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, less only at the end. See `io.RawIOBase.readinto`."""
        filled = 0
        while filled < len(buffer) and (self._ready or self._more()):
            part = self._ready[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            self._ready = self._ready[len(part) :]
        return filled

    def _more(self) -> bool:
        """Get further bytes ready; whether there are any."""
        while not self._ended and not self._ready:
            data = self._file.read(BLOCK_BYTES)
            self._ended = not data
            text = self._decode(data, self._ended)
            try:
                clean = text.encode()
            except UnicodeEncodeError:
                clean = re.sub("[\udc80-\udcff]", NOT_UTF8, text).encode()
            self._ready = memoryview(clean)
        return bool(self._ready)

    def close(self) -> None:
        """See `io.IOBase.close`."""
        self._file.close()
        super().close()


def _with_faults(rows: pa.RecordBatch, faults: Sequence[Fault] = ()) -> pa.RecordBatch:
    return rows.append_column(FAULT, pa.array(faults, FAULT_TYPE) if faults else pa.nulls(rows.num_rows, FAULT_TYPE))


def _line_fault(reason: str, line: str) -> Fault:
    return {"field": "", "reason": reason[:500], "record": record_text({"line": line[:LINE_KEPT]})}


class CsvRecords:
    """A CSV file with a header line (RFC 4180; gzip by its ending); every column is read as text.

    Args:
        path: the file.
        delimiter: what parts the cells.
        null_values: texts of missing cells; empty cells are always missing.

    Raises:
        ConfigError: the delimiter cannot part cells.
    """

    def __init__(self, path: Path, delimiter: str, null_values: Sequence[str]) -> None:
        if delimiter in '"\r\n' or not delimiter.isascii():
            raise ConfigError(
                f"generator.delimiter = {delimiter!r}: cannot part cells; expected a character like , ; | or a tab"
            )
        self._path = path
        self._delimiter = delimiter
        self._null_values = sorted({"", *null_values})
        with Utf8Stream(path) as stream:
            lines = csv.reader(io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", newline=""), delimiter=delimiter)
            header = next((line for line in lines if line), None)
        if header is None:
            raise EOFError("it is empty; expected a header line")
        self.columns = header

    def blocks(self, wanted: Sequence[str], row: int) -> Iterator[Block]:  # noqa: ARG002 - a CSV is read from its start
        """See `RecordFile.blocks`."""
        broken: list[tuple[int, Fault]] = []

        def skip(line: Any) -> str:
            reason = f"has {line.actual_columns} cells; expected {line.expected_columns}"
            broken.append((line.number - 2, _line_fault(reason, line.text)))  # the header is line 1
            return "skip"

        whole = merged = 0
        with Utf8Stream(self._path) as stream:
            for rows in self._reader(stream, wanted, skip):
                places = [place - merged - i - whole for i, (place, _) in enumerate(broken)]
                here = sum(place <= rows.num_rows for place in places)
                yield whole + merged, _merged(rows, places[:here], [fault for _, fault in broken[:here]])
                whole, merged = whole + rows.num_rows, merged + here
                del broken[:here]
            if broken:
                yield whole + merged, _merged(_no_rows(wanted), [0] * len(broken), [fault for _, fault in broken])

    def _reader(self, stream: Utf8Stream, wanted: Sequence[str], skip: Callable[[Any], str]) -> Iterator[pa.RecordBatch]:
        return pyarrow.csv.open_csv(  # type: ignore[no-any-return]
            stream,
            # Only a single thread numbers the lines that it skips.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                null_values=self._null_values,
                strings_can_be_null=True,
            ),
        )


def _no_rows(wanted: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, pa.string()) for _ in wanted], names=list(wanted))


def _merged(rows: pa.RecordBatch, places: Sequence[int], faults: Sequence[Fault]) -> pa.RecordBatch:
    """The rows with an empty one, and its fault, before each of the places."""
    if not places:
        return _with_faults(rows)
    index = np.insert(np.arange(rows.num_rows), places, -1)
    column: list[Fault] = [None] * len(index)
    for at, fault in zip(np.flatnonzero(index < 0).tolist(), faults, strict=True):
        column[at] = fault
    return _with_faults(rows.take(pa.array(index, mask=index < 0)), column)


class ParquetRecords:
    """A Parquet file.

    Args:
        path: the file.
        schema: the schema of the records.

    Raises:
        ConfigError: a column of the schema holds lists, bytes or something else that is no plain value.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow
        self.columns = list(columns.names)
        for field in columns:
            if field.name in schema.raw.names and not readable(field.type):
                where = f"generator.path = {str(path)!r}: column {field.name!r}"
                raise ConfigError(f"{where} is {field.type}; expected numbers, texts, booleans or times")

    def blocks(self, wanted: Sequence[str], row: int) -> Iterator[Block]:
        """See `RecordFile.blocks`. Groups of rows that lie before `row` are not read."""
        with pyarrow.parquet.ParquetFile(self._path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            first = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
            before = sum(sizes[:first])
            groups = range(first, len(sizes))
            for rows in file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=list(wanted), use_threads=False):
                yield before, _with_faults(rows.select(list(wanted)))
                before += rows.num_rows


def file_at(path: Path, settings: config.Generator, schema: Schema) -> RecordFile:
    """A file with records, by the ending of its name.

    Raises:
        Exception: one of `DAMAGE` when it cannot be read.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return ParquetRecords(path, schema)
    if ".csv" in name:
        return CsvRecords(path, settings.delimiter, settings.null_values)
    return LineRecords(path, schema)


def readable(kind: pa.DataType) -> bool:
    """Whether cells of an Arrow type are single values that the generator reads."""
    types = pa.types
    if types.is_dictionary(kind):
        return readable(kind.value_type)
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return bool(texts or numbers or types.is_timestamp(kind) or types.is_date(kind) or types.is_null(kind))


class LineRecords:
    """An NDJSON file: an object a line (gzip by its ending).

    Args:
        path: the file.
        schema: the schema of the records.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        self._numeric = {*schema.numeric, schema.target}
        self._free = {f.name for f in schema.fields if f.kind in ("category", "text")} | {"id"}
        with Utf8Stream(path) as stream:
            first = next(_whole_lines(stream), b"")
        objects = [value for value, _ in _parsed(first) if value is not None]
        self.columns = list(dict.fromkeys(name for value in objects for name in value))
        if not objects:
            raise EOFError("no line at its beginning is a JSON object; expected one a line")

    def blocks(self, wanted: Sequence[str], row: int) -> Iterator[Block]:  # noqa: ARG002 - lines are read from the start
        """See `RecordFile.blocks`. A block that the fast reader refuses is read line by line."""
        before = 0
        with Utf8Stream(self._path) as stream:
            for lines in _whole_lines(stream):
                fast = self._fast(lines, wanted)
                rows = self._slow(lines, wanted) if fast is None else _with_faults(fast)
                yield before, rows
                before += rows.num_rows

    def _fast(self, lines: bytes, wanted: Sequence[str]) -> pa.RecordBatch | None:
        """The lines by columns, or None when they have to be read one by one."""
        kinds = {name: pa.float64() if name in self._numeric else pa.string() for name in wanted}
        for infer in (set(), self._free):
            try:
                known = {name: kind for name, kind in kinds.items() if name not in infer}
                table = _arrow_json(lines, known, "infer" if infer else "ignore")
            except pa.ArrowException:
                continue
            if table.num_rows != lines.count(b"\n") + (not lines.endswith(b"\n")):
                return None  # blank lines, or several objects in one
            columns = {name: table[name].combine_chunks() if name in table.column_names else None for name in wanted}
            if all(_exact(columns[name]) for name in infer & columns.keys()):
                arrays = [pa.nulls(table.num_rows) if column is None else column for column in columns.values()]
                return pa.RecordBatch.from_arrays(arrays, names=list(wanted))
        return None

    def _slow(self, lines: bytes, wanted: Sequence[str]) -> pa.RecordBatch:
        parsed = [self._cells(value, fault, wanted) for value, fault in _parsed(lines)]
        columns = [pa.array([cells.get(name) for cells, _ in parsed], pa.string()) for name in wanted]
        return _with_faults(pa.RecordBatch.from_arrays(columns, names=list(wanted)), [fault for _, fault in parsed])

    def _cells(self, value: dict[str, Any] | None, fault: Fault, wanted: Sequence[str]) -> tuple[dict[str, str | None], Fault]:
        """The cells of one line as texts."""
        if value is None:
            return {}, fault
        nested = next((name for name in wanted if isinstance(value.get(name), dict | list)), None)
        if nested is not None:
            return {}, {
                "field": nested,
                "reason": "is an object or a list; expected a plain value",
                "record": record_text(value),
            }
        return {name: self._text(name, value[name]) for name in wanted if name in value}, None

    def _text(self, name: str, cell: Any) -> str | None:
        if cell is None or isinstance(cell, str):
            return cell
        if isinstance(cell, bool):
            return "true" if cell else "false"
        return number_text(cell) if isinstance(cell, float) and name not in self._numeric else str(cell)


def _whole_lines(stream: Utf8Stream) -> Iterator[bytes]:
    """Blocks of whole lines."""
    rest = b""
    while data := stream.read(BLOCK_BYTES):
        rest += data
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > LINE_BYTES:
            raise EOFError(f"a line is longer than {LINE_BYTES} bytes")
    if rest:
        yield rest


def _parsed(lines: bytes) -> Iterator[tuple[dict[str, Any] | None, Fault]]:
    """Each line that is not blank: its object, or what is wrong with it."""
    for line in lines.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
            reason = None if isinstance(value, dict) else f"is not a JSON object but {type(value).__name__}"
        except (msgspec.MsgspecError, RecursionError) as error:
            reason = f"is not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"
        yield (value, None) if reason is None else (None, _line_fault(reason, line.decode().strip()))


def _arrow_json(lines: bytes, kinds: dict[str, pa.DataType], others: str) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(lines),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.json.ParseOptions(pa.schema(list(kinds.items())), unexpected_field_behavior=others),
    )


def _exact(column: pa.Array | None) -> bool:
    """Whether a column whose type was guessed still holds what the file says."""
    if column is None or pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return True
    if pa.types.is_floating(column.type):
        largest = pc.max(pc.abs(column)).as_py()
        return largest is None or largest < INTEGER_LIMIT
    return bool(pa.types.is_integer(column.type) or pa.types.is_boolean(column.type))
