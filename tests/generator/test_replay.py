"""Laws of replayed files: every row once, in order, whole or as a reject, however the file is kept and read."""

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza import config
from correnteza.generator import files
from correnteza.generator.replay import ReplaySource
from correnteza.generator.stage import GeneratorStage
from correnteza.records import Field, Schema

SCHEMA = Schema(
    (Field("at", "timestamp"), Field("n", "integer"), Field("x", "float"), Field("kind", "category")),
    target="y",
    timestamp="at",
)
HEADER = "at,n,x,kind,y"
DataSet = Any  # a real file with its schema and rows, of conftest.py
Replay = Callable[..., tuple[pa.Table, pa.Table]]


def lines(count: int) -> list[str]:
    """Good lines with all kinds of cells, missing ones among them."""
    return [
        f"2011-01-{1 + i % 28:02} {i % 24:02}:00:00,{i if i % 3 else ''},{i / 8},{'abc'[i % 3]}{i % 5},{i}"
        for i in range(count)
    ]


def written(folder: Path, name: str, rows: list[str], header: str = HEADER) -> Path:
    path = folder / name
    data = "\r\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def source_of(path: Path, schema: Schema = SCHEMA, **more: Any) -> ReplaySource:
    return ReplaySource(config.Generator(source="replay", path=path, **more), schema)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few rows have many blocks."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 256)
    monkeypatch.setattr(files, "BLOCK_ROWS", 7)


# Real files


def test_every_real_file_replays_whole_with_the_schemas_types(data_set: DataSet, replayed: Replay) -> None:
    raw, rejected = replayed(data_set.path, data_set.schema)
    assert (raw.num_rows, rejected.num_rows) == (data_set.rows, 0)
    assert raw.schema.equals(data_set.schema.raw)
    stem = data_set.path.name.split(".")[0]
    assert raw["id"][0].as_py() == f"{stem}-1"
    assert raw["id"][-1].as_py() == f"{stem}-{data_set.rows}"
    assert all(raw[name].null_count == 0 for name in raw.column_names)


def test_a_real_file_is_the_same_as_csv_parquet_and_ndjson_packed_or_not(
    data_set: DataSet, replayed: Replay, tmp_path: Path
) -> None:
    expected, _ = replayed(data_set.path, data_set.schema)
    strings = pyarrow.csv.ConvertOptions(null_values=[], strings_can_be_null=False)
    table = pyarrow.csv.read_csv(data_set.path, convert_options=strings)
    stem = data_set.path.name.split(".")[0]
    plain, packed, parquet, ndjson = (tmp_path / f"{stem}{ending}" for ending in (".csv", ".ndjson.gz", ".parquet", ".ndjson"))
    plain.write_bytes(gzip.decompress(data_set.path.read_bytes()))
    pyarrow.parquet.write_table(table, parquet, row_group_size=5000)
    ndjson.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
    packed.write_bytes(gzip.compress(ndjson.read_bytes(), 1))
    for path in (plain, parquet, ndjson, packed):
        raw, rejected = replayed(path, data_set.schema)
        assert rejected.num_rows == 0, path.name
        assert raw.equals(expected), path.name


def test_the_word_none_is_a_value_unless_told_otherwise(metro: DataSet, replayed: Replay) -> None:
    raw, _ = replayed(metro.path, metro.schema)
    assert pc.sum(pc.equal(raw["holiday"], "None")).as_py() > 48_000
    raw, _ = replayed(metro.path, metro.schema, null_values=("None",))
    assert raw["holiday"].null_count > 48_000


# Cuts, restarts, order


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.sampled_from([".csv", ".csv.gz", ".parquet", ".ndjson"]))
def test_batch_cuts_and_restarts_have_no_part_in_the_rows(
    small_blocks: None, replayed: Replay, tmp_path: Path, sizes: list[int], ending: str
) -> None:
    path = messy(tmp_path, ending)
    expected, expected_rejects = replayed(path, SCHEMA)
    stage, source, after = GeneratorStage(SCHEMA), source_of(path), None
    raw, rejected = [], []
    for size in chain(sizes, repeat(17)):
        part = source.read(after, size)
        if not part.batch.num_rows:
            break
        outputs = stage.step(None, part.batch).outputs
        raw += [outputs["raw"]] if "raw" in outputs else []
        rejected += [outputs["rejected"]] if "rejected" in outputs else []
        after = part.next
        if size % 2 and size < 17:
            source = source_of(path)  # as after a kill
    assert pa.Table.from_batches(raw).equals(expected)
    assert [row for batch in rejected for row in batch.to_pylist()] == expected_rejects.to_pylist()


