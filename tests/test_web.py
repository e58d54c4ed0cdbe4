"""Laws of what all services share over HTTP: the size of bodies, and errors in one form."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
import requests
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from tests.tools import PATIENCE_S

from correnteza import errors, events
from correnteza.codec import JSON, MAX_PROBLEMS
from correnteza.config import Settings, load
from correnteza.errors import CorrentezaError, InputError, LogUnavailableError, Problem
from correnteza.events import Events
from correnteza.listening import bind
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.records import TIMESTAMP
from correnteza.web import Service, create_app, problem
from correnteza.web.limits import Limits
from correnteza.web.problems import MEDIA_TYPE

MOST = 4096
"""Largest body, in bytes."""
COLUMNS = pa.schema([pa.field("x", pa.float64()), pa.field("name", pa.string()), pa.field("at", TIMESTAMP)])


def rows(count: int) -> pa.RecordBatch:
    """Rows with missing values, accents and times."""
    made = [
        {"x": None if i % 3 == 1 else i / 7, "name": None if i % 5 == 2 else f"ção {i}", "at": i * 1_000_001}
        for i in range(count)
    ]
    return pa.RecordBatch.from_pylist(made, schema=COLUMNS)


class Body(BaseModel):
    """A body that FastAPI reads."""

    number: float


class World:
    """A service over memory with some routes that go wrong."""

    def __init__(self, port_base: int = 8000, **of_service: Any) -> None:
        self.settings: Settings = load(None, {"services": {"max_body_bytes": MOST, "port_base": port_base}})
        self.store = MemoryStore()
        self.log: MemoryLog = self.store.log("raw", COLUMNS)
        self.event_log: MemoryLog = self.store.log("events", events.SCHEMA)
        self.told = Events("generator", self.event_log)
        self.service = Service(
            "generator",
            self.settings,
            {"title": "raw"},
            {"records": self.log, "events": self.event_log},
            self.told,
            store=self.store,
            **of_service,
        )
        self.raised: list[CorrentezaError] = []
        self.app: FastAPI = create_app(self.service, self._routes())

    def _routes(self) -> APIRouter:
        routes = APIRouter()

        @routes.post("/echo")
        async def echo(request: Request) -> Response:
            return Response(str(len(await request.body())))

        @routes.put("/body")
        async def body(wanted: Body) -> Response:
            return Response(str(wanted.number))

        @routes.get("/ours")
        def ours() -> Response:
            raise self.raised.pop()

        @routes.get("/boom")
        def boom() -> Response:
            raise RuntimeError("a secret")

        return routes


@contextmanager
def served(world: World) -> Iterator[str]:
    """The application behind a port of this machine; gives its address."""
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(world.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        world.service.stopping = server.should_exit = True
        thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[World, str]]:
    """A service for tests that change nothing but counts and the end of the log."""
    world = World()
    world.log.append(rows(50))
    with served(world) as url:
        yield world, url


def refused(answer: requests.Response, status: int) -> dict[str, Any]:
    """The body of a problem, which has the form that RFC 9457 asks for."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def answered(service: Service, route: str, status: int) -> int:
    """How many answers of a route had a status, whatever the method."""
    found = service.requests.all().items()
    return sum(sum(seconds.counts) for (_, *key), seconds in found if key == [route, status])


