"""`POST /models/{version}/predict`: what a version would answer, whether it is in service or not.

Invariants:
- Bodies are read, and answers written, by what does it for `POST /predict`; so neither can differ.
- Nothing is stored: the log `predictions` holds what was answered in service, and outcomes refer to that alone.
"""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from correnteza.records import INTEGER_LIMIT, Schema
from correnteza.trainer import predict
from correnteza.trainer.answers import Ids
from correnteza.trainer.protocols.asking import Versions
from correnteza.trainer.questions import Reader
from correnteza.trainer.replies import encode, media_for

PATH = "/models/{version}/predict"
DESCRIPTION = """As `POST /predict`, by a version whose files are kept. Nothing is stored. A version that is not in
service answers without an interval."""

Version = Annotated[int, Path(ge=1, le=INTEGER_LIMIT, description="Number of a model version.")]


def routes_of(schema: Schema, versions: Versions) -> APIRouter:
    """The route.

    Args:
        schema: of the records.
        versions: those that can be asked.
    """
    routes = APIRouter(tags=["model"])
    reader, ids = Reader(schema), Ids()
    about = predict.openapi(schema)

    def answer(version: int, body: bytes, kind: str | None, media: str) -> bytes:
        question = reader.read(body, kind)
        return encode(predict.predicted(question, versions.get(str(version)), ids), media, question.single)

    @routes.post(
        PATH,
        summary="Predict as a version would, without storing it",
        description=DESCRIPTION,
        response_class=Response,
        responses={200: about["responses"]["200"]},
        openapi_extra={"requestBody": about["requestBody"]},
    )
    async def predict_with_version(request: Request, version: Version) -> Response:
        media = media_for(request.headers.get("accept", "").encode("latin-1"))
        found = await to_thread.run_sync(answer, version, await request.body(), request.headers.get("content-type"), media)
        return Response(found, media_type=media)

    return routes
