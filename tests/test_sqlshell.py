"""Laws of `correnteza sql`: it sees all databases, and it changes nothing."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from correnteza import events, sqlshell
from correnteza.errors import ConfigError, InputError
from correnteza.log.sql import SqlStore
from correnteza.sqlshell import query, write

RAW = pa.schema([("id", pa.string()), ("age", pa.float64()), ("note", pa.string())])
REJECTED = pa.schema([("id", pa.string()), ("reason", pa.string())])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two services' databases, as their stores leave them."""
    raw = pa.RecordBatch.from_pydict({"id": ["a", "b", "c"], "age": [1.5, None, 3.0], "note": [None, None, 'x, "y" [/]']}, RAW)
    rejected = pa.RecordBatch.from_pydict({"id": ["d"], "reason": ["age is missing"]}, REJECTED)
    generator, normalizer = SqlStore(tmp_path / "generator.db"), SqlStore(tmp_path / "normalizer.db")
    generator.log("raw", RAW).append(raw)
    normalizer.log("rejected", REJECTED).append(rejected)
    for name, store in (("generator", generator), ("normalizer", normalizer)):
        told = events.Events(name)
        store.log("events", events.SCHEMA).append(told.rows([events.Event("started", f"the {name} has started")]))
        store.close()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.db")}


def test_a_table_goes_by_its_name_and_by_its_service(folder: Path) -> None:
    expected = [{"id": "a", "age": 1.5}, {"id": "b", "age": None}, {"id": "c", "age": 3.0}]
    assert query(folder, "select id, age from raw").to_pylist() == expected
    assert query(folder, "select id, age from generator.raw").to_pylist() == expected


def test_one_query_joins_the_databases_of_several_services(folder: Path) -> None:
    joined = query(folder, "select raw.id, rejected.reason from raw, rejected where raw.id = 'c'")
    assert joined.to_pylist() == [{"id": "c", "reason": "age is missing"}]


def test_a_name_that_several_services_have_stands_for_the_rows_of_all(folder: Path) -> None:
    rows = query(folder, "select database, kind, reason from events order by database").to_pylist()
    assert [row["database"] for row in rows] == ["generator", "normalizer"]
    assert query(folder, "select count(*) as n from normalizer.events").to_pylist() == [{"n": 1}]


def test_services_may_have_differing_columns_under_one_name(tmp_path: Path) -> None:
    for name, field in (("generator", "reason"), ("normalizer", "why")):
        store = SqlStore(tmp_path / f"{name}.db")
        schema = pa.schema([("id", pa.string()), (field, pa.string())])
        store.log("rejected", schema).append(pa.RecordBatch.from_pydict({"id": [name], field: ["x"]}, schema))
        store.close()
    rows = query(tmp_path, "select database, id, reason, why from rejected order by id").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("generator", "generator", "x", None),
        ("normalizer", "normalizer", None, "x"),
    ]


def test_a_running_service_can_be_asked(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "generator.db")
    log = store.log("raw", RAW)
    for expected in (1, 2):
        log.append(pa.RecordBatch.from_pydict({"id": ["a"], "age": [1.0], "note": [None]}, RAW))
        assert query(tmp_path, "select count(*) as n from raw").to_pylist() == [{"n": expected}]
    store.close()


def test_a_column_whose_first_value_comes_late_is_read(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "generator.db")
    notes = [None] * 5000 + ["at last"]
    batch = pa.RecordBatch.from_pydict({"id": ["a"] * 5001, "age": [1.0] * 5001, "note": notes}, RAW)
    store.log("raw", RAW).append(batch)
    store.close()
    assert query(tmp_path, "select note from raw").column("note").to_pylist() == notes


@pytest.mark.parametrize(
    "statement",
    [
        "insert into raw values (9, 'x', 1, 'y')",
        "delete from raw",
        "update raw set age = 0",
        "drop table raw",
        "create table mine (a)",
        "create temp table mine (a)",
        "attach '{folder}/mine.db' as mine",
        "vacuum into '{folder}/mine.db'",
        "pragma query_only = 0",
        "pragma generator.journal_mode = delete",
        "pragma generator.user_version = 7",
        "detach generator",
        "begin immediate",
        "reindex",
        "/* select */ delete from raw",
        "-- select\ndelete from raw",
        "with gone as (select 1) delete from raw",
        "with mine as (select 9, 'x', 1, 'y') insert into generator.raw select * from mine",
        "with mine as (select 1) insert into generator.correnteza_readers select 1, 1, 1, 1",
        "select load_extension('mine')",
        "explain delete from raw; delete from raw",
        "select 1; delete from raw",
        "",
        "  -- nothing",
    ],
)
def test_nothing_is_ever_written(folder: Path, statement: str) -> None:
    before = contents(folder)
    with suppress(InputError):  # whether it is refused or only its harmless part is run
        query(folder, statement.format(folder=folder))
    assert contents(folder) == before
    assert query(folder, "select count(*) as n from raw").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "statement", ["selec 1", "select", "select * from nope", "select nope from raw", "select * from raw where"]
)
def test_a_mistake_is_one_line_with_the_statement(folder: Path, statement: str) -> None:
    with pytest.raises(InputError) as caught:
        query(folder, statement)
    assert len(str(caught.value).splitlines()) == 1
    assert statement in str(caught.value)


def test_a_table_that_is_not_there_is_answered_with_those_that_are(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"no such table: nope; tables: generator\.raw, generator\.events, normalizer\.rejected"
    ):
        query(folder, "select * from nope")


def test_a_folder_without_databases_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no database .* run `correnteza run` first"):
        query(tmp_path, "select 1")


def test_a_file_that_is_no_database_is_named(folder: Path) -> None:
    (folder / "trainer.db").write_text("this is not SQLite " * 100)
    with pytest.raises(ConfigError, match=r"trainer\.db: SQLite cannot read it: file is not a database"):
        query(folder, "select * from raw")


def test_csv_reads_back_as_it_was(folder: Path) -> None:
    stream = io.StringIO()
    write(query(folder, "select * from raw"), "csv", stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["note"] for row in rows] == ["", "", 'x, "y" [/]']
    assert [row["age"] for row in rows] == ["1.5", "", "3.0"]


def test_json_is_one_object_per_row(folder: Path) -> None:
    stream = io.StringIO()
    write(query(folder, "select id, age, 1e999 as huge, x'00ff' as bytes from raw"), "json", stream)
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert rows[0] == {"id": "a", "age": 1.5, "huge": None, "bytes": "AP8="}
    assert rows[1]["age"] is None


def test_the_table_shows_cells_as_they_are_and_says_what_it_leaves_out(folder: Path) -> None:
    stream = io.StringIO()
    write(query(folder, "select * from raw"), "table", stream)
    assert 'x, "y" [/]' in stream.getvalue()
    many = pa.table({"n": list(range(sqlshell.SHOWN_ROWS + 5))})
    stream = io.StringIO()
    write(many, "table", stream)
    assert stream.getvalue().endswith("5 more rows; --csv or --json writes all\n")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_no_rows_are_no_error_in_any_form(folder: Path, form: sqlshell.Form) -> None:
    stream = io.StringIO()
    write(query(folder, "select id, age from raw where 0"), form, stream)
    assert ("id" in stream.getvalue()) == (form != "json")
