"""The pages: for each its path, the feeds that its first sight needs, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import Feed
from correnteza.dashboard.pages import flow
from correnteza.dashboard.watch import Watch

Draw = Callable[[Request, Watch, Settings], None]

PAGES: Sequence[tuple[str, Sequence[Feed], Draw]] = (("/", flow.NEEDS, flow.draw),)
