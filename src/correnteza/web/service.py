"""What a service tells the application factory about itself, and its `/status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from correnteza.config import Settings
from correnteza.events import Events
from correnteza.log.base import OwnedLog, Store
from correnteza.metrics import Sample
from correnteza.stage import Runner
from correnteza.tracing import Tracer
from correnteza.web.requests import Requests

if TYPE_CHECKING:
    from correnteza.web.quick import Quick


def _nothing() -> dict[str, Any]:
    return {}


def _always() -> str | None:
    return None


@dataclass(slots=True)
class Service:
    """One service.

    Args:
        name: its name, as in `correnteza.config.SERVICES`.
        settings: the settings of the pipeline.
        schema: JSON Schema of the rows of its main log.
        logs: its logs by path; `records` is the main one; empty for a service that keeps none.
        events: where its events go.
        store: where its logs are kept; retention is applied to it while the service runs.
        runners: its stages; started and stopped with the server.
        status: what is particular to it, for `/status`.
        ready: why it is not ready, or None.
        start: called before the first request, after the runners.
        stop: called after the last request and after the runners, to release what `start` took.
        requests: answers of this process, or of all that answer on its port.
        samples: metrics that are particular to it, made of its `/status`.
        flows: what has gone through its stages, as `flow.Flow.plain` tells; None for that of the runners.
        processes: process ids by name; None for this process alone.
        tracer: makes its spans; None where nothing is traced. Closed with the server.
        has_pages: whether the application serves pages: they hold WebSockets, and it is told when the server starts and stops.
    """

    name: str
    settings: Settings
    schema: Mapping[str, Any]
    logs: Mapping[str, OwnedLog]
    events: Events
    store: Store | None = None
    runners: tuple[Runner[Any], ...] = ()
    status: Callable[[], dict[str, Any]] = _nothing
    ready: Callable[[], str | None] = _always
    start: Callable[[], None] = lambda: None
    stop: Callable[[], None] = lambda: None
    requests: Requests = field(default_factory=Requests)
    samples: Callable[[Mapping[str, Any]], Iterable[Sample]] = lambda _: ()
    flows: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None
    processes: Callable[[], Mapping[str, int]] | None = None
    tracer: Tracer | None = None
    has_pages: bool = False
    stopping: bool = False
    """Set when the server stops, so that waiting requests end."""
    quick: Quick | None = None
    """What answers small requests before they come to the application; None where none is."""
    _born: float = field(default_factory=time.monotonic)

    @property
    def uptime_s(self) -> float:
        """Seconds since the service was made."""
        return time.monotonic() - self._born

    def not_ready(self) -> str | None:
        """Why it is not ready: a stage that failed, or what `ready` says."""
        for runner in self.runners:
            if runner.figures.state == "failed":
                return f"stage {runner.stage.name} failed: {runner.figures.reason}"
        return self.ready()

    def describe(self) -> dict[str, Any]:
        """The body of `/status`."""
        reason = self.not_ready()
        stages = {runner.stage.name: runner.figures.plain() for runner in self.runners}
        return {
            "service": self.name,
            "version": version("correnteza"),
            "uptime_s": round(self.uptime_s, 3),
            "ready": reason is None,
            "state": _worst([stage["state"] for stage in stages.values()]),
            "reason": reason or next((stage["reason"] for stage in stages.values() if stage["reason"]), ""),
            "logs": {path: _ends(log) for path, log in self.logs.items()},
            **(_pace(stages.values()) if self.logs else {}),
            "stages": stages,
            "events": dict(self.events.counts),
            **self.status(),
        }


def _pace(stages: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """How fast a service's stages go, and how far they are behind."""
    return {
        "lag_rows": sum(stage["lag_rows"] for stage in stages),
        "lag_s": max((stage["lag_s"] for stage in stages), default=0.0),
        "rows_per_s": round(sum(stage["rows_per_s"] for stage in stages), 1),
    }


def _worst(states: list[str]) -> str:
    order = ("failed", "waiting", "starting", "stopped", "running")
    return next((state for state in order if state in states), "running")


def _ends(log: OwnedLog) -> dict[str, Any]:
    bounds = log.bounds()
    readers = {name: asdict(reader) for name, reader in log.readers().items()}
    ends = {"first_offset": bounds.first, "next_offset": bounds.next, "rows": bounds.rows}
    return {"log": log.name, **ends, "readers": readers}
