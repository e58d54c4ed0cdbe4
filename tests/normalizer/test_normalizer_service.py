"""Laws of the normalizer as a service, over HTTP, behind an upstream that is a service too."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
import uvicorn
from fastapi import FastAPI
from tests.ports import free_ports
from tests.tools import PATIENCE_S

from correnteza import config, events
from correnteza.described import json_schema
from correnteza.errors import ConfigError, LogUnavailableError
from correnteza.listening import bind
from correnteza.log.base import OwnedLog, Policy, Store
from correnteza.log.http import HttpLog
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.normalizer import service as normalizer
from correnteza.normalizer.stage import NormalizerStage
from correnteza.testing import read_all
from correnteza.web import Service, create_app

"""Longest that a condition is waited for."""


def settings_of(folder: Path, port_base: int = 8000, **tables: Any) -> config.Settings:
    table = {
        "pipeline": {"data_dir": str(folder)},
        "schema": {
            "target": "price",
            "fields": {"size": {"kind": "float", "min": 0}, "rooms": "float", "kind": "category", "town": "category"},
        },
        "normalizer": {"block_rows": 16, "batch_rows": 37},
        "services": {"port_base": port_base},
    }
    return config.load(overrides={**table, **tables})


def raw(first: int, count: int, settings: config.Settings) -> pa.RecordBatch:
    """Records, one in ten of them with a size below 0."""
    rows = [
        {
            "id": f"r{i}",
            "size": -1.0 if i % 10 == 3 else 50.0 + (i * 37) % 101,
            "rooms": None if i % 4 == 1 else float(i % 5),
            "kind": "flat" if i % 3 else "house",
            "town": None if i % 7 == 0 else f"town {i % 5}",
            "price": float(i),
        }
        for i in range(first, first + count)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=settings.schema_of_records.raw)


@contextmanager
def served(app: FastAPI, service: Service, port: int = 0) -> Iterator[str]:
    """The application behind a port of this machine; gives its address."""
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        service.stopping = server.should_exit = True
        thread.join(PATIENCE_S)


@contextmanager
def generator(settings: config.Settings, port: int = 0) -> Iterator[tuple[OwnedLog, str]]:
    """A service that owns a raw log: the log and its address."""
    store = MemoryStore()
    schema = settings.schema_of_records.raw
    log, told = store.log("raw", schema), store.log("events", events.SCHEMA)
    described = json_schema(schema, "raw")
    service = Service("generator", settings, described, {"records": log, "events": told}, events.Events("generator", told))
    with served(create_app(service), service, port) as url:
        yield log, url


@contextmanager
def running(settings: config.Settings, store: Store, upstream: str) -> Iterator[str]:
    """The normalizer, reading from `upstream`; gives its address."""
    source = HttpLog(upstream, name="raw", schema=settings.schema_of_records.raw, reader="normalizer")
    app, service = normalizer.build(settings, store, source)
    failures: list[BaseException] = []
    (runner,) = service.runners
    with served(app, service) as url:
        runner.start(failures.append)
        service.start()
        try:
            yield url
        finally:
            service.stop()
            runner.stop()
    assert failures == []


def until_raw_rows(url: str, rows: int) -> dict[str, Any]:
    """`/status`, as soon as so many raw rows have been processed; every commit of normalized rows wakes it."""
    query: dict[str, Any] = {"wait_s": 1}
    for _ in range(int(PATIENCE_S) * 10):
        status: dict[str, Any] = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
        if status["raw_rows"] >= rows:
            return status
        query["after"] = requests.get(f"{url}/records", query, timeout=PATIENCE_S).json()["next"]
    raise AssertionError(f"{status['raw_rows']} of {rows} rows were processed")


def undisturbed(settings: config.Settings, batch: pa.RecordBatch) -> dict[str, list[dict[str, Any]]]:
    """What one step over all rows makes, by log."""
    store = MemoryStore()
    stage = NormalizerStage(settings.schema_of_records, settings.normalizer)
    for name, schema in stage.outputs.items():
        store.log(name, schema)
    whole = store.log("raw", settings.schema_of_records.raw)
    whole.append(batch)
    step = stage.step(stage.initial(), whole.read(None, batch.num_rows).batch)
    store.commit("normalizer", store.claim("normalizer").epoch, None, b"", step.outputs)
    return {name: read_all(store.log(name, schema)) for name, schema in stage.outputs.items()}


def test_what_goes_in_comes_out_over_http(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    batch = raw(0, 200, settings)
    expected = undisturbed(settings, batch)
    with generator(settings) as (log, upstream), running(settings, SqlStore(tmp_path / "n.db"), upstream) as url:
        log.append(batch)
        status = until_raw_rows(url, 200)
        for path, name in {
            "records": "normalized",
            "rejected": "rejected",
            "scalers": "scalers",
            "categories": "categories",
        }.items():
            assert requests.get(f"{url}/{path}", timeout=PATIENCE_S).json()["records"] == expected[name]
        kinds = {row["kind"] for row in requests.get(f"{url}/events", timeout=PATIENCE_S).json()["records"]}
        assert kinds == {"records_rejected", "scaler_version"}
        versions = expected["scalers"][-1]["version"]
        assert (status["raw_rows"], status["rejected_rows"], status["scaler_version"]) == (200, 20, versions)
        assert status["categories"] == {"kind": 2, "town": 5}
        for version in range(1, versions + 1):
            rows = [row for row in expected["scalers"] if row["version"] == version]
            assert requests.get(f"{url}/scalers/{version}", timeout=PATIENCE_S).json() == {
                "version": version,
                "raw_offset": rows[0]["raw_offset"],
                "columns": {row["field"]: {k: row[k] for k in ("n", "mean", "variance", "scale")} for row in rows},
            }
        properties = requests.get(f"{url}/schema", timeout=PATIENCE_S).json()["properties"]
        assert list(properties) == list(expected["normalized"][0])
        assert requests.get(f"{url}/health/ready", timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize("version", ["99", "0", "-1", "1.5", "nan", "9" * 10_000, "%00", "1e3"])
def test_a_scaler_version_that_is_not_there_is_a_problem_with_a_reason(version: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    app, service = normalizer.build(settings, MemoryStore(), MemoryStore().log("raw", settings.schema_of_records.raw))
    with served(app, service) as url:
        answer = requests.get(f"{url}/scalers/{version}", timeout=PATIENCE_S)
        assert answer.status_code == (404 if version == "99" else 422)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


def test_a_stopped_service_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    batch = raw(0, 120, settings)
    store = SqlStore(tmp_path / "n.db")
    with generator(settings) as (log, upstream), ExitStack() as stack:
        for begin, end in ((0, 1), (1, 50), (50, 120)):
            log.append(batch.slice(begin, end - begin))
            with running(settings, store, upstream) as url:
                until_raw_rows(url, end)
            store.close()
            store = SqlStore(tmp_path / "n.db")
        stack.callback(store.close)
        stage = NormalizerStage(settings.schema_of_records, settings.normalizer)
        expected = undisturbed(settings, batch)
        assert {name: read_all(store.log(name, schema)) for name, schema in stage.outputs.items()} == expected


def test_retention_shortens_neither_scalers_nor_categories(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    store = MemoryStore()
    with generator(settings) as (log, upstream), running(settings, store, upstream) as url:
        log.append(raw(0, 100, settings))
        before = until_raw_rows(url, 100)
        for bounded in store.bounded():
            bounded.trim(Policy(rows=1), now=0.0)
        after = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
        assert after["logs"]["records"]["rows"] == after["logs"]["rejected"]["rows"] == 1
        for path in ("scalers", "categories"):
            assert after["logs"][path] == before["logs"][path]
        for key in ("raw_rows", "rejected_rows", "scaler_version", "categories"):
            assert after[key] == before[key]


def test_a_pipeline_of_another_schema_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    store, source = MemoryStore(), MemoryStore().log("raw", settings.schema_of_records.raw)
    stage = NormalizerStage(settings.schema_of_records, settings.normalizer)
    normalizer.build(settings, store, source)
    store.commit("normalizer", store.claim("normalizer").epoch, None, stage.dump(stage.initial()), {})
    fields = {"size": {"kind": "float", "min": 5}, "rooms": "float", "kind": "category", "town": "category"}
    _, service = normalizer.build(settings_of(tmp_path, schema={"target": "price", "fields": fields}), store, source)
    with pytest.raises(ConfigError, match=r"minimum of field 'size' was 0\.0 and is 5\.0"):
        service.runners[0].run()
    assert "minimum of field 'size'" in str(service.not_ready())


def test_main_serves_until_a_signal_and_returns_0(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, free_ports())
    port = settings.services.port("generator")
    seen: list[int] = []

    def read_then_stop() -> None:
        log = HttpLog(settings.services.url("normalizer"), name="normalized", schema=settings.schema_of_records.normalized)
        pause, rows, position = threading.Event(), 0, None
        try:
            for _ in range(int(PATIENCE_S) * 20):
                try:
                    part = log.read(position, 100, wait_s=1.0)
                except LogUnavailableError:
                    pause.wait(0.05)  # it has not begun to listen yet
                    continue
                rows, position = rows + part.batch.num_rows, part.next
                if rows >= 27:
                    break
            seen.append(rows)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with generator(settings, port) as (log, _):
        log.append(raw(0, 30, settings))
        reader = threading.Thread(target=read_then_stop)
        reader.start()
        assert normalizer.main(settings, bind("127.0.0.1", settings.services.port("normalizer"))) == 0
        reader.join(PATIENCE_S)
    assert seen == [27]
    assert (tmp_path / "normalizer.db").exists()
