"""What plain ASGI endpoints share: the body of a request, that of an answer, a place in the OpenAPI document.

Such endpoints are for the routes that single records take, where the layers of an application would cost more than
the work. They raise the errors of `correnteza.errors`, and `limits` answers those as problem+json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send

from correnteza.web.problems import RESPONSES


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request.

    Raises:
        ClientDisconnect: the client went away before its end.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


async def send_body(send: Send, status: int, media: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an answer.

    Args:
        send: of the endpoint.
        status: HTTP status.
        media: media type of the body.
        body: its bytes.
        headers: further ones.
    """
    told = [(b"content-type", media.encode()), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def document(app: FastAPI, operations: Mapping[tuple[str, str], dict[str, Any]], behind: bool = False) -> None:
    """Put plain endpoints into the OpenAPI document.

    Args:
        app: the application that has them as routes.
        operations: what each does, by method (`post`) and path; the answers that every route may give are added.
        behind: whether their paths stand behind the others and not in front.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        made = generate()
        paths: dict[str, Any] = {path: {} for _, path in operations}
        for (method, path), operation in operations.items():
            operation["responses"].update({str(status): answer for status, answer in RESPONSES.items()})
            paths[path] = {**paths[path], **made["paths"].get(path, {}), method: operation}
        others = {path: about for path, about in made["paths"].items() if path not in paths}
        made["paths"] = {**others, **paths} if behind else {**paths, **others}
        return made

    app.openapi = openapi  # type: ignore[method-assign]
