"""The generator as a service: its source at a rate, and what others post, in `raw`, `outcomes` and `rejected`."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.routing import Route

from correnteza import events
from correnteza.codec import JSON, Codec
from correnteza.config import Settings
from correnteza.described import json_schema
from correnteza.errors import InputError
from correnteza.events import Events
from correnteza.generator import posting
from correnteza.generator.delay import Delayed, delay_rows
from correnteza.generator.drift import Switch
from correnteza.generator.pace import NoSource, Paced
from correnteza.generator.posts import OUTCOMES
from correnteza.generator.receiver import NAME as RECEIVER
from correnteza.generator.receiver import OneAtATime, Receiver
from correnteza.generator.stage import REJECTED, GeneratorStage
from correnteza.log.base import Store
from correnteza.log.sql import SqlStore
from correnteza.metrics import Sample, sample
from correnteza.stage import Runner, Source
from correnteza.tracing import opened
from correnteza.web import Service, create_app, serve
from correnteza.web.plain import document

NAME = "generator"


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


def main(settings: Settings, listening: socket.socket) -> int:
    """Run the generator until it is told to stop; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket that clients connect to.

    Raises:
        ConfigError: the source cannot be what the settings say.
        CorrentezaError: the database cannot be taken.
    """
    store = SqlStore(settings.pipeline.folder / f"{NAME}.db")
    try:
        app, service = build(settings, store)
        return serve(app, service, listening)
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
    tracer = opened(settings.tracing.endpoint, settings.tracing.sample, NAME, settings.pipeline.name, told.emit)
    turn = threading.Lock()
    codec = Codec(schema)
    receiver = Receiver(store, turn, told, wanted.idempotency_keys, codec.batch, tracer)
    stage = GeneratorStage(schema)
    end = End(paced, told, wanted.source)
    runner = PacedRunner(
        stage,
        paced,
        OneAtATime(store, turn),
        told,
        batch_rows=wanted.batch_rows,
        between=lambda _: end.look(),
        tracer=tracer,
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
        samples=lambda _: _samples(paced, end),
        tracer=tracer,
        flows=lambda: {stage.name: runner.figures.flow.plain(), RECEIVER: receiver.flow.plain()},
    )
    endpoints = (posting.records(codec, receiver), posting.outcomes(receiver))
    routes = [Route(endpoint.path, endpoint, methods=["POST"]) for endpoint in endpoints]
    app = create_app(service, _routes(service, paced, switch), routes)
    document(app, posting.openapi(schema))
    return app, service


def _samples(paced: Paced, end: End) -> Iterator[Sample]:
    yield sample("correnteza_source_rate_rows_per_second", paced.rate)
    yield sample("correnteza_source_ended", float(end.seen))


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


def _routes(service: Service, paced: Paced, switch: Switch | None) -> APIRouter:
    routes = APIRouter(tags=[NAME])

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


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _plain(rate: float) -> float | str:
    """A rate as JSON has it: infinity becomes a text."""
    return "inf" if math.isinf(rate) else rate
