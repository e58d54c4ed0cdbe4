"""Laws of back-pressure, over raw sockets: too many requests are refused at once, slow senders lose their connection."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests
import uvicorn
from tests.tools import PATIENCE_S

from correnteza.config import Settings
from correnteza.tracing import Tracer
from correnteza.web import Service
from correnteza.web.protocol import protocol_of

from .asking import Asking

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def answered(service: Service, route: str, status: int) -> int:
    """How many answers of a route had a status, whatever the method."""
    found = service.requests.all().items()
    return sum(sum(seconds.counts) for (_, *key), seconds in found if key == [route, status])


@contextmanager
def serving(idle_s: float = 5, tracer: Tracer | None = None, **limits: Any) -> Iterator[tuple[Asking, tuple[str, int]]]:
    """The endpoint behind a port, which keeps idle connections so long, with settings of `[services]`; gives its address."""
    world = Asking(settings=Settings.model_validate({"services": limits}), tracer=tracer)
    world.serve(1)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(world.app, http=protocol_of(world.service), log_config=None, lifespan="off", ws="none")
    config.timeout_keep_alive = idle_s  # type: ignore[assignment]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield world, listening.getsockname()
    finally:
        server.force_exit = server.should_exit = True
        thread.join(PATIENCE_S)


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[tuple[socket.socket, Any]]:
    with socket.create_connection(address, PATIENCE_S) as connection, connection.makefile("rb") as answers:
        yield connection, answers


def read(answers: Any) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one answer."""
    status, headers = int(answers.readline().split()[1]), {}
    while line := answers.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, json.loads(answers.read(int(headers["content-length"])))


def asked(address: tuple[str, int]) -> int:
    answer = requests.post(f"http://127.0.0.1:{address[1]}/predict", data=b"{}", headers=JSON, timeout=PATIENCE_S)
    return int(answer.status_code)


JSON = {"content-type": "application/json"}


def test_above_the_bound_a_request_is_refused_before_its_body_and_served_again_below_it() -> None:
    with serving(max_in_flight=2) as (world, address), ExitStack() as stack:
        waiting = [stack.enter_context(connected(address)) for _ in range(3)]
        for connection, _ in waiting:
            connection.sendall(HEAD)  # the body is still to come
        status, headers, problem = read(waiting[2][1])
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/problem+json")
        assert "services.max_in_flight = 2" in problem["detail"]
        assert requests.get(f"http://127.0.0.1:{address[1]}/health/live", timeout=PATIENCE_S).status_code == 200
        waiting[0][0].sendall(b"{}")
        assert read(waiting[0][1])[0] == 200
        assert asked(address) == 200
        waiting[1][0].sendall(b"{}")
        assert read(waiting[1][1])[0] == 200
        waiting[2][0].sendall(b"{}" + HEAD + b"{}")  # its refused body, then the next request
        assert read(waiting[2][1])[0] == 200
        assert answered(world.service, "other", 503) == 1


@pytest.mark.parametrize(("head", "sent"), [(HEAD, b""), (HEAD, b"{"), (CHUNKED, b"1\r\n{\r\n")])
def test_a_body_that_does_not_come_in_time_is_408_and_ends_the_connection(head: bytes, sent: bytes) -> None:
    with serving(receive_timeout_s=0.2) as (_, address), connected(address) as (connection, answers):
        connection.sendall(head + sent)
        status, headers, problem = read(answers)
        assert (status, headers["connection"], problem["status"]) == (408, "close", 408)
        assert "services.receive_timeout_s = 0.2 s" in problem["detail"]
        assert answers.read() == b""
        assert asked(address) == 200


@pytest.mark.parametrize("sent", [b"", b"POST /pre", HEAD[:-2]])
def test_a_head_that_does_not_come_in_time_is_408_and_ends_the_connection(sent: bytes) -> None:
    with serving(receive_timeout_s=0.2) as (world, address), connected(address) as (connection, answers):
        connection.sendall(sent)
        status, headers, _ = read(answers)
        assert (status, headers["content-type"]) == (408, "application/problem+json")
        assert answers.read() == b""
        assert answered(world.service, "other", 408) == 1


def test_the_head_of_a_later_request_has_the_same_deadline() -> None:
    with serving(receive_timeout_s=0.2) as (_, address), connected(address) as (connection, answers):
        connection.sendall(HEAD + b"{}" + b"POST /predict HTTP/1.1\r\n")
        assert [read(answers)[0] for _ in range(2)] == [200, 408]


def test_a_sender_that_is_slow_but_in_time_is_answered() -> None:
    with serving(receive_timeout_s=PATIENCE_S) as (_, address), connected(address) as (connection, answers):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"{}":
            connection.sendall(bytes([byte]))
        assert read(answers)[0] == 200
