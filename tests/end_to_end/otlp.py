"""A receiver of spans: OTLP over HTTP, decoded from protobuf."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from tests.tools import PATIENCE_S


@dataclass(frozen=True)
class Got:
    """A span that came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    links: tuple[str, ...]
    values: dict[str, Any]

    @property
    def context(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


class Receiver:
    """Takes spans; refuses them while `status` is not 200."""

    def __init__(self) -> None:
        self.spans: list[Got] = []
        self.paths: set[str] = set()
        self.status = 200
        self.refused = 0
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(receiver.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.paths.add(path)
            if self.status == 200:
                self.spans += list(_spans(request))
            else:
                self.refused += 1
            self._came.notify_all()

    def wait(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
        """What a condition gives once it holds."""
        deadline = time.monotonic() + seconds
        with self._came:
            while not (found := holds()):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"waited {seconds} s for {what}; there are {[(s.service, s.name) for s in self.spans]}"
                self._came.wait(min(left_s, 0.5))
            return found

    def named(self, name: str) -> list[Got]:
        return [span for span in self.spans if span.name == name]

    def the(self, name: str, **values: Any) -> Got:
        """The first span of a name with these attributes, once it is there."""

        def found() -> Got | None:
            return next((s for s in self.named(name) if values.items() <= s.values.items()), None)

        got: Got = self.wait(found, f"a span {name!r} with {values}")
        return got


def _spans(request: Any) -> Iterator[Got]:
    for resource in request.resource_spans:
        service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Got(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.status.code == 2,
                    tuple(f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" for link in span.links),
                    {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes},
                )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join(PATIENCE_S)
        receiver.server.server_close()


def context_of(number: int, sampled: bool = True) -> str:
    """A context; the same for the same number."""
    return f"00-{number:032x}-{number:014x}01-{int(sampled):02d}"
