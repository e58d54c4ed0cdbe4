"""Laws of spans in one process: what goes on in a trace, what is linked, what is left out, what tracing costs when off."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import CapturingLogger

from correnteza import events, output, tracing
from correnteza.consumer.asking import Asking, Waiting
from correnteza.errors import ConfigError
from correnteza.events import Events
from correnteza.log.base import Slice
from correnteza.log.memory import MemoryStore
from correnteza.pace import Pace
from correnteza.stage import Runner
from correnteza.testing import SCHEMA, read_all, rows, wait_for
from correnteza.tracing import NONE, Tracer, Traces, current, outgoing
from correnteza.tracing.contexts import MOST
from correnteza.tracing.otel import Spans, Whole, provider_of
from correnteza.trainer.tracks import Tracks

from .end_to_end.otlp import Receiver, context_of, receiving
from .test_stage import OUT, Counting


class Recorded:
    """A tracer whose spans are kept in memory."""

    def __init__(self, share: float = 1.0) -> None:
        self.kept = InMemorySpanExporter()
        provider = TracerProvider(Whole(share), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.tracer = Tracer(Spans(provider))

    def the(self, name: str) -> Any:
        """The one span of a name."""
        (found,) = [span for span in self.kept.get_finished_spans() if span.name == name]
        return found

    def names(self) -> list[str]:
        return [span.name for span in self.kept.get_finished_spans()]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


class Traced:
    """A log with contexts, as one over HTTP."""

    def __init__(self, *traces: Traces) -> None:
        self.log = MemoryStore().log("raw", SCHEMA.raw)
        self._traces = iter(traces)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        part = self.log.read(after, limit, wait_s, back)
        return Slice(part.batch, part.next, part.lag_rows, next(self._traces)) if part.batch.num_rows else part


def run(source: Any, until_rows: int, batch_rows: int, tracer: Tracer | None, seen: Callable[[], None] = lambda: None) -> None:
    """A runner that stops by itself once so many rows are out."""
    store = MemoryStore()
    out = store.log("out", OUT)
    told = Events("test", store.log("events", events.SCHEMA))

    def look(_: int) -> None:
        seen()
        if out.bounds().rows >= until_rows:
            made.ask_to_stop()

    made = Runner(Counting(), source, store, told, batch_rows=batch_rows, between=look, wait_s=0.01, tracer=tracer)
    made.run()
    assert [row["offset_in"] for row in read_all(out)] == list(range(1, until_rows + 1))


def numbers(span: Any) -> tuple[int, int | None]:
    """Trace id, and id of the parent."""
    return span.context.trace_id, None if span.parent is None else span.parent.span_id


# What follows from what


def test_what_follows_from_one_trace_goes_on_in_it(recorded: Recorded) -> None:
    with recorded.tracer.begin("next", Traces.of([context_of(7)]), {"rows": 3, "http.route": "/x"}):
        pass
    span = recorded.the("next")
    assert numbers(span) == (7, 0x701)
    assert (span.links, dict(span.attributes)) == ((), {"correnteza.rows": 3, "http.route": "/x"})


def test_what_follows_from_two_spans_of_one_trace_goes_on_in_it_and_is_linked_with_the_first(recorded: Recorded) -> None:
    with recorded.tracer.begin("one", Traces.of([context_of(7)])) as one:
        pass
    with recorded.tracer.begin("next", Traces.of([one.context, context_of(7)])):
        pass
    span = recorded.the("next")
    assert numbers(span) == (7, 0x701)
    assert [link.context.span_id for link in span.links] == [recorded.the("one").context.span_id]


def test_what_follows_from_several_traces_is_one_of_its_own_with_links(recorded: Recorded) -> None:
    with recorded.tracer.begin("merged", Traces.of(context_of(n) for n in range(1, MOST + 6))):
        pass
    span = recorded.the("merged")
    assert span.parent is None
    assert [link.context.trace_id for link in span.links] == list(range(1, MOST + 1))
    assert span.attributes["correnteza.links_dropped"] == 5
    assert span.context.trace_id > MOST


def test_what_fails_says_so_and_is_no_longer_the_current_span(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="too odd"), recorded.tracer.begin("odd"):
        raise ValueError("too odd")
    assert recorded.the("odd").status.description == "ValueError: too odd"
    assert current() is None


# What is left out


def test_a_share_of_the_traces_that_begin_here_is_recorded() -> None:
    some = Recorded(share=0.3)
    for _ in range(2000):
        some.tracer.begin("root").end()
    assert 450 < len(some.names()) < 750


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_who_goes_on_decides_as_the_one_before(share: float) -> None:
    some = Recorded(share)
    for number, sampled in ((1, True), (2, False)):
        span = some.tracer.begin(f"after {sampled}", Traces.of([context_of(number, sampled)]))
        span.end()
        assert span.context.endswith("-01" if sampled else "-00")
    assert some.names() == ["after True"]


def test_of_several_one_that_is_recorded_is_enough() -> None:
    none = Recorded(share=0.0)
    none.tracer.begin("with", Traces((context_of(1, sampled=False), context_of(2)))).end()
    none.tracer.begin("without", Traces((context_of(1, sampled=False), context_of(2, sampled=False)))).end()
    assert none.names() == ["with"]


# Steps


def test_a_step_follows_from_what_its_rows_were_written_in_and_hands_that_on(recorded: Recorded) -> None:
    source = Traced(Traces.of([context_of(1)]), Traces.of([context_of(2), context_of(3)]), NONE)
    source.log.append(rows(21))
    run(source, 21, 7, recorded.tracer)
    first, second, third = recorded.kept.get_finished_spans()
    assert [(s.name, dict(s.attributes or {})) for s in (first, second, third)] == [
        ("step counting", {"correnteza.rows": 7})
    ] * 3
    assert numbers(first) == (1, 0x101)
    assert [link.context.trace_id for link in second.links] == [2, 3]
    assert third.parent is None
    handed = [recorded.tracer.rows("out", low, low + 6).contexts for low in (1, 8, 15)]
    assert handed == [(f"00-{s.context.trace_id:032x}-{s.context.span_id:016x}-01",) for s in (first, second, third)]
    assert len(recorded.tracer.rows("out", 7, 8).contexts) == 2


def test_between_two_steps_the_span_of_the_last_one_is_over_and_still_known(recorded: Recorded) -> None:
    source, seen = Traced(Traces.of([context_of(1)])), []
    source.log.append(rows(5))

    def look() -> None:
        span = current()
        if span is not None:
            seen.append((recorded.names(), span.context[3:35]))

    run(source, 5, 10, recorded.tracer, look)
    assert seen == [(["step counting"], context_of(1)[3:35])]
    assert current() is None


def test_a_training_follows_from_the_steps_before_it_and_a_version_from_its_training(recorded: Recorded) -> None:
    tracks = Tracks(recorded.tracer)
    for number in (1, 1, 2):
        with recorded.tracer.begin("step", Traces.of([context_of(number)])):
            tracks.stepped()
    tracks.began(3, 500, "asked for")
    with tracks.deciding("register", 3, "in shadow"):
        pass
    tracks.ended("trained")
    with tracks.deciding("promote", 3, "better"):
        pass
    training = recorded.the("train")
    assert [link.context.trace_id for link in training.links] == [1, 1, 2]
    assert dict(training.attributes) == {
        "correnteza.model_version": 3,
        "correnteza.rows": 500,
        "correnteza.reason": "asked for",
        "correnteza.outcome": "trained",
    }
    for name in ("register", "promote"):
        assert numbers(recorded.the(name)) == (training.context.trace_id, training.context.span_id)


def test_a_training_that_fails_says_why_and_the_next_one_is_not_linked_with_its_steps(recorded: Recorded) -> None:
    tracks = Tracks(recorded.tracer)
    with recorded.tracer.begin("step"):
        tracks.stepped()
    tracks.began(1, 50, "first")
    tracks.ended("failed", "out of memory")
    assert recorded.the("train").status.description == "out of memory"
    tracks.began(1, 60, "again")
    tracks.ended("trained")
    second = recorded.kept.get_finished_spans()[-1]
    assert (second.parent, second.links) == (None, ())


# Around


def test_a_request_that_is_made_within_a_span_takes_its_context_along(recorded: Recorded) -> None:
    assert outgoing() == {}
    with recorded.tracer.begin("ask") as span:
        assert outgoing() == {"traceparent": span.context}


def test_a_question_goes_along_with_its_request_and_the_step_follows_from_it(recorded: Recorded) -> None:
    source, sent = Traced(Traces.of([context_of(1)])), []
    source.log.append(rows(3))

    def ask(body: bytes) -> list[dict[str, float]]:
        sent.append(outgoing()["traceparent"])
        return [{"prediction": 1.0}] * len(json.loads(body))

    pace = Pace(math.inf)
    waiting = Waiting(Events("consumer"), "records", time.monotonic)
    asking = Asking(source, SCHEMA, ask, pace, waiting, request_rows=10, behind=lambda _: None, tracer=recorded.tracer)
    part = asking.read(None, 10)
    assert list(part.traces.contexts) == sent
    assert numbers(recorded.the("ask")) == (1, 0x101)
    assert sent[0][36:52] == f"{recorded.the('ask').context.span_id:016x}"


def test_log_lines_name_the_span_that_they_are_written_in(recorded: Recorded) -> None:
    lines = CapturingLogger()
    before = structlog.get_config()
    try:
        output.set_up("json")
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _as_is], logger_factory=lambda *_: lines)
        told = Events("test")
        told.emit("outside", "no span")
        with recorded.tracer.begin("something") as span:
            told.emit("inside", "a span")
    finally:
        structlog.configure(**before)
    outside, inside = (call.kwargs for call in lines.calls)
    assert "trace_id" not in outside
    assert f"00-{inside['trace_id']}-{inside['span_id']}-01" == span.context


def _as_is(_: object, __: str, line: Any) -> Any:
    return (), dict(line)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def test_a_receiver_that_takes_no_spans_is_told_of_once_and_so_is_its_return(receiver: Receiver) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    receiver.status = 400
    provider = provider_of(receiver.url, 1.0, "test", "demo", lambda kind, _, **fields: told.append((kind, fields)))
    tracer = Tracer(Spans(provider))
    for _ in range(2):
        tracer.begin("lost").end()
        provider.force_flush()
    receiver.status = 200
    tracer.begin("sent").end()
    tracer.close()
    wait_for(lambda: len(told) == 2, "both events")
    assert told == [("traces_not_sent", {"endpoint": f"{receiver.url}/v1/traces"}), ("traces_sent_again", {"spans": 2})]
    assert [span.name for span in receiver.spans] == ["sent"]
    assert (receiver.paths, receiver.spans[0].service) == ({"/v1/traces"}, "correnteza-test")


def test_the_end_of_a_process_does_not_wait_for_a_receiver_that_hangs() -> None:
    """`close` comes back though nobody takes the spans."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracer = Tracer(Spans(provider_of(url, 1.0, "test", "demo", lambda *_, **__: None)))
        tracer.begin("lost").end()
        closing = threading.Thread(target=tracer.close)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()


