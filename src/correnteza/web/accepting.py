"""Accepting from a socket that several processes share.

Invariant: of two processes the one with fewer connections comes first. Without that, the one that happens
to be awake takes all, and connections that live long then never meet the others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

STEP_S = 0.0002
MOST_S = 0.002
"""A process waits before it accepts: so long for each connection it has, at most so long."""
AT_ONCE = 2
"""Connections it then accepts."""
TROUBLE_S = 0.5
"""The pause when no connection can be accepted, as where there are no file descriptors left."""


class Acceptor:
    """Takes connections from a shared socket. For the thread of one event loop.

    Args:
        listening: the socket.
        protocol: makes a connection's protocol.
        connections: how many connections there are.
    """

    def __init__(
        self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol], connections: Callable[[], int]
    ) -> None:
        self._listening = listening
        self._protocol = protocol
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[object]] = set()
        self._stopped = False
        listening.setblocking(False)
        self._loop.add_reader(listening, self._wait)

    def close(self) -> None:
        """Accept no more; the socket stays open."""
        self._stopped = True
        self._loop.remove_reader(self._listening)

    def _wait(self) -> None:
        """Something is there: let those go first that have less to do."""
        self._loop.remove_reader(self._listening)
        self._loop.call_later(min(self._connections() * STEP_S, MOST_S), self._accept)

    def _accept(self) -> None:
        if self._stopped:
            return
        try:
            for _ in range(AT_ONCE):
                self._begin(self._listening.accept()[0])
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass  # another process was first, or the client has gone
        except OSError:
            self._loop.call_later(TROUBLE_S, self._accept)
            return
        self._loop.add_reader(self._listening, self._wait)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
