"""Laws of a running service: status, metrics, retention, start and stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tests.tools import PATIENCE_S

from correnteza.errors import LogUnavailableError
from correnteza.listening import bind
from correnteza.log.base import Policy, Slice
from correnteza.log.retention import Janitor
from correnteza.metrics import FAMILIES, sample
from correnteza.records import with_offsets
from correnteza.stage import Runner, Step
from correnteza.web import serve
from correnteza.web.logs import MAX_WAIT_S
from correnteza.web.metrics import render
from correnteza.web.server import FAILED

from .ports import free_ports
from .test_web import COLUMNS, World, eventually, refused, rows, served
from .test_web_logs import read


class Once:
    """A source of one row."""

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        return Slice(with_offsets(rows(0 if after else 1), 1), "end", 0)


class Failing:
    """A stage that cannot go on."""

    name = "failing"

    def initial(self) -> None:
        pass

    def dump(self, state: None) -> bytes:
        return b""

    def load(self, blob: bytes) -> None:
        pass

    def step(self, state: None, batch: pa.RecordBatch) -> Step[None]:
        raise RuntimeError("the disk is made of cheese")


def failing(world: World) -> None:
    """Give the service a stage that fails at its first row."""
    world.service.runners = (Runner(Failing(), Once(), world.store, world.told, batch_rows=1),)


def test_a_stage_that_failed_makes_the_service_not_ready_and_says_why() -> None:
    world = World()
    failing(world)
    with served(world) as url:
        assert requests.get(f"{url}/health/ready", timeout=PATIENCE_S).json() == {"status": "ready"}
        ended = threading.Event()
        world.service.runners[0].start(lambda _: ended.set())
        assert ended.wait(PATIENCE_S)
        answer = requests.get(f"{url}/health/ready", timeout=PATIENCE_S)
        assert refused(answer, 503)["detail"] == "stage failing failed: the disk is made of cheese"
        assert answer.headers["retry-after"]
        status = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
        assert (status["ready"], status["state"], status["reason"]) == (False, "failed", refused(answer, 503)["detail"])
        assert requests.get(f"{url}/health/live", timeout=PATIENCE_S).json() == {"status": "live"}
    assert [row["kind"] for row in world.event_log.read(None, 10).batch.to_pylist()] == ["stage_failed"]


def test_the_status_has_what_every_service_has_and_what_is_particular() -> None:
    world = World(status=lambda: {"answers": 3, "reason": "of its own"}, ready=lambda: "not today")
    failing(world)
    world.log.append(rows(4))
    world.told.emit("strange", "because")
    with served(world) as url:
        status = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
    shared_keys = {"service", "version", "uptime_s", "ready", "state", "reason", "logs", "lag_rows", "lag_s", "rows_per_s"}
    assert set(status) == shared_keys | {"stages", "events", "answers"}
    assert status["logs"]["records"] == {"log": "raw", "first_offset": 1, "next_offset": 5, "rows": 4, "readers": {}}
    assert status["events"] == {"strange": 1}
    assert (status["ready"], status["reason"], status["answers"]) == (False, "of its own", 3)
    stage = {"state", "reason", "rows", "batches", "lag_rows", "lag_s", "rows_per_s", "step_s", "commit_s", "retries"}
    assert set(status["stages"]["failing"]) == stage


def test_metrics_are_prometheus_text_and_say_what_the_status_says() -> None:
    world = World(
        samples=lambda status: [sample("correnteza_scaler_version", status["answers"])], status=lambda: {"answers": 3}
    )
    failing(world)
    world.log.append(rows(4))
    world.told.emit("strange", 'a "quoted"\nreason')
    with served(world) as url:
        requests.get(f"{url}/nowhere", timeout=PATIENCE_S)
        answer = requests.get(f"{url}/metrics", timeout=PATIENCE_S)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = values_of(answer.text)
    assert values["correnteza_log_rows", "raw"] == 4
    assert values["correnteza_log_next_offset", "raw"] == 5
    assert values["correnteza_events_total", "generator", "strange"] == 1
    assert values["correnteza_http_request_duration_seconds_count", "GET", "other", "404"] == 1
    assert values["correnteza_ready",] == 1
    assert values["correnteza_stage_input_rows_total", "failing"] == 0
    assert values["correnteza_stage_state", "failing", "starting"] == 1
    assert 0 < values["correnteza_process_uptime_seconds", world.service.name] < 3600
    assert values["correnteza_scaler_version",] == 3


def values_of(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, in the order of their names."""
    families = text_string_to_metric_families(text)
    samples = [s for family in families for s in family.samples]
    order = {name: family.labels for name, family in FAMILIES.items()}

    def labels(one: Any) -> list[str]:
        known = order.get(one.name, order.get(one.name.rpartition("_")[0], ()))
        return [one.labels[name] for name in (*known, *(["le"] if "le" in one.labels else []))]

    return {(s.name, *labels(s)): s.value for s in samples}