def messy(folder: Path, ending: str) -> Path:
    """A file of 120 rows, some of which are no records; as Parquet with bad cells alone."""
    path = folder / f"messy{ending}"
    if path.exists():
        return path
    rows = lines(120)
    for place in (0, 5, 6, 33, 34, 35, 119):
        rows[place] = "no,record"
    for place in (3, 50, 100):
        rows[place] = rows[place].replace("2011", "year")
    if ".csv" in ending:
        return written(folder, path.name, rows)
    cells = [dict(zip(HEADER.split(","), row.split(","), strict=False)) for row in rows]
    if ending == ".parquet":
        pyarrow.parquet.write_table(
            pa.Table.from_pylist(cells, schema=pa.schema([(n, pa.string()) for n in HEADER.split(",")])), path
        )
        return path
    path.write_text("".join((json.dumps(c) if "y" in c else '{"n": 1') + "\n" for c in cells))
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".ndjson"])
def test_it_can_begin_some_rows_back_and_go_back_and_forth(small_blocks: None, tmp_path: Path, ending: str) -> None:
    source, name = source_of(messy(tmp_path, ending)), f"messy{ending}"
    for before, back, first in [(40, 0, 41), (0, 0, 1), (99, 0, 100), (40, 5, 36), (40, 99, 1)]:
        part = source.read(f"replay.{before}.{name}", 1, back=back)
        assert part.batch.column("offset").to_pylist() == [first]


def test_it_ends_after_the_limit_and_stays_at_its_end(tmp_path: Path, replayed: Replay) -> None:
    path = written(tmp_path, "a.csv", lines(30))
    raw, _ = replayed(path, SCHEMA, limit=7)
    assert raw.num_rows == 30
    source = source_of(path, limit=10)
    part = source.read(None, 100)
    assert part.batch.num_rows == 10
    for _ in range(2):
        part = source.read(part.next, 100)
        assert part.batch.num_rows == 0


def test_in_order_of_time_rows_of_the_same_time_stay_as_in_the_file(tmp_path: Path, replayed: Replay) -> None:
    rows = ["2011-01-03,1,,,1", "2011-01-01,2,,,2", ",3,,,3", "2011-01-03,4,,,4", "bad,5,,,5", "1,2", "2011-01-01,7,,,7"]
    raw, rejected = replayed(written(tmp_path, "a.csv", rows), SCHEMA, limit=2, order_by_time=True)
    assert raw["n"].to_pylist() == [2, 7, 1, 4, 3]
    assert raw["id"].to_pylist() == ["a-2", "a-7", "a-1", "a-4", "a-3"]
    assert rejected["source_row"].to_pylist() == [5, 6]


def test_a_file_in_order_is_the_same_in_order_of_time(bikes: DataSet, replayed: Replay) -> None:
    plain, _ = replayed(bikes.path, bikes.schema)
    ordered, _ = replayed(bikes.path, bikes.schema, order_by_time=True)
    assert ordered.equals(plain)


# Rejects


def test_good_and_rejected_rows_are_all_lines_of_the_file(small_blocks: None, tmp_path: Path, replayed: Replay) -> None:
    path = messy(tmp_path, ".csv.gz")
    raw, rejected = replayed(path, SCHEMA)
    kept = [int(text.split("-")[1]) for text in raw["id"].to_pylist()]
    assert sorted(kept + rejected["source_row"].to_pylist()) == list(range(1, 121))
    assert kept == sorted(kept)
    assert rejected["source_row"].to_pylist() == [1, 4, 6, 7, 34, 35, 36, 51, 101, 120]


