"""How fresh answers are: from a record's commit to the first answer by a version that has learned from it.

Measured from outside, over HTTP: records are posted at a fixed rate, and all the while one connection asks for
predictions. A record is committed when its post is answered. A version has learned from it when the rows that it was
trained on (`last_offset` in `GET /models/{version}`) reach it. Records count that are committed within the given
seconds; posts go on until all of them have been learned from. All services run with their defaults; the generator
has no source of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import uvloop

import system
from correnteza.config import Settings
from correnteza.generator.people import PeopleSource
from correnteza.records import ID, OFFSET
from delay import Client, share
from system import PORTS, System

SERVICES = ("generator", "normalizer", "trainer")
SETTINGS = {"GENERATOR__SOURCE": "none"}
SETTLE_S = 10.0
"""Seconds in which the last posts arrive."""
RATE = 1_000
BATCH_ROWS = 20
PEOPLE = 20_000
"""Different records; behind the last the first is posted again."""
ASK_EVERY_S = 0.02
WARM_UP_S = 30.0
FIRST_S = 60.0
"""What the first answer may take to come."""
DRAIN_S = 60.0
"""What learning from the last record may take."""
GOAL_S = 3.0


@dataclass(slots=True)
class Seen:
    """What was seen from outside, in seconds of one clock.

    Args:
        commits: offset of the last record of each post, and when it was answered, in their order.
        asked: predictions that were answered.
        answers: when each version answered for the first time.
        learned: the last offset that each version has learned from.
        late_s: how late posts were sent at worst.
    """

    commits: list[tuple[int, float]] = field(default_factory=list)
    asked: int = 0
    answers: dict[int, float] = field(default_factory=dict)
    learned: dict[int, int] = field(default_factory=dict)
    late_s: float = 0.0

    @property
    def reached(self) -> int:
        """The last offset that any version that has answered has learned from."""
        return max(self.learned.values(), default=0)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="in which records count, behind the warm-up")
    parser.add_argument("--rate", type=int, default=RATE, help="records per second")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S, help="seconds at most until the window is full")
    parser.add_argument("--port-base", type=int, default=system.PORT_BASE, help="ports of the services")
    parser.add_argument("--quick", action="store_true", help="10 s behind a warm-up of 5 s")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS, system.PORT_BASE = arguments.results, arguments.port_base
    seconds, warm_up_s = (10.0, 5.0) if arguments.quick else (arguments.seconds, arguments.warm_up)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with started() as running:
        seen, began = uvloop.run(observe(arguments.rate, seconds, warm_up_s))
        check(running, seen)
    figures = figures_of(seen, began, seconds)
    system.report("bench/freshness.py", figures, lines(figures, arguments.rate, seconds))


@contextmanager
def started() -> Iterator[System]:
    """The running system; at the end nothing of it is left, whatever happened."""
    running = System(SETTINGS, SERVICES)
    family: list[psutil.Process] = []
    try:
        with running:
            try:
                yield running
            finally:
                family += family_of(running)
    finally:
        for one in [*family, *family_of(running)]:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        shutil.rmtree(running.folder, ignore_errors=True)


def family_of(running: System) -> list[psutil.Process]:
    """The services that run, and their children."""
    family = []
    for process in running.processes.values():
        try:
            parent = psutil.Process(process.pid)
            family += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return family


async def observe(rate: int, seconds: float, warm_up_s: float) -> tuple[Seen, float]:
    """Post, ask, and return what was seen, and when the warm-up was over.

    Raises:
        TimeoutError: no answer came in the beginning.
    """
    seen, stop = Seen(), asyncio.Event()
    tasks = [asyncio.create_task(post(rate, seen, stop)), asyncio.create_task(ask(seen, stop))]
    try:
        await until(lambda: bool(seen.learned), FIRST_S, tasks, "the first answer")
        await warm(warm_up_s, tasks)
        began = time.perf_counter()
        await until(lambda: time.perf_counter() - began >= seconds, seconds + 5, tasks, "the end of the seconds")
        last = seen.commits[-1][0]
        try:
            await until(lambda: seen.reached >= last, DRAIN_S, tasks, "the last record to be learned from")
        except TimeoutError as error:
            print(f"{error}; records that were not learned from count with the time until now", file=sys.stderr)
    finally:
        stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    return seen, began


async def warm(warm_up_s: float, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until the trainer's window is full, or for so many seconds."""
    trainer = await Client.connect(system.PORT_BASE + PORTS["trainer"])
    capacity, deadline = Settings().trainer.window_rows, time.perf_counter() + warm_up_s
    while time.perf_counter() < deadline and (await get(trainer, "/status"))["window_rows"] < capacity:
        _raise_of(tasks)
        await asyncio.sleep(min(0.5, max(0.0, deadline - time.perf_counter())))


async def until(holds: Any, seconds: float, tasks: Sequence[asyncio.Task[None]], what: str) -> None:
    """Wait until a condition holds; what a task raises is raised here.

    Raises:
        TimeoutError: it does not hold after so many seconds.
    """
    deadline = time.perf_counter() + seconds
    while not holds():
        _raise_of(tasks)
        if time.perf_counter() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        await asyncio.sleep(0.05)


