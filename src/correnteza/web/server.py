"""Start and stop of a service's process.

Invariant: on SIGINT or SIGTERM new requests are refused, waiting ones end, the step under way is
committed, and the process ends with code 0.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from correnteza.children import REFUSED
from correnteza.errors import ConfigError
from correnteza.listening import BACKLOG
from correnteza.log.base import Policy
from correnteza.log.retention import Janitor
from correnteza.web.accepting import Acceptor
from correnteza.web.protocol import protocol_of
from correnteza.web.service import Service

FAILED = 3
"""Exit code of a service whose stage could not go on."""
GRACE_S = 2


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the exit code to us."""

    def __init__(self, config: uvicorn.Config, service: Service, shared: socket.socket | None = None) -> None:
        super().__init__(config)
        self._service = service
        self._shared = shared
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn has it, but connections of a shared socket are accepted by `Acceptor`."""
        if self._shared is None:
            await super().startup(sockets)
            return
        await super().startup([])
        made = partial(
            self.config.http_protocol_class,
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptor = Acceptor(self._shared, made, lambda: len(self.server_state.connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn has it."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals ask for an orderly stop and are not raised again afterwards."""
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second signal does not wait for open requests."""
        self._service.stopping = True
        super().handle_exit(sig, frame)


def serve(app: FastAPI, service: Service, listening: socket.socket, shared: bool = False) -> int:
    """Run a service until it is told to stop; returns the exit code.

    Args:
        app: the application.
        service: what it serves.
        listening: the socket to accept connections from; see `listening.bind`.
        shared: whether other processes accept from that socket, too.
    """
    config = uvicorn.Config(
        app,
        http=protocol_of(service),
        log_config=None,
        access_log=False,
        lifespan="on" if service.has_pages else "off",
        ws="websockets-sansio" if service.has_pages else "none",
        ws_per_message_deflate=False,  # pages are looked at from near by; it would cost more than it saves
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    server = _Server(config, service, listening if shared else None)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        service.stopping = True
        server.should_exit = True

    janitor = _janitor(service)
    for runner in service.runners:
        runner.start(failed)
    service.start()
    janitor.start()
    host, port = listening.getsockname()[:2]
    service.events.announce_start(f"http://{host}:{port}")
    try:
        server.run(sockets=[listening])
    finally:
        janitor.stop()
        _stop(service)
    if not failures:
        return 0
    return REFUSED if isinstance(failures[0], ConfigError) else FAILED


def _janitor(service: Service) -> Janitor:
    kept = service.settings.retention
    policy = Policy(rows=kept.rows, age_s=kept.age_s, hard_rows=kept.hard_rows)
    return Janitor(service.store, policy, service.events, kept.every_s)


def _stop(service: Service) -> None:
    service.stopping = True
    for runner in service.runners:
        runner.ask_to_stop()
    for runner in service.runners:
        runner.stop()
    service.stop()
    if service.tracer is not None:
        service.tracer.close()
