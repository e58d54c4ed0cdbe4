"""The pages: for each its path, the feeds that its first sight needs, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import Feed
from correnteza.dashboard.pages import data, drift, flow, model, rate, registry, try_it
from correnteza.dashboard.watch import Watch

Draw = Callable[[Request, Watch, Settings], None]

PAGES: Sequence[tuple[str, Sequence[Feed], Draw]] = (
    ("/", flow.NEEDS, flow.draw),
    ("/model", model.NEEDS, model.draw),
    ("/drift", drift.NEEDS, drift.draw),
    ("/registry", registry.NEEDS, registry.draw),
    ("/try", try_it.NEEDS, try_it.draw),
    ("/data", data.NEEDS, data.draw),
    ("/rate", rate.NEEDS, rate.draw),
)