def _raise_of(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def post(rate: int, seen: Seen, stop: asyncio.Event) -> None:
    """Post batches when they are due, each with the time at which it is sent as its records' event time."""
    generator = await Client.connect(system.PORT_BASE + PORTS["generator"])
    records = list(people())
    number = 0
    async for late_s in ticks(BATCH_ROWS / rate, stop):
        seen.late_s = max(seen.late_s, late_s)
        at = datetime.now(UTC).isoformat().encode()
        chosen = [records[(number + i) % len(records)] for i in range(BATCH_ROWS)]
        body = b"[" + b",".join(b'{"event_time":"%s",%s' % (at, rest) for rest in chosen) + b"]"
        _, answer = await generator.ask(request(b"POST /records", body))
        seen.commits.append((int(json.loads(answer)["last_offset"]), time.perf_counter()))
        number += BATCH_ROWS


async def ask(seen: Seen, stop: asyncio.Event) -> None:
    """Ask for predictions of one record on one connection; others look up what each new version has learned from."""
    port = system.PORT_BASE + PORTS["trainer"]
    asking = await Client.connect(port)
    question = b'{"event_time":"2026-01-31T12:00:00Z",' + next(people(labelled=False))
    async for _ in ticks(ASK_EVERY_S, stop):
        try:
            _, answer = await asking.ask(request(b"POST /predict", question))
        except AssertionError as error:
            if seen.answers or " 503 " not in str(error):
                raise
            continue  # there is no version yet
        now, version = time.perf_counter(), int(json.loads(answer)["model_version"])
        seen.asked += 1
        if version not in seen.answers:
            seen.answers[version] = now
            looking = await Client.connect(port)  # a server closes a connection that has been silent for some seconds
            seen.learned[version] = int((await get(looking, f"/models/{version}"))["last_offset"])


async def ticks(every_s: float, stop: asyncio.Event) -> AsyncIterator[float]:
    """A tick every so many seconds, with how late it is; those that were missed follow at once."""
    due = time.perf_counter()
    while not stop.is_set():
        early = due - time.perf_counter()
        if early > 0:
            await asyncio.sleep(early)
        yield max(0.0, time.perf_counter() - due)
        due += every_s


async def get(client: Client, path: str) -> Any:
    """JSON of a route."""
    return json.loads((await client.ask(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()))[1])


def request(what: bytes, body: bytes) -> bytes:
    """A request with a JSON body."""
    head = b"%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (what, len(body)) + body


def people(labelled: bool = True) -> Iterator[bytes]:
    """The demo's people as JSON objects without event time, each without its opening brace."""
    settings = Settings()
    schema = settings.schema_of_records
    batch = PeopleSource(settings.generator, schema).read(None, PEOPLE).batch
    left_out = [OFFSET, ID, "event_time", *([] if labelled else [schema.target])]
    for record in batch.drop_columns(left_out).to_pylist():
        yield json.dumps(record).encode()[1:]


def check(running: System, seen: Seen) -> None:
    """Make sure that a record has the same offset in both logs, as it has where none was refused.

    Raises:
        TimeoutError: records were refused, or some do not arrive.
    """

    def settled() -> bool:
        status = running.get("normalizer", "/status")
        rows, raw = status["logs"]["records"]["next_offset"] - 1, status["raw_rows"]
        return bool(rows == raw >= seen.reached)

    system.wait_for(settled, SETTLE_S, "the normalizer to have made a row of each record; else offsets cannot be compared")


def fresh_s(commits: Sequence[tuple[int, float]], answers: Mapping[int, float], learned: Mapping[int, int]) -> list[float]:
    """For each post, seconds until the first answer by a version that has learned from its last record.

    Args:
        commits: offset and time of each, in order of both.
        answers: when each version answered for the first time.
        learned: the last offset that each version has learned from.

    Returns:
        Infinite where there was none.

    >>> fresh_s([(20, 1.0), (40, 2.0)], {1: 1.5, 2: 3.0, 3: 4.0}, {1: 10, 2: 30, 3: 50})
    [2.0, 2.0]
    """
    times = []
    for offset, at in commits:
        firsts = [answers[version] for version, last in learned.items() if last >= offset]
        times.append(max(0.0, min(firsts, default=float("inf")) - at))
    return times


def figures_of(seen: Seen, began: float, seconds: float) -> dict[str, Any]:
    """Quantiles over the records that were committed within the seconds; one never learned from counts until the end."""
    counted = [commit for commit in seen.commits if began <= commit[1] < began + seconds]
    ends = seen.commits[-1][1]
    waited = fresh_s(counted, seen.answers, seen.learned)
    never = sum(one == float("inf") for one in waited)
    ordered = sorted(min(one, ends - at) for one, (_, at) in zip(waited, counted, strict=True))
    span_s = counted[-1][1] - counted[0][1]
    versions = [version for version, at in seen.answers.items() if began <= at < began + seconds]
    return {
        "p50_s": round(share(ordered, 0.5), 3),
        "p99_s": round(share(ordered, 0.99), 3),
        "max_s": round(ordered[-1], 3),
        "records": len(counted) * BATCH_ROWS,
        "never_learned": never * BATCH_ROWS,
        "records_per_s": round((counted[-1][0] - counted[0][0]) / span_s, 1),
        "versions": len(versions),
        "late_ms": round(seen.late_s * 1e3, 1),
    }


def lines(figures: Mapping[str, Any], rate: int, seconds: float) -> list[str]:
    """The result in words."""
    met = "met" if figures["p99_s"] <= GOAL_S and not figures["never_learned"] else "missed"
    return [
        f"{rate:,} records per second in posts of {BATCH_ROWS} for {seconds:g} s ({figures['records_per_s']:,} per second were "
        f"committed; posts were {figures['late_ms']:g} ms late at most), {1 / ASK_EVERY_S:g} predictions per second",
        f"from a record's commit to the first answer by a version that has learned from it: p50 {figures['p50_s']} s, "
        f"**p99 {figures['p99_s']} s**, at most {figures['max_s']} s (goal: p99 {GOAL_S:g} s: {met})",
        f"{figures['records']:,} records, {figures['never_learned']} of them never learned from within {DRAIN_S:g} s; "
        f"{figures['versions']} versions came into service meanwhile",
    ]


if __name__ == "__main__":
    main()
