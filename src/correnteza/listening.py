"""A service's port is taken before anything else happens, even before what the service needs is imported.

Invariant: from the first instant of a service's process its clients queue instead of being refused, so services
that start together find each other whichever is the quickest.
"""

from __future__ import annotations

import socket
import time

from correnteza.errors import ServiceError

BACKLOG = 2048


def bind(host: str, port: int, patience_s: float = 2.0) -> socket.socket:
    """A listening socket; a port that a dying predecessor still holds is waited for a moment.

    Raises:
        ServiceError: the port stays taken.
    """
    deadline = time.monotonic() + patience_s
    while True:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)  # clients queue from now on instead of being refused
        except OSError as error:
            listening.close()
            if time.monotonic() >= deadline:
                raise ServiceError(
                    f"cannot listen on {host}:{port}: {error.strerror}; set services.port_base to a free range"
                ) from None
            time.sleep(0.05)
        else:
            listening.set_inheritable(True)
            return listening
