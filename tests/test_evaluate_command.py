"""Laws of `correnteza evaluate`: any file that is read, one line for a mistake, and figures that agree everywhere."""

import contextlib
import gzip
import io
import json
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from correnteza import cli, config, curves, offline
from correnteza.evaluate import Records, Request, settings_of
from correnteza.events import SCHEMA as EVENTS
from correnteza.guess import guess, rows_of
from correnteza.table import figure
from correnteza.trainer.evaluation import EVALUATIONS, Report, metrics
from correnteza.trainer.promotions import PROMOTIONS
from correnteza.trainer.registry import MODELS

ROWS = 300
COLUMNS = ("sold_at", "area_m2", "rooms", "garden", "district", "note", "empty", "built_at", "price")
FIELDS = {"area_m2": "float", "rooms": "float", "garden": "float", "district": "category"}
CHEAP = """
[trainer]
estimator = "sklearn.tree.DecisionTreeRegressor"
params = { max_leaf_nodes = 8 }
min_rows = 100
retrain_every_rows = 100
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a folder of its own, without the caller's settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def houses() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    found = []
    for i in range(ROWS):
        area, rooms = round(float(rng.uniform(30, 200)), 1), int(rng.integers(1, 7))
        price = round(5000 * area + 20_000 * rooms + float(rng.normal(0, 10_000)), 2)
        day = f"2026-{i % 12 + 1:02}-{i % 28 + 1:02}"
        values = (day, area, rooms, bool(i % 3), "Pina" if i % 4 else "Graças", f"seen by {i}", None, day, price)
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def csv_text(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return "\n".join([",".join(rows[0]), *(",".join(map(cell, row.values())) for row in rows)]) + "\n"


def write(name: str, rows: list[dict[str, Any]] | None = None) -> Path:
    """The houses as a file of the kind that its name says."""
    rows, path = houses() if rows is None else rows, Path(name)
    if name.endswith(".parquet"):
        table = pa.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table.append_column("tags", pa.array([["a"]] * len(rows))), path)
        return path
    text = csv_text(rows) if ".csv" in name else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def cheap(more: str = "") -> list[str]:
    Path("cheap.toml").write_text(more + CHEAP, encoding="utf-8")
    return ["--config", "cheap.toml"]


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    assert cli.main(["evaluate", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


# What is read


@pytest.mark.parametrize("name", ["houses.csv", "houses.csv.gz", "houses.ndjson", "houses.ndjson.gz", "houses.parquet"])
def test_every_kind_of_file_has_the_same_schema_and_records(name: str) -> None:
    path = write(name)
    found = guess(path, config.Generator(), "price")
    assert {field: kind.kind for field, kind in found.table.fields.items()} == FIELDS
    assert (found.table.target, found.table.timestamp) == ("price", "sold_at")
    left_out = {re.findall(r"column '(\w+)'", note)[0] for note in found.notes}
    assert left_out - {"tags"} == {"note", "empty", "built_at"}
    settings, _ = settings_of(Request(path, "price"))
    records = pa.Table.from_batches(list(Records(settings)))
    assert records.num_rows == ROWS == rows_of(path, settings.generator, settings.schema_of_records)
    assert records["price"].to_pylist() == [row["price"] for row in houses()]
    assert records["garden"].to_pylist() == [float(row["garden"]) for row in houses()]


def test_single_cells_that_are_no_numbers_make_no_other_column_of_it() -> None:
    rows = houses()
    rows[7]["area_m2"] = "n/a"
    rows[8]["rooms"] = "three"
    table = guess(write("houses.csv", rows), config.Generator(), "price").table
    assert {field: kind.kind for field, kind in table.fields.items()} == FIELDS


def test_a_named_timestamp_is_taken_and_what_is_ignored_has_no_note() -> None:
    found = guess(write("houses.csv"), config.Generator(), "price", "built_at", ("note", "rooms"))
    assert found.table.timestamp == "built_at"
    assert "rooms" not in found.table.fields
    assert not any("'note'" in note or "'rooms'" in note for note in found.notes)


def test_a_schema_in_the_settings_is_used_and_one_for_another_target_is_not() -> None:
    path = write("houses.csv")
    Path("own.toml").write_text('[schema]\ntarget = "price"\nfields = { area_m2 = "float", rooms = "integer" }\n')
    settings, notes = settings_of(Request(path, config=Path("own.toml"), ignored=("rooms",)))
    assert (list(settings.schema_table.fields), notes) == (["area_m2"], ())
    settings, notes = settings_of(Request(path, "rooms", config=Path("own.toml")))
    assert settings.schema_table.target == "rooms"
    assert "[schema] is for the target 'price', so it is not used" in notes


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope.csv", "--target", "price"], "nope.csv: no such file"),
        (["notes.txt", "--target", "price"], "notes.txt: not a kind of file that is read"),
        (["houses.csv"], "say it with --target"),
        (["houses.csv", "--target", "prise"], "did you mean 'price'?"),
        (["houses.csv", "--target", "district"], "--target district: 'Graças' in row 1 is no number"),
        (["houses.csv", "--target", "empty"], "--target empty: is missing in the first 300 rows"),
        (["houses.csv", "--target", "price", "--timestamp", "area"], "did you mean 'area_m2'?"),
        (["houses.csv", "--target", "price", "--timestamp", "rooms"], "is no time in ISO 8601"),
        (["houses.csv", "--target", "price", "--ignore", "note,rome"], "--ignore rome"),
        (["houses.csv", "--target", "price", "--ignore", "area_m2,rooms,garden,district"], "no column is left"),
        (["houses.csv", "--target", "price", "--rows", "5"], "has 5 records, but trainer.min_rows = "),
        (["empty.csv", "--target", "price"], "empty.csv: cannot be read (it is empty"),
        (["heading.csv", "--target", "price"], "heading.csv: has no records"),
        (["semicolons.csv", "--target", "price"], "is generator.delimiter right?"),
        (["broken.csv.gz", "--target", "price"], "broken.csv.gz: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    Path("notes.txt").touch()
    Path("empty.csv").touch()
    Path("heading.csv").write_text("area,price\n")
    Path("semicolons.csv").write_text("area;price\n1;2\n")
    Path("broken.csv.gz").write_bytes(gzip.compress(csv_text(houses()).encode())[:-200])
    write("houses.csv")
    assert words in mistake(capsys, *arguments)


def test_a_folder_that_cannot_be_written_to_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write("houses.csv")
    Path("file").touch()
    assert cli.main(["evaluate", "houses.csv", "--target", "price", *cheap(), "--out", "file"]) == 1
    assert "error: --out file: cannot be written to" in capsys.readouterr().err


def test_trainings_that_fail_are_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    write("houses.csv")
    settings = cheap()
    Path("cheap.toml").write_text(CHEAP.replace("max_leaf_nodes = 8", "max_leaf_nodes = 1"))
    assert cli.main(["evaluate", "houses.csv", "--target", "price", *settings]) == 1
    assert "max_leaf_nodes" in capsys.readouterr().err.splitlines()[-1]


# What is shown


@dataclass(frozen=True)
class Shown:
    """What `--json` printed, the lines on standard error, and the folder of the run."""

    told: dict[str, Any]
    lines: list[str]
    folder: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A run over a file of which two rows are of no use."""
    folder = tmp_path_factory.mktemp("shown")
    rows = houses()
    rows[20]["rooms"] = "three"
    rows[30]["price"] = -1e200
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        write("houses.csv", rows)
        assert cli.main(["evaluate", "houses.csv", "--target", "price", *cheap(), "--out", "plots", "--json"]) == 0
    return Shown(json.loads(out.getvalue()), err.getvalue().splitlines(), folder)


