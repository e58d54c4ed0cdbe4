"""The consumer as a service: an asking stage per mode over one store, its rate, its figures.

Invariant: the modes share nothing but the store and the trainer; one that waits holds up no other.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from correnteza import events
from correnteza.client import Client
from correnteza.codec import JSON
from correnteza.config import Settings
from correnteza.consumer.asking import Ask, Asking, Waiting
from correnteza.consumer.drawing import Draw, RandomRecords
from correnteza.consumer.stage import REJECTED, RESULTS, ConsumerStage, Mode, State
from correnteza.described import json_schema
from correnteza.events import Events
from correnteza.log.base import Store
from correnteza.log.http import HttpLog
from correnteza.log.sql import SqlStore
from correnteza.metrics import Sample, sample
from correnteza.pace import Pace
from correnteza.stage import WAIT_S, Runner, Source
from correnteza.tracing import Tracer, opened
from correnteza.web import Service, create_app, serve

NAME = "consumer"
ANSWER_S = 5.0
"""Longest wait for the trainer's answer; short enough that stopping never takes long."""


class Rate(BaseModel):
    """The body of `/rate`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    requests_per_second: Annotated[float, Field(ge=0)] | Literal["inf"] = Field(
        description="Requests per mode; 0 pauses, `inf` is as fast as possible."
    )


@dataclass(slots=True)
class Part:
    """One mode at work.

    Args:
        mode: its name.
        asking: its source.
        runner: what drives it.
        state: as of the last step; None until the saved one is loaded.
    """

    mode: Mode
    asking: Asking
    runner: Runner[State]
    state: State | None = None

    def describe(self) -> dict[str, Any]:
        """Its figures, for `/status`."""
        state, waiting = self.state, self.asking.waiting
        p50_ms, p99_ms = _percentiles(list(self.asking.latencies_ms))
        return {
            "answers": state.answered if state else 0,
            "refused": state.refused if state else 0,
            "labelled": state.labelled if state else 0,
            "rolling_mae": state.rolling_mae if state else None,
            "latency_p50_ms": p50_ms,
            "latency_p99_ms": p99_ms,
            "model_version": self.asking.model_version,
            "waiting_s": waiting.seconds,
            "waiting_reason": waiting.reason,
            "waited": waiting.waited,
            "retries": waiting.retries,
            "requests_per_second": _plain(self.asking.pace.rate),
        }


def build(settings: Settings, store: Store, ask: Ask, raw: Source, wait_s: float = WAIT_S) -> tuple[Service, FastAPI]:
    """The service and its application, ready to be served.

    Args:
        settings: the settings of the pipeline.
        store: where results, states and positions are kept.
        ask: asks the trainer.
        raw: the generator's log.
        wait_s: how long one read waits for records, in seconds; also how long stopping takes.

    Raises:
        ConfigError: mode `random` has no field to draw.
    """
    results, rejected = store.log("results", RESULTS), store.log("rejected", REJECTED)
    told = Events(NAME, event_log := store.log("events", events.SCHEMA))
    tracer = opened(settings.tracing.endpoint, settings.tracing.sample, NAME, settings.pipeline.name, told.emit)
    modes = dict.fromkeys(settings.consumer.modes)
    parts = [_part(mode, settings, store, told, ask, raw, wait_s, tracer) for mode in modes]
    service = Service(
        NAME,
        settings,
        json_schema(RESULTS, "results"),
        {"records": results, "rejected": rejected, "events": event_log},
        told,
        store,
        runners=tuple(part.runner for part in parts),
        status=lambda: _status(parts),
        samples=lambda status: _samples(parts, status["modes"]),
        tracer=tracer,
    )
    return service, create_app(service, _routes(parts, told))


def main(settings: Settings, listening: socket.socket) -> int:
    """Run the consumer until it is told to stop; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket that clients connect to.
    """
    settings.pipeline.folder.mkdir(parents=True, exist_ok=True)
    store = SqlStore(settings.pipeline.folder / f"{NAME}.db")
    try:
        raw = HttpLog(settings.services.url("generator"), name="raw", schema=settings.schema_of_records.raw, reader=NAME)
        with Client({"trainer": settings.services.url("trainer")}, timeout_s=ANSWER_S) as client:
            service, app = build(settings, store, client.predict, raw)
            return serve(app, service, listening)
    finally:
        store.close()


def _part(
    mode: Mode,
    settings: Settings,
    store: Store,
    told: Events,
    ask: Ask,
    raw: Source,
    wait_s: float,
    tracer: Tracer | None,
) -> Part:
    consumer, schema = settings.consumer, settings.schema_of_records
    source = raw if mode == "records" else RandomRecords(schema, _draw(settings, told), consumer.seed)
    rows = consumer.records_per_request if mode == "records" else 1
    pace = Pace(consumer.requests_per_second)

    def behind(waiting_rows: int) -> None:
        """The runner learns the lag from answers alone, and would show none while the trainer is away."""
        if mode == "records":
            part.runner.figures.note_read(waiting_rows, 0)

    waiting = Waiting(told, mode, time.perf_counter)
    asking = Asking(source, schema, ask, pace, waiting, request_rows=rows, behind=behind, tracer=tracer)

    def note(state: State) -> int:
        """Called with the state before each read, so that it is known also while the trainer is away."""
        part.state = state
        return rows

    stage = ConsumerStage(mode, consumer.metric_rows)
    runner = Runner(stage, asking, store, told, batch_rows=rows, limit=note, wait_s=wait_s, tracer=tracer)
    part = Part(mode, asking, runner)
    return part


def _draw(settings: Settings, told: Events) -> Draw:
    draw, wanted = Draw.chosen(settings.schema_of_records, settings.consumer), settings.consumer
    if (draw.low, draw.high) != (wanted.random_min, wanted.random_max):
        reason = f"{draw.field.name} is drawn from {draw.low:g} to {draw.high:g}, because the schema allows no more"
        told.emit("random_range", reason, random_min=wanted.random_min, random_max=wanted.random_max)
    return draw


def _status(parts: Sequence[Part]) -> dict[str, Any]:
    """What is particular to the consumer; over all modes first, then by mode."""
    modes = {part.mode: part.describe() for part in parts}
    versions = [values["model_version"] for values in modes.values() if values["model_version"] is not None]
    return {
        "answers": sum(values["answers"] for values in modes.values()),
        "rolling_mae": modes.get("records", {}).get("rolling_mae"),
        "model_version": max(versions, default=None),
        "modes": modes,
    }


def _samples(parts: Sequence[Part], modes: Mapping[str, Mapping[str, Any]]) -> Iterator[Sample]:
    for part in parts:
        told = modes[part.mode]
        yield sample("correnteza_answers_total", told["answers"], part.mode)
        yield sample("correnteza_answers_refused_total", told["refused"], part.mode)
        yield sample("correnteza_answers_labelled_total", told["labelled"], part.mode)
        if told["rolling_mae"] is not None:
            yield sample("correnteza_answers_mae", told["rolling_mae"], part.mode)
        yield sample("correnteza_ask_duration_seconds", part.asking.latency_s, part.mode)
        yield sample("correnteza_ask_waiting_seconds", told["waiting_s"] or 0.0, part.mode)
        yield sample("correnteza_ask_retries_total", told["retries"], part.mode)


def _routes(parts: Sequence[Part], told: Events) -> APIRouter:
    routes = APIRouter(tags=[NAME])

    def rate_now() -> Response:
        return _json({"requests_per_second": _plain(parts[0].asking.pace.rate if parts else 0.0)})

    @routes.get("/rate", summary="Requests per second of each mode", response_model=Rate)
    def rate() -> Response:
        return rate_now()

    @routes.put("/rate", summary="Change the rate of all modes, at once", response_model=Rate)
    def set_rate(wanted: Rate) -> Response:
        for part in parts:
            pace, before = part.asking.pace, part.asking.pace.rate
            pace.rate = float(wanted.requests_per_second)
            if pace.rate != before:
                reason = f"mode {part.mode}: from {before:g} to {pace.rate:g} requests per second"
                told.emit("rate_changed", reason, mode=part.mode, requests_per_second=_plain(pace.rate))
        return rate_now()

    return routes


def _json(value: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _plain(rate: float) -> float | str:
    """A rate as JSON has it: infinity becomes a text."""
    return "inf" if math.isinf(rate) else rate


def _percentiles(latencies_ms: Sequence[float]) -> tuple[float | None, float | None]:
    """Median and 99th percentile in milliseconds; None when nothing has been asked yet."""
    if not latencies_ms:
        return None, None
    p50_ms, p99_ms = np.percentile(latencies_ms, [50, 99])
    return float(p50_ms), float(p99_ms)
