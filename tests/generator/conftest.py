"""The real data sets and their schemas, a way to run a source to its end, and a running generator."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
import uvicorn
from tests.tools import PATIENCE_S

from correnteza import config
from correnteza.generator import service as generator
from correnteza.generator.replay import ReplaySource
from correnteza.generator.stage import REJECTED, GeneratorStage
from correnteza.log.base import Store
from correnteza.log.memory import MemoryStore
from correnteza.records import Schema
from correnteza.stage import Source
from correnteza.testing import read_all

DATA = Path(__file__).parents[2].parent / "shared" / "data"
"""Where the real data sets are, beside the repository; tests that need them are skipped where they are not."""

BIKES = {
    "target": "cnt",
    "timestamp": "dteday",
    "fields": {
        "season": "category",
        "yr": "integer",
        "mnth": "integer",
        "hr": "integer",
        "weekday": "category",
        "weathersit": "category",
        "temp": "float",
        "hum": "float",
        "windspeed": "float",
    },
}
METRO = {
    "target": "traffic_volume",
    "timestamp": "date_time",
    "fields": {
        "holiday": "category",
        "temp": "float",
        "rain_1h": "float",
        "clouds_all": "integer",
        "weather_main": "category",
        "weather_description": "text",
    },
}
POLLS = {
    "target": "five_thirty_eight",
    "fields": {"ordinal_date": "integer", "gallup": "float", "ipsos": "float", "you_gov": "float"},
}


@dataclass(frozen=True)
class DataSet:
    """A real file: where it is, its schema, its rows."""

    path: Path
    schema: Schema
    rows: int


SETS = {
    "bike_sharing_hour": (BIKES, 17_379),
    "metro_interstate_traffic_volume": (METRO, 48_204),
    "trump_approval": (POLLS, 1_001),
}


def _found(name: str) -> DataSet:
    path = DATA / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; put the data sets into shared/data beside the repository")
    table, rows = SETS[name]
    return DataSet(path, config.SchemaTable.model_validate(table).build(), rows)


@pytest.fixture(params=list(SETS))
def data_set(request: pytest.FixtureRequest) -> DataSet:
    """Each real file in turn."""
    return _found(request.param)


@pytest.fixture
def bikes() -> DataSet:
    """The hourly rentals."""
    return _found("bike_sharing_hour")


@pytest.fixture
def metro() -> DataSet:
    """The hourly traffic."""
    return _found("metro_interstate_traffic_volume")


Replayed = tuple[pa.Table, pa.Table]
"""What came of a file: the rows of `raw` and of `rejected`."""


@pytest.fixture
def replayed() -> Callable[..., Replayed]:
    """Replays a file through the stage to its end."""

    def run(path: Path, schema: Schema, limit: int = 10_000, **settings: Any) -> Replayed:
        return drained(ReplaySource(config.Generator(source="replay", path=path, **settings), schema), schema, limit)

    return run


def drained(source: Source, schema: Schema, limit: int, after: str | None = None) -> Replayed:
    stage = GeneratorStage(schema)
    outputs: dict[str, list[pa.RecordBatch]] = {"raw": [], "rejected": []}
    while (part := source.read(after, limit)).batch.num_rows:
        for name, batch in stage.step(None, part.batch).outputs.items():
            outputs[name].append(batch)
        after = part.next
    return (
        pa.Table.from_batches(outputs["raw"], schema=schema.raw),
        pa.Table.from_batches(outputs["rejected"], schema=REJECTED),
    )


"""Longest that a condition is waited for."""
SMALL = {
    "target": "y",
    "timestamp": "at",
    "fields": {"n": "integer", "x": {"kind": "float", "min": 0, "max": 10, "required": True}, "kind": "category"},
}


def settings_of(folder: Path, **tables: Any) -> config.Settings:
    table = {"pipeline": {"data_dir": str(folder)}, "schema": SMALL, "generator": {"source": "none"}, **tables}
    return config.load(overrides={name: value for name, value in table.items() if value is not None})


class Running:
    """A generator behind a port of this machine."""

    def __init__(self, url: str, store: Store, failures: list[BaseException]) -> None:
        self.url = url
        self.store = store
        self.failures = failures

    def post(self, body: Any, path: str = "/records", media: str = "application/json", **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(self.url + path, data, headers={"Content-Type": media, **headers}, timeout=PATIENCE_S)

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=PATIENCE_S).json()

    def rows(self, log: str = "raw") -> list[dict[str, Any]]:
        return read_all(self.store.logs()[log])

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """`/status`, as soon as the condition holds for it."""
        for _ in range(int(PATIENCE_S * 10)):
            status: dict[str, Any] = self.get("/status")
            if condition(status):
                return status
            requests.get(self.url + "/records", {"after": "latest", "wait_s": 0.1}, timeout=PATIENCE_S)
        raise AssertionError(f"in vain: {status}")


@contextmanager
def running(wanted: config.Settings, store: Store | None = None) -> Iterator[Running]:
    store = store or MemoryStore()
    app, service = generator.build(wanted, store)
    failures: list[BaseException] = []
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    for runner in service.runners:
        runner.start(failures.append)
    service.start()
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", store, failures)
    finally:
        service.stopping = server.should_exit = True
        thread.join(PATIENCE_S)
        for runner in service.runners:
            runner.stop()
        service.stop()


@pytest.fixture
def run() -> Callable[..., AbstractContextManager[Running]]:
    """Runs a generator for the length of a block."""
    return running


@pytest.fixture
def wanted() -> Callable[..., config.Settings]:
    """Makes settings; a table of None leaves it out."""
    return settings_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One generator for all tests that only look at what comes back and what was added."""
    with running(settings_of(tmp_path_factory.mktemp("shared"))) as found:
        yield found
