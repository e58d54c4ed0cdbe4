"""What metrics cost: the same work with and without counting, in turns, in one process and one run.

- The normalizer over the demo's people, in batches of 100 rows, as a live stream has them. (A batch of 10,000 costs
  hardly more to count, and takes ten times as long.) Of every three batches one is counted, and chance decides which,
  so that whatever else happens on the machine meets all alike. The difference is found with logs in memory, where
  nothing hides it, and held against a batch with SQLite and synchronous=FULL, which is the stream's. The scrape is
  measured by itself, and charged at one every five seconds.
- The layer in front of `POST /predict`, around an endpoint that does nothing, in rounds that take turns.

Processor time is compared, not the clock on the wall: the disk's time is no cost of metrics. The difference is that of
the medians; two thirds of the batches are not counted, and how far the medians of their halves are apart is the error
of the measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from starlette.types import Message, Receive, Scope, Send

import system
from correnteza import output
from correnteza.config import Settings
from correnteza.flow import Flow
from correnteza.generator.people import PeopleSource
from correnteza.log.base import Slice, Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.normalizer import service as normalizer
from correnteza.records import empty
from correnteza.web.limits import Limits
from correnteza.web.metrics import render
from correnteza.web.requests import Requests

GOAL_PERCENT = 1.0
BATCH_ROWS = 100
SCRAPE_EVERY_S = 5.0
SCRAPES = 20
ANSWERS = 20_000
SQLITE_BATCHES = 600
KINDS = ("counted", "plain", "again")
"""Of batches: one that is counted, and two that are not."""


class Coin:
    """Decides which batches are counted, and takes down the processor time of each batch of every kind.

    Args:
        batch: what is read, with offsets.
        times: how often.
        ended: called when it is read beyond them.

    Attributes:
        spent_s: seconds of each batch, by `KINDS`.
        kind: of the batch that is under way.
    """

    def __init__(self, batch: pa.RecordBatch, times: int, ended: Callable[[], None]) -> None:
        self.spent_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.kind = KINDS[0]
        self._batch = batch
        self._left = times
        self._ended = ended
        self._random = random.Random(time.time_ns())
        self._next: list[str] = []
        self._began_s: float | None = None

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002
        """As `Log.read`; from here to the next call is one batch."""
        now_s = time.thread_time()
        if self._began_s is not None:
            self.spent_s[self.kind].append(now_s - self._began_s)
        self._left -= 1
        if self._left < 0:
            self._ended()
            return Slice(empty(self._batch.schema), "end", 0)
        self._next = self._next or self._random.sample(KINDS, len(KINDS))
        self.kind = self._next.pop()
        self._began_s = time.thread_time()
        return Slice(self._batch, str(self._left), 0)


class CoinFlow(Flow):
    """Counts where the coin says so."""

    __slots__ = ("_coin",)

    def __init__(self, coin: Coin) -> None:
        super().__init__()
        self._coin = coin

    def note(
        self, came: Mapping[str, pa.RecordBatch], went: Mapping[str, pa.RecordBatch], step_s: float, commit_s: float
    ) -> None:
        """As `Flow.note`."""
        if self._coin.kind == "counted":
            super().note(came, went, step_s, commit_s)


class NoRequests(Requests):
    """Counts nothing."""

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Nothing."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12_000, help="batches")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of rounds of answers")
    parser.add_argument("--quick", action="store_true", help="3,000 batches, 5 pairs")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    batches, pairs = (3000, 5) if arguments.quick else (arguments.batches, arguments.pairs)
    with Path(os.devnull).open("w") as nowhere:
        output.set_up("json", nowhere)
        found = stream(batches, lambda _: MemoryStore())
        batch_s = stream(SQLITE_BATCHES, lambda folder: SqlStore(folder / "normalizer.db"))["batch_s"]
    figures = {
        "stream_cost_percent": round(100 * (found["count_s"] / batch_s + found["scrape_s"] / SCRAPE_EVERY_S), 2),
        "count_us": round(found["count_s"] * 1e6, 1),
        "error_us": round(found["apart_s"] * 1e6, 1),
        "batch_us": round(batch_s * 1e6),
        "scrape_ms": round(found["scrape_s"] * 1e3, 2),
        "answer_us": round(answer_s(pairs) * 1e6, 2),
    }
    system.report("bench/metrics.py", figures, lines(figures))


def lines(figures: Mapping[str, float]) -> list[str]:
    """The result in words."""
    met = "met" if figures["stream_cost_percent"] < GOAL_PERCENT else "missed"
    return [
        f"normalizer, batches of {BATCH_ROWS} rows, {figures['batch_us']:,} us of processor time each: counting and a scrape "
        f"every {SCRAPE_EVERY_S:g} s cost **{figures['stream_cost_percent']} %** (goal: below {GOAL_PERCENT:g} %: {met})",
        f"counting takes {figures['count_us']} us of each batch, give or take {figures['error_us']} us; a scrape takes "
        f"{figures['scrape_ms']} ms",
        f"one answer: {figures['answer_us']} us for its count and its time",
    ]


def stream(batches: int, made: Callable[[Path], Store]) -> dict[str, float]:
    """What a normalizer spends: on a batch, on counting it, on a scrape, in seconds.

    Args:
        batches: how many of them.
        made: makes the store in a folder.
    """
    people = PeopleSource(Settings().generator, Settings().schema_of_records).read(None, BATCH_ROWS).batch
    with tempfile.TemporaryDirectory(prefix="correnteza-bench-") as folder:
        store = made(Path(folder))
        coin = Coin(people, batches, lambda: runner.ask_to_stop())
        _, service = normalizer.build(Settings(pipeline={"data_dir": folder}), store, coin)
        runner = service.runners[0]
        runner.figures.flow = CoinFlow(coin)
        runner.run()
        scrape_s = min(timed(lambda: render(service)) for _ in range(SCRAPES))
        store.close()
    medians = {kind: statistics.median(spent) for kind, spent in coin.spent_s.items()}
    without_s = (medians["plain"] + medians["again"]) / 2
    apart_s = abs(medians["plain"] - medians["again"])
    return {"batch_s": without_s, "count_s": medians["counted"] - without_s, "apart_s": apart_s, "scrape_s": scrape_s}


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def answer_s(pairs: int) -> float:
    """Processor seconds that counting adds to one answer: the median over pairs of rounds."""
    counted, uncounted = Requests(), NoRequests()
    found = []
    for _ in range(pairs):
        without_s, with_s = answers_s(uncounted), answers_s(counted)
        found.append((with_s - without_s) / ANSWERS)
    return statistics.median(found)


class Nothing:
    """An endpoint that answers at once."""

    path = "/predict"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Answer."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def answers_s(requests: Requests) -> float:
    """Processor seconds of many answers of the outermost layer.

    Args:
        requests: what counts them.
    """
    _, service = normalizer.build(Settings(), MemoryStore(), Coin(pa.RecordBatch.from_pydict({}), 0, lambda: None))
    service.requests = requests
    layer = Limits(Nothing(), service, {("POST", "/predict"): Nothing()})

    async def take() -> Message:
        return {"type": "http.request", "body": b""}

    async def drop(_: Message) -> None:
        return

    async def many() -> None:
        for _ in range(ANSWERS):
            scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"content-length", b"0")]}
            await layer(scope, take, drop)

    return timed(lambda: asyncio.run(many()))


if __name__ == "__main__":
    main()
