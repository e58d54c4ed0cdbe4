"""The generator as a service: its source at a rate, and what others post, in `raw`, `outcomes` and `rejected`.

Invariants:
- An answer of 201 comes after the commit.
- The event loop never waits for the database, nor for the decoding of a large body.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from anyio import to_thread
from fastapi import APIRouter, FastAPI, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from correnteza import events
from correnteza.codec import ARROW, ID_LIMIT, JSON, NDJSON, Codec, json_schema
from correnteza.config import Settings
from correnteza.errors import InputError
from correnteza.events import Events
from correnteza.generator.delay import Delayed, delay_rows
from correnteza.generator.drift import Switch
from correnteza.generator.pace import NoSource, Paced
from correnteza.generator.posts import OUTCOMES, outcomes_post, records_post
from correnteza.generator.receiver import OneAtATime, Post, Receiver
from correnteza.generator.stage import REJECTED, GeneratorStage
from correnteza.log.base import Store
from correnteza.log.sql import SqlStore
from correnteza.records import MAGNITUDE_LIMIT
from correnteza.stage import Runner, Source
from correnteza.validation import WITHOUT_NUL
from correnteza.web import Service, create_app, serve

NAME = "generator"
INLINE_BYTES = 16_384
"""Bodies up to this size are decoded at once; larger ones in a thread, so that others are not held up."""

_KEY = Header(
    alias="Idempotency-Key",
    min_length=1,
    max_length=255,
    description="A text of the client's own. The same request under the same key is stored once and answered the same.",
)
_ANSWER = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer", "description": "Records stored."},
        "first_offset": {"type": ["integer", "null"]},
        "last_offset": {"type": ["integer", "null"]},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "Faults of the records that were skipped."},
        "error_count": {"type": "integer"},
    },
    "required": ["accepted", "first_offset", "last_offset"],
}
_CREATED: dict[int | str, dict[str, Any]] = {201: {"description": "Committed.", "content": {JSON: {"schema": _ANSWER}}}}


class Rate(BaseModel):
    """The body of `/rate`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    records_per_second: Annotated[float, Field(ge=0)] | Literal["inf"] = Field(
        description="Rate of the source; 0 pauses, `inf` is as fast as possible."
    )


