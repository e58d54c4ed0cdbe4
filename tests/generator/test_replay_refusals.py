"""Files that are refused at the start, positions that are not theirs, and damage on the way: each says what and why."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from correnteza import config
from correnteza.errors import ConfigError, CursorError, DamagedLogError
from correnteza.generator.replay import ReplaySource
from correnteza.records import Field, Schema

SCHEMA = Schema(
    (Field("at", "timestamp"), Field("n", "integer"), Field("x", "float"), Field("kind", "category")),
    target="y",
    timestamp="at",
)


def written(folder: Path, name: str, rows: list[str], header: str = "at,n,x,kind,y") -> Path:
    path = folder / name
    data = "\r\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def source_of(path: Path, schema: Schema = SCHEMA, **more: Any) -> ReplaySource:
    return ReplaySource(config.Generator(source="replay", path=path, **more), schema)


def test_order_of_time_needs_a_time(tmp_path: Path) -> None:
    schema = Schema((Field("n", "integer"),), target="y")
    with pytest.raises(ConfigError, match=r"generator\.order_by_time = true: the schema has no timestamp"):
        source_of(written(tmp_path, "a.csv", []), schema, order_by_time=True)


@pytest.mark.parametrize("delimiter", ['"', "\n", "§"])
def test_a_delimiter_that_cannot_part_cells_is_a_config_error(delimiter: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator\.delimiter = "):
        source_of(written(tmp_path, "a.csv", []), delimiter=delimiter)


def test_a_missing_column_is_named_with_the_closest_one(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", [], "at,n,X,kin,y")
    with pytest.raises(ConfigError, match=r"a\.csv': column 'x' of \[schema\] is not there; its columns are at, n, X, kin, y$"):
        source_of(path)
    path = written(tmp_path, "a.csv", [], "at,n,x,kin,y")
    with pytest.raises(ConfigError, match=r"column 'kind' of \[schema\] is not there; did you mean 'kin'\?$"):
        source_of(path)


@pytest.mark.parametrize("ending", [".parquet", ".ndjson"])
def test_a_missing_column_is_named_in_other_files_too(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    row = {"at": "2011-01-01", "n": 1, "x": 1, "kinds": "a", "y": 1}
    if ending == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=r"column 'kind' of \[schema\] is not there; did you mean 'kinds'\?$"):
        source_of(path)


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"column 'x' of \[schema\] stands there twice"):
        source_of(written(tmp_path, "a.csv", [], "at,n,x,x,kind,y"))


def test_a_parquet_column_of_lists_is_refused(tmp_path: Path) -> None:
    table = pa.table({"at": ["2011-01-01"], "n": [1], "x": [[1.0]], "kind": ["a"], "y": [1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"column 'x' is list<.*>; expected numbers, texts, booleans or times"):
        source_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.ndjson", "a.ndjson.gz"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken", b"\n\n"])
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"/{name}'")):
        source_of(tmp_path / name)


def test_a_file_that_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator\.path = '.*/a\.csv': no such file"):
        source_of(tmp_path / "a.csv")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ConfigError, match=r"a\.xlsx': not a kind of file that is read; expected \.csv"):
        source_of(tmp_path / "a.xlsx")


@pytest.mark.parametrize("cursor", ["", "7", "people.7.0", "replay.7.b.csv", "replay.x.a.csv", "latest"])
def test_a_position_of_something_else_is_refused(cursor: str, tmp_path: Path) -> None:
    source = source_of(written(tmp_path, "a.csv", ["2011-01-01,1,1,a,1"]))
    with pytest.raises(CursorError, match=r"source replay of a\.csv: position .* is not one of this file"):
        source.read(cursor, 1)


def test_a_file_that_breaks_off_is_an_error_with_its_row_and_not_an_end(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv.gz", [f"2011-01-01,{i},{i * 0.7919},k{i * 7919 % 1000},{i}" for i in range(60_000)])
    path.write_bytes(path.read_bytes()[:-100])
    source = source_of(path)
    given: list[int] = []

    def read_on() -> None:
        """To the end, were there one; the reader reads ahead, so the damage may be met before the first rows are given."""
        position = None
        while sum(given) < 60_000:
            part = source.read(position, 100_000)
            assert part.batch.num_rows, "the file seemed to end"
            given.append(part.batch.num_rows)
            position = part.next

    with pytest.raises(DamagedLogError, match=r"a\.csv\.gz: cannot be read from row \d+ on") as caught:
        read_on()
    assert caught.value.offset == sum(given) + 1
