"""HTTP/1.1 as uvicorn reads it, with a deadline for the head and one for the body of a request.

Invariants:
- A connection that does not send a whole head, and then a whole body, in time is answered with 408 and
  closed, so slow senders cannot hold connections for ever.
- What comes whole with its first packet, as most requests do, costs no timer.

Idle connections between two requests are closed by uvicorn after its `timeout_keep_alive` of 5 s. What
neither can bound is a client that does not read its answer: the rest waits in memory until the client goes.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from correnteza.web.problems import problem
from correnteza.web.requests import OTHER
from correnteza.web.service import Service


def protocol_of(service: Service) -> type[asyncio.Protocol]:
    """The protocol class for a service's connections.

    Args:
        service: whose `services.receive_timeout_s` holds and where answers are counted.
    """
    return cast(type[asyncio.Protocol], lambda *args, **named: _Protocol(service, *args, **named))


class _Protocol(HttpToolsProtocol):
    def __init__(self, service: Service, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._service = service
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._deadline is None and (self._in_head or self._in_body()):
            self._set_deadline()

    def _in_body(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_started and not self.transport.is_closing()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._came()
        super().on_message_complete()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._service.settings.services.receive_timeout_s, self._too_late)

    def _came(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        part = "head" if self._in_head else "body"
        if part == "body" and not self._in_body():  # it was answered without its body, or has gone
            return
        limit_s = self._service.settings.services.receive_timeout_s
        self._service.requests.note(OTHER, OTHER, 408, limit_s)
        answer = problem(408, f"the {part} of the request did not arrive within services.receive_timeout_s = {limit_s:g} s")
        headers = (b"%b: %b\r\n" % header for header in [*answer.raw_headers, (b"connection", b"close")])
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\n%b\r\n%b" % (b"".join(headers), bytes(answer.body)))
        self.transport.close()
