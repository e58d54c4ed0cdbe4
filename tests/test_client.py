"""Laws of the Python API."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
import uvicorn
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from tests.tools import PATIENCE_S

from correnteza import events
from correnteza.client import PAGE_ROWS, Client, encode
from correnteza.codec import ARROW, NDJSON, Codec
from correnteza.config import SERVICES, Settings
from correnteza.errors import ConfigError, CorrentezaError, InputError, LogUnavailableError, OffsetRemovedError, ServiceError
from correnteza.log.base import Policy
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.testing import SCHEMA, rows
from correnteza.web import Service, create_app, problem


class World:
    """A service with a real log and with routes that answer what they are told to."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.log: MemoryLog = store.log("raw", SCHEMA.raw)
        self.got: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.answer: Callable[[], Response] = lambda: JSONResponse({"ok": True})
        told = store.log("events", events.SCHEMA)
        service = Service("generator", Settings(), {}, {"records": self.log, "events": told}, events.Events("generator"))
        routes = APIRouter()

        @routes.post("/records")
        @routes.post("/outcomes")
        @routes.post("/predict")
        @routes.post("/models/unpin")
        @routes.post("/models/{version}/promote")
        @routes.post("/models/{version}/predict")
        async def post(request: Request) -> Response:
            return await self._take(request)

        @routes.get("/models")
        @routes.get("/models/{version}")
        @routes.get("/evaluation")
        async def get(request: Request) -> Response:
            return await self._take(request)

        self.app = create_app(service, routes)
        self.url = ""

    async def _take(self, request: Request) -> Response:
        self.got.append((request.method, request.url.path, await request.body(), dict(request.headers)))
        return self.answer()

    def client(self, **more: Any) -> Client:
        return Client(dict.fromkeys(SERVICES, self.url), **more)


@pytest.fixture(scope="module")
def served() -> Iterator[World]:
    world = World()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(world.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    world.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    yield world
    server.should_exit = True
    thread.join(PATIENCE_S)


@pytest.fixture
def world(served: World) -> World:
    served.got.clear()
    served.answer = lambda: JSONResponse({"ok": True})
    return served


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with world.client() as client:
        yield client


def test_every_call_goes_where_the_contract_says(world: World, client: Client) -> None:
    client.post_records([{"x": 1}], idempotency_key="k1")
    client.post_outcomes({"id": "a", "target": 2.0})
    client.predict({"x": 1})
    client.predict(b"{}", version=4, media=NDJSON)
    client.models()
    client.history(7)
    client.model(4)
    client.promote(4)
    client.unpin()
    client.evaluation()
    assert [(method, path) for method, path, _, _ in world.got] == [
        ("POST", "/records"),
        ("POST", "/outcomes"),
        ("POST", "/predict"),
        ("POST", "/models/4/predict"),
        ("GET", "/models"),
        ("GET", "/models/history"),
        ("GET", "/models/4"),
        ("POST", "/models/4/promote"),
        ("POST", "/models/unpin"),
        ("GET", "/evaluation"),
    ]
    assert json.loads(world.got[0][2]) == [{"x": 1}]
    assert world.got[0][3]["idempotency-key"] == "k1"
    assert world.got[0][3]["content-type"] == "application/json"
    assert world.got[3][3]["content-type"] == NDJSON


def test_a_batch_goes_as_arrow_and_arrives_as_it_was(world: World, client: Client) -> None:
    client.post_records(rows(40))
    _, _, body, headers = world.got[0]
    assert headers["content-type"] == ARROW
    assert Codec(SCHEMA).decode(body, ARROW).batch.equals(rows(40))


def test_status_is_the_service_s_own(client: Client) -> None:
    assert client.status("generator")["service"] == "generator"


def test_records_are_all_there_once_and_in_order(world: World, client: Client) -> None:
    """Over several pages, with a limit over all of them, and going on from a cursor."""
    world.log.append(rows(2 * PAGE_ROWS + 100))
    total = world.log.bounds().next - 1
    assert [row["offset"] for row in client.records("generator")] == list(range(1, total + 1))
    assert [row["offset"] for row in client.records("generator", limit=PAGE_ROWS + 1)] == list(range(1, PAGE_ROWS + 2))
    assert list(client.records("generator", limit=0)) == []
    page = client.page("generator", limit=3)
    assert [row["offset"] for row in page.records] == [1, 2, 3]
    assert next(client.records("generator", after=page.next))["offset"] == 4
    assert page.records[0]["select from"] == rows(1).to_pylist()[0]["select from"]


def test_waiting_records_come_when_they_are_written(world: World, client: Client) -> None:
    after = client.page("generator", after="latest").next
    found: list[int] = []
    reader = threading.Thread(
        target=lambda: found.extend(r["offset"] for r in client.records("generator", after, 2, wait_s=20.0))
    )
    reader.start()
    first = world.log.append(rows(1)).first
    world.log.append(rows(1))
    reader.join(PATIENCE_S)
    assert found == [first, first + 1]


def test_a_removed_offset_names_the_first_that_is_there(world: World, client: Client) -> None:
    world.log.append(rows(20))
    old = world.log.cursor(world.log.bounds().first + 1)
    world.log.trim(Policy(rows=5), 0.0)
    with pytest.raises(OffsetRemovedError) as caught:
        client.page("generator", after=old)
    assert caught.value.first == world.log.bounds().first


def test_a_bad_cursor_is_the_caller_s_fault(client: Client) -> None:
    with pytest.raises(InputError, match="is not a cursor") as caught:
        client.page("generator", after="nonsense")
    assert caught.value.status == 400


def test_a_log_that_is_not_there_is_the_caller_s_fault(client: Client) -> None:
    with pytest.raises(InputError, match="404"):
        client.page("generator", log="nothing")


def test_problems_are_read_back(world: World, client: Client) -> None:
    from correnteza.errors import Problem

    problems = [Problem(0, "age", "is too high"), Problem(7, "", "is no object")]
    world.answer = lambda: problem(422, "2 records are invalid", problems)
    with pytest.raises(InputError, match="2 records are invalid") as caught:
        client.post_records([{}])
    assert caught.value.problems == tuple(problems)
    assert caught.value.status == 422


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_worth_a_retry(world: World, client: Client, status: int) -> None:
    world.answer = lambda: JSONResponse({"detail": "no model yet"}, status, {"Retry-After": "7"})
    with pytest.raises(LogUnavailableError, match="no model yet") as caught:
        client.predict({})
    assert isinstance(caught.value, LogUnavailableError)
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("value", ["soon", "-3", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_a_retry_after_that_is_no_number_is_none(world: World, client: Client, value: str) -> None:
    world.answer = lambda: JSONResponse({}, 503, {"Retry-After": value})
    with pytest.raises(LogUnavailableError) as caught:
        client.predict({})
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"<html>", 200),
        Response(b"", 204),
        Response(b"oops", 500),
        Response(b"", 302, {"Location": "http://127.0.0.1:1/"}),
        JSONResponse({"detail": "broken"}, 500),
    ],
)
def test_what_is_no_answer_of_ours_is_an_error_that_names_the_address(world: World, client: Client, answer: Response) -> None:
    world.answer = lambda: answer
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:\d+/predict"):
        client.predict({})


