"""The trainer's server: answers predictions from ONNX, shows the registry, and tends the learner process.

Invariant: this process unpickles nothing and imports neither scikit-learn nor joblib; it meets the
learner only in the database and the registry's files.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Query
from fastapi import Path as PathParameter
from starlette.responses import Response
from starlette.routing import Route

from correnteza import events, lineages
from correnteza.codec import JSON
from correnteza.config import Settings, dumps
from correnteza.described import json_schema
from correnteza.errors import LogError, ServiceError, TamperedModelError
from correnteza.events import Events
from correnteza.log.base import OwnedLog, Store
from correnteza.log.sql import SqlStore
from correnteza.records import INTEGER_LIMIT, empty, with_offsets
from correnteza.tracing import opened
from correnteza.trainer import curve, estimators, evaluation, labels, predict, prequential, protocols, vectors
from correnteza.trainer.answers import PREDICTIONS, Answers
from correnteza.trainer.board import Repeated
from correnteza.trainer.champion import Follower
from correnteza.trainer.count import Count, Place
from correnteza.trainer.deriving import Deriving
from correnteza.trainer.desk import Desk
from correnteza.trainer.elder import Elder
from correnteza.trainer.following import Following, following
from correnteza.trainer.keeper import Keeper
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS
from correnteza.trainer.registry import ROWS_IN_MEMORY, of_lineage
from correnteza.trainer.samples import TrainerSamples, processes
from correnteza.trainer.shapes import ACCEPTED, EVALUATION, OBJECT, SENTENCES
from correnteza.web import Service, create_app, problem, serve
from correnteza.web.plain import document

NAME = "trainer"
CHECKED = "estimator-checked.json"
"""In the data folder: the estimator that was checked last, so that a restart need not wait a second for that."""
SWITCH_S = 0.001
"""How long a thread that stores or loads may keep the interpreter from one that answers; Python's own 5 ms show in p99."""
HISTORY = 100
"""Versions that `GET /models/history` tells of unless more are asked for."""
Last = Annotated[int, Query(ge=1, le=ROWS_IN_MEMORY, description="Tell of so many versions, the last ones.")]
Version = Annotated[int, PathParameter(ge=1, le=INTEGER_LIMIT, description="Number of a model version.")]
Rows = Annotated[int | None, Query(ge=1, le=100_000, description="The last so many rows of `evaluations` that have a target.")]
BlockRows = Annotated[int, Query(ge=1, le=curve.MOST_BLOCK_ROWS, description="Rows of a block.")]
Blocks = Annotated[int, Query(ge=1, le=curve.MOST_BLOCKS, description="Blocks at most, the last ones.")]
Behind = Annotated[
    int, Query(ge=0, le=INTEGER_LIMIT, description="Only blocks that go on behind this offset of `evaluations`.")
]


def main(settings: Settings, listening: socket.socket) -> int:
    """Run the trainer until it is told to stop; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket that clients connect to.

    Raises:
        ConfigError: the estimator or its parameters do not exist.
        CorrentezaError: the database or the registry's key cannot be taken.
    """
    if settings.trainer.model_fields_set & {"estimator", "params"}:
        folder = lineages.current(settings, begin=False).folder
        estimators.check_once(settings.trainer.estimator, settings.trainer.params, folder / CHECKED)
    if settings.trainer.servers > 1:
        from correnteza.trainer import servers

        return servers.run(settings, listening)
    return _run(settings, lambda store: build(settings, store, learner_command(settings)), listening)


def serve_slot(settings: Settings, slot: str, folder: Path, listening: socket.socket) -> int:
    """Run one of several servers of one port; see `servers`.

    Args:
        settings: of the pipeline.
        slot: its name among the servers; `0` leads: it keeps the learner, and the retention.
        folder: where they tell each other their figures.
        listening: the socket that they share.
    """
    learner = learner_command(settings) if slot == "0" else None
    return _run(
        settings, lambda store: build(settings, store, learner, slot == "0", Place(folder, slot)), listening, shared=True
    )


def serve_elsewhere(settings: Settings, listening: socket.socket) -> int:
    """Run one more server, on a port of its own, over the data of a trainer that runs or ran; the trainer keeps the learner.

    Raises:
        ServiceError: there is no trainer's database in the data folder.
    """
    path = lineages.current(settings, begin=False).folder / f"{NAME}.db"
    if not path.exists():
        raise ServiceError(f"{path}: is not there; start the trainer first, or name its data folder with --data-dir")
    return _run(settings, lambda store: build(settings, store, None, leading=False), listening)


def _run(
    settings: Settings,
    made: Callable[[SqlStore], tuple[FastAPI, Service]],
    listening: socket.socket,
    shared: bool = False,
) -> int:
    sys.setswitchinterval(SWITCH_S)
    folder = lineages.current(settings).folder
    folder.mkdir(parents=True, exist_ok=True)
    store = SqlStore(folder / f"{NAME}.db")
    try:
        app, service = made(store)
        gc.collect()
        gc.freeze()  # what was made so far stays: it would only make each collection longer
        return serve(app, service, listening, shared)
    finally:
        store.close()


def learner_command(settings: Settings) -> list[str]:
    """The command line of the learner process."""
    services = settings.services
    if services.log_format == "auto" and sys.stdout.isatty():  # the learner writes to a pipe, we to a terminal
        services = services.model_copy(update={"log_format": "console"})
    text = dumps(settings.model_copy(update={"services": services}))
    return [sys.executable, "-P", "-m", "correnteza.trainer.learner", text]


