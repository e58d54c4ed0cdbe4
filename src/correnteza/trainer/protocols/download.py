"""`GET /models/{version}/model.onnx`: the artefact, to be used elsewhere.

Invariant: the bytes that are sent are the registered ones, verified for each request.

Sources: RFC 9110 (ETag, If-None-Match), RFC 9530 (Content-Digest).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path
from starlette.responses import Response

from correnteza.events import Events
from correnteza.records import INTEGER_LIMIT
from correnteza.trainer.artefacts import MODEL
from correnteza.trainer.protocols.asking import verified
from correnteza.trainer.registry import Registry

MEDIA_TYPE = "application/octet-stream"
PATH = f"/models/{{version}}/{MODEL}"

Version = Annotated[int, Path(ge=1, le=INTEGER_LIMIT, description="Number of a model version.")]
Known = Annotated[str | None, Header(alias="If-None-Match", description="The ETag of what the client has already.")]


def routes_of(name: str, registry: Registry, told: Events) -> APIRouter:
    """The route.

    Args:
        name: of the model, for the name of the file.
        registry: where versions are.
        told: where it is told that a file is not the registered one.
    """
    routes = APIRouter(tags=["model"])

    @routes.get(PATH, summary="The model as ONNX, with its digest", response_class=Response, responses=_answers())
    def download(version: Version, if_none_match: Known = None) -> Response:
        content = verified(registry, version, told)
        digest = hashlib.sha256(content)
        tag = f'"{digest.hexdigest()}"'
        headers = {"ETag": tag, "X-SHA256": digest.hexdigest()}
        if if_none_match is not None and _matches(if_none_match, tag):
            return Response(None, 304, headers)
        headers["Content-Digest"] = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        headers["Content-Disposition"] = f'attachment; filename="{name}-{version}.onnx"'
        return Response(content, 200, headers, MEDIA_TYPE)

    routes.head(PATH, include_in_schema=False)(download)
    return routes


def _matches(known: str, tag: str) -> bool:
    """Whether a list of entity tags names this one (weak comparison, RFC 9110 section 8.8.3.2)."""
    return known.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in known.split(","))


def _answers() -> dict[int | str, dict[str, Any]]:
    text = {"schema": {"type": "string"}}
    headers = {
        "ETag": {"description": "The sha256 in quotes.", **text},
        "X-SHA256": {"description": "The sha256 in hexadecimal.", **text},
        "Content-Digest": {"description": "RFC 9530.", **text},
    }
    content = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The file.", "headers": headers, "content": content},
        304: {"description": "The client has it already."},
    }
