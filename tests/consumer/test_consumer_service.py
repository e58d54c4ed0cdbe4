"""Laws of the whole consumer: its store on disk, its trainer over HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from fastapi import FastAPI
from tests.tools import PATIENCE_S

from correnteza.client import Client
from correnteza.config import Consumer, Settings
from correnteza.consumer.drawing import Draw
from correnteza.consumer.service import build
from correnteza.consumer.stage import State
from correnteza.errors import ConfigError
from correnteza.log.base import Appended, Store
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.web import Service

Trainer = Any  # the fake one of conftest.py

ROWS = 60


def settings_of(**consumer: Any) -> Settings:
    return Settings(
        consumer=Consumer(**{"modes": ("records",), "requests_per_second": math.inf, "records_per_request": 7} | consumer)
    )


def raw_log(rows: int = ROWS) -> MemoryLog:
    schema = Settings().schema_of_records.raw
    log = MemoryStore().log("raw", schema)
    people = [{"id": f"p{i}", "age": float(i), "job": "cook", "income": 1000.0 + i if i % 3 else None} for i in range(rows)]
    log.append(pa.RecordBatch.from_pylist(people, schema=schema))
    return log


@contextmanager
def running(store: Store, ask: Callable[[bytes], Any], raw: MemoryLog, settings: Settings) -> Iterator[tuple[Service, FastAPI]]:
    service, app = build(settings, store, ask, raw, wait_s=0.05)
    failures: list[BaseException] = []
    for runner in service.runners:
        runner.start(failures.append)
    try:
        yield service, app
    finally:
        for runner in service.runners:
            runner.stop()
    assert not failures


def rows_when(service: Service, count: int, log: str = "records") -> list[dict[str, Any]]:
    """The rows of a log, as soon as there are so many."""
    rows: list[dict[str, Any]] = []
    after = None
    while len(rows) < count:
        part = service.logs[log].read(after, 1000, wait_s=20.0)
        assert part.batch.num_rows, f"{len(rows)} of {count} rows came"
        rows += part.batch.to_pylist()
        after = part.next
    return rows


def saved(store: Store, stage: str = "consumer_records") -> bytes | None:
    return store.claim(stage).state


def without_latency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "latency_ms"} for row in rows]


def undisturbed(trainer: Trainer, raw: MemoryLog) -> tuple[list[dict[str, Any]], bytes | None]:
    store = MemoryStore()
    with running(store, type(trainer)().ask, raw, settings_of()) as (service, _):
        rows = rows_when(service, ROWS)
    return without_latency(rows), saved(store)


def test_nothing_is_lost_while_the_trainer_is_away(trainer: Trainer, trainer_url: str, tmp_path: Path) -> None:
    """Every raw record is answered once and in order, over HTTP, on disk, whatever answers were refused."""
    trainer.away = lambda request: request in (1, 2, 4, 5, 6, 9)
    raw, store = raw_log(), SqlStore(tmp_path / "consumer.db")
    with Client({"trainer": trainer_url}) as client, running(store, client.predict, raw, settings_of()) as (service, _):
        rows = rows_when(service, ROWS)
        status = service.describe()["modes"]["records"]
    assert [row["raw_offset"] for row in rows] == list(range(1, ROWS + 1))
    assert [row["prediction"] for row in rows] == [1000.0 + 2.0 * i for i in range(ROWS)]
    assert all(row["latency_ms"] > 0 for row in rows)
    assert (status["waited"], status["retries"], status["waiting_reason"]) == (3, 6, None)
    assert (status["answers"], status["labelled"]) == (ROWS, ROWS * 2 // 3)
    assert status["latency_p99_ms"] >= status["latency_p50_ms"] > 0
    kinds = service.logs["events"].read(None, 99).batch["kind"].to_pylist()
    assert kinds == ["waiting_began", "waiting_ended"] * 3
    assert without_latency(rows) == undisturbed(trainer, raw)[0]
    store.close()


def test_a_restart_resumes_exactly(trainer: Trainer, tmp_path: Path) -> None:
    """Stopped and started anew on its file, it ends with the rows and the state of one that was never stopped."""
    raw, path = raw_log(), tmp_path / "consumer.db"
    for wanted in (10, 25, 40, ROWS):
        store = SqlStore(path)
        with running(store, trainer.ask, raw, settings_of()) as (service, _):
            rows_when(service, wanted)
        store.close()
    store = SqlStore(path)
    service, _ = build(settings_of(), store, trainer.ask, raw)
    expected, state = undisturbed(trainer, raw)
    assert without_latency(rows_when(service, ROWS)) == expected
    assert saved(store) == state
    store.close()


class Killed(BaseException):
    """Stands for a process that ends between the answer and the commit."""


class DyingStore(MemoryStore):
    """A store whose process is killed before some commits and just after others, the last one included."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        self.commits += 1
        if self.commits % 3 == 0:
            raise Killed
        appended = super().commit(stage, epoch, position, state, outputs)
        if self.commits % 5 == 0 or self.logs()["results"].bounds().rows == ROWS:
            raise Killed
        return appended


