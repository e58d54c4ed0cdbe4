"""Laws of small requests that are answered out of the protocol: as by the ordinary way, in order, and alone as together."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import uvicorn
from tests.end_to_end.otlp import context_of
from tests.test_tracing import Recorded
from tests.tools import PATIENCE_S, until

from correnteza.errors import InputError
from correnteza.trainer.predict import Predict
from correnteza.trainer.questions import Question
from correnteza.web.protocol import protocol_of
from correnteza.web.quick import length_of

from .asking import SCHEMA, Asking
from .test_pressure import answered, connected, read, serving

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def request(record: bytes) -> bytes:
    return HEAD % len(record) + record


def numbered(i: int) -> bytes:
    return request(b'{"id": "r%d", "rooms": %d, "kind": "flat"}' % (i, i))


def raw(answers: Any) -> bytes:
    """The bytes of one answer, its date left out."""
    lines = list(iter(answers.readline, b"\r\n"))
    length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
    return re.sub(rb"date: [^\r]*", b"date: then", b"".join(lines)) + b"\r\n" + bytes(answers.read(length))


class Taken:
    """Counts what the quick way takes of a world's requests."""

    def __init__(self, world: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
        self.together: list[int] = []
        quick = world.service.quick
        assert quick is not None
        answer_all = quick._endpoint.answer_all

        def counted(asked: Any) -> Any:
            self.together.append(len(asked))
            return answer_all(asked)

        monkeypatch.setattr(quick._endpoint, "answer_all", counted)


@pytest.mark.parametrize("half_width", [None, 2.5])
@pytest.mark.parametrize(
    "record",
    [
        b'{"id": "a", "rooms": 3, "select from": 0.1, "kind": "flat", "note": "x", "at": "2026-01-31T12:00:00Z"}',
        b'{"id": 7, "kind": 5, "rooms": null}',
        b'{"id": "\xc3\xa9"}',
    ],
)
def test_the_answer_is_that_of_the_ordinary_way_byte_for_byte(
    record: bytes, half_width: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as (world, address), connected(address) as (connection, answers):
        world.serve(3, half_width)
        taken = Taken(world, monkeypatch)
        connection.sendall(request(record))
        quick = raw(answers)
        assert taken.together == [1]
        connection.sendall(request(record).replace(b"host: x", b"host: x\r\nexpect: something"))
        assert raw(answers) == quick
        assert taken.together == [1]
        assert answered(world.service, "/predict", 200) == 2
        stored = [(a.ids, a.version, a.halves is None, len(a.records)) for a in world.answers._queue]
        assert stored[0] == stored[1]


def test_so_are_errors() -> None:
    with serving() as (world, address), connected(address) as (connection, answers):
        world.serving = None
        connection.sendall(numbered(1))
        quick = raw(answers)
        assert quick.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in quick
        connection.sendall(numbered(1).replace(b"host: x", b"host: x\r\nexpect: something"))
        assert raw(answers) == quick
        world.serving = "broken"  # type: ignore[assignment]
        connection.sendall(numbered(1))
        status, _, problem = read(answers)
        assert (status, problem["title"]) == (500, "Internal Server Error")


BAD = [
    b"{",
    b"[7]",
    b'{"rooms": "many"}',
    b'{"price": 1}',
    b'{"note": "\\u0000"}',
    b"",
    b"\xff",
    b"null",
    b'{"columns": [], "rows": 1}',
    b'{"columns": 1}',
    b'{"rooms": -1e300}',
    b'{"rooms": 1',
    b"[" * 3000,
    b'{"note": ' + b"[" * 3000,
]


@pytest.mark.parametrize("bad", BAD)
def test_a_refused_body_is_told_why_in_the_same_bytes_and_the_next_request_is_answered(bad: bytes) -> None:
    with serving() as (_, address), connected(address) as (connection, answers):
        found = []
        for kind in (request(bad), request(bad).replace(b"host: x", b"host: x\r\nexpect: something")):
            connection.sendall(kind)
            found.append(raw(answers))
            connection.sendall(numbered(5))
            assert read(answers)[2]["prediction"] == 6.0
        assert found[0] == found[1]
        assert found[0].startswith(b"HTTP/1.1 4")


def test_answers_have_the_order_of_their_requests_on_a_connection() -> None:
    """However the bytes are cut: several requests at once, ordinary ones in between, a request in parts."""
    sent = b"".join(numbered(i) if i % 5 else numbered(i).replace(b"host", b"Expect: x\r\nhost") for i in range(60))
    rng = np.random.default_rng(4)
    with serving() as (_, address), connected(address) as (connection, answers):
        ends = [*np.cumsum([len(numbered(i)) + (i % 5 == 0) * 11 for i in range(60)]).tolist()]
        cuts = sorted({0, len(sent), *rng.choice(ends, 30).tolist(), *rng.integers(1, len(sent), 15).tolist()})
        for begin, end in pairwise(cuts):
            connection.sendall(sent[begin:end])
        assert [read(answers)[2]["id"] for _ in range(60)] == [f"r{i}" for i in range(60)]


def test_where_spans_are_recorded_each_request_has_one_also_what_came_whole() -> None:
    recorded, asked = Recorded(), context_of(7)
    with serving(tracer=recorded.tracer) as (world, address), connected(address) as (connection, answers):
        connection.sendall(numbered(1).replace(b"host: x", b"host: x\r\ntraceparent: " + asked.encode()))
        assert read(answers)[0] == 200
        assert answered(world.service, "/predict", 200) == 1
    span = recorded.the("POST /predict")
    assert f"{span.context.trace_id:032x}" == asked[3:35]
    assert f"{span.parent.span_id:016x}" == asked[36:52]


def test_requests_that_come_together_are_one_run_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Asking()
    echo = world.serve(2, 1.5)
    quick = world.service.quick
    assert quick is not None

    class Client:
        def __init__(self) -> None:
            self.found: list[Any] = []

        def respond(self, status: int, headers: Any, body: bytes) -> None:
            self.found.append((status, json.loads(body)["prediction"]))

    async def together() -> list[Any]:
        clients = [Client() for _ in range(5)]
        for i, client in enumerate(clients):
            assert quick.take(client, numbered(i), asyncio.get_running_loop())
        assert world.app.outermost.in_flight == 5  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return [client.found for client in clients]

    assert asyncio.run(together()) == [[(200, i + 2.0)] for i in range(5)]
    assert len(echo.asked) == 1
    assert world.app.outermost.in_flight == 0  # type: ignore[attr-defined]
    echo.by_row = False
    assert asyncio.run(together()) == [[(200, i + 2.0)] for i in range(5)]
    assert len(echo.asked) == 6  # alone, where rows beside it could change its last bit


def test_a_record_that_cannot_be_answered_fails_alone() -> None:
    world = Asking()
    world.serve(1)

    def complete(question: Question) -> Question:
        if "r2" in question.ids:
            raise InputError("not this one")
        return question

    assert world.serving is not None
    world.serving = replace(world.serving, complete=complete)
    quick = world.service.quick
    assert quick is not None
    records = [quick._endpoint.read(b'{"id": "r%d"}' % i) for i in range(4)]
    assert [status for status, _, _ in quick._answers(records)] == [200, 200, 422, 200]


def test_above_the_bound_small_requests_are_refused_too() -> None:
    with serving(max_in_flight=2) as (world, address), ExitStack() as stack:
        waiting = [stack.enter_context(connected(address)) for _ in range(3)]
        for connection, _ in waiting[:2]:
            connection.sendall(HEAD % 2)  # the body is still to come
        until(lambda: world.app.outermost.in_flight == 2, "both heads")  # type: ignore[attr-defined]
        connection, answers = waiting[2]
        connection.sendall(numbered(1))
        assert read(answers)[0] == 503
        waiting[0][0].sendall(b"{}")
        assert read(waiting[0][1])[0] == 200
        connection.sendall(numbered(1))
        assert read(answers)[0] == 200


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    idle_s = 0.3
    with serving(idle_s=idle_s) as (_, address), connected(address) as (connection, answers):
        began = time.monotonic()
        while time.monotonic() - began < 3 * idle_s:
            connection.sendall(numbered(1))
            assert read(answers)[0] == 200
        last = time.monotonic()
        connection.settimeout(PATIENCE_S)
        assert answers.read() == b""
        assert time.monotonic() - last > 0.8 * idle_s


class Transport:
    """A client that does not read."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def test_what_a_client_does_not_read_goes_the_way_that_waits_for_it() -> None:
    world = Asking()
    world.serve(1)

    async def asked(paused: bool) -> list[bytes]:
        config = uvicorn.Config(world.app, lifespan="off", ws="none")
        protocol: Any = protocol_of(world.service)(config, uvicorn.server.ServerState(), {})  # type: ignore[call-arg]
        transport = Transport()
        protocol.connection_made(transport)
        if paused:
            protocol.pause_writing()
        protocol.data_received(numbered(1))
        await asyncio.sleep(0)
        written = list(transport.written)
        protocol.connection_lost(ConnectionResetError())
        return written

    assert len(asyncio.run(asked(paused=False))) == 1
    assert asyncio.run(asked(paused=True)) == []


@pytest.mark.parametrize(
    ("line", "length"),
    [
        (b"Accept: */*", 2),
        (b"ACCEPT: application/JSON", 2),
        (b"Connection: keep-alive", 2),
        (b"X-Other: anything", 2),
        (b"Accept: application/x-ndjson", None),
        (b"Content-Type: text/plain", None),
        (b"Content-Type: application/json; charset=utf-8", None),
        (b"Connection: close", None),
        (b"Expect: 100-continue", None),
        (b"Transfer-Encoding: chunked", None),
        (b"Upgrade: websocket\r\nConnection: upgrade", None),
        (b"Content-Length: 2", None),
        (b"no colon", None),
        (b"Bad\x01Name: 1", None),
    ],
)
def test_only_plain_heads_are_taken(line: bytes, length: int | None) -> None:
    assert length_of(b"POST /predict HTTP/1.1\r\nHost: x\r\n%b\r\nContent-Length: 2\r\n\r\n" % line) == length


def test_a_length_that_is_no_number_is_not_taken() -> None:
    for value in (b"-1", b"+2", b"2, 2", b"x", "٢".encode()):
        assert length_of(b"POST /predict HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % value) is None


def test_the_endpoint_reads_single_records_and_leaves_others_that_may_be_right_to_the_ordinary_way() -> None:
    world = Asking()
    endpoint = Predict(SCHEMA, lambda: None, lambda: "", world.answers)
    assert endpoint.read(b'{"rooms": 1}') is not None
    columns = (b'{"columns": ["rooms"], "rows": [[1]]}', b'{"\\u0063olumns": ["rooms"], "rows": [[1]]}')
    left = (b"[]", b"[{}]", *columns, b'{"note": "\\\\u0000"}', b'{"rooms": "a", "rooms": 1}')
    assert [endpoint.read(body) for body in left] == [None] * 6
