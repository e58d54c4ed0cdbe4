"""How long one record takes, alone and among many, and what the system costs when nothing happens.

- Alone: `POST /records` with one record on one connection, one after the other, until the committed answer.
- Among many: single-record posts at a fixed rate on several connections, whether or not earlier ones are answered;
  from the answer of each to the moment its normalized row has been read, with the normalizer's long poll.
- Idle: processor time of each service, its children included, while nothing comes.

All services run, each in its own process, with their defaults; the generator has no source of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import uvloop

import system
from system import PORT_BASE, PORTS, System, wait_for

SERVICES = ("generator", "normalizer", "trainer", "consumer")
SETTINGS = {"GENERATOR__SOURCE": "none", "CONSUMER__REQUESTS_PER_SECOND": 0}
CONNECTIONS = 32
RATE = 1_000
SINGLE_POSTS = 2_000
WARM_UP_POSTS = 300
READ_ROWS = 10_000
WAIT_S = 5.0
STARTED_S, STARTING_PERCENT = 2.0, 20.0
"""A service that used more of a core within so many seconds is still at its imports."""
ARROW = "application/vnd.apache.arrow.stream"
RECORD = {
    "event_time": "2026-01-31T12:00:00Z",
    "name": "Ana Souza",
    "city": "Belo Horizonte",
    "job": "Engenheiro civil",
    "age": 37.0,
    "education_years": 16.0,
    "experience_years": 12.0,
    "weekly_hours": 40.0,
    "income": 5200.0,
}
GOALS = {"post_p50_ms": 1.0, "delay_p99_ms": 50.0, "idle_cpu_percent": 3.0}


@dataclass(slots=True)
class Times:
    """When what happened to each row, by its offset in the generator's log, in seconds of one clock.

    Args:
        answered: the answer of its post was complete.
        readable: its normalized row had been read.
        posts_s: from when each post was due to its answer.
    """

    answered: dict[int, float] = field(default_factory=dict)
    readable: dict[int, float] = field(default_factory=dict)
    posts_s: list[float] = field(default_factory=list)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of posts at the fixed rate")
    parser.add_argument("--idle", type=float, default=15.0, help="seconds of silence")
    parser.add_argument("--rate", type=int, default=RATE, help="posts per second")
    parser.add_argument("--without", nargs="*", default=(), choices=("trainer", "consumer"), help="leave services out")
    parser.add_argument("--quick", action="store_true", help="5 s of posts, 5 s of silence")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    seconds, idle_s = (5.0, 5.0) if arguments.quick else (arguments.seconds, arguments.idle)
    services = tuple(name for name in SERVICES if name not in arguments.without)
    with System(SETTINGS, services) as running:
        wait_for(lambda: max(idle(running, STARTED_S).values()) < STARTING_PERCENT, 60, "the services to have started")
        before = idle(running, idle_s)
        alone_ms, times = uvloop.run(posts(arguments.rate, seconds))
        silence(running)
        after = idle(running, idle_s)
    delays_ms = sorted((times.readable[offset] - at) * 1e3 for offset, at in times.answered.items())
    posts_ms = sorted(one * 1e3 for one in times.posts_s)
    figures: dict[str, Any] = {
        "post_p50_ms": round(share(alone_ms, 0.5), 3),
        "post_p99_ms": round(share(alone_ms, 0.99), 3),
        "delay_p50_ms": round(share(delays_ms, 0.5), 2),
        "delay_p99_ms": round(share(delays_ms, 0.99), 2),
        "posts_per_s": round(len(times.answered) / (max(times.answered.values()) - min(times.answered.values()))),
        "rated_post_p50_ms": round(share(posts_ms, 0.5), 2),
        "rated_post_p99_ms": round(share(posts_ms, 0.99), 2),
        "idle_cpu_percent": round(max(*before.values(), *after.values()), 2),
    }
    system.report("bench/delay.py", figures, lines(figures, before, after, arguments.rate, seconds))


def lines(figures: dict[str, Any], before: dict[str, float], after: dict[str, float], rate: int, seconds: float) -> list[str]:
    """The result in words."""
    met = {name: "met" if figures[name] <= goal else "missed" for name, goal in GOALS.items()}
    each = ["; ".join(f"{name} {cpu:.2f} %" for name, cpu in one.items()) for one in (before, after)]
    return [
        f"`POST /records`, one record, one connection: p50 **{figures['post_p50_ms']} ms** to the committed answer, "
        f"p99 {figures['post_p99_ms']} ms (goal: p50 {GOALS['post_p50_ms']:g} ms: {met['post_p50_ms']})",
        f"{rate:,} single-record posts per second for {seconds:g} s, {CONNECTIONS} connections "
        f"({figures['posts_per_s']:,} per second were answered): from the answer to the "
        f"normalized row read: p50 {figures['delay_p50_ms']} ms, **p99 {figures['delay_p99_ms']} ms** "
        f"(goal: p99 {GOALS['delay_p99_ms']:g} ms: {met['delay_p99_ms']}); "
        f"posts, from when they were due: p50 {figures['rated_post_p50_ms']} ms, p99 {figures['rated_post_p99_ms']} ms",
        f"idle before the first record, share of one core: {each[0]}",
        f"idle after the posts: {each[1]} (goal: {GOALS['idle_cpu_percent']:g} % each: {met['idle_cpu_percent']})",
    ]


def share(ordered: list[float], part: float) -> float:
    """A quantile of sorted values.

    >>> share([1.0, 2.0, 3.0, 4.0], 0.5)
    3.0
    """
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


async def posts(rate: int, seconds: float) -> tuple[list[float], Times]:
    """Latencies of posts that come one after the other, sorted, in ms; then what happened at the fixed rate."""
    ports = {name: PORT_BASE + PORTS[name] for name in ("generator", "normalizer")}
    request = request_of(RECORD)
    first = await Client.connect(ports["generator"])
    alone_s = [await timed(first, request) for _ in range(WARM_UP_POSTS + SINGLE_POSTS)][WARM_UP_POSTS:]
    times = Times()
    last = offset_of((await first.ask(request))[1])
    clients = [first, *[await Client.connect(ports["generator"]) for _ in range(CONNECTIONS - 1)]]
    reader = asyncio.create_task(follow(await Client.connect(ports["normalizer"]), times, last + round(rate * seconds)))
    await at_rate(clients, request, rate, seconds, times)
    await asyncio.wait_for(reader, 60)
    return sorted(one * 1e3 for one in alone_s), times


async def timed(client: Client, request: bytes) -> float:
    """Seconds of one post."""
    began = time.perf_counter()
    await client.ask(request)
    return time.perf_counter() - began


async def at_rate(clients: list[Client], request: bytes, rate: int, seconds: float, times: Times) -> None:
    """Send posts when they are due, each on a free connection; one that finds none waits for it, and that counts."""
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)
    began = time.perf_counter() + 0.1
    tasks = set()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        while (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.add(asyncio.create_task(_post(free, request, due, times)))
    await asyncio.gather(*tasks)


async def _post(free: asyncio.Queue[Client], request: bytes, due: float, times: Times) -> None:
    client = await free.get()
    _, body = await client.ask(request)
    now = time.perf_counter()
    free.put_nowait(client)
    times.answered[offset_of(body)] = now
    times.posts_s.append(now - due)


async def follow(client: Client, times: Times, last: int) -> None:
    """Read the normalizer's log as it grows, until the row of raw offset `last`."""
    after, seen = "", 0
    while seen < last:
        query = f"limit={READ_ROWS}&wait_s={WAIT_S}" + (f"&after={after}" if after else "")
        head = f"GET /records?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {ARROW}\r\n\r\n"
        headers, body = await client.ask(head.encode())
        now = time.perf_counter()
        after = headers["next-cursor"]
        offsets = pa.ipc.open_stream(body).read_all()["raw_offset"].to_pylist()
        times.readable.update(dict.fromkeys(offsets, now))
        seen = max([seen, *offsets])