def test_what_goes_through_a_stage_is_counted() -> None:
    """Rows and bytes of both sides, rejects by class, each step in the buckets of its size and its times."""
    world = World()
    rejected = world.store.log("rejected", pa.schema([("reason", pa.string())]))
    world.service.logs = {**world.service.logs, "rejected": rejected}
    ended = threading.Event()
    runner = Runner(Parting(), Batches((3, 5), ended.set), world.store, world.told, batch_rows=10)
    world.service.runners = (runner,)
    with served(world) as url:
        runner.start(lambda _: None)
        assert ended.wait(PATIENCE_S)
        values = values_of(requests.get(f"{url}/metrics", timeout=PATIENCE_S).text)
        runner.stop()
    came, went = sum(with_offsets(rows(n), 1).nbytes for n in (3, 5)), sum(rows(n).nbytes for n in (3, 5))
    assert values["correnteza_stage_input_rows_total", "parting"] == 8
    assert values["correnteza_stage_input_bytes_total", "parting"] == pytest.approx(came, rel=0.5)
    assert values["correnteza_stage_output_rows_total", "parting", "raw"] == 8
    assert values["correnteza_stage_output_bytes_total", "parting", "raw"] == pytest.approx(went, rel=0.5)
    assert values["correnteza_rejected_rows_total", "out_of_range"] == 2
    assert values["correnteza_rejected_rows_total", "missing"] == 0
    assert [values["correnteza_stage_batch_rows_bucket", "parting", end] for end in ("1.0", "3.0", "10.0", "+Inf")] == [
        0,
        1,
        2,
        2,
    ]
    for name in ("step", "commit"):
        assert values[f"correnteza_stage_{name}_seconds_count", "parting"] == 2
        assert values[f"correnteza_stage_{name}_seconds_sum", "parting"] > 0


class Batches:
    """A source of batches of these sizes; tells when it is read beyond them."""

    def __init__(self, sizes: tuple[int, ...], ended: Callable[[], None]) -> None:
        self._sizes = sizes
        self._ended = ended

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        place = int(after or 0)
        if place == len(self._sizes):
            self._ended()
            return Slice(with_offsets(rows(0), 1), str(place), 0)
        return Slice(with_offsets(rows(self._sizes[place]), 1), str(place + 1), 0)


class Parting(Failing):
    """A stage that passes on what comes, and rejects one record per batch besides."""

    name = "parting"

    def step(self, state: None, batch: pa.RecordBatch) -> Step[None]:
        reason = pa.RecordBatch.from_pydict({"reason": ["-1.0 is not within 0 and 130"]})
        return Step({"raw": batch.drop_columns(["offset"]), "rejected": reason}, None)


def test_a_sample_that_is_not_in_the_table_of_metrics_is_an_error() -> None:
    unknown = World(samples=lambda _: [sample("correnteza_nobody_knows", 1.0)])
    labelled = World(samples=lambda _: [sample("correnteza_ready", 1.0, "id-7")])
    for world in (unknown, labelled):
        with pytest.raises((KeyError, ValueError)):
            render(world.service)


def swept(world: World, policy: Policy) -> list[str]:
    """The reasons of the events that one pass of the janitor tells."""
    Janitor(world.store, policy, world.told, 3600).sweep(0.0)
    return [f"{row['kind']}: {row['reason']}" for row in world.event_log.read(None, 100).batch.to_pylist()]


def test_the_janitor_removes_what_the_policy_lets_go_without_a_word() -> None:
    world = World()
    world.log.append(rows(20))
    assert swept(world, Policy(rows=8)) == []
    assert (world.log.bounds().first, world.log.bounds().rows) == (13, 8)


def test_the_janitor_waits_for_readers_and_the_loss_of_unread_rows_is_an_event() -> None:
    world = World()
    world.log.append(rows(20))
    world.log.register("slow", world.log.cursor(4))
    assert swept(world, Policy(rows=8)) == []
    assert world.log.bounds().first == 5
    (told,) = swept(world, Policy(rows=8, hard_rows=10))
    assert world.log.bounds().first == 11
    assert told == "unread_rows_removed: log raw: 6 rows were removed unread, because it held more than hard_rows=10"


