"""Other ways to the same models: Open Inference Protocol V2, MLflow, a version by its number, and the file itself."""

from __future__ import annotations

from collections.abc import Callable

from correnteza.config import Settings
from correnteza.events import Events
from correnteza.trainer.predict import Serving, as_asked
from correnteza.trainer.protocols import by_version, download, mlflow, v2
from correnteza.trainer.protocols.asking import Desk, Engine, Versions
from correnteza.trainer.protocols.forms import Forms
from correnteza.trainer.questions import Question
from correnteza.trainer.registry import Registry
from correnteza.web import Application

__all__ = ["Desk", "Engine", "Versions", "install"]


def install(
    app: Application,
    settings: Settings,
    engine: Engine,
    registry: Registry,
    serving: Callable[[], Serving | None],
    not_ready: Callable[[], str | None],
    told: Events,
    complete: Callable[[Question], Question] = as_asked,
) -> None:
    """Add the routes of all protocols to the trainer's application, and their error forms around it.

    Args:
        app: the application; its routes come first.
        settings: of the pipeline.
        engine: answers and stores.
        registry: the model versions.
        serving: the version in service.
        not_ready: why there is no model yet, or None.
        told: where events go.
        complete: see `Serving.complete`.
    """
    name, schema = settings.pipeline.name, settings.schema_of_records
    versions = Versions(settings.schema_of_model, registry, serving, told, complete)
    desk = Desk(schema, engine, versions, not_ready)
    app.include_router(v2.routes_of(name, desk))
    app.include_router(mlflow.routes_of(desk))
    app.include_router(by_version.routes_of(schema, versions))
    app.include_router(download.routes_of(name, registry, told))
    app.outermost = Forms(app.outermost, (v2.FORM, mlflow.FORM))