def eventually(holds: Callable[[], Any]) -> Any:
    """Wait until something holds; fails when it never does."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if found := holds():
            return found
        pause.wait(0.02)
    raise AssertionError(f"not within {PATIENCE_S} s")


# ---------------------------------------------------------------------------------------------------- limits


def parts(size: int) -> Iterator[bytes]:
    """A body in parts, whose length nobody declares."""
    yield from [b" " * 1000] * (size // 1000)
    yield b" " * (size % 1000)


@pytest.mark.parametrize("as_body", [lambda size: b" " * size, parts], ids=["declared", "undeclared"])
def test_a_body_may_have_the_limit_and_not_a_byte_more(shared: tuple[World, str], as_body: Callable[[int], Any]) -> None:
    _, url = shared
    assert requests.post(f"{url}/echo", data=as_body(MOST), timeout=PATIENCE_S).text == str(MOST)
    body = refused(requests.post(f"{url}/echo", data=as_body(MOST + 1), timeout=PATIENCE_S), 413)
    assert f"max_body_bytes = {MOST}" in body["detail"]


@pytest.mark.parametrize("as_body", [lambda size: b" " * size, parts], ids=["declared", "undeclared"])
def test_the_limit_holds_where_the_framework_reads_the_body(shared: tuple[World, str], as_body: Callable[[int], Any]) -> None:
    _, url = shared
    answer = requests.put(f"{url}/body", data=as_body(MOST + 1), headers={"Content-Type": JSON}, timeout=PATIENCE_S)
    assert "max_body_bytes" in refused(answer, 413)["detail"]


@pytest.mark.parametrize("declared", [b"4097", b"0000000000000000000000000000004097", b"9" * 18, b"1" + b"0" * 18])
def test_a_body_that_is_declared_too_large_never_reaches_the_application(declared: bytes) -> None:
    assert asyncio.run(through_limits([b""], declared)) == (413, 0)


def test_of_a_body_without_length_no_more_than_the_limit_is_taken() -> None:
    """However much is sent, the application holds at most the limit."""
    status, taken = asyncio.run(through_limits([b" " * 1000] * 1000, None))
    assert status == 413
    assert taken <= MOST


async def through_limits(body: list[bytes], declared: bytes | None) -> tuple[int, int]:
    """Status and bytes that an application behind the limits was given."""
    taken, statuses = 0, list[int]()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal taken
        more = True
        while more:
            message = await receive()
            taken += len(message["body"])
            more = message["more_body"]
        await Response()(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request", "body": body.pop(), "more_body": bool(body)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [] if declared is None else [(b"content-length", declared)]
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    try:
        await Limits(application, World().service)(scope, receive, send)
    except InputError as error:  # the application's own layer would answer it
        statuses.append(error.status)
    return statuses[0], taken


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_failure_of_ours(shared: tuple[World, str]) -> None:
    world, url = shared
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as leaving:
        leaving.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    eventually(lambda: answered(world.service, "/echo", 400))
    assert requests.post(f"{url}/echo", data=b"whole", timeout=PATIENCE_S).text == "5"


# ---------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/", 404),
        ("GET", "/records/1/2", 404),
        ("DELETE", "/records", 405),
        ("POST", "/status", 405),
    ],
)
def test_what_is_not_there_is_a_problem_too(shared: tuple[World, str], method: str, path: str, status: int) -> None:
    answer = requests.request(method, f"{shared[1]}{path}", timeout=PATIENCE_S)
    refused(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "status", "more"),
    [
        (InputError("bad", [Problem(2, "x", "why")]), 422, {"error_count": 1}),
        (InputError("other type", status=415), 415, {}),
        (errors.CursorError("not a cursor"), 400, {}),
        (errors.OffsetRemovedError("gone", 7), 410, {"first_offset": 7}),
        (errors.UnknownModelError("no such version"), 404, {}),
        (errors.NoModelError("none yet"), 503, {}),
        (LogUnavailableError("busy"), 503, {}),
        (errors.DamagedLogError("damaged", 9), 500, {"damaged_offset": 9}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_of_ours_has_its_status_and_says_why(
    shared: tuple[World, str], error: CorrentezaError, status: int, more: dict[str, Any]
) -> None:
    world, url = shared
    world.raised.append(error)
    answer = requests.get(f"{url}/ours", timeout=PATIENCE_S)
    body = refused(answer, status)
    assert body["detail"] == str(error)
    assert more.items() <= body.items()
    assert ("retry-after" in answer.headers) == (status == 503)


def test_an_answer_lists_a_hundred_faults_and_says_how_many_there_are() -> None:
    body = json.loads(bytes(problem(422, "bad", [Problem(i, "x", "why") for i in range(MAX_PROBLEMS + 50)]).body))
    assert (len(body["errors"]), body["error_count"]) == (MAX_PROBLEMS, MAX_PROBLEMS + 50)
    assert body["errors"][3] == {"index": 3, "field": "x", "reason": "why"}


def test_an_unexpected_error_is_counted_and_keeps_its_details_to_itself(shared: tuple[World, str]) -> None:
    world, url = shared
    body = refused(requests.get(f"{url}/boom", timeout=PATIENCE_S), 500)
    assert "RuntimeError" in body["detail"]
    assert "secret" not in json.dumps(body)
    assert answered(world.service, "/boom", 500) == 1


@pytest.mark.parametrize(
    ("body", "media", "status", "reason"),
    [
        (b"", JSON, 422, "Field required"),
        (b"{", JSON, 422, "Expecting property name"),
        (b'{"number": "x"}', JSON, 422, "body.number: Input should be a valid number"),
        (b"[" * 2000, JSON, 400, "nested too deeply"),
        (b'{"number": ' + b"1" * 4001 + b"}", JSON, 422, "body.number: Input should be a"),
        (b'{"number": "\xff"}', JSON, 400, "can't decode byte 0xff"),
        (b'{"number": 1}', "text/plain", 415, "Content-Type 'text/plain' is not read here; send application/json"),
        (b'{"number": 1}', "", 415, "send application/json"),
    ],
    ids=["empty", "broken", "type", "deep", "digits", "no-utf8", "media", "no-media"],
)
def test_a_body_that_the_framework_refuses_is_told_what_is_wrong(
    shared: tuple[World, str], body: bytes, media: str, status: int, reason: str
) -> None:
    answer = requests.put(f"{shared[1]}/body", data=body, headers={"Content-Type": media} if media else {}, timeout=PATIENCE_S)
    assert reason in refused(answer, status)["detail"]


def test_the_page_of_the_api_and_all_that_it_loads_come_from_the_service(shared: tuple[World, str]) -> None:
    _, url = shared
    page = requests.get(f"{url}/docs", timeout=PATIENCE_S)
    assert page.status_code == 200
    loaded = re.findall(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""", page.text)
    addresses = [one or other for one, other in loaded]
    assert {"/docs/files/swagger-ui-bundle.js", "/docs/files/swagger-ui.css", "/openapi.json"} <= set(addresses)
    assert "//" not in re.sub("// .*", "", page.text)
    for address in addresses:
        assert requests.get(url + address, timeout=PATIENCE_S).ok, address