def test_the_figures_are_those_of_the_loop_and_of_metrics(shown: Shown) -> None:
    told = shown.told
    source, own = shown.folder / "houses.csv", shown.folder / "cheap.toml"
    settings, _ = settings_of(Request(source, "price", config=own))
    result = offline.run(Records(settings), settings)
    rows = result.evaluations.combine_chunks().to_batches()[0]
    overall = metrics(rows)
    assert overall is not None
    assert {name: told["overall"][name] for name in ("rows", "mae", "rmse", "bias")} == {
        name: getattr(overall, name) for name in ("rows", "mae", "rmse", "bias")
    }
    assert sum(tenth.get("rows", 0) for tenth in told["tenths"]) == told["predicted"] == overall.rows
    assert [tenth["first"] for tenth in told["tenths"][1:]] == [tenth["last"] + 1 for tenth in told["tenths"][:-1]]
    assert (told["records"], told["rejected"], told["versions"]) == (ROWS - 1, 2, result.versions.num_rows)


def test_what_was_left_out_or_refused_is_said(shown: Shown) -> None:
    for words in ("column 'note' is left out", "1 rows could not be read", "'three'", "1 records are not valid"):
        assert any(words in note for note in shown.told["notes"]), words
        assert any(words in line for line in shown.lines), words


