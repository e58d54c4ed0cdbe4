"""HTTP/1.1 as uvicorn reads it, with a deadline for the head and one for the body of a request.

Invariants:
- A connection that does not send a whole head, and then a whole body, in time is answered with 408 and
  closed, so slow senders cannot hold connections for ever.
- What comes whole with its first packet, as most requests do, costs no timer.
- What `quick` takes never meets uvicorn's parser; it is taken only between two requests, when nothing else is under
  way on the connection, so answers have the order of their requests.

Idle connections between two requests are closed by uvicorn after its `timeout_keep_alive` of 5 s. What
neither can bound is a client that does not read its answer: the rest waits in memory until the client goes.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from correnteza.web.problems import problem
from correnteza.web.quick import Headers, Quick
from correnteza.web.requests import OTHER
from correnteza.web.service import Service


def protocol_of(service: Service) -> type[asyncio.Protocol]:
    """The protocol class for a service's connections.

    Args:
        service: whose `services.receive_timeout_s` holds and where answers are counted; what its `quick` does not
            take goes through the application.
    """
    return cast(type[asyncio.Protocol], lambda *args, **named: _Protocol(service, *args, **named))


class _Protocol(HttpToolsProtocol):
    def __init__(self, service: Service, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._service = service
        self._quick = service.quick
        self._asked = False
        self._answered_at = 0.0
        self._between = True
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._quick is not None:
            self._answer_first(self._quick)
            if self._idle() and self._quick.take(self, data, self.loop):
                self._asked = True
                return
        super().data_received(data)
        if self._deadline is None and (self._in_head or self._in_body()):
            self._set_deadline()

    def _answer_first(self, quick: Quick) -> None:
        """Answer what was asked before what comes now."""
        if self._asked:
            quick.answer()

    def _idle(self) -> bool:
        """Whether nothing of a request has come yet, and all before is answered."""
        cycle = self.cycle
        return self._between and (cycle is None or cycle.response_complete) and not self.flow.write_paused

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer to what `quick` took."""
        self._asked = False
        if self.transport.is_closing():
            return
        self._came()
        self._write(status, [*self.server_state.default_headers, *headers], body)
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; quick answers move no timer, so it may have answered since the timer was set."""
        left_s = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Answer what was asked, and close as uvicorn does."""
        if self._quick is not None:
            self._answer_first(self._quick)
        super().shutdown()

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], lines, body))

    def _in_body(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_started and not self.transport.is_closing()

    def on_message_begin(self) -> None:
        self._in_head, self._between = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._came()
        self._between = True
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
        self._write(408, [*answer.raw_headers, (b"connection", b"close")], bytes(answer.body))
        self.transport.close()
