"""`POST /predict`: a plain ASGI endpoint, because single answers are what this service is measured by.

Invariants:
- All rows of an answer are predicted by one version, and with the interval that belonged to it at one
  instant: `Serving` is replaced as a whole and read once per request.
- Requests for one record that come at the same time are predicted together, where the model gives each row the same
  answer beside others as alone, to the last bit.
- Large requests run in threads of their own, so that they do not hold up small ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from starlette.types import Receive, Scope, Send

from correnteza.codec import ARROW, JSON, NDJSON
from correnteza.described import example, json_schema
from correnteza.errors import NoModelError
from correnteza.records import Schema
from correnteza.tracing import current
from correnteza.trainer.answers import Answered, Answers, Ids
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.questions import LIST, MAX_ROWS, Question, Reader
from correnteza.trainer.replies import EXAMPLE, Answer, encode, encode_each, media_for
from correnteza.web.plain import read_body, send_body

PATH = "/predict"
DESCRIPTION = f"""Missing fields are missing values. The answer to an array is an array in the same order; so is that to
NDJSON, to an Arrow stream, and to records by columns. `Accept` chooses JSON, NDJSON or an Arrow stream for the answer.
At most {MAX_ROWS:,} records at a time."""
INLINE_BYTES = 4096
INLINE_ROWS = 64
"""Larger requests are answered from a thread."""
THREADS = 2


def as_asked(question: Question) -> Question:
    """The question itself, for versions that want no more than it brings."""
    return question


@dataclass(frozen=True, slots=True)
class Serving:
    """What requests are answered with.

    Args:
        version: of the model.
        predictor: the loaded model.
        multiplier: how many spreads an interval reaches to either side; None when not known yet.
        complete: adds the features that the version wants and questions do not bring; see `Deriving.complete`.
    """

    version: int
    predictor: Predictor
    multiplier: float | None
    complete: Callable[[Question], Question] = as_asked


class Predict:
    """The endpoint.

    Args:
        schema: of the records.
        serving: what to answer with now; None before the first model.
        not_ready: why there is no model yet.
        answers: where answers are stored.
    """

    path = PATH
    """What its answers are counted under."""

    def __init__(
        self, schema: Schema, serving: Callable[[], Serving | None], not_ready: Callable[[], str], answers: Answers
    ) -> None:
        self._reader = Reader(schema)
        self._serving = serving
        self._not_ready = not_ready
        self._answers = answers
        self._ids = Ids()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; errors are answered by the application's handlers."""
        body = await read_body(receive)
        kind, media = None, JSON
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value.decode("latin-1")
            elif name == b"accept":
                media = media_for(value)
        if len(body) <= INLINE_BYTES:
            question = self._reader.read(body, kind)
            few = len(question.ids) <= INLINE_ROWS
            answer = self.answer(question, media) if few else await self._aside(self.answer, question, media)
        else:
            answer = await self._aside(lambda: self.answer(self._reader.read(body, kind), media))
        await send_body(send, 200, media, answer)

    def read(self, body: bytes) -> Any | None:
        """The record in a body that is one JSON object and nothing unusual; None for any other that may be answered.

        Raises:
            InputError: it is refused.
        """
        record = self._reader.record(body)
        if record is None and body[:1] not in LIST:
            self._reader.refuse(body)  # at worst it is read once more, by the ordinary way
        return record

    def answer_all(self, asked: Sequence[Any]) -> list[bytes]:
        """The bodies of the answers to requests for one record each, which are predicted together.

        Args:
            asked: what `read` returned.

        Raises:
            NoModelError: there is no model yet.
        """
        serving = self._serving()
        if serving is None or serving.predictor.by_row:
            return encode_each(self.answered(self._reader.few(asked), serving))
        return [one for record in asked for one in encode_each(self.answered(self._reader.few([record]), serving))]

    def answered(self, question: Question, serving: Serving | None = None) -> Answered:
        """Predict, give ids, and hand over to be stored; the answer is not encoded yet.

        Args:
            question: the records.
            serving: what to answer with; None is the version in service.

        Raises:
            NoModelError: there is no model yet.
        """
        serving = serving or self._serving()
        if serving is None:
            raise NoModelError(self._not_ready())
        answered = predicted(question, serving, self._ids)
        span = current()
        if span is not None:
            span.note({"rows": len(answered.ids), "model_version": answered.version})
            answered = replace(answered, trace=span.context)
        if answered.ids:
            self._answers.put(answered)
        return answered

    def answer(self, question: Question, media: str = JSON) -> bytes:
        """The body of the answer, in one of the media types of `correnteza.codec`.

        Raises:
            NoModelError: there is no model yet.
        """
        return encode(self.answered(question), media, question.single)

    async def _aside(self, call: Callable[..., bytes], *arguments: Any) -> bytes:
        within = copy_context().run  # the thread is in the request's span, too
        return await asyncio.get_running_loop().run_in_executor(self._threads, within, call, *arguments)


def predicted(question: Question, serving: Serving, ids: Ids) -> Answered:
    """The answer of one version; nothing is stored.

    Args:
        question: the records.
        serving: what to answer with.
        ids: gives one to each record that has none.

    Raises:
        NoModelError: there is no memory of the stream yet, which the version's features need.
    """
    question = serving.complete(question)
    filled = ids.fill(question.ids)
    predictions = spreads = np.empty(0)
    if filled:
        predictions, spreads = serving.predictor.predict_with_spread(question.numbers, question.categories)
    halves = None if serving.multiplier is None else serving.multiplier * spreads
    at_us = time.time_ns() // 1000
    return Answered(filled, serving.version, predictions, halves, question.records, at_us, derived=question.derived)


def openapi(schema: Schema) -> dict[str, Any]:
    """The operation as the OpenAPI document has it.

    Args:
        schema: of the records.
    """
    record = json_schema(schema.raw, "a record without its target", schema.fields)
    del record["$schema"], record["properties"][schema.target]
    record["required"] = [field.name for field in schema.fields if field.required]
    answer = msgspec.json.schema(Answer)["$defs"]["Answer"]
    answers = {JSON: {"schema": _one_or_many(answer), "example": EXAMPLE}, NDJSON: {"schema": answer}, ARROW: {}}
    asked = {JSON: {"schema": _body_schema(record), "examples": _examples(schema)}, NDJSON: {"schema": record}, ARROW: {}}
    return {
        "tags": ["model"],
        "operationId": "predict",
        "summary": "Predict the target of one record or of several",
        "description": DESCRIPTION,
        "requestBody": {"required": True, "content": asked},
        "responses": {"200": {"description": "The predictions.", "content": answers}},
    }


def _body_schema(record: dict[str, Any]) -> dict[str, Any]:
    row = {"type": "array", "items": {"type": ["string", "number", "null"]}}
    columns = {
        "type": "object",
        "title": "records by columns",
        "properties": {
            "columns": {"type": "array", "items": {"enum": [*record["properties"]]}, "uniqueItems": True},
            "rows": {"type": "array", "items": row},
        },
        "required": ["columns", "rows"],
        "additionalProperties": False,
    }
    return {"oneOf": [*_one_or_many(record)["oneOf"], columns]}


def _examples(schema: Schema) -> dict[str, Any]:
    one = example(schema)
    return {
        "one record": {"value": one},
        "several records": {"value": [one, one]},
        "columns": {"value": {"columns": [*one], "rows": [[*one.values()]]}},
    }


def _one_or_many(item: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [item, {"type": "array", "items": item}]}
