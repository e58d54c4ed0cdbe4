"""Ports for services under test: never two takers at once, however many test processes run on the machine."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

LOWEST, HIGHEST = 12_000, 32_000
"""Below the ports that systems give to outgoing connections, one of which might come in between."""
EACH = 10
"""Ports from one base to the next: those of a pipeline's services, and the mark."""
_MARKS: list[socket.socket] = []
"""Sockets on the last port of each base that this process took: they keep others off while it lives."""


def free_ports() -> int:
    """A base with `EACH - 1` free ports behind it, which are this process's own from now on."""
    for base in random.SystemRandom().sample(range(LOWEST, HIGHEST, EACH), (HIGHEST - LOWEST) // EACH):
        with suppress(OSError), ExitStack() as taken:
            mark = taken.enter_context(socket.create_server(("127.0.0.1", base + EACH - 1), reuse_port=False))
            for port in range(base, base + EACH - 1):
                socket.create_server(("127.0.0.1", port)).close()
            taken.pop_all()
            _MARKS.append(mark)
            return base
    raise OSError(f"no {EACH} free ports in a row from {LOWEST} to {HIGHEST}")
