"""What is made sure before any service starts: its ports are free, and nobody else runs on its data.

Invariant: a guard changes nothing but its own lock file, and names who is in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from correnteza.config import Settings
from correnteza.errors import ServiceError

LOCK_FILE = "supervisor.lock"


def check_ports(settings: Settings, services: Sequence[str]) -> None:
    """Make sure that every service can listen.

    Args:
        settings: where host and ports stand.
        services: names of the services that are to start.

    Raises:
        ServiceError: one line per port that is taken or cannot be used, with the process that has it.
    """
    host = settings.services.host
    faults = [_fault(name, host, settings.services.port(name)) for name in services]
    if any(faults):
        raise ServiceError("\n".join(fault for fault in faults if fault))


def _fault(service: str, host: str, port: int) -> str | None:
    """Why the service cannot listen there, or None."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {port} of the {service} is taken by {holder_of(port)}; "
                "stop that, or move all ports together with --port-base"
            )
        return f"the {service} cannot listen on {host}:{port}: {error.strerror or error}; change services.host or --port-base"
    return None


def holder_of(port: int) -> str:
    """The process that listens on a TCP port, in words: name and pid, as far as this user may see them."""
    import psutil

    try:
        listening = [
            c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN
        ]
        pid = next((c.pid for c in listening if c.pid), None)
        return "a process of another user" if pid is None else f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return "a process of another user"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a data folder for this process, for as long as the block lasts.

    The lock is the kernel's, so it goes with the process however that ends. The file stays: whoever
    removed it could let two in.

    Args:
        folder: the data folder; created when it is not there.

    Raises:
        ServiceError: another process holds it (names its pid), or the folder cannot be used.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ServiceError(
            f"data folder {folder}: {error.strerror}; set pipeline.data_dir to a folder you can write to"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise ServiceError(
                f"data folder {folder} is in use by `correnteza run` with pid {pid}; stop that, or name another with --data-dir"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
