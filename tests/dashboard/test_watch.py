"""Laws of asking: one asks for all, a hanging service holds up nobody, an answer that fails says why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from correnteza.client import Client, Page
from correnteza.dashboard.feeds import POINTS, SERVICES, STATUS, Feed, Tail, curve, is_notable, tail
from correnteza.dashboard.watch import TRAIL, WANTED_S, Watch
from correnteza.errors import InputError, LogUnavailableError
from correnteza.testing import wait_for


class Services(Client):
    """Services that answer what they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.down: set[str] = set()
        self.held = threading.Event()
        self.held.set()
        self.asked: list[str] = []

    def status(self, service: str) -> dict[str, Any]:
        self.asked.append(service)
        if service == "trainer":
            self.held.wait()
        if service in self.down:
            raise LogUnavailableError(f"{service}: no connection")
        return {"service": service, "rows_per_s": 5.0}


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(services: Services, clock: Clock) -> Iterator[Watch]:
    made = Watch(services, clock)
    made.start()
    yield made
    services.held.set()
    made.stop()


def turn(watch: Watch, clock: Clock, seconds: float) -> None:
    """Let time pass, and wake the threads."""
    clock.now_s += seconds
    with watch._changed:
        watch._changed.notify_all()


def test_all_services_are_asked_at_once_and_again_when_their_time_has_come(
    watch: Watch, services: Services, clock: Clock
) -> None:
    wait_for(lambda: all(watch.get(STATUS[name]).value for name in SERVICES))
    assert sorted(services.asked) == sorted(SERVICES), "however often one looks"
    turn(watch, clock, 1.0)
    wait_for(lambda: len(services.asked) == 2 * len(SERVICES))


def test_a_service_that_is_down_is_shown_at_the_next_round_and_its_return_at_another(
    watch: Watch, services: Services, clock: Clock
) -> None:
    wait_for(lambda: watch.get(STATUS["consumer"]).value)
    services.down.add("consumer")
    turn(watch, clock, 1.0)
    wait_for(lambda: watch.get(STATUS["consumer"]).error)
    found = watch.get(STATUS["consumer"])
    assert (found.value, found.error) == (None, "consumer: no connection")
    services.down.clear()
    turn(watch, clock, 1.0)
    wait_for(lambda: watch.get(STATUS["consumer"]).value)
    assert list(watch.trails["consumer"]) == [5.0, None, 5.0]


def test_a_service_that_hangs_holds_up_nobody(watch: Watch, services: Services, clock: Clock) -> None:
    services.held.clear()
    turn(watch, clock, 1.0)
    wait_for(lambda: services.asked.count("trainer") >= 1)
    begun = services.asked.count("generator")
    for more in range(3):
        turn(watch, clock, 1.0)
        least = begun + more + 1
        wait_for(partial(lambda count: services.asked.count("generator") >= count, least))
    watch.first([STATUS["generator"]], 0.0)


def test_what_nobody_looks_at_is_not_asked_for_and_an_answer_outlives_a_failure(watch: Watch, clock: Clock) -> None:
    answers: list[Any] = [1, LogUnavailableError("gone"), 3]
    before: list[Any] = []

    def ask(_: Client, last: Any) -> Any:
        before.append(last)
        answer = answers[len(before) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    feed = Feed("numbers", "generator", ask)
    wait_for(lambda: watch.get(feed).value == 1)
    turn(watch, clock, 1.0)
    wait_for(lambda: watch.get(feed).error == "gone")
    assert watch.get(feed).value == 1
    asked = list(watch.trails["generator"])
    turn(watch, clock, WANTED_S)
    wait_for(lambda: len(watch.trails["generator"]) > len(asked))
    assert len(before) == 2, "nobody looked"
    wait_for(lambda: watch.get(feed).value == 3)
    assert before == [None, 1, 1]


def test_trails_are_bounded(watch: Watch) -> None:
    assert all(trail.maxlen == TRAIL for trail in watch.trails.values())


class Log(Client):
    """A log of numbers, whose cursors are its offsets."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.read: list[int] = []

    def page(
        self, service: str, after: str | None = None, limit: int = 1000, wait_s: float = 0.0, log: str = "", back: int = 0
    ) -> Page:
        first = self.rows if after == "latest" else int(after or 0)
        if first > self.rows:
            raise InputError("no cursor of this log", status=400)
        first = max(0, first - back)
        last = min(self.rows, first + limit)
        self.read.append(last - first)
        return Page([{"offset": n + 1, "kind": "even" if n % 2 else "odd"} for n in range(first, last)], str(last))

    def curve(self, block_rows: int = 100, blocks: int = 500, after: int = 0) -> list[dict[str, Any]]:
        newest = [n for n in range(0, self.rows, block_rows) if min(n + block_rows, self.rows) > after][-blocks:]
        self.read.append(len(newest))
        return [{"first_offset": n + 1, "last_offset": min(n + block_rows, self.rows)} for n in newest]


def test_a_tail_is_the_end_of_the_log_and_reads_a_row_once() -> None:
    log, feed = Log(1000), tail("trainer", "events", 50)
    last: Tail | None = None
    for grown in (0, 7, 0, 30):
        log.rows += grown
        last = feed.ask(log, last)
        assert [row["offset"] for row in last.rows] == list(range(log.rows - 49, log.rows + 1))
    assert log.read == [50, 7, 0, 30]


@pytest.mark.parametrize("rows", [1100, 30])
def test_a_tail_begins_anew_when_it_is_far_behind_or_the_log_is_another(rows: int) -> None:
    log, feed = Log(1000), tail("trainer", "events", 50)
    last = feed.ask(log, None)
    log.rows = rows
    assert [row["offset"] for row in feed.ask(log, last).rows] == list(range(max(1, rows - 49), rows + 1))


def test_a_tail_keeps_what_counts_from_further_back() -> None:
    feed = tail("trainer", "events", 5, lambda row: row["kind"] == "even", look=100)
    assert [row["offset"] for row in feed.ask(Log(1000), None).rows] == [992, 994, 996, 998, 1000]
    assert not is_notable({"kind": "model_version"})
    assert is_notable({"kind": "error_drift"})


def test_a_curve_asks_for_what_is_new_and_begins_anew_with_another_log() -> None:
    log, feed = Log(95), curve(10)
    last = feed.ask(log, None)
    log.rows = 123
    last = feed.ask(log, last)
    assert [b["last_offset"] for b in last] == [*range(10, 121, 10), 123]
    assert log.read == [10, 4]
    log.rows = 10 * POINTS * 3
    last = feed.ask(log, last)
    assert len(last) == POINTS
    assert last[-1]["last_offset"] == log.rows
