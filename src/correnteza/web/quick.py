"""Small requests that came whole, answered out of the protocol: no scope, no task and no await for each of them.

Invariants:
- The answer is byte for byte that of the ordinary way (`limits`), and is bounded and counted as there. Whatever is not
  plainly of this kind goes that way: a part of a request, several at once, an unusual header, a large or unusual body.
- Requests that came in one turn of the event loop are answered together, in their order, by one call of the endpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

import httptools

from correnteza.codec import JSON
from correnteza.web.limits import Limits
from correnteza.web.problems import answer_to
from correnteza.web.requests import Requests

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Answer: TypeAlias = tuple[int, Headers, bytes]
"""Status, headers and body."""

MOST_BYTES = 4096
"""Of a body; reading a larger one would hold up others."""
HEADS = 1024
"""Heads that are remembered: those of a client's requests are mostly the same bytes."""
_LONGEST_HEAD = 2048
_PLAIN = {b"content-type": (b"application/json",), b"accept": (b"*/*", b"application/json"), b"connection": (b"keep-alive",)}
"""The values of headers that change nothing; their names, like all, in small letters."""
_CONTENT_TYPE = ((b"content-type", JSON.encode()),)
_UNUSUAL = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class Endpoint(Protocol):
    """A `POST` route that can answer several requests at once: one JSON value in, one out, always 200."""

    path: str

    def read(self, body: bytes) -> Any | None:
        """What is asked; None for the ordinary way; or it raises what the ordinary way would."""

    def answer_all(self, asked: Sequence[Any]) -> Sequence[bytes]:
        """The bodies of the answers; an error is that of a request, whichever, and makes each be asked alone."""


class Connection(Protocol):
    """Where an answer goes to."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""


class Quick:
    """Takes the requests of all connections for one endpoint.

    Args:
        endpoint: that answers.
        limits: of the application around it.
        requests: where answers are counted.
    """

    def __init__(self, endpoint: Endpoint, limits: Limits, requests: Requests) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._requests = requests
        self._most_bytes = min(MOST_BYTES, limits.most_bytes)
        self._length_of = lru_cache(HEADS)(length_of)
        self._begins = f"POST {endpoint.path} HTTP/1.1\r\n".encode()
        self._waiting: list[tuple[Connection, Any, float]] = []

    def take(self, connection: Connection, data: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Take what a connection has received, if it is a whole request of the kind; answered at the end of the turn.

        Args:
            connection: it has nothing else under way, and writes what it is given at once.
            data: since the last request.
            loop: that calls.
        """
        if not data.startswith(self._begins) or self._limits.full:
            return False
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        length = len(data) - end
        if not (end > 4 and length <= self._most_bytes and self._length_of(data[:end]) == length):
            return False
        began = time.perf_counter()
        try:
            asked = self._endpoint.read(data[end:])
        except Exception as error:
            asked = error
        if asked is None:
            return False
        if not self._waiting:
            loop.call_soon(self.answer)
        self._limits.in_flight += 1
        self._waiting.append((connection, asked, began))
        return True

    def answer(self) -> None:
        """Answer all that was taken."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        answers = iter(self._answers([asked for _, asked, _ in waiting if not isinstance(asked, Exception)]))
        self._limits.in_flight -= len(waiting)
        for connection, asked, began in waiting:
            status, headers, body = self._refusal(asked) if isinstance(asked, Exception) else next(answers)
            self._requests.note("POST", self._endpoint.path, status, time.perf_counter() - began)
            connection.respond(status, headers, body)

    def _answers(self, asked: Sequence[Any]) -> list[Answer]:
        try:
            bodies = self._endpoint.answer_all(asked) if asked else []
        except Exception as error:
            if len(asked) > 1:
                return [answer for one in asked for answer in self._answers([one])]
            return [self._refusal(error)]
        return [(HTTPStatus.OK, [*_CONTENT_TYPE, (b"content-length", b"%d" % len(body))], body) for body in bodies]

    def _refusal(self, error: Exception) -> Answer:
        answer = answer_to(error, self._endpoint.path)
        return answer.status_code, answer.raw_headers, bytes(answer.body)


class _Head:
    """What a parser finds in the head of a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def length_of(head: bytes) -> int | None:
    """The length of the body behind a head; None where anything in it is unusual.

    >>> length_of(b"POST /predict HTTP/1.1\\r\\nHost: here\\r\\nContent-Length: 12\\r\\n\\r\\n")
    12
    >>> length_of(b"POST /predict HTTP/1.1\\r\\nContent-Length: 12\\r\\nExpect: 100-continue\\r\\n\\r\\n")
    """
    found = _Head()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    for name, value in found.headers:
        if name in _UNUSUAL or value.lower() not in _PLAIN.get(name, (value.lower(),)):
            return None
    lengths = [value for name, value in found.headers if name == b"content-length"]
    return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else None
