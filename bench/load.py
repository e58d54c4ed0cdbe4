"""A load generator for one route: fixed connections, one request at a time on each, raw HTTP/1.1.

It speaks just enough of the protocol to be several times faster than what it measures: run as
`python bench/load.py PORT PATH CONNECTIONS SECONDS < body`, it prints JSON with latencies in ms. Further lines behind
the body are malformed bodies: then every tenth request has one of these, and the latencies are those of the others.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

import uvloop

WARM_UP_S = 1.0
MALFORMED_EVERY = 10


@dataclass(slots=True)
class Found:
    """What the connections found out together; latencies, failures and answers are those of the good requests."""

    latencies_s: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)
    answers: set[bytes] = field(default_factory=set)
    refused: int = 0


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer to the last one is complete."""

    def __init__(self, good: bytes, malformed: Sequence[bytes], found: Found, ends: float) -> None:
        self._good = good
        self._malformed = cycle(malformed)
        self._kinds = cycle([True] * (MALFORMED_EVERY - 1) + [not malformed])
        self._found = found
        self._ends = ends
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's
        self._send()

    def _send(self) -> None:
        self._is_good = next(self._kinds)
        self._sent = time.perf_counter()
        self._transport.write(self._good if self._is_good else next(self._malformed))

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        if self._is_good:
            self._found.latencies_s.append(now - self._sent)
            self._found.answers.add(body.partition(b",")[2])  # what stands behind the id
        self._note(head)
        self._buffer = b""
        if now >= self._ends:
            self._transport.close()
        else:
            self._send()

    def _note(self, head: bytes) -> None:
        if head.startswith(b"HTTP/1.1 4") and not self._is_good:
            self._found.refused += 1
        elif not (head.startswith(b"HTTP/1.1 200") and self._is_good):
            self._found.failures.append(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if exc is not None:
            self._found.failures.append(repr(exc).encode())
        if not self.done.done():
            self.done.set_result(None)


async def load(port: int, path: str, connections: int, seconds: float, bodies: Sequence[bytes]) -> dict[str, float]:
    """Load one route and return the figures."""
    requests = [request(path, body) for body in bodies]
    await _phase(port, connections, WARM_UP_S, requests)
    began = time.perf_counter()
    found = await _phase(port, connections, seconds, requests)
    took_s = time.perf_counter() - began
    latencies = sorted(found.latencies_s)
    return {
        "requests_per_s": (len(latencies) + found.refused) / took_s,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "failures": len(found.failures),
        "answers": len(found.answers),
        "refused": found.refused,
    }


def request(path: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _phase(port: int, connections: int, seconds: float, requests: Sequence[bytes]) -> Found:
    found, (good, *malformed) = Found(), requests
    loop = asyncio.get_running_loop()
    ends = time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: Connection(good, malformed, found, ends), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return found


if __name__ == "__main__":
    _, port_, path_, connections_, seconds_ = sys.argv
    lines = sys.stdin.buffer.read().splitlines()
    print(json.dumps(uvloop.run(load(int(port_), path_, int(connections_), float(seconds_), lines))))
