"""The outermost layer of every service: size of bodies, requests in flight, the count of answers.

Invariants:
- No request body larger than the limit is ever held in memory. (How long it may take is `protocol`'s.)
- Above the bound, a request is refused at once, before its body is read; health and metrics are always answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from correnteza.errors import InputError
from correnteza.tracing import Tracer, incoming
from correnteza.web.problems import answer_to, of_error, problem
from correnteza.web.requests import OTHER
from correnteza.web.service import Service

_ALWAYS = ("/health/", "/metrics")
"""What is answered however many requests are in flight."""


class Limits:
    """The outermost ASGI application.

    Args:
        app: the application inside.
        service: whose settings hold and where answers are counted.
        direct: plain ASGI endpoints by method and path, which are called from here, around all other layers.

    Attributes:
        most_bytes: of a body.
        in_flight: requests that are in work.
    """

    def __init__(self, app: ASGIApp, service: Service, direct: Mapping[tuple[str, str], ASGIApp] | None = None) -> None:
        self._app = app
        self._direct = dict(direct or {})
        self._service = service
        self.most_bytes = service.settings.services.max_body_bytes
        self._most_in_flight = service.settings.services.max_in_flight
        self._tracer = service.tracer
        self.in_flight = 0

    @property
    def full(self) -> bool:
        """Whether no further request is taken now."""
        return self.in_flight >= self._most_in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracer is not None and scope["method"] == "POST":
            await self._traced(self._tracer, scope, receive, send)
        else:
            await self._bounded(scope, receive, send)

    async def _traced(self, tracer: Tracer, scope: Scope, receive: Receive, send: Send) -> None:
        """As `_bounded`, in a span that goes on in the trace of the client."""
        began = {"http.request.method": scope["method"], "url.path": scope["path"]}
        span = tracer.begin(scope["method"], incoming(scope["headers"]), began, "server")

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.note({"http.response.status_code": status, "http.route": _route(scope)})
                span.rename(f"{scope['method']} {_route(scope)}")
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.fail(f"answered {status}")
            await send(message)

        with span:
            await self._bounded(scope, receive, noted)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is too much at a time, and count the answers."""
        if self.full and not scope["path"].startswith(_ALWAYS):
            self._count(scope, 503, 0.0)
            await self._overloaded()(scope, receive, send)
            return
        started = False
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        self.in_flight += 1
        try:
            await self._limited(scope, receive, counted)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:  # the application inside has answered, or nobody can any more
                raise
            await answer_to(error, scope["path"])(scope, receive, counted)
        finally:
            self.in_flight -= 1

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and declared.isdigit() and int(declared.lstrip(b"0")[:20] or b"0") > self.most_bytes:
            await of_error(self._too_large())(scope, receive, send)
            return
        if declared is None:
            receive = self._measuring(receive)
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            scope["endpoint"] = endpoint
            await endpoint(scope, receive, send)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        self._service.requests.note(scope["method"], _route(scope), status, seconds)

    def _too_large(self) -> InputError:
        return InputError(f"the body is larger than services.max_body_bytes = {self.most_bytes}; send it in parts", status=413)

    def _overloaded(self) -> Response:
        return problem(503, f"services.max_in_flight = {self._most_in_flight} requests are in work already; try again later")

    def _measuring(self, receive: Receive) -> Receive:
        """For bodies of undeclared length: raises as soon as there is too much."""
        seen = 0

        async def measured() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise self._too_large()
            return message

        return measured


def _route(scope: Scope) -> str:
    """The path as the route has it."""
    return str(getattr(scope.get("route") or scope.get("endpoint"), "path", OTHER))
