"""A service's clients wait from its first instant on, and are not refused."""

from __future__ import annotations

import socket

import pytest

from correnteza.errors import ServiceError
from correnteza.listening import bind


def test_clients_queue_before_anybody_accepts() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), timeout=5.0) as client:
        client.sendall(b"early")
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(5) == b"early"


def test_a_port_that_is_taken_is_named_with_the_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}.*services\.port_base"):
            bind("127.0.0.1", port, patience_s=0.0)
