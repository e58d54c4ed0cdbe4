"""The error forms of the protocols.

Invariant: every answer below a protocol's paths with a status of 400 or more has the protocol's form, wherever in
the application it comes from: a route, the router (404, 405), the limit of bodies, an unexpected exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from correnteza.codec import JSON
from correnteza.web.problems import MEDIA_TYPE

TOLD_FAULTS = 20
"""Most faults of single records in one message."""


@dataclass(frozen=True, slots=True)
class Form:
    """A protocol's errors.

    Args:
        owns: whether a path is one of the protocol's.
        body: makes the body from status and message.
    """

    owns: Callable[[str], bool]
    body: Callable[[int, str], Mapping[str, Any]]


class Forms:
    """A layer around an application that writes problem+json as the protocol of the path has it.

    Args:
        app: what it wraps.
        forms: of the protocols.
    """

    def __init__(self, app: ASGIApp, forms: tuple[Form, ...]) -> None:
        self._app = app
        self._forms = forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        path = scope.get("path", "")
        form = next((form for form in self._forms if form.owns(path)), None)
        if form is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        translation = _Translation(form, send)
        try:
            await self._app(scope, receive, translation.send)
        except Exception:
            if not translation.whole:  # the answer to what nobody foresaw is given before that is raised again
                raise


class _Translation:
    """The messages of one answer; those of a problem are held back until it is whole."""

    def __init__(self, form: Form, send: Send) -> None:
        self.whole = False
        self._form = form
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start" and (b"content-type", MEDIA_TYPE.encode()) in message["headers"]:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_translated(self._start)

    async def _send_translated(self, start: Message) -> None:
        status = start["status"]
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:  # the protocols know only 400 for what a client did wrong
            status = int(HTTPStatus.BAD_REQUEST)
        body = msgspec.json.encode(self._form.body(status, message_of(msgspec.json.decode(self._body))))
        kept = [(name, value) for name, value in start["headers"] if name not in (b"content-type", b"content-length")]
        headers = [*kept, (b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.whole = True


def message_of(found: Mapping[str, Any]) -> str:
    """All that a problem says, in one text.

    Args:
        found: the problem's members.

    >>> message_of({"detail": "1 of the records are refused; see errors",
    ...             "errors": [{"index": 2, "field": "age", "reason": "-1.0 is not within 0 and 130"}]})
    "1 of the records are refused: record 2, field 'age': -1.0 is not within 0 and 130"
    """
    faults = found.get("errors", ())
    if not faults:
        return str(found["detail"])
    told = [f"record {f['index']}, field {f['field']!r}: {f['reason']}" for f in faults[:TOLD_FAULTS]]
    more = found.get("error_count", len(faults)) - len(told)
    return f"{found['detail'].removesuffix('; see errors')}: {'; '.join(told)}" + (f"; and {more} more" if more else "")


def error_schema(description: str, *members: str) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a protocol's errors.

    Args:
        description: of the body.
        members: names of its texts.
    """
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in members}, "required": list(members)}
    content = {JSON: {"schema": {**schema, "description": description}}}
    return {
        "4XX": {"description": "The request is refused; the body says why.", "content": content},
        "503": {"description": "Not ready, or overloaded; try again later.", "content": content},
    }


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as a JSON answer."""
    return Response(msgspec.json.encode(value), status, headers, JSON)
