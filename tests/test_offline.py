"""Laws of the loop without services: it gives what the running system gives, and the same each time."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from correnteza import curves, offline
from correnteza.config import FeatureTable, Normalizer, SchemaTable, Settings, Trainer

from .trainer.worlds import BY_ROWS, SCHEMA, World, normalized, raw

ROWS = 400
TABLE = SchemaTable.model_validate({"target": SCHEMA.target, "fields": {field.name: field.kind for field in SCHEMA.fields}})
SETTINGS = Settings().model_copy(
    update={"schema_table": TABLE, "normalizer": Normalizer(block_rows=32, max_categories=5), "trainer": BY_ROWS}
)

REMEMBERED = (
    {"name": "last", "of": "price", "how": "lag", "rows": 1},
    {"name": "mean_of_kind", "of": "price", "how": "mean", "rows": 5, "by": "kind"},
    {"name": "spread", "of": "size", "how": "std", "rows": 7, "by": "rooms"},
    {"name": "smooth", "of": "size", "how": "ewm", "rows": 3},
    {"name": "step", "of": "size", "how": "delta", "rows": 2},
    {"name": "per_room", "of": ["size", "rooms"], "how": "ratio"},
)


def pieces(records: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, records.num_rows, rows):
        yield records.slice(start, rows)


def versions(result: offline.Result) -> list[Mapping[str, Any]]:
    """The versions without what a clock says."""
    return [
        {k: v for k, v in row.items() if k not in ("created_at", "train_s", "size_bytes")}
        for row in result.versions.to_pylist()
    ]


@dataclass(frozen=True)
class Ran:
    """What one run gave, and what it told meanwhile."""

    result: offline.Result
    done: list[int]
    told: list[pa.RecordBatch]


@pytest.fixture(scope="module")
def ran() -> Ran:
    done: list[int] = []
    told: list[pa.RecordBatch] = []
    return Ran(offline.run(pieces(raw(ROWS), 64), SETTINGS, done.append, told.append), done, told)


def test_the_same_records_and_settings_give_the_same_evaluations_and_models_however_they_are_cut(ran: Ran) -> None:
    first = ran.result
    again = offline.run(pieces(raw(ROWS), 37), SETTINGS)
    assert first.versions.num_rows > 2
    assert first.evaluations.equals(again.evaluations)
    assert first.versions["sha256"].to_pylist() == again.versions["sha256"].to_pylist()
    assert versions(first) == versions(again)


def test_it_gives_what_the_parts_of_the_running_system_give(tmp_path: Path, ran: Ran) -> None:
    world = World(tmp_path, normalized(raw(ROWS)))
    world.run()
    result = ran.result
    assert result.evaluations.to_pylist() == [{k: v for k, v in row.items() if k != "offset"} for row in world.evaluations()]
    assert result.versions["sha256"].to_pylist() == [row["sha256"] for row in world.models()]
    assert result.promotions["version"].to_pylist() == world.promoted()


def test_features_with_memory_are_those_of_the_running_system_too(tmp_path: Path, ran: Ran) -> None:
    """And of a stream that is cut elsewhere; some targets are missing, as some of each field."""
    settings = SETTINGS.model_copy(update={"features": tuple(FeatureTable.model_validate(one) for one in REMEMBERED)})
    world = World(tmp_path, normalized(raw(ROWS), settings.schema_of_model), schema=settings.schema_of_model)
    world.run()
    plain, result = ran.result, offline.run(pieces(raw(ROWS), 37), settings)
    assert result.evaluations.to_pylist() == [{k: v for k, v in row.items() if k != "offset"} for row in world.evaluations()]
    assert result.versions["sha256"].to_pylist() == [row["sha256"] for row in world.models()]
    assert not set(result.versions["sha256"].to_pylist()) & set(plain.versions["sha256"].to_pylist())


def test_every_record_is_counted_and_every_evaluation_is_told_once(ran: Ran) -> None:
    result, done, told = ran.result, ran.done, ran.told
    assert result.records == ROWS == done[-1]
    assert done == sorted(done)
    scored = pa.Table.from_batches([batch.drop_columns(["offset"]) for batch in told])
    assert scored.equals(result.evaluations)
    assert result.report.overall is not None
    assert result.report.overall.rows == result.evaluations.num_rows
    assert result.records_per_s == pytest.approx(ROWS / result.seconds)
    assert result.peak_memory_bytes > 10 * 2**20


def test_no_record_is_predicted_by_a_version_that_has_learned_from_it(ran: Ran) -> None:
    result = ran.result
    last = {row["version"]: row["last_offset"] for row in result.versions.to_pylist()}
    rows = result.evaluations.to_pylist()
    assert rows
    assert all(last[row["model_version"]] < row["normalized_offset"] for row in rows)


def test_what_is_refused_is_counted_and_told() -> None:
    fields = {field.name: field.kind for field in SCHEMA.fields} | {"size": {"kind": "float", "required": True}}
    table = SchemaTable.model_validate({"target": SCHEMA.target, "fields": fields})
    records = raw(ROWS)
    missing = records["size"].null_count
    result = offline.run([records], SETTINGS.model_copy(update={"schema_table": table}))
    assert result.rejected == missing > 0
    assert result.records == ROWS
    assert "records_rejected" in result.events["kind"].to_pylist()


def test_what_is_not_learned_from_is_counted_and_told(ran: Ran) -> None:
    records = raw(ROWS).to_pylist()
    records[300]["price"] = 1e12
    told = offline.run([pa.RecordBatch.from_pylist(records, SCHEMA.raw)], SETTINGS).events.to_pylist()
    assert [event["reason"].partition(" of the last")[0] for event in told if event["kind"] == "targets_left_out"] == ["1"]
    assert "targets_left_out" not in ran.result.events["kind"].to_pylist()


def test_a_trigger_by_seconds_becomes_one_by_rows() -> None:
    by_clock = Settings().model_copy(update={"trainer": Trainer(retrain_every_s=3.0)})
    changed = offline.by_rows(by_clock).trainer
    assert (changed.retrain_every_s, changed.retrain_every_rows) == (None, "auto")
    assert offline.by_rows(SETTINGS) == SETTINGS


def test_no_records_are_no_error() -> None:
    result = offline.run([], SETTINGS)
    assert (result.records, result.evaluations.num_rows, result.versions.num_rows) == (0, 0, 0)
    assert result.report.overall is None


def test_neither_process_nor_folder_is_left_when_the_records_break_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield raw(200)  # a version is made of these
        raise OSError("the disk is gone")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {process.pid for process in psutil.Process().children()}
    with pytest.raises(OSError, match="the disk is gone"):
        offline.run(broken(), SETTINGS)
    assert {process.pid for process in psutil.Process().children()} <= before
    assert not list(tmp_path.iterdir())


def test_late_records_are_put_in_order_as_in_the_running_system() -> None:
    """Shuffled within the lateness, the stream gives the versions of the ordered one."""
    fields = {"at": "timestamp", **{field.name: field.kind for field in SCHEMA.fields}}
    table = SchemaTable.model_validate({"target": SCHEMA.target, "timestamp": "at", "fields": fields})
    seconds = pa.array([1_000_000 * i for i in range(ROWS)]).cast(pa.timestamp("us", tz="UTC"))
    ordered = raw(ROWS).add_column(1, "at", seconds)
    shuffled = ordered.take(pa.array(sorted(range(ROWS), key=lambda i: i + 17 * (i % 5))))
    found = []
    for records, late_s in ((ordered, 0), (shuffled, 80)):
        normalizer = Normalizer(block_rows=32, max_categories=5, lateness_s=late_s)
        result = offline.run(pieces(records, 37), SETTINGS.model_copy(update={"schema_table": table, "normalizer": normalizer}))
        parts = curves.parts(result)
        assert (result.records, result.rejected, parts[-1].last) == (ROWS, 0, ROWS)
        found.append((result.versions["sha256"].to_pylist(), result.evaluations["id"].to_pylist()))
    assert len(found[0][0]) > 2
    assert found[0] == found[1]
