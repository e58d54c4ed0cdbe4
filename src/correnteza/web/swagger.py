"""`/docs`: what a service can be asked, and a form to ask it with, in the browser.

Invariant: its script and its style come from a package that is installed beside us, so it works without a network.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PATH = "/docs"
FILES = f"{PATH}/files"


def install(app: FastAPI) -> None:
    """Add the page and its files to an application that was made with `docs_url=None`.

    Args:
        app: with its title and its `/openapi.json`.
    """

    @app.get(PATH, include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")  # a proxy may have put the service below a path
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{FILES}/swagger-ui.css",
            swagger_favicon_url=f"{root}{FILES}/favicon.png",
            swagger_ui_parameters=app.swagger_ui_parameters,
        )

    app.mount(FILES, StaticFiles(directory=_folder()))


def _folder() -> Path:
    """Where `fastapi-offline` keeps the files of Swagger UI; its code is not needed."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("fastapi-offline is not installed, which has the files of /docs; pip install fastapi-offline")
    return Path(found.origin).parent / "static"
