"""Spans, by OpenTelemetry; imported only where `[tracing] endpoint` is set.

Invariants:
- Sending spans never holds up anybody: they wait in a bounded queue, and one thread sends them.
- What follows from one trace goes on in it; what follows from several is a trace of its own with links to them.
- A trace is recorded whole or not at all: who goes on decides as the one before; of several, one that is recorded is
  enough. Only what follows from nothing is drawn by lot.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from correnteza.tracing.contexts import Traces
from correnteza.tracing.spans import Kind, Span, Value

Told = Callable[..., None]
SEND_S = 3.0
"""How long the receiver of spans may take for one answer."""
SEND_EVERY_S = 1.0
CLOSE_S = 2.0
"""How long the end of a process waits until the last spans are sent."""
OWN = "correnteza."
"""In front of the names of attributes that are ours."""


class OtelSpan(Span):
    """See `Span`.

    Args:
        inner: OpenTelemetry's.
    """

    def __init__(self, inner: trace.Span) -> None:
        one = inner.get_span_context()
        super().__init__(f"00-{one.trace_id:032x}-{one.span_id:016x}-{one.trace_flags & 1:02x}")
        self._inner = inner

    def note(self, values: Mapping[str, Value]) -> None:
        """See `Span.note`."""
        self._inner.set_attributes(_named(values))

    def rename(self, name: str) -> None:
        """See `Span.rename`."""
        self._inner.update_name(name)

    def fail(self, reason: str) -> None:
        """See `Span.fail`."""
        self._inner.set_status(Status(StatusCode.ERROR, reason))

    def _close(self) -> None:
        self._inner.end()


class Spans:
    """Takes spans down; what `Tracer` needs.

    Args:
        provider: what records and sends them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("correnteza", version("correnteza"))

    def start(self, name: str, causes: Traces, values: Mapping[str, Value], kind: Kind) -> Span:
        """See `Tracer.begin`."""
        parents = [_span_context(one) for one in causes.contexts]
        same = len({one.trace_id for one in parents}) == 1
        context = set_span_in_context(NonRecordingSpan(parents[-1]), Context()) if same else Context()
        links = [Link(one) for one in (parents[:-1] if same else parents)]
        noted = {**values, "links_dropped": causes.dropped} if causes.dropped else values
        known = SpanKind[kind.upper()]
        return OtelSpan(self._tracer.start_span(name, context, known, _named(noted), links))

    def close(self) -> None:
        """Send what waits, but not for long."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(CLOSE_S)


def _named(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name if "." in name else f"{OWN}{name}": value for name, value in values.items()}


def _span_context(context: str) -> SpanContext:
    _, trace, span, flags = context.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1))


class Whole(Sampler):
    """Records traces whole; see the invariants above.

    Args:
        share: of the traces that begin here, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._alone = ParentBased(TraceIdRatioBased(share))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """As `Sampler.should_sample`."""
        chosen: Sampler = self._alone
        if links and not parent_context:
            chosen = ALWAYS_ON if any(link.context.trace_flags.sampled for link in links) else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """As `Sampler.get_description`."""
        return f"Whole{{{self._share}}}"


class Sending(SpanExporter):
    """Sends spans, and says so when they begin to get lost and when they no longer do.

    Args:
        endpoint: full address that spans are posted to.
        told: takes kind, reason and fields of an event.
        inner: what sends them.
    """

    def __init__(self, endpoint: str, told: Told, inner: SpanExporter | None = None) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # it would tell of every single try
        self._endpoint = endpoint
        self._told = told
        self._inner = inner or OTLPSpanExporter(endpoint, timeout=SEND_S)
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As `SpanExporter.export`."""
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                reason = f"{self._endpoint} does not take spans; until it does they are lost, and nothing else is"
                self._told("traces_not_sent", reason, endpoint=self._endpoint)
            self._lost += len(spans)
        elif self._lost:
            lost, self._lost = self._lost, 0
            self._told("traces_sent_again", f"{self._endpoint} takes spans again; {lost} were lost", spans=lost)
        return result

    def shutdown(self) -> None:
        """As `SpanExporter.shutdown`."""
        self._inner.shutdown()


def provider_of(endpoint: str, sample: float, service: str, pipeline: str, told: Told) -> TracerProvider:
    """What records the spans of a process and sends them; see `tracing.opened` for the parameters."""
    own: dict[str, Any] = {
        "service.name": f"correnteza-{service}",
        "service.namespace": pipeline,
        "service.version": version("correnteza"),
        "process.pid": os.getpid(),
    }
    provider = TracerProvider(Whole(sample), Resource.create(own), shutdown_on_exit=False)
    sending = Sending(f"{endpoint.rstrip('/')}/v1/traces", told)
    provider.add_span_processor(BatchSpanProcessor(sending, schedule_delay_millis=SEND_EVERY_S * 1000))
    return provider
