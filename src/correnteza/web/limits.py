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
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._limited(scope, receive, counted)
        except Exception:
            if not started:  # the answer comes from the layer around this one
                self._count(scope, 500)
            raise

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and declared.isdigit() and int(declared.lstrip(b"0")[:20] or b"0") > self._most:
            await of_error(self._too_large())(scope, receive, send)
            return
        await self._app(scope, receive if declared is not None else self._measuring(receive), send)

    def _count(self, scope: Scope, status: int) -> None:
        key = (getattr(scope.get("route"), "path", "other"), status)
        self._service.requests[key] = self._service.requests.get(key, 0) + 1

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