# Off


def test_where_no_endpoint_is_set_no_service_imports_what_would_trace() -> None:
    """FastAPI brings OpenTelemetry's API along, which does nothing by itself; the learner, without FastAPI, has none of it."""
    alone = "import sys, correnteza.trainer.learner; print([name for name in sys.modules if 'opentelemetry' in name])"
    services = """
import sys, tempfile
from correnteza.config import Settings
from correnteza.generator import service as generator
from correnteza.log.memory import MemoryStore
from correnteza.generator.pace import NoSource
from correnteza.normalizer import service as normalizer
from correnteza.trainer import service as trainer, learner
from correnteza.consumer import service as consumer
settings = Settings(pipeline={"data_dir": tempfile.mkdtemp()})
nothing = NoSource(settings.schema_of_records.raw)
built = [
    generator.build(settings, MemoryStore())[1],
    normalizer.build(settings, MemoryStore(), nothing)[1],
    trainer.build(settings, MemoryStore(), None)[1],
    consumer.build(settings, MemoryStore(), lambda _: [], nothing)[0],
]
assert [one.tracer for one in built] == [None] * 4
ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "google.protobuf.", "correnteza.tracing.otel")
print([name for name in sys.modules if name.startswith(ours)])
"""
    for program in (alone, services):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
        assert done.stdout.strip() == "[]"


def test_where_nothing_is_traced_a_step_calls_nothing_of_tracing() -> None:
    """Its whole cost is a comparison with None."""
    source = MemoryStore().log("raw", SCHEMA.raw)
    source.append(rows(50))
    called: list[str] = []
    structlog.reset_defaults()  # lines look for a span themselves, once `output.set_up` was called

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "tracing" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        run(source, 50, 1, None)
    finally:
        sys.setprofile(None)
    assert called == []


def test_without_the_package_a_set_endpoint_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda _: None)
    assert tracing.opened(None, 1.0, "test", "demo", print) is None
    with pytest.raises(ConfigError, match=r"correnteza\[otel\]"):
        tracing.opened("http://127.0.0.1:4318", 1.0, "test", "demo", print)