def test_without_a_terminal_progress_is_plain_lines(shown: Shown) -> None:
    progress = [line for line in shown.lines if " records/s" in line]
    assert progress[-1].startswith("299 of 300 records, ")
    assert "MAE " in progress[-1]
    assert not any("\x1b" in line for line in shown.lines)


def test_the_plots_are_a_wide_png_and_a_page_that_needs_nothing_else(shown: Shown) -> None:
    told = shown.told
    assert told["plots"] == ["plots/houses-evaluation.png", "plots/houses-evaluation.html"]
    png, page = (shown.folder / path for path in told["plots"])
    signature, width = struct.unpack(">8s8xI", png.read_bytes()[:20])
    assert signature == b"\x89PNG\r\n\x1a\n"
    assert width >= 1200
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|<link|<img|@import|url\(['\"]?http", text)
    assert not re.search(r"(stroke|fill): #", text)  # each colour is the page's to choose
    for part in (*told["tenths"], told["overall"]):
        assert f"<td>{figure(part['mae']) if 'mae' in part else '-'}</td>" in text


def test_the_table_has_a_row_per_tenth_and_one_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    write("houses.csv")
    assert cli.main(["evaluate", "houses.csv", "--target", "price", *cheap(), "--rows", "250"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranges = [found[0] for line in lines if (found := re.match(r"\d+ to \d+", line))]
    assert ranges == [*(f"{k * 25 + 1} to {k * 25 + 25}" for k in range(10)), "1 to 250"]
    assert any("running mean" in line and "coverage" in line for line in lines)
    assert any(line.startswith("250 records, 150 of them predicted; ") for line in lines)
    assert lines[-2:] == ["houses-evaluation.png", "houses-evaluation.html"]


def test_without_matplotlib_there_is_the_table_and_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write("houses.csv")
    assert cli.main(["evaluate", "houses.csv", "--target", "price", *cheap()]) == 0
    captured = capsys.readouterr()
    assert "1 to 300" in captured.out
    assert 'pip install "correnteza[plot]"' in captured.err
    assert not list(Path().glob("houses-evaluation.*"))


# Curves


def result_of(columns: Mapping[str, Any], drifts: Mapping[str, int] | None = None) -> offline.Result:
    """A result with evaluations of which only some columns are known."""
    rows = len(columns["target"])
    known = {"normalized_offset": np.arange(1, rows + 1), "raw_offset": np.arange(1, rows + 1), **columns}
    names = EVALUATIONS.names
    arrays = [pa.array(known[n]) if n in known else pa.nulls(rows, EVALUATIONS.field(n).type) for n in names]
    events = [{"kind": kind, "detail": json.dumps({"normalized_offset": at})} for kind, at in (drifts or {}).items()]
    return offline.Result(
        pa.Table.from_arrays(arrays, schema=EVALUATIONS),
        MODELS.empty_table(),
        PROMOTIONS.empty_table(),
        pa.Table.from_pylist(events, schema=EVENTS),
        Report(),
        records=rows,
        rejected=0,
        seconds=1.0,
        peak_memory_bytes=1,
        importances={},
    )


def columns_of(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    target = rng.normal(100, 10, rows)
    prediction = target + rng.normal(0, 3, rows)
    last = np.concatenate([[100.0], target[:-1]])
    return {
        "model_version": np.ones(rows, np.int64),
        "target": target,
        "prediction": prediction,
        "lower": prediction - 5,
        "upper": prediction + 5,
        "baseline": np.full(rows, 100.0),
        "last_value": last,
    }


@pytest.mark.parametrize("rows", [1, 30, 20_000])
def test_a_curve_has_a_bounded_number_of_points_and_ends_at_the_last_record(rows: int) -> None:
    found = curves.curves(result_of(columns_of(rows)))
    assert len(found.at) == len(found.coverage) == len(found.errors["mae"]) <= curves.POINTS
    assert found.at[-1] == rows
    assert curves.png(curves.draw(found, "price", 0.9)).startswith(b"\x89PNG")


def test_each_point_is_the_metric_of_the_records_before_it() -> None:
    result = result_of(columns_of(5000))
    found = curves.curves(result)
    rows = result.evaluations.to_batches()[0]
    for place in (0, 700, len(found.at) - 1):
        end = int(found.at[place])
        expected = metrics(rows.slice(max(0, end - found.window), min(found.window, end)))
        assert expected is not None
        assert (found.errors["mae"][place], found.coverage[place]) == (expected.mae, expected.coverage)


def test_drifts_are_marked_where_they_were_found() -> None:
    found = curves.curves(result_of(columns_of(3000), {"error_drift": 1200, "input_drift": 900, "target_drift": 950}))
    assert (found.drifts.tolist(), found.input_drifts.tolist()) == ([1200], [900, 950])


def test_targets_beyond_all_measure_are_drawn() -> None:
    columns = columns_of(500)
    columns["target"][[3, 400]] = 1e300, -1e300
    drawn = curves.draw(curves.curves(result_of(columns)), "price", 0.9)
    assert drawn.axes[0].get_yscale() == "log"
    assert drawn.axes[0].get_ylim()[1] < 1e6  # what is usual can be seen
    assert curves.png(drawn).startswith(b"\x89PNG")
    assert "<svg" in curves.page(drawn, "t", [], ["a"], [["b"]])


def test_a_page_shows_texts_as_they_are() -> None:
    drawn = curves.draw(curves.curves(result_of(columns_of(50))), "<b>&price", 0.9)
    page = curves.page(drawn, "<i>title", ["<u>fact"], ["<h>"], [["<c>"]])
    assert not re.search(r"<(b|i|u|h|c)>", page)


# Groups of derived features


def test_the_error_without_each_group_of_features_is_that_of_a_run_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    """On a stream whose target follows itself, and not the record: without its memory the error is much larger."""
    chance = np.random.default_rng(3)
    levels = np.cumsum(chance.normal(size=400)).tolist()
    times = [f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:00:00Z" for hour in range(400)]
    noise = chance.normal(size=400).tolist()
    path = write("walk.csv", [{"at": at, "x": x, "y": y} for at, x, y in zip(times, noise, levels, strict=True)])
    command = ["evaluate", str(path), "--target", "y", "--timestamp", "at", "--json"]
    assert cli.main([*command, "--groups", *cheap('features = "auto"\n')]) == 0
    told = json.loads(capsys.readouterr().out)
    without = {one["group"]: one for one in told["without_groups"]}
    assert set(without) == {"of at", "memory of y", "all derived features"}
    assert without["memory of y"]["columns"][:2] == ["at_since", "y_lag_1"]
    assert without["memory of y"]["mae"] > 1.2 * told["overall"]["mae"]
    assert set(told["importances"]) == set(told["features"])
    carrying = next(iter(told["importances"]))
    assert carrying in without["memory of y"]["columns"], told["importances"]
    assert told["importances"]["x"] < 0.1 * told["importances"][carrying]
    assert cli.main([*command, *cheap()]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["overall"]["mae"] == pytest.approx(without["all derived features"]["mae"])