def test_a_reject_has_its_row_field_reason_and_record(tmp_path: Path, replayed: Replay) -> None:
    rows = [*lines(2), "2011-01-01,1.5,x,k,3", "one,two", "2011-01-01,1,1,k,3,4"]
    _, rejected = replayed(written(tmp_path, "a.csv", rows), SCHEMA)
    cell, short, long = rejected.to_pylist()
    assert json.loads(cell.pop("record")) == {"id": "a-3", "at": "2011-01-01", "n": "1.5", "x": "x", "kind": "k", "y": "3"}
    assert cell == {"source_row": 3, "id": "a-3", "field": "n", "reason": "'1.5' is not a whole number below 2**53"}
    assert (short["source_row"], short["field"], short["reason"]) == (4, "", "has 2 cells; expected 5")
    assert json.loads(short["record"]) == {"line": "one,two"}
    assert (long["source_row"], long["reason"]) == (5, "has 6 cells; expected 5")


def test_a_file_of_broken_lines_alone_is_rejected_line_by_line(small_blocks: None, tmp_path: Path, replayed: Replay) -> None:
    raw, rejected = replayed(written(tmp_path, "a.csv", ["no,record"] * 200), SCHEMA)
    assert raw.num_rows == 0
    assert rejected["source_row"].to_pylist() == list(range(1, 201))


def test_bytes_that_are_no_utf8_are_rejects_and_do_not_stop_the_stream(tmp_path: Path, replayed: Replay) -> None:
    good = lines(1)[0].encode()
    latin = "2011-01-01,1,1,São,1".encode("latin-1")
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join([HEADER.encode(), good, latin, b"\xff,\xfe", good, "2011-01-01,1,1,São,1".encode()]))
    raw, rejected = replayed(path, SCHEMA)
    assert raw["kind"].to_pylist() == ["a0", "a0", "São"]
    assert rejected["source_row"].to_pylist() == [2, 3]
    assert rejected["field"].to_pylist() == ["kind", ""]
    assert rejected["reason"][0].as_py().endswith("convert the file to UTF-8")


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", ""),
        ("[1]", ""),
        ("3", ""),
        ("NaN", ""),
        ('{"n": 1} {"n": 2}', ""),
        ("[" * 100_000, ""),
        ('{"n": ' + "1" * 10_000 + "}", "n"),
        ('{"n": 1.5}', "n"),
        ('{"n": "x"}', "n"),
        ('{"n": {"a": 1}}', "n"),
        ('{"kind": ["a"]}', "kind"),
        ('{"x": 1e999}', ""),
        ('{"at": "soon"}', "at"),
        ('{"at": 5}', "at"),
    ],
)
def test_a_bad_line_of_ndjson_is_a_reject_and_the_others_pass(line: str, field: str, tmp_path: Path, replayed: Replay) -> None:
    good = '{"at": "2011-01-01", "n": 1, "x": 0.5, "kind": "a", "y": 2}'
    path = tmp_path / "a.ndjson"
    path.write_text(f"{good}\n{line}\n{good}\n")
    raw, rejected = replayed(path, SCHEMA)
    assert raw["id"].to_pylist() == ["a-1", "a-3"]
    assert (rejected["source_row"].to_pylist(), rejected["field"].to_pylist()) == ([2], [field])


# Cells


@pytest.mark.parametrize(
    "value",
    [
        1,
        1.0,
        2.5,
        -0.0,
        "1",
        "",
        None,
        True,
        False,
        "2011-01-01",
        "None",
        1e15,
        1e-7,
        2**53 - 1,
        -3,
        "é",
        "2011-01-01T10:00:00",
    ],
)
def test_a_value_in_ndjson_means_the_same_beside_any_other(value: Any, tmp_path: Path, replayed: Replay) -> None:
    """A block is read by columns when its lines agree in type, and line by line when not."""
    schema = Schema((Field("x", "float"), Field("kind", "category"), Field("note", "text")), target="y")
    line = {"x": None if isinstance(value, str) else value, "kind": value, "note": value, "y": 1}
    found = []
    for company in ([], [{"x": "no", "kind": {"a": 1}, "y": 1}], [{"x": 0.5, "kind": "b", "note": 0.5, "y": 2}]):
        path = tmp_path / "a.ndjson"
        path.write_text("".join(json.dumps(one) + "\n" for one in [line, *company]))
        raw, _ = replayed(path, schema)
        found.append(repr(raw.slice(0, 1).to_pylist()))
    assert found == [found[0]] * 3


