"""The outermost layer of every service: body size, and the count of answers.

Invariant: no request body larger than the limit is ever held in memory.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from correnteza.errors import InputError
from correnteza.web.problems import of_error
from correnteza.web.service import Service


class Limits:
    """ASGI middleware.

    Args:
        app: what it wraps.
        service: whose settings hold and where answers are counted.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._most = service.settings.services.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = self._counting(scope, send)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and declared.isdigit() and int(declared[:20]) > self._most:
            await of_error(self._too_large())(scope, receive, counted)
            return
        await self._app(scope, receive if declared is not None else self._measuring(receive), counted)

    def _too_large(self) -> InputError:
        return InputError(f"the body is larger than services.max_body_bytes = {self._most}; send it in parts", status=413)

    def _measuring(self, receive: Receive) -> Receive:
        """For bodies of undeclared length: raises as soon as there is too much."""
        seen = 0

        async def measured() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise self._too_large()
            return message

        return measured

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                key = (getattr(route, "path", "other"), message["status"])
                self._service.requests[key] = self._service.requests.get(key, 0) + 1
            await send(message)

        return counted