@pytest.mark.parametrize("body", [[], [1], "text", {"records": []}, {"errors": 5}, {"errors": [3, {}, {"index": "x"}]}, 7])
@pytest.mark.parametrize("status", [200, 400, 410, 422, 503])
def test_no_answer_brings_the_client_down(world: World, client: Client, body: Any, status: int) -> None:
    """Whatever JSON comes with whatever status: a value, or an error of ours."""
    world.answer = lambda: JSONResponse(body, status)
    for call in (client.evaluation, lambda: client.post_records({}), lambda: client.promote(1)):
        with suppress(CorrentezaError):
            call()


def test_nobody_there_is_worth_a_retry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Client({"trainer": f"http://127.0.0.1:{port}"}) as client,
        pytest.raises(LogUnavailableError, match=r"Connection refused.*is the trainer running"),
    ):
        client.predict({})


def test_silence_is_worth_a_retry() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Client({"trainer": f"http://127.0.0.1:{mute.getsockname()[1]}"}, timeout_s=0.2) as client,
        pytest.raises(LogUnavailableError, match=r"no answer within 0.2 s"),
    ):
        client.predict({})


def test_a_broken_off_answer_is_worth_a_retry() -> None:
    def half(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=half, args=(server,))
        thread.start()
        with Client({"trainer": f"http://127.0.0.1:{server.getsockname()[1]}"}) as client, pytest.raises(LogUnavailableError):
            client.predict({})
        thread.join(PATIENCE_S)


def test_each_thread_has_a_session_of_its_own(world: World) -> None:
    made: list[requests.Session] = []

    def session() -> requests.Session:
        made.append(requests.Session())
        return made[-1]

    with world.client(session=session) as client:
        threads = [threading.Thread(target=lambda: [client.models() for _ in range(3)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 4
    assert len(world.got) == 12


def test_a_client_goes_on_after_close(world: World) -> None:
    client = world.client()
    for _ in range(2):
        client.models()
        client.close()
    assert len(world.got) == 2


def test_proxies_of_the_environment_are_not_asked(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert client.models() == {"ok": True}


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://x", "http://", {"trainer": "x"}, {"cook": "http://x"}])
def test_a_wrong_address_is_refused(address: Any) -> None:
    with pytest.raises(ConfigError):
        Client(address)


def test_an_address_that_was_not_given_is_named() -> None:
    with pytest.raises(ConfigError, match="'consumer'"):
        Client({"trainer": "http://127.0.0.1:1"}).status("consumer")


def test_ports_follow_the_base() -> None:
    client = Client("http://[::1]:9000/")
    assert [client.url(name) for name in SERVICES] == [f"http://[::1]:{9000 + place}" for place in range(5)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1, 2}, b"x", np.float64("nan")])
def test_what_json_cannot_carry_is_never_sent(world: World, client: Client, value: Any) -> None:
    with pytest.raises(InputError, match="JSON"):
        client.predict({"x": value})
    assert world.got == []


def test_plain_values_of_numpy_and_datetime_are_sent() -> None:
    record = {"x": np.float64(1.5), "n": np.int64(3), "at": datetime(2026, 1, 31, tzinfo=UTC)}
    assert json.loads(encode(record)) == {"x": 1.5, "n": 3, "at": "2026-01-31T00:00:00+00:00"}


@pytest.mark.parametrize("key", ["a\nb", "日本"])
def test_an_idempotency_key_that_is_no_header_is_refused(world: World, client: Client, key: str) -> None:
    with pytest.raises(InputError, match="not to be sent"):
        client.post_records({"x": 1}, idempotency_key=key)
    assert world.got == []


def test_records_may_be_empty(client: Client) -> None:
    assert client.post_records(pa.RecordBatch.from_pylist([], schema=SCHEMA.raw)) == {"ok": True}
