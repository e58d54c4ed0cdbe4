"""`POST /records` and `POST /outcomes`: plain ASGI endpoints, because single posts are what a stream often comes as.

Invariants:
- An answer of 201 comes after the commit.
- The event loop never waits for the database, nor for the decoding of a large body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from anyio import to_thread
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from correnteza.codec import ARROW, ID_LIMIT, JSON, NDJSON, Codec
from correnteza.described import example, json_schema
from correnteza.errors import InputError, Problem
from correnteza.generator.posts import outcomes_post, records_post
from correnteza.generator.receiver import Post, Receiver
from correnteza.records import MAGNITUDE_LIMIT, Schema
from correnteza.tracing import current
from correnteza.validation import WITHOUT_NUL
from correnteza.web.plain import read_body, send_body

INLINE_BYTES = 16_384
"""Bodies up to this size are decoded at once; larger ones in a thread, so that others are not held up."""
KEY_LIMIT = 255
"""Longest idempotency key, in characters."""
ON_ERROR = ("refuse", "skip")

Made = Callable[[bytes, str | None, bytes, str | None], Post]
"""Makes the post of a body, its media type, the query and the idempotency key."""


class Posting:
    """An endpoint.

    Args:
        path: what its answers are counted under.
        receiver: commits the posts.
        made: reads a body.
    """

    def __init__(self, path: str, receiver: Receiver, made: Made) -> None:
        self.path = path
        self._receiver = receiver
        self._made = made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; errors are answered by the layer around this one."""
        media = key = None
        for name, value in scope["headers"]:
            if name == b"content-type":
                media = value.decode("latin-1")
            elif name == b"idempotency-key":
                key = _key(value.decode("latin-1"))
        body, query = await read_body(receive), scope["query_string"]
        if len(body) <= INLINE_BYTES:
            post = self._made(body, media, query, key)
        else:
            post = await to_thread.run_sync(self._made, body, media, query, key)
        span = current()
        if span is None:
            answer = await asyncio.wrap_future(self._receiver.submit(post))
        else:
            answer = await asyncio.wrap_future(self._receiver.submit(replace(post, trace=span.context)))
            span.note({"rows": post.rows, **_offsets(answer)})
        await send_body(send, 201, JSON, answer)


def records(codec: Codec, receiver: Receiver) -> Posting:
    """The endpoint that takes records."""

    def made(body: bytes, media: str | None, query: bytes, key: str | None) -> Post:
        return records_post(codec, body, media, _skips(query), key)

    return Posting("/records", receiver, made)


def outcomes(receiver: Receiver) -> Posting:
    """The endpoint that takes outcomes; all or none are stored."""
    return Posting("/outcomes", receiver, lambda body, media, _, key: outcomes_post(body, media, key))


def _offsets(answer: bytes) -> dict[str, int]:
    """The offsets of an answer's rows, if it has any."""
    told = msgspec.json.decode(answer)
    return {name: told[name] for name in ("first_offset", "last_offset") if told[name] is not None}


def _key(key: str) -> str:
    if not 1 <= len(key) <= KEY_LIMIT:
        problem = Problem(0, "header.Idempotency-Key", f"has {len(key)} characters; expected 1 to {KEY_LIMIT}")
        raise InputError(f"{problem.field}: {problem.reason}", [problem])
    return key


def _skips(query: bytes) -> bool:
    """Whether invalid records are to be skipped."""
    wanted = QueryParams(query).get("on_error", ON_ERROR[0]) if query else ON_ERROR[0]
    if wanted not in ON_ERROR:
        problem = Problem(0, "query.on_error", f"is {wanted[:80]!r}; expected one of {', '.join(ON_ERROR)}")
        raise InputError(f"{problem.field}: {problem.reason}", [problem])
    return wanted == ON_ERROR[1]


# What the OpenAPI document says

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT},
    "description": "A text of the client's own. The same request under the same key is stored once and answered the same.",
}
_ON_ERROR = {
    "name": "on_error",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": [*ON_ERROR], "default": ON_ERROR[0]},
    "description": "refuse: nothing is stored when a record is invalid; skip: the valid ones are.",
}
_ANSWER = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer", "description": "Rows stored."},
        "first_offset": {"type": ["integer", "null"]},
        "last_offset": {"type": ["integer", "null"]},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "Faults of the records that were skipped."},
        "error_count": {"type": "integer"},
    },
    "required": ["accepted", "first_offset", "last_offset"],
}
_EXAMPLE_ANSWER = {"accepted": 1, "first_offset": 41, "last_offset": 41}
_OUTCOME = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "id": {"type": ["string", "integer"], "minLength": 1, "maxLength": ID_LIMIT, "pattern": WITHOUT_NUL},
        "target": {"type": "number", "minimum": -MAGNITUDE_LIMIT, "maximum": MAGNITUDE_LIMIT},
    },
    "required": ["id", "target"],
}


def openapi(schema: Schema) -> dict[tuple[str, str], dict[str, Any]]:
    """The operations by method and path, as the OpenAPI document has them.

    Args:
        schema: of the records.
    """
    record = json_schema(schema.raw, "raw", schema.fields)
    one, truth = {**example(schema), schema.target: 4213.7}, {"id": "a-1", "target": 4213.7}
    return {
        ("post", "/records"): {
            **_operation("post_records", "Append records; answered after the commit", record, one),
            "parameters": [_ON_ERROR, _KEY],
        },
        ("post", "/outcomes"): {
            **_operation("post_outcomes", "Tell the truth for records or predictions", _OUTCOME, truth),
            "parameters": [_KEY],
        },
    }


def _operation(name: str, summary: str, item: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    examples = {"one": {"value": one}, "several": {"value": [one, {**one, "id": "a-2"}]}}
    asked = {JSON: {"schema": {"anyOf": [item, {"type": "array", "items": item}]}, "examples": examples}, NDJSON: {}}
    answer = {JSON: {"schema": _ANSWER, "example": _EXAMPLE_ANSWER}}
    return {
        "tags": ["generator"],
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {**asked, ARROW: {}} if name == "post_records" else asked},
        "responses": {"201": {"description": "Committed.", "content": answer}},
    }
