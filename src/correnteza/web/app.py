"""The application that every service is: shared routes first, then its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from anyio import to_thread
from fastapi import APIRouter, FastAPI, Path
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from correnteza.codec import JSON
from correnteza.web import logs, metrics, problems, swagger
from correnteza.web.limits import Limits
from correnteza.web.plain import document
from correnteza.web.quick import Endpoint, Quick
from correnteza.web.service import Service

TITLES = {
    "generator": "Makes, replays or receives records: the logs `raw` and `outcomes`.",
    "normalizer": "Checks, encodes and standardises: the logs `normalized` and `rejected`.",
    "trainer": "Tests, trains and predicts: the logs `evaluations` and `predictions`, and the model registry.",
    "dashboard": "Shows the stream, the model and its errors: a reader of the other services' API.",
    "consumer": "Asks for predictions and compares them with the truth: the log `results`.",
}


class Application(FastAPI):
    """A FastAPI application whose outermost layer is ours: those around it cost a small answer a quarter of its time."""

    outermost: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        await self.outermost(scope, receive, send)


def create_app(
    service: Service, router: APIRouter | None = None, routes: Sequence[BaseRoute] = (), quick: Endpoint | None = None
) -> Application:
    """A FastAPI application with the shared routes of all services.

    Args:
        service: what it serves.
        router: the service's own routes.
        routes: plain ASGI routes, taken before all others; to be documented with `plain.document`.
        quick: that of `routes` whose smallest requests need not come this far.
    """
    app = Application(
        title=f"Correnteza {service.name}",
        description=TITLES.get(service.name, ""),
        version=service.describe()["version"],
        responses=problems.RESPONSES,
        docs_url=None,
        redoc_url=None,
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )
    problems.install(app)
    swagger.install(app)
    of_logs = logs.endpoints(service)
    routes = (*routes, *(Route(one.path, one, methods=["GET"]) for one in of_logs))
    app.router.routes[:0] = routes
    if router is not None:
        app.include_router(router)
    if service.logs:
        app.include_router(logs.router(service))
    app.include_router(_shared(service))
    direct = {
        (method, route.path): route.endpoint for route in routes if isinstance(route, Route) for method in route.methods or ()
    }
    app.outermost = limits = Limits(super(Application, app).__call__, service, direct)
    if quick is not None and service.tracer is None:  # a span goes through the layers
        service.quick = Quick(quick, limits, service.requests)
    document(app, {("get", one.path): one.openapi() for one in of_logs}, behind=True)
    return app


def _shared(service: Service) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/health/live", summary="Whether the process answers", response_class=Response)
    async def live() -> Response:
        return _json({"status": "live"})

    @routes.get("/health/ready", summary="Whether the service does its work", response_class=Response)
    async def ready() -> Response:
        reason = await to_thread.run_sync(service.not_ready)
        return _json({"status": "ready"}) if reason is None else problems.problem(503, reason)

    @routes.get("/status", summary="What the service does now", response_class=Response)
    async def status() -> Response:
        return _json(await to_thread.run_sync(service.describe))

    if service.logs:

        @routes.get("/schema", summary="JSON Schema of the records in the main log", response_class=Response)
        async def schema() -> Response:
            return _json(service.schema)

        @routes.delete("/readers/{reader}", summary="Wait for a reader no longer", response_class=Response)
        async def forget(reader: Annotated[str, Path(pattern=logs.READER)]) -> Response:
            struck = await to_thread.run_sync(_unregistered, service, reader)
            if not struck:
                return problems.problem(404, f"reader {reader!r} is not registered; /status has those that are")
            return _json({"reader": reader, "logs": struck})

    @routes.get("/metrics", summary="Prometheus text format", response_class=Response)
    async def prometheus() -> Response:
        return Response(
            await to_thread.run_sync(metrics.render, service), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return routes


def _unregistered(service: Service, reader: str) -> list[str]:
    """Names of the logs that a reader was registered with, and is not any more."""
    logs = {log.name: log for log in service.logs.values()}
    return [name for name, log in logs.items() if log.unregister(reader)]


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)
