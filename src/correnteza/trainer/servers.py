"""Several server processes on the trainer's port (`[trainer] servers = N`).

    keeper of the port --- listening socket, restarts ---> server 0, which also keeps the learner and the retention
                                                      ---> server 1 to N - 1

Invariants:
- All accept from one socket, which outlives each of them: a connection that waits for its acceptance when
  a server dies is accepted by another, and new ones never meet a closed port.
- A server that dies is started again with back-off, and each death is an event.
- No server outlives the keeper of the port, and that process answers nothing itself, so little can end it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from correnteza import events, lineages, output
from correnteza.children import REFUSED, Child, stop_when_parent_dies
from correnteza.config import Settings, dumps, loads
from correnteza.errors import ConfigError, CorrentezaError
from correnteza.events import Events
from correnteza.log.sql import SqlStore
from correnteza.trainer.board import PUBLISH_EVERY_S, Board, Figures, Repeated, cleared

NAME = "trainer"
TICK_S = 0.05
STOP_S = 6.0
"""How long the servers have to end in good order."""


def run(settings: Settings, listening: socket.socket) -> int:
    """Keep the port and its servers until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket of the port.

    Raises:
        CorrentezaError: the database cannot be taken.
    """
    folder = cleared(board_folder(settings))
    place = lineages.current(settings).folder
    place.mkdir(parents=True, exist_ok=True)
    store = SqlStore(place / f"{NAME}.db")
    told = Events(NAME, store.log("events", events.SCHEMA))
    began = time.time()
    board = Board(folder, "port", lambda: Figures(began, events=dict(told.counts), pids={"port": os.getpid()}))
    publishing = Repeated(board.publish, PUBLISH_EVERY_S)
    servers = [
        Child(f"server {slot}", command(settings, slot, listening), _pass_on, pass_fds=(listening.fileno(),))
        for slot in range(settings.trainer.servers)
    ]
    publishing.start()
    try:
        return _keep(servers, told)
    finally:
        publishing.stop()
        store.close()
        listening.close()


def board_folder(settings: Settings) -> Path:
    """Where the servers of one port publish their figures."""
    return settings.pipeline.folder / "servers"


def command(settings: Settings, slot: int, listening: socket.socket) -> list[str]:
    """The command line of a server.

    Args:
        settings: of the pipeline.
        slot: its place among the servers; 0 leads.
        listening: the socket that it inherits.
    """
    services = settings.services
    if services.log_format == "auto" and sys.stdout.isatty():  # a server writes to a pipe, we to a terminal
        services = services.model_copy(update={"log_format": "console"})
    text = dumps(settings.model_copy(update={"services": services}))
    return [sys.executable, "-P", "-m", "correnteza.trainer.servers", str(slot), str(listening.fileno()), text]


def _keep(servers: Sequence[Child], told: Events) -> int:
    """Start the servers, start again what dies, and stop all when asked to, or when one refuses its settings."""
    asked: list[int] = []
    before = {kind: signal.signal(kind, lambda number, _: asked.append(number)) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        for server in servers:
            server.start()
        while not asked:
            if any(_refused(server, told) for server in servers):
                return REFUSED
            time.sleep(TICK_S)
        return 0
    finally:
        _stop(servers)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _refused(server: Child, told: Events) -> bool:
    """Tend a server; whether it ended because its settings are wrong."""
    death = server.check()
    if death is not None:
        reason = f"{server.name} ended ({death.how}) after {death.uptime_s:.1f} s; it is started again in {death.pause_s:g} s"
        told.emit("server_died", reason, server=server.name, deaths=death.deaths)
    return death is not None and death.refused


def _stop(servers: Sequence[Child]) -> None:
    for server in servers:
        server.terminate()
    deadline = time.monotonic() + STOP_S
    while not all(server.ended() for server in servers) and time.monotonic() < deadline:
        time.sleep(TICK_S)
    for server in servers:
        server.kill()


def _pass_on(line: str) -> None:
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _serve(slot: int, inherited: int, text: str) -> int:
    """One server process: what `run` starts."""
    from correnteza.trainer import service

    stop_when_parent_dies()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = loads(text)
    output.set_up(settings.services.log_format)
    try:
        return service.serve_slot(settings, str(slot), board_folder(settings), socket.socket(fileno=inherited))
    except CorrentezaError as error:
        output.print_error(str(error))
        return REFUSED if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(_serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
