"""One trace from a post to the version that learned from it: what rows were written in, and how that is handed on.

    POST /records --> rows of `raw` --> step normalizer --> rows of `normalized` --> step learner --> train --> promote
      a span           its context        a span, child or linked                     a span          spans

A *context* is a W3C `traceparent` text. A process knows for the rows that it wrote last in which contexts it did so
(`Ranges`); who reads them over HTTP is told (`Row-Traces`), and what it makes of them goes on in the same trace, or,
where several come together, in a new one with links to them.

Invariants:
- Only contexts are kept in memory, and few of them: a process that is killed loses these and never a row.
- OpenTelemetry is imported by `tracing.otel` alone, and that only where `[tracing] endpoint` is set. (FastAPI imports
  its API for purposes of its own; what records and sends is not among that.)
- Where it is not set, a step costs one comparison more, and a request the look at one variable.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from correnteza.errors import ConfigError
from correnteza.tracing.contexts import DROPPED, NONE, TRACEPARENT, TRACES, Traces, current, incoming, outgoing
from correnteza.tracing.spans import Span, Tracer

__all__ = [
    "DROPPED",
    "NONE",
    "TRACEPARENT",
    "TRACES",
    "Span",
    "Tracer",
    "Traces",
    "check",
    "current",
    "incoming",
    "opened",
    "outgoing",
]

Told = Callable[..., None]
"""Takes kind, reason and fields of an event, as `Events.emit` does."""


def check(endpoint: str | None) -> None:
    """Find out whether spans could be sent.

    Raises:
        ConfigError: they are to be, and OpenTelemetry is not installed.
    """
    if endpoint is None:
        return
    parts = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp.proto.http")
    if not all(_there(part) for part in parts):
        raise ConfigError(
            f"tracing.endpoint = {endpoint!r}: OpenTelemetry is not installed; install correnteza[otel], or unset it"
        )


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def opened(endpoint: str | None, sample: float, service: str, pipeline: str, told: Told) -> Tracer | None:
    """What makes the spans of a process, or None where no endpoint is set; to be closed.

    Args:
        endpoint: base address of an OTLP receiver over HTTP.
        sample: share of the traces that begin here which are recorded, from 0 to 1.
        service: name of the service.
        pipeline: name of the pipeline.
        told: where it is told that spans could not be sent.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return None
    check(endpoint)
    from correnteza.tracing.otel import Spans, provider_of

    return Tracer(Spans(provider_of(endpoint, sample, service, pipeline, told)))