def test_a_reader_is_shown_with_how_far_it_is_until_it_is_struck_out() -> None:
    """Who reads on under the name is registered again, so that one of the services cannot be harmed for long."""
    world = World()
    world.log.append(rows(20))
    with served(world) as url:

        def shown() -> dict[str, Any]:
            readers: dict[str, Any] = requests.get(f"{url}/status", timeout=PATIENCE_S).json()["logs"]["records"]["readers"]
            return readers

        cursor = requests.get(f"{url}/records?limit=4&reader=slow&keep_rows=2", timeout=PATIENCE_S).json()["next"]
        requests.get(f"{url}/records?reader=slow&keep_rows=2&after={cursor}", timeout=PATIENCE_S)
        assert shown() == {"slow": {"passed": 4, "keep_rows": 2}}
        struck = requests.delete(f"{url}/readers/slow", timeout=PATIENCE_S)
        assert (struck.status_code, struck.json()) == (200, {"reader": "slow", "logs": ["raw"]})
        assert shown() == {}
        assert "not registered" in refused(requests.delete(f"{url}/readers/slow", timeout=PATIENCE_S), 404)["detail"]
        requests.get(f"{url}/records?reader=slow&after={cursor}", timeout=PATIENCE_S)
        assert shown() == {"slow": {"passed": 4, "keep_rows": 0}}


def test_a_log_that_cannot_be_trimmed_is_an_event_and_the_others_are_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    other = world.store.log("other", COLUMNS)
    other.append(rows(20))

    def locked(policy: Policy, now: float) -> Any:
        raise LogUnavailableError("the database is busy")

    monkeypatch.setattr(world.log, "trim", locked)
    assert swept(world, Policy(rows=8)) == ["retention_failed: the database is busy"]
    assert other.bounds().rows == 8


def test_logs_that_are_not_bounded_stay_whole() -> None:
    world = World()
    kept = world.store.log("kept", COLUMNS, bounded=False)
    kept.append(rows(20))
    swept(world, Policy(rows=1))
    assert kept.bounds().rows == 20


def test_the_janitor_goes_its_rounds_until_it_is_stopped() -> None:
    world = World()
    janitor = Janitor(world.store, Policy(rows=8), world.told, 0.01)
    janitor.start()
    for _ in range(2):
        world.log.append(rows(20))
        eventually(lambda: world.log.bounds().rows == 8)
    janitor.stop()
    world.log.append(rows(20))
    assert world.log.bounds().rows == 28


def listening(world: World) -> socket.socket:
    """The service's port, taken."""
    return bind("127.0.0.1", world.settings.services.port("generator"))


def test_a_service_whose_stage_fails_for_good_ends_with_code_3() -> None:
    """So that whoever started it knows that it did not stop because it was told to."""
    world = World(free_ports())
    failing(world)
    stopped: list[str] = []
    world.service.stop = lambda: stopped.append("service")
    assert serve(world.app, world.service, listening(world)) == FAILED == 3
    assert stopped == ["service"]


def test_a_service_that_is_told_to_stop_ends_its_waiting_reads_and_streams_at_once_with_code_0() -> None:
    """Reads that would have waited for half a minute are answered with no rows."""
    world = World(free_ports())
    url = world.settings.services.url("generator")
    waits, subscribe = threading.Semaphore(0), world.log.subscribe
    reads: list[Future[requests.Response]] = []

    def noted(notify: Callable[[], None]) -> Callable[[], None]:
        waits.release()
        return subscribe(notify)

    def stop_when_both_wait() -> None:
        assert waits.acquire(timeout=PATIENCE_S)
        assert waits.acquire(timeout=PATIENCE_S)
        os.kill(os.getpid(), signal.SIGTERM)

    world.log.subscribe = noted
    with ThreadPoolExecutor() as pool:

        def start() -> None:
            """Called once the port is there."""
            reads.append(pool.submit(read, url, wait_s=MAX_WAIT_S))
            reads.append(pool.submit(requests.get, f"{url}/records/stream", timeout=PATIENCE_S))
            pool.submit(stop_when_both_wait)

        world.service.start = start
        began = time.monotonic()
        assert serve(world.app, world.service, listening(world)) == 0
        assert time.monotonic() - began < 0.9 * MAX_WAIT_S
        poll, stream = (answer.result(PATIENCE_S) for answer in reads)
        assert (poll.json()["records"], stream.status_code) == ([], 200)
