"""A load generator for one route: fixed connections, one request at a time on each, raw HTTP/1.1.

It speaks just enough of the protocol to be several times faster than what it measures: run as
`python bench/load.py PORT PATH CONNECTIONS SECONDS < body`, it prints JSON with latencies in ms.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

WARM_UP_S = 1.0


class Connection(asyncio.Protocol):
    """Sends the request again as soon as its answer is complete."""

    def __init__(self, request: bytes, latencies_s: list[float], failures: list[bytes], ends: float) -> None:
        self._request = request
        self._latencies_s = latencies_s
        self._failures = failures
        self._ends = ends
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

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
        self._latencies_s.append(now - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self._failures.append(self._buffer)
        self._buffer = b""
        if now >= self._ends:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if exc is not None:
            self._failures.append(repr(exc).encode())
        if not self.done.done():
            self.done.set_result(None)


async def load(port: int, path: str, connections: int, seconds: float, body: bytes) -> dict[str, float]:
    """Load one route and return the figures."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    await _phase(port, connections, WARM_UP_S, request)
    began = time.perf_counter()
    latencies, failures = await _phase(port, connections, seconds, request)
    took_s = time.perf_counter() - began
    latencies.sort()
    return {
        "requests_per_s": len(latencies) / took_s,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "failures": len(failures),
    }


async def _phase(port: int, connections: int, seconds: float, request: bytes) -> tuple[list[float], list[bytes]]:
    latencies: list[float] = []
    failures: list[bytes] = []
    loop = asyncio.get_running_loop()
    ends = time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: Connection(request, latencies, failures, ends), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return latencies, failures


if __name__ == "__main__":
    _, port_, path_, connections_, seconds_ = sys.argv
    print(json.dumps(uvloop.run(load(int(port_), path_, int(connections_), float(seconds_), sys.stdin.buffer.read()))))
