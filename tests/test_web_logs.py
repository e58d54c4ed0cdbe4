"""Laws of logs over HTTP: cursors, forms of the answer, waiting, server-sent events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import requests
from tests.tools import PATIENCE_S

from correnteza.codec import ARROW, JSON, NDJSON
from correnteza.log.base import Policy, Slice
from correnteza.records import empty, with_offsets
from correnteza.web import logs as web_logs
from correnteza.web.logs import MAX_WAIT_S

from .test_web import COLUMNS, World, refused, rows, served


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[World, str]]:
    """A service with a log of some rows, for tests that only read."""
    world = World()
    world.log.append(rows(50))
    with served(world) as url:
        yield world, url


def read(url: str, accept: str = JSON, path: str = "/records", **query: Any) -> requests.Response:
    """One read of a log."""
    return requests.get(f"{url}{path}", query, headers={"Accept": accept}, timeout=PATIENCE_S)


def test_ndjson_and_arrow_answers_equal_the_json_ones(shared: tuple[World, str]) -> None:
    """Row by row, and with the same cursor, whatever form is asked for."""
    _, url = shared
    first = read(url, limit=3).json()["next"]
    plain = read(url, after=first, limit=20)
    lines = read(url, NDJSON, after=first, limit=20)
    stream = read(url, ARROW, after=first, limit=20)
    wanted = plain.json()["records"]
    assert [row["offset"] for row in wanted] == list(range(4, 24))
    assert [json.loads(line) for line in lines.text.splitlines()] == wanted
    table = pa.ipc.open_stream(stream.content).read_all()
    assert table.schema.equals(with_offsets(empty(COLUMNS), 1).schema)
    assert json.loads(json.dumps(table.to_pylist(), default=lambda at: at.isoformat().replace("+00:00", "Z"))) == wanted
    assert [answer.headers["content-type"] for answer in (plain, lines, stream)] == [JSON, NDJSON, ARROW]
    assert {answer.headers["next-cursor"] for answer in (plain, lines, stream)} == {plain.json()["next"]}


def test_following_the_cursor_shows_every_row_once_and_in_order(shared: tuple[World, str]) -> None:
    world, url = shared
    after, seen = None, []
    while part := (body := read(url, limit=7, **({} if after is None else {"after": after})).json())["records"]:
        after = body["next"]
        seen += [row["offset"] for row in part]
    assert seen == list(range(1, world.log.bounds().next))


def test_latest_is_only_what_is_new_and_back_is_what_was_before(shared: tuple[World, str]) -> None:
    world, url = shared
    end = world.log.bounds().next
    assert read(url, after="latest").json()["records"] == []
    assert [row["offset"] for row in read(url, after="latest", back=3).json()["records"]] == [end - 3, end - 2, end - 1]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"after": "x"}, 400),
        ({"after": "0" * 12 + ".1"}, 400),
        ({"after": "x" * 101}, 422),
        ({"limit": 0}, 422),
        ({"limit": "9" * 9999}, 422),
        ({"wait_s": "nan"}, 422),
        ({"wait_s": 31}, 422),
        ({"back": -1}, 422),
        ({"reader": "No Name"}, 422),
        ({"keep_rows": "1e3"}, 422),
    ],
)
def test_a_bad_query_is_refused_by_name(shared: tuple[World, str], query: dict[str, Any], status: int) -> None:
    body = refused(read(shared[1], **query), status)
    assert status == 400 or f"query.{next(iter(query))}" in body["detail"]


def test_a_refused_cursor_does_not_move_the_reader() -> None:
    """Else a request that is refused would let retention remove what the reader has not read."""
    world = World()
    world.log.append(rows(20))
    with served(world) as url:
        after = read(url, reader="slow", limit=5).json()["next"]
        refused(read(url, reader="slow", after=after.split(".")[0] + ".999999"), 400)
        assert world.log.trim(Policy(rows=1), 0.0).rows == 0
        assert read(url, reader="slow", after=after).ok
        assert world.log.trim(Policy(rows=1), 0.0).rows == 5


def test_rows_that_retention_removed_are_gone_and_the_first_that_is_there_is_named() -> None:
    world = World()
    world.log.append(rows(20))
    with served(world) as url:
        after = read(url, limit=5).json()["next"]
        world.log.trim(Policy(rows=10), 0.0)
        assert refused(read(url, after=after), 410)["first_offset"] == 11
        assert read(url).json()["records"][0]["offset"] == 11


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> tuple[World, threading.Event]:
    """A service whose readers are woken by appends only, and what is set when one that watches has found nothing."""
    monkeypatch.setattr(web_logs, "POLL_S", 60.0)
    world, waits = World(), threading.Event()
    subscribe, look = world.log.subscribe, world.log.read
    watched = threading.Event()

    def noted(notify: Callable[[], None]) -> Callable[[], None]:
        unsubscribe = subscribe(notify)
        watched.set()
        return unsubscribe

    def seen(*args: Any) -> Slice:
        part = look(*args)
        if watched.is_set() and not part.batch.num_rows:
            waits.set()
        return part

    monkeypatch.setattr(world.log, "subscribe", noted)
    monkeypatch.setattr(world.log, "read", seen)
    return world, waits


def test_a_waiting_read_is_woken_by_the_append(waiting: tuple[World, threading.Event]) -> None:
    """At once: nothing looks at the log before the wait is over."""
    world, waits = waiting
    with served(world) as url, ThreadPoolExecutor() as pool:
        answer = pool.submit(read, url, after="latest", wait_s=MAX_WAIT_S)
        assert waits.wait(PATIENCE_S)
        world.log.append(rows(2))
        assert [row["offset"] for row in answer.result(0.9 * MAX_WAIT_S).json()["records"]] == [1, 2]


def test_a_waiting_read_without_rows_answers_with_its_cursor(shared: tuple[World, str]) -> None:
    _, url = shared
    after = read(url, after="latest").json()["next"]
    assert read(url, after=after, wait_s=0.05).json() == {"records": [], "next": after}


def messages(answer: requests.Response, count: int) -> list[tuple[str, dict[str, Any]]]:
    """So many server-sent events: id and data."""
    found, last = [], ""
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("id: "):
            last = line.removeprefix("id: ")
        elif line.startswith("data: "):
            found.append((last, json.loads(line.removeprefix("data: "))))
        if len(found) == count:
            return found
    raise AssertionError(f"the stream ended after {len(found)} events")


def test_server_sent_events_go_on_behind_the_last_event_id(waiting: tuple[World, threading.Event]) -> None:
    """As browsers reconnect: with the header, which is stronger than the address; no row twice, none left out."""
    world, _ = waiting
    world.log.append(rows(5))
    with served(world) as url:
        address = f"{url}/records/stream"
        with requests.get(address, stream=True, timeout=PATIENCE_S) as first:
            assert first.headers["content-type"].startswith("text/event-stream")
            before = messages(first, 3)
        again = {"Last-Event-ID": before[-1][0]}
        with requests.get(address, {"after": "latest"}, headers=again, stream=True, timeout=PATIENCE_S) as second:
            world.log.append(rows(1))
            after = messages(second, 3)
        assert [row["offset"] for _, row in before + after] == [1, 2, 3, 4, 5, 6]
        assert [row for _, row in before + after] == read(url).json()["records"]
        refused(requests.get(address, headers={"Last-Event-ID": "x"}, timeout=PATIENCE_S), 400)