def test_an_answer_is_filed_once_though_it_was_asked_for_twice(trainer: Trainer) -> None:
    raw, store, settings = raw_log(), DyingStore(), settings_of()
    service, _ = build(settings, store, trainer.ask, raw)
    kills = 0
    while service.logs["records"].bounds().rows < ROWS:
        service, _ = build(settings, store, trainer.ask, raw)
        with pytest.raises(Killed):
            service.runners[0].run()
        kills += 1
    assert kills > 4
    assert len(trainer.answered) > ROWS
    expected, state = undisturbed(trainer, raw)
    assert without_latency(rows_when(service, ROWS)) == expected
    assert saved(store) == state


def test_a_refused_record_is_kept_and_counted(trainer: Trainer, trainer_url: str) -> None:
    trainer.refuses = lambda record: "is a prime" if record["age"] in (2, 3, 5, 7, 11, 53) else None
    with (
        Client({"trainer": trainer_url}) as client,
        running(MemoryStore(), client.predict, raw_log(), settings_of()) as (service, _),
    ):
        answered = rows_when(service, ROWS - 6)
        refused = rows_when(service, 6, "rejected")
        figures = service.describe()["modes"]["records"]
    assert [(row["raw_offset"], row["record_id"], row["reason"]) for row in refused] == [
        (age + 1, f"p{age}", "age: is a prime") for age in (2, 3, 5, 7, 11, 53)
    ]
    assert sorted([row["raw_offset"] for row in (*answered, *refused)]) == list(range(1, ROWS + 1))
    assert (figures["answers"], figures["refused"]) == (ROWS - 6, 6)
    kinds = service.logs["events"].read(None, 99).batch["kind"].to_pylist()
    assert kinds == ["record_refused"] * 3  # the 1st, the 2nd, the 4th


def test_the_rolling_error_in_the_status_equals_numpy(trainer: Trainer) -> None:
    with running(MemoryStore(), trainer.ask, raw_log(), settings_of(metric_rows=15)) as (service, _):
        rows = rows_when(service, ROWS)
        known = [(row["prediction"], row["target"]) for row in rows if row["target"] is not None][-15:]
        runner = service.runners[0]
        runner.stop()
        status = service.describe()
    predicted, truth = np.array(known).T
    assert status["rolling_mae"] == np.abs(predicted - truth).mean()
    assert status["model_version"] == 3
    assert status["answers"] == ROWS


def test_the_figures_are_there_at_once_after_a_restart_with_the_trainer_away(trainer: Trainer) -> None:
    raw, store = raw_log(), MemoryStore()
    with running(store, trainer.ask, raw, settings_of()) as (service, _):
        rows_when(service, ROWS)
    raw.append(raw.read(None, 5).batch.drop_columns(["offset"]))
    trainer.away = lambda request: True
    with running(store, trainer.ask, raw, settings_of()) as (service, _):
        rows_when(service, 1, "events")  # waiting_began
        status = service.describe()
    assert status["answers"] == ROWS
    assert status["rolling_mae"] > 0
    assert status["modes"]["records"]["waiting_reason"] == "no model yet"
    assert status["modes"]["records"]["waiting_s"] >= 0
    assert status["state"] in ("waiting", "starting", "stopped")
    assert status["lag_rows"] == 5
    assert status["lag_s"] > 0


def test_random_records_are_drawn_in_order_over_restarts(trainer: Trainer, tmp_path: Path) -> None:
    settings = settings_of(modes=("random",), seed=5, random_min=20, random_max=30)
    count = 0
    for _ in range(3):
        store = SqlStore(tmp_path / "consumer.db")
        with running(store, trainer.ask, raw_log(0), settings) as (service, _):
            count += 10
            rows = rows_when(service, count)
        count = len(rows)
        store.close()
    draw = Draw.chosen(settings.schema_of_records, settings.consumer)
    for index, row in enumerate(rows):
        assert json.loads(row["input"]) == {"id": f"random-5-{index}", "age": draw.value(5, index)}
        assert 20 <= json.loads(row["input"])["age"] <= 30
        assert (row["mode"], row["raw_offset"], row["target"], row["error"]) == ("random", None, None, None)