class Factor(BaseModel):
    """The body of `/drift`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    factor: float = Field(ge=0.1, le=10, description="What the target is multiplied by; 1 is the world as it was.")


def main(settings: Settings) -> int:
    """Run the generator until it is told to stop; returns the exit code.

    Raises:
        ConfigError: the source cannot be what the settings say.
        CorrentezaError: the database or the port cannot be taken.
    """
    store = SqlStore(settings.pipeline.folder / f"{NAME}.db")
    try:
        app, service = build(settings, store)
        return serve(app, service)
    finally:
        store.close()


def build(settings: Settings, store: Store) -> tuple[FastAPI, Service]:
    """The application and the service behind it, not started.

    Args:
        settings: of the pipeline.
        store: where its logs and position are kept.

    Raises:
        ConfigError: the source cannot be what the settings say.
    """
    schema, wanted = settings.schema_of_records, settings.generator
    switch = Switch() if wanted.source == "people" else None
    paced = Paced(source_of(settings, switch), wanted.records_per_second)
    logs = {
        "records": store.log("raw", schema.raw),
        "outcomes": store.log("outcomes", OUTCOMES),
        "rejected": store.log("rejected", REJECTED),
        "events": store.log("events", events.SCHEMA),
    }
    told = Events(NAME, logs["events"])
    turn = threading.Lock()
    receiver = Receiver(store, turn, told, wanted.idempotency_keys)
    stage = GeneratorStage(schema)
    end = End(paced, told, wanted.source)
    runner = PacedRunner(
        stage, paced, OneAtATime(store, turn), told, batch_rows=wanted.batch_rows, between=lambda _: end.look()
    )
    service = Service(
        name=NAME,
        settings=settings,
        schema=json_schema(schema.raw, "raw", schema.fields),
        logs=logs,
        events=told,
        store=store,
        runners=(runner,),
        status=lambda: {
            "source": wanted.source,
            "records_per_second": _plain(paced.rate),
            "drift_factor": None if switch is None else switch.factor,
            "position": paced.position,
            "ended": end.seen,
            "posted_rows": receiver.posted_rows,
        },
        start=receiver.start,
        stop=receiver.stop,
    )
    return create_app(service, _routes(service, receiver, paced, switch)), service


def source_of(settings: Settings, switch: Switch | None = None) -> Source:
    """The source that the settings ask for.

    Args:
        settings: of the pipeline.
        switch: a drift that is switched while it runs; only the demo's people have one.

    Raises:
        ConfigError: it does not fit the schema, or its file cannot be read.
    """
    schema, wanted = settings.schema_of_records, settings.generator
    # A file is read in one direction, so late truths have a reader of their own; a lower limit takes none of them away.
    endless = wanted.model_copy(update={"limit": None})
    if wanted.source == "people":
        from correnteza.generator.people import PeopleSource

        def again() -> Source:
            return PeopleSource(endless, schema, switch=switch, leads=False)

        return Delayed(PeopleSource(wanted, schema, switch=switch), again, schema, delay_rows(wanted))
    if wanted.source == "replay":
        from correnteza.generator.replay import ReplaySource

        return Delayed(ReplaySource(wanted, schema), lambda: ReplaySource(endless, schema), schema, delay_rows(wanted))
    return NoSource(schema.raw)


class PacedRunner(Runner[None]):
    """A runner that is not kept waiting by its source when it is to stop."""

    def ask_to_stop(self) -> None:
        """See `Runner.ask_to_stop`."""
        super().ask_to_stop()
        if isinstance(self._source, Paced):
            self._source.close()


class End:
    """Tells once that the source has nothing more.

    Args:
        paced: the source.
        told: where the event goes.
        source: its kind; `none` has no end.
    """

    def __init__(self, paced: Paced, told: Events, source: str) -> None:
        self.seen = False
        self._paced = paced
        self._told = told
        self._source = source

    def look(self) -> None:
        """Called after each read."""
        if self._paced.ended and not self.seen and self._source != "none":
            self.seen = True
            self._told.emit("source_ended", f"the source {self._source} has no further row", position=self._paced.position)


def _routes(service: Service, receiver: Receiver, paced: Paced, switch: Switch | None) -> APIRouter:
    routes = APIRouter(tags=[NAME])
    codec = Codec(service.settings.schema_of_records)

    async def stored(request: Request, made: Callable[[bytes, str | None], Post]) -> Response:
        body, media = await request.body(), request.headers.get("content-type")
        post = made(body, media) if len(body) <= INLINE_BYTES else await to_thread.run_sync(made, body, media)
        return Response(await asyncio.wrap_future(receiver.submit(post)), 201, media_type=JSON)

    @routes.post(
        "/records",
        status_code=201,
        summary="Append records; answered after the commit",
        responses=_CREATED,
        response_class=Response,
        openapi_extra={"requestBody": _request(dict(service.schema), ARROW)},
    )
    async def post_records(
        request: Request,
        on_error: Annotated[
            Literal["refuse", "skip"],
            Query(description="refuse: nothing is stored when a record is invalid; skip: the valid ones are."),
        ] = "refuse",
        key: Annotated[str | None, _KEY] = None,
    ) -> Response:
        return await stored(request, lambda body, media: records_post(codec, body, media, on_error == "skip", key))

    @routes.post(
        "/outcomes",
        status_code=201,
        summary="Tell the truth for records or predictions",
        responses=_CREATED,
        response_class=Response,
        openapi_extra={"requestBody": _request(_OUTCOME)},
    )
    async def post_outcomes(request: Request, key: Annotated[str | None, _KEY] = None) -> Response:
        return await stored(request, lambda body, media: outcomes_post(body, media, key))

    @routes.get("/rate", summary="Rate of the source", response_model=Rate)
    async def rate() -> Response:
        return _json({"records_per_second": _plain(paced.rate)})

    @routes.put("/rate", summary="Change the rate of the source, at once", response_model=Rate)
    def set_rate(wanted: Rate) -> Response:
        before, paced.rate = paced.rate, float(wanted.records_per_second)
        if before != paced.rate:
            reason = f"from {before:g} to {paced.rate:g} records per second"
            service.events.emit("rate_changed", reason, records_per_second=_plain(paced.rate))
        return _json({"records_per_second": _plain(paced.rate)})

    @routes.get("/drift", summary="The drift that was switched on", response_model=Factor)
    def drift() -> Response:
        return _json({"factor": _of_people(switch).factor})

    @routes.put("/drift", summary="Multiply the target of the demo's people from the next record on", response_model=Factor)
    def set_drift(wanted: Factor) -> Response:
        people = _of_people(switch)
        before, people.factor = people.factor, wanted.factor
        if before != wanted.factor:
            reason = f"from factor {before:g} to {wanted.factor:g}, from the next record on"
            service.events.emit("drift_switched", reason, factor=wanted.factor)
        return _json({"factor": wanted.factor})

    return routes


def _of_people(switch: Switch | None) -> Switch:
    if switch is None:
        raise InputError("only the source people has a drift to switch; set generator.source to 'people'", status=409)
    return switch


_OUTCOME = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "id": {"type": ["string", "integer"], "minLength": 1, "maxLength": ID_LIMIT, "pattern": WITHOUT_NUL},
        "target": {"type": "number", "minimum": -MAGNITUDE_LIMIT, "maximum": MAGNITUDE_LIMIT},
    },
    "required": ["id", "target"],
}


def _request(item: dict[str, Any], *others: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"anyOf": [item, {"type": "array", "items": item}]}}, NDJSON: {}}
    return {"required": True, "content": {**content, **{media: {} for media in others}}}


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _plain(rate: float) -> float | str:
    """A rate as JSON has it: infinity becomes a text."""
    return "inf" if math.isinf(rate) else rate