def build(
    settings: Settings, store: Store, learner: list[str] | None, leading: bool = True, place: Place | None = None
) -> tuple[FastAPI, Service]:
    """The application and the service behind it, not started.

    Args:
        settings: of the pipeline.
        store: where its logs are kept.
        learner: command line of the learner process; None where another process runs it.
        leading: whether this process applies the retention.
        place: among the servers of one port; None where there is one.
    """
    schema = settings.schema_of_model
    logs = _logs(store)
    told = Events(NAME, logs["events"])
    lineage = lineages.current(settings)
    registry = of_lineage(lineage, store)
    follower = Follower(schema, registry, logs["promotions"], told)
    memory = following(settings, told)
    deriving = Deriving(schema, memory)
    elder = None if lineage.before is None else Elder(settings, lineage.before, logs["evaluations"], deriving.complete, told)
    keeper = Keeper(settings.trainer, follower, logs["evaluations"], told, learner, deriving.complete, elder)
    tracer = opened(settings.tracing.endpoint, settings.tracing.sample, NAME, settings.pipeline.name, told.emit)
    answers = Answers(logs["records"], told, tracer=tracer)
    count = Count(told, answers, keeper, memory, place)
    desk = Desk(settings, registry, keeper, memory, count, store, told, lineage.number)
    samples = TrainerSamples(registry, logs["promotions"], logs["decisions"], settings.trainer.level)
    parts: list[Answers | Keeper | Following | Repeated] = [answers, memory, keeper, *count.repeated()]
    if not leading and isinstance(store, SqlStore):  # the leading process trims, and must know how far readers are
        parts.append(Repeated(store.save_readers, settings.retention.every_s, LogError))
    service = Service(
        name=NAME,
        settings=settings,
        schema=json_schema(with_offsets(empty(PREDICTIONS), 1).schema, "predictions"),
        logs=logs,
        events=told,
        store=store if leading else None,
        status=desk.status,
        ready=desk.not_ready,
        start=lambda: _each(part.start for part in parts),
        stop=lambda: _each(part.stop for part in parts),
        requests=count.requests,
        samples=lambda status: samples.of(status, count.total()),
        flows=lambda: _flows(count.total().told),
        processes=lambda: processes(count.total()),
        tracer=tracer,
    )
    endpoint = predict.Predict(schema.recorded, lambda: keeper.serving, lambda: desk.not_ready() or "", answers)
    routes = routes_of(desk)
    routes.include_router(vectors.routes_of(schema, memory, deriving))
    app = create_app(service, routes, [Route(predict.PATH, endpoint, methods=["POST"])], endpoint)
    protocols.install(app, settings, endpoint, registry, lambda: keeper.serving, desk.not_ready, told, deriving.complete)
    document(app, {("post", predict.PATH): predict.openapi(schema.recorded)})
    return app, service


def _logs(store: Store) -> dict[str, OwnedLog]:
    predictions = store.log("predictions", PREDICTIONS)
    return {
        "records": predictions,
        "predictions": predictions,
        "evaluations": store.log(prequential.LOG, evaluation.EVALUATIONS),
        "labels": store.log(labels.LOG, labels.LABELS),
        "promotions": store.log("promotions", PROMOTIONS, bounded=False),
        "decisions": store.log("decisions", DECISIONS, bounded=False),
        "events": store.log("events", events.SCHEMA),
    }


def _flows(told: Mapping[str, Any]) -> dict[str, Any]:
    return {prequential.NAME: told["flow"]} if "flow" in told else {}


def _each(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()


def routes_of(desk: Desk) -> APIRouter:
    """The routes that are particular to the trainer, except `/predict`."""
    routes = APIRouter(tags=["model"])

    @routes.get("/models", summary="The model versions, oldest first", responses=_ok({"type": "array", "items": OBJECT}))
    def models() -> Response:
        return _json(desk.models())

    @routes.get("/models/history", summary="What became of the versions, in sentences, oldest first", responses=_ok(SENTENCES))
    def told(last: Last = HISTORY) -> Response:
        return _json(desk.history(last))

    @routes.get("/models/{version}", summary="All that is known of a version", responses=_ok(OBJECT))
    def model(version: Version) -> Response:
        return _json(desk.model(version))

    @routes.post("/models/{version}/promote", summary="Put a version into service and keep it there", responses=_ok(OBJECT))
    def promote(version: Version) -> Response:
        try:
            return _json(desk.promote(version))
        except TamperedModelError as error:
            return problem(HTTPStatus.CONFLICT, str(error))

    @routes.post("/models/unpin", summary="Let newer versions into service again", responses=_ok(OBJECT))
    def unpin() -> Response:
        return _json(desk.unpin())

    @routes.post("/train", status_code=202, summary="Train now", responses=_ok(ACCEPTED, 202))
    def train() -> Response:
        return _json(desk.train(), HTTPStatus.ACCEPTED)

    @routes.get(
        "/evaluation", summary="Errors, rolling and since the beginning, in all and by version", responses=_ok(EVALUATION)
    )
    def evaluate(rows: Rows = None) -> Response:
        return _json(desk.evaluation(rows))

    @routes.get("/evaluation/history", summary="The errors over time, in blocks of rows", responses=_ok(OBJECT))
    def curve_of(block_rows: BlockRows = 100, blocks: Blocks = curve.MOST_BLOCKS, after: Behind = 0) -> Response:
        return _json({"block_rows": block_rows, "blocks": desk.curve(after, block_rows, blocks)})

    return routes


def _ok(schema: dict[str, Any], status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "Done.", "content": {JSON: {"schema": schema}}}}


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)