def test_both_modes_share_one_store_and_disturb_each_other_in_nothing(trainer: Trainer, tmp_path: Path) -> None:
    store, raw = SqlStore(tmp_path / "consumer.db"), raw_log()
    modes = ("random", "records", "random")  # the second `random` is the same one
    with running(store, trainer.ask, raw, settings_of(modes=modes, requests_per_second=200)) as (service, _):
        assert len(service.runners) == 2
        rows = rows_when(service, 3 * ROWS)
    by_mode = {mode: [row for row in rows if row["mode"] == mode] for mode in modes}
    assert [row["raw_offset"] for row in by_mode["records"]] == list(range(1, ROWS + 1))
    indexes = [int(row["record_id"].split("-")[-1]) for row in by_mode["random"]]
    assert indexes == list(range(len(indexes)))
    store.close()


def test_a_field_out_of_reach_of_the_settings_is_told(trainer: Trainer) -> None:
    settings = settings_of(modes=("random",), random_min=100, random_max=200)  # ages end at 130
    service, _ = build(settings, MemoryStore(), trainer.ask, raw_log(0))
    event = service.logs["events"].read(None, 9).batch.to_pylist()[0]
    assert event["kind"] == "random_range"
    assert "from 100 to 130" in event["reason"]


def test_a_wrong_field_is_refused_at_start(trainer: Trainer) -> None:
    with pytest.raises(ConfigError, match="random_field = 'job'"):
        build(settings_of(modes=("random",), random_field="job"), MemoryStore(), trainer.ask, raw_log(0))


def test_no_state_is_no_figures(trainer: Trainer) -> None:
    service, _ = build(settings_of(), MemoryStore(), trainer.ask, raw_log(0))
    figures = service.describe()["modes"]["records"]
    assert (figures["answers"], figures["rolling_mae"], figures["latency_p50_ms"]) == (0, None, None)
    assert State(0, 0, 0, np.zeros(0)).rolling_mae is None


def test_the_rate_is_read_and_changed_over_http(trainer: Trainer, serving: Callable[[FastAPI], str]) -> None:
    settings = settings_of(modes=("random", "records"), requests_per_second=0)
    with running(MemoryStore(), trainer.ask, raw_log(), settings) as (service, app):
        url = f"{serving(app)}/rate"
        assert requests.get(url, timeout=PATIENCE_S).json() == {"requests_per_second": 0}
        assert trainer.requests == []
        answer = requests.put(url, json={"requests_per_second": 500}, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()) == (200, {"requests_per_second": 500})
        rows_when(service, ROWS)
        assert requests.put(url, json={"requests_per_second": "inf"}, timeout=PATIENCE_S).json() == {
            "requests_per_second": "inf"
        }
        modes = service.describe()["modes"]
        assert [figures["requests_per_second"] for figures in modes.values()] == ["inf", "inf"]
        assert service.events.counts["rate_changed"] == 4


BAD_RATES = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"{}",
    b'{"requests_per_second": -1}',
    b'{"requests_per_second": NaN}',
    b'{"requests_per_second": Infinity}',
    b'{"requests_per_second": 1e999}',
    b'{"requests_per_second": "7"}',
    b'{"requests_per_second": true}',
    b'{"requests_per_second": null}',
    b'{"requests_per_second": 1, "extra": 2}',
    b'{"requests_per_second": ' + b"9" * 400 + b"}",
    b'{"requests_per_second": ' + b"9" * 10_000 + b"}",
    b'{"requests_per_second": ' + b"[" * 100_000,
    b"\xff\xfe",
]


def test_a_bad_rate_is_refused_with_a_reason(trainer: Trainer, serving: Callable[[FastAPI], str]) -> None:
    _, app = build(settings_of(requests_per_second=3), MemoryStore(), trainer.ask, raw_log())
    url = f"{serving(app)}/rate"
    for body in BAD_RATES:
        answer = requests.put(url, data=body, headers={"Content-Type": "application/json"}, timeout=PATIENCE_S)
        assert 400 <= answer.status_code < 500, (body[:60], answer.status_code)
        assert answer.headers["Content-Type"] == "application/problem+json", body[:60]
        assert answer.json()["detail"], body[:60]
        assert requests.get(url, timeout=PATIENCE_S).json() == {"requests_per_second": 3}, body[:60]


def test_results_status_and_figures_are_served(trainer: Trainer, serving: Callable[[FastAPI], str]) -> None:
    with running(MemoryStore(), trainer.ask, raw_log(), settings_of()) as (service, app):
        rows_when(service, ROWS)
        with Client({"consumer": serving(app)}) as client:
            assert [row["raw_offset"] for row in client.records("consumer")] == list(range(1, ROWS + 1))
            assert list(client.records("consumer", log="rejected")) == []
            assert client.status("consumer")["modes"]["records"]["answers"] == ROWS
            metrics = requests.get(f"{client.url('consumer')}/metrics", timeout=PATIENCE_S).text
    assert f'correnteza_answers_total{{mode="records"}} {float(ROWS)}' in metrics