def request_of(record: dict[str, Any]) -> bytes:
    """A post of one record."""
    body = json.dumps(record).encode()
    head = f"POST /records HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def offset_of(body: bytes) -> int:
    """The offset in the answer of a post of one record."""
    return int(json.loads(body)["first_offset"])


class Client(asyncio.Protocol):
    """One connection, one request at a time; just enough HTTP to cost little beside what it measures."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[dict[str, str], bytes]] | None = None

    @classmethod
    async def connect(cls, port: int) -> Client:
        """A connection to a local port."""
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's

    async def ask(self, request: bytes) -> tuple[dict[str, str], bytes]:
        """Headers (lower case) and body of the answer.

        Raises:
            AssertionError: it has no status 200 or 201.
            ConnectionError: the connection was closed.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._answer is None:
            return
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        if len(body) < int(headers["content-length"]):
            return
        self._buffer = b""
        if first.split()[1] in ("200", "201"):
            self._answer.set_result((headers, body))
        else:
            self._answer.set_exception(AssertionError(f"{first}: {body!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection was closed"))


def silence(running: System) -> None:
    """Wait until the trainer has learned what came, and no training is under way."""
    if "trainer" not in running.processes:
        return

    def quiet() -> bool:
        status = running.get("trainer", "/status")
        return not status["training"] and status["lag_rows"] == 0

    wait_for(lambda: quiet() and _still(quiet), 120, "the trainer to be level")


def _still(holds: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Whether something goes on to hold for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not holds():
            return False
        time.sleep(0.2)
    return True


def idle(running: System, seconds: float) -> dict[str, float]:
    """Processor time of each service with its children, in percent of one core, while nobody asks anything."""
    before = {name: cpu_s(process.pid) for name, process in running.processes.items()}
    time.sleep(seconds)
    return {name: (cpu_s(running.processes[name].pid) - used) / seconds * 100 for name, used in before.items()}


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children so far."""
    parent = psutil.Process(pid)
    total = 0.0
    for one in (parent, *parent.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
