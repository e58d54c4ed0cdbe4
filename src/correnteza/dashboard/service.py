"""The dashboard as a service: NiceGUI's pages inside a FastAPI application that has the shared routes of all services.

Invariants:
- It holds nothing of its own: what it shows is asked of the other services, and it lives while they are down.
- Everything that a browser needs comes from this process; no page asks anybody else for anything.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Query
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from correnteza import dashboard
from correnteza.client import Client
from correnteza.config import Settings
from correnteza.dashboard.downloads import routes_of
from correnteza.dashboard.feeds import SERVICES, STATUS
from correnteza.dashboard.watch import Watch
from correnteza.errors import ServiceError
from correnteza.events import Events
from correnteza.web import Service, create_app, serve

NAME = "dashboard"
ANSWER_S = 2.0
"""Longest wait for a service, in seconds; one that hangs is shown as such this late and a round."""
FIRST_S = 0.4
"""How long a page is held back for answers that nobody has asked for lately."""
COOKIE_S = 365 * 24 * 3600
STATIC = Path(__file__).with_name("static")


def main(settings: Settings, listening: socket.socket) -> int:
    """Run the dashboard until it is told to stop; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket that clients connect to.

    Raises:
        ServiceError: NiceGUI is not installed.
    """
    if not dashboard.is_installed():
        raise ServiceError(f"dashboard: {dashboard.MISSING}")
    app, service = build(settings)
    return serve(app, service, listening)


def build(settings: Settings) -> tuple[FastAPI, Service]:
    """The application and the service behind it, not started.

    Args:
        settings: of the pipeline; the addresses and the schema count here.
    """
    app, service, watch = without_pages(settings)
    app.include_router(_choices())
    app.mount("/static", StaticFiles(directory=STATIC))
    _add_pages(app, settings, watch)
    return app, service


def without_pages(settings: Settings) -> tuple[FastAPI, Service, Watch]:
    """As `build`, with the API alone, which needs no NiceGUI."""
    services = settings.services
    watch = Watch(Client({name: services.url(name) for name in SERVICES}, timeout_s=ANSWER_S))
    service = Service(
        name=NAME,
        settings=settings,
        schema={},
        logs={},
        events=Events(NAME),
        status=lambda: {"services": _seen(watch)},
        start=watch.start,
        stop=watch.stop,
        has_pages=True,
    )
    return create_app(service, routes_of(watch.client)), service, watch


def _seen(watch: Watch) -> dict[str, Any]:
    """Which services answer, for `/status`."""
    answers = {name: watch.get(STATUS[name]) for name in SERVICES}
    return {name: {"answers": answer.value is not None, "reason": answer.error} for name, answer in answers.items()}


def _add_pages(app: FastAPI, settings: Settings, watch: Watch) -> None:
    from nicegui import ui

    from correnteza.dashboard.pages import PAGES

    for path, needs, draw in PAGES:
        ui.page(path, response_timeout=10.0)(_page(settings, watch, needs, draw))
    ui.run_with(
        app,
        title="Correnteza",
        favicon=STATIC / "favicon.svg",
        language="en-US",
        binding_refresh_interval=None,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10.0,
        gzip_middleware_factory=lambda inner: GZipMiddleware(inner, minimum_size=1000, compresslevel=4),
    )


def _page(settings: Settings, watch: Watch, needs: Any, draw: Any) -> Callable[[Request], Awaitable[None]]:
    from nicegui import run

    async def page(request: Request) -> None:
        await run.io_bound(watch.first, [*STATUS.values(), *needs], FIRST_S)
        draw(request, watch, settings)

    return page


def _choices() -> APIRouter:
    """Language and colours are chosen by plain links, and kept by the browser."""
    from correnteza.dashboard.layout import LANGUAGE_COOKIE, PAGES, THEME_COOKIE

    routes = APIRouter()

    def back(cookie: str, value: str, page: str) -> Response:
        answer = RedirectResponse(PAGES.get(page, "/"), 303)
        answer.set_cookie(cookie, value, COOKIE_S, samesite="lax", httponly=True)
        return answer

    @routes.get("/choose/language/{value}", include_in_schema=False)
    def language(value: Literal["en", "pt"], page: str = Query("flow", max_length=20)) -> Response:
        return back(LANGUAGE_COOKIE, value, page)

    @routes.get("/choose/theme/{value}", include_in_schema=False)
    def theme(value: Literal["auto", "light", "dark"], page: str = Query("flow", max_length=20)) -> Response:
        return back(THEME_COOKIE, value, page)

    return routes
