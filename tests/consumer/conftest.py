"""A trainer that predicts by a known rule, in this process and over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from tests.tools import PATIENCE_S

from correnteza.errors import InputError, LogUnavailableError, Problem
from correnteza.web import problems

Record = dict[str, Any]


def predicted(record: Record) -> float:
    """What the fake trainer predicts: tells records apart by their age."""
    return 1000.0 + 2.0 * float(record.get("age") or 0.0)


class FakeTrainer:
    """Predicts, remembers what it was sent, and can be told to refuse records or to be away."""

    def __init__(self) -> None:
        self.requests: list[list[Record]] = []
        self.answered: list[Record] = []
        self.refuses: Callable[[Record], str | None] = lambda record: None
        self.names_records = True
        self.away: Callable[[int], bool] = lambda request: False
        self.version = 3

    @property
    def seen(self) -> list[Record]:
        """Every record that was sent, answered or not."""
        return [record for request in self.requests for record in request]

    def ask(self, body: bytes) -> list[Record]:
        """As `Client.predict`."""
        records: list[Record] = json.loads(body, parse_constant=_no_json)
        self.requests.append(records)
        if self.away(len(self.requests)):
            raise LogUnavailableError("no model yet")
        found = [Problem(i, "age", reason) for i, r in enumerate(records) if (reason := self.refuses(r))]
        if found:
            raise InputError("refused", found if self.names_records else ())
        self.answered += records
        return [self.answer(record) for record in records]

    def answer(self, record: Record) -> Record:
        """The answer to one record."""
        mean = predicted(record)
        return {
            "id": record.get("id"),
            "prediction": mean,
            "lower": mean - 5.0,
            "upper": mean + 5.0,
            "model_version": self.version,
        }


def _no_json(name: str) -> float:
    raise AssertionError(f"{name} was sent; JSON has no such number")


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer()


@pytest.fixture
def serving() -> Iterator[Callable[[FastAPI], str]]:
    """Serves an application on a free port of the loopback; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: FastAPI) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(PATIENCE_S)


@pytest.fixture
def trainer_url(trainer: FakeTrainer, serving: Callable[[FastAPI], str]) -> str:
    """The fake trainer as a service, with the errors of the real ones."""
    routes = APIRouter()

    @routes.post("/predict")
    async def predict(request: Request) -> Response:
        try:
            return JSONResponse(trainer.ask(await request.body()))
        except LogUnavailableError as error:
            answer = problems.of_error(error)
            del answer.headers["Retry-After"]  # so that no test has to wait for it; its own test is in test_asking.py
            return answer

    app = FastAPI()
    problems.install(app)
    app.include_router(routes)
    return serving(app)


def rows_of(schema: pa.Schema, rows: Sequence[Record]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)