def test_blank_lines_are_no_rows(tmp_path: Path, replayed: Replay) -> None:
    rows = lines(3)
    gaps = written(tmp_path, "a.csv", ["", rows[0], "", "", rows[1], "1,2", "", rows[2]])
    raw, rejected = replayed(gaps, SCHEMA)
    assert raw["id"].to_pylist() == ["a-1", "a-2", "a-4"]
    assert rejected["source_row"].to_pylist() == [3]
    ndjson = tmp_path / "b.ndjson"
    ndjson.write_text('\n{"at": null, "n": 1, "x": 1, "kind": "a", "y": 1}\n\n  \n{"y": 2}')
    assert replayed(ndjson, SCHEMA)[0]["id"].to_pylist() == ["b-1", "b-2"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " "])
def test_any_delimiter_parts_cells(delimiter: str, tmp_path: Path, replayed: Replay) -> None:
    rows = [row.replace(" ", "T") for row in lines(40)]
    expected, _ = replayed(written(tmp_path, "a.csv", rows), SCHEMA)
    other = written(tmp_path, "a.csv", [row.replace(",", delimiter) for row in rows], HEADER.replace(",", delimiter))
    assert replayed(other, SCHEMA, delimiter=delimiter)[0].equals(expected)


def test_quoted_cells_hold_delimiters_quotes_and_line_ends(tmp_path: Path, replayed: Replay) -> None:
    rows = ['2011-01-01,1,"2.5","a, ""b""\r\nc",1', "1,2", "2011-01-01,1,2,d,1"]
    raw, rejected = replayed(written(tmp_path, "a.csv", rows), SCHEMA)
    assert raw["kind"].to_pylist() == ['a, "b"\r\nc', "d"]
    assert raw["id"].to_pylist() == ["a-1", "a-3"]
    assert rejected["source_row"].to_pylist() == [2]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, replayed: Replay) -> None:
    assert replayed(written(tmp_path, "a.csv", lines(3), "\ufeff" + HEADER), SCHEMA)[0].num_rows == 3


def test_empty_cells_and_null_values_are_missing_in_every_kind(tmp_path: Path, replayed: Replay) -> None:
    path = written(tmp_path, "a.csv", [",,,,", "NA,NA,NA,NA,NA", '"","","","",""', " , , , , "])
    raw, rejected = replayed(path, SCHEMA, null_values=("NA",))
    assert (raw.num_rows, rejected.num_rows) == (4, 0)
    assert all(raw[name].null_count == 4 for name in HEADER.split(","))


def test_the_files_ids_are_kept_and_missing_ones_are_made(tmp_path: Path, replayed: Replay) -> None:
    path = written(tmp_path, "a.csv", ["7,,,,,1", ",,,,,2"], "id," + HEADER)
    assert replayed(path, SCHEMA)[0]["id"].to_pylist() == ["7", "a-2"]
    table = pa.table({"id": [7, None], "at": ["2011-01-01"] * 2, "n": [1, 2], "x": [1, 2], "kind": [1, 2], "y": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    assert replayed(tmp_path / "b.parquet", SCHEMA)[0]["id"].to_pylist() == ["7", "b-2"]


def test_columns_come_in_any_order_and_others_are_ignored(tmp_path: Path, replayed: Replay) -> None:
    path = written(tmp_path, "a.csv", ["z,5,k,0.5,4,2011-01-01,w"], "more,y,kind,x,n,at,less")
    row = replayed(path, SCHEMA)[0].to_pylist()[0]
    assert (row["n"], row["x"], row["kind"], row["y"]) == (4, 0.5, "k", 5.0)


def test_parquet_with_rich_types_reads_like_text(tmp_path: Path, replayed: Replay) -> None:
    times = [datetime(2011, 1, 1, 5), datetime(2011, 1, 2)]
    table = pa.table(
        {
            "at": pa.array(times, pa.timestamp("ns")),
            "n": pa.array([1.0, None]),
            "x": pa.array([1, 2], pa.int16()),
            "kind": pa.array([3, 4]).dictionary_encode(),
            "y": pa.array([True, False]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    csv = written(tmp_path, "a.csv", ["2011-01-01 05:00:00,1,1,3,1", "2011-01-02,,2,4,0"])
    assert replayed(tmp_path / "a.parquet", SCHEMA)[0].equals(replayed(csv, SCHEMA)[0])
