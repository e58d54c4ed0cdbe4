"""Laws of several servers: one port, one set of figures, each answer stored once, and no death that others notice."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import requests
from tests.ports import free_ports
from tests.tools import PATIENCE_S, until

from correnteza import cli, config, events
from correnteza.children import REFUSED
from correnteza.errors import ServiceError
from correnteza.listening import bind
from correnteza.log.sql import SqlStore
from correnteza.testing import read_all
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.board import Board, Figures, PortRequests, cleared
from correnteza.trainer.service import serve_elsewhere
from correnteza.web.requests import Requests

from .test_pressure import connected, read
from .test_quick import request
from .test_service import TREE, Trainer, settings_in

CONNECTIONS = 8
LOSS_S = 0.1
"""What a crash may lose, by the promise in `answers`."""
TRIES = 10
MAIN = (
    "import sys; from correnteza.config import loads; from correnteza.listening import bind; "
    "from correnteza.trainer.service import main; s = loads(sys.argv[1]); "
    "sys.exit(main(s, bind(s.services.host, s.services.port('trainer'))))"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one model version."""
    store = SqlStore(tmp_path / "trainer.db")
    Trainer(tmp_path, store).add(1)
    store.close()
    return tmp_path


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a model and answers on a port; it must end in good order, unless the test killed it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or status_code(port, "/health/ready") == 200, "the server")
        yield process
        killed = process.poll()
        process.terminate()
        assert process.wait(PATIENCE_S) == (0 if killed is None else killed)
    finally:
        process.kill()
        process.wait()


def status_code(port: int, path: str) -> int:
    try:
        return int(requests.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S).status_code)
    except requests.ConnectionError:
        return 0


class Load:
    """Clients that ask on connections of their own, one request at a time, and reconnect where one breaks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: list[tuple[float, str]] = []
        self.broken = 0
        self.refused: list[str] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CONNECTIONS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._done.set()

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = self._connected()
        while not self._done.is_set():
            try:
                connection.request("POST", "/predict", b'[{"size": 1}, {}]', {"content-type": "application/json"})
                answer = connection.getresponse()
                rows = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection.close()
                connection = self._connected()
                continue
            if answer.status != 200:
                self.refused.append(rows["detail"])
                continue
            now = time.monotonic()
            self.answered += [(now, row["id"]) for row in rows]
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.connect()
        except OSError as error:
            self.refused.append(str(error))
        return connection


def stored(folder: Path) -> list[str]:
    """The ids in the log, with another process's connection."""
    store = SqlStore(folder / "trainer.db")
    rows = read_all(store.log("predictions", PREDICTIONS))
    store.close()
    return [row["prediction_id"] for row in rows]


# Several servers of one port


def servers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Pids of the servers that a keeper of the port has started."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child.pid] if "correnteza.trainer.servers" in child.cmdline() else []
    return found


def figures(port: int) -> tuple[int, int, str]:
    """What one request, on a connection of its own, finds out about the port."""
    status = requests.get(f"http://127.0.0.1:{port}/status", timeout=PATIENCE_S).json()
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text
    counted = [
        line
        for line in metrics.splitlines()
        if line.startswith("correnteza_http_request_duration_seconds_count{") and "predict" in line
    ]
    return (
        status["served_rows"],
        int(sum(float(line.rpartition(" ")[2]) for line in counted)),
        status["learner"].get("process", ""),
    )


def id_of_whole(port: int) -> str:
    """The id of an answer to a request that comes whole, on a connection of its own: it is taken before the protocol."""
    with connected(("127.0.0.1", port)) as (connection, answers):
        connection.sendall(request(b'{"size": 1}'))
        return str(read(answers)[2]["id"])


@pytest.fixture
def two(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    own = {**TREE, "servers": 2, "min_rows": 60, "window_rows": 200}
    settings = settings_in(folder, port_base=free_ports(), trainer=own)
    port = settings.services.port("trainer")
    with running([sys.executable, "-c", MAIN, config.dumps(settings)], port) as process:
        until(lambda: (folder / "servers" / "1.json").exists() and figures(port)[2] == "running", "two servers")
        yield process, port


def test_whichever_server_answers_the_figures_are_those_of_the_port(
    two: tuple[subprocess.Popen[bytes], int], folder: Path
) -> None:
    _, port = two
    answered: list[tuple[float, str]] = []

    def both_have_answered() -> bool:
        """With new connections each time: those of one load may all have met the same server."""
        with Load(port) as load:
            until(lambda: len(load.answered) > 50, "answers")
        answered.extend(load.answered)
        return all(slot.served_rows for slot in slots_in(folder))

    until(both_have_answered, "answers of both")
    whole = [id_of_whole(port) for _ in range(20)]
    ids = [*whole, *(one for _, one in answered)]
    until(lambda: figures(port)[0] == len(ids), "all figures")
    assert {figures(port) for _ in range(10)} == {(len(ids), len(whole) + len(answered) // 2, "running")}
    until(lambda: len(stored(folder)) == len(ids), "all rows")
    assert sorted(stored(folder)) == sorted(ids)
    assert [bool(slot.learner) for slot in slots_in(folder)] == [True, False]


def slots_in(folder: Path) -> list[Figures]:
    """What each server published last."""
    return [msgspec.json.decode((folder / "servers" / f"{slot}.json").read_bytes(), type=Figures) for slot in (0, 1)]


def test_a_killed_server_is_started_again_and_the_others_answer_on(
    two: tuple[subprocess.Popen[bytes], int], folder: Path
) -> None:
    process, port = two
    for place in (1, 0):  # also the one that keeps the learner
        before = servers_of(process)
        with Load(port) as load:
            until(lambda load=load: len(load.answered) > 300, "some load")  # type: ignore[misc]
            os.kill(before[place], signal.SIGKILL)
            count = len(load.answered)
            until(lambda load=load, count=count: len(load.answered) > count + 300, "the others' answers")  # type: ignore[misc]
            until(lambda before=before: len({*servers_of(process)} - {*before}) == 1, "the new server")  # type: ignore[misc]
        assert load.refused == [], "no connection and no request is refused"
        assert load.broken <= CONNECTIONS, "only what the killed server was at work on is broken"
        until(lambda load=load: len(lost_by_server(load, folder)) <= 1, "the rows of those who live")  # type: ignore[misc]
        for numbers, kept in lost_by_server(load, folder).values():
            assert min(numbers) > max(kept), "what a crash loses are the last answers, and none among those before"
    ids = stored(folder)
    assert len(ids) == len({*ids})
    store = SqlStore(folder / "trainer.db")
    told = [row["kind"] for row in read_all(store.log("events", events.SCHEMA))]
    store.close()
    assert told.count("server_died") == 2


def test_servers_that_refuse_their_settings_are_not_started_again(folder: Path) -> None:
    (folder / "key").write_bytes(b"short")
    settings = settings_in(folder, port_base=free_ports(), trainer={**TREE, "servers": 2, "min_rows": 60, "window_rows": 200})
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, config.dumps(settings)], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == REFUSED
    assert b"holds 5 bytes" in ended.stdout


def lost_by_server(load: Load, folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """For each server of which rows are missing: the numbers of the missing answers, and of the stored ones.

    A server's ids are numbered in the order of its answers. So what it lost is known from them alone, whenever clients
    got round to reading what it had answered.
    """
    there = {*stored(folder)}
    found: dict[str, tuple[list[int], list[int]]] = {}
    for _, one in load.answered:
        server, _, number = one.partition("-")
        found.setdefault(server, ([], [0]))[one in there].append(int(number))
    return {server: numbers for server, numbers in found.items() if numbers[0]}


# One more server elsewhere, and what a crash can lose


def elsewhere(folder: Path, port: int) -> list[str]:
    toml = folder / "correnteza.toml"
    toml.write_text('[schema]\ntarget = "price"\nfields = { size = "float", kind = "category" }\n')
    return [sys.executable, "-m", "correnteza", "server", "--port", str(port), "-c", str(toml), "--data-dir", str(folder)]


def test_what_was_answered_100_ms_before_a_kill_is_in_the_log(folder: Path) -> None:
    """The promise holds on a disk that commits in 50 ms, which one that others use too may fail to do once."""
    for _ in range(TRIES):
        lost = answered_and_lost(folder, free_ports())
        if not lost:
            return
    pytest.fail(f"lost {len(lost)} rows that were answered more than {LOSS_S} s before the kill")


def answered_and_lost(folder: Path, port: int) -> set[str]:
    """Kills a server under load; ids that it answered in time and that are not in the log."""
    with running(elsewhere(folder, port), port) as process, Load(port) as load:
        until(lambda: load.answered and load.answered[-1][0] - load.answered[0][0] > 5 * LOSS_S, "some load")
        killed_at = time.monotonic()
        process.kill()
        process.wait()
        load.stop()
    old = {one for at, one in load.answered if at < killed_at - LOSS_S}
    assert len(old) > 100
    return old - {*stored(folder)}


def test_one_more_server_needs_a_port_and_a_trainer_s_data(tmp_path: Path) -> None:
    refused = pytest.raises(ServiceError, match=r"trainer\.db: is not there; start the trainer first")
    with bind("127.0.0.1", 0) as listening, refused:
        serve_elsewhere(settings_in(tmp_path / "none"), listening)
    assert not (tmp_path / "none").exists()
    assert cli.main(["server"]) == 2


# The board


def board(folder: Path, slot: str, **own: Any) -> tuple[Board, Figures]:
    figures = Figures(**own)
    return Board(folder, slot, lambda: figures), figures


def test_figures_add_up_and_never_go_back(tmp_path: Path) -> None:
    folder = cleared(tmp_path / "servers")
    first, own = board(
        folder,
        "0",
        began=5.0,
        served_rows=3,
        requests={"200 POST /predict": [0.5, 3, 0]},
        learner={"pid": 1},
        told={"rows": 2},
        pids={"server-0": 1},
    )
    second, _ = board(
        folder,
        "1",
        began=7.0,
        served_rows=4,
        requests={"200 POST /predict": [1.0, 2, 1], "503 GET other": [0.0, 1, 0]},
        pids={"server-1": 7},
    )
    first.publish()
    total = second.total()
    assert (total.began, total.served_rows, total.requests) == (
        5.0,
        7,
        {"200 POST /predict": [1.5, 5, 1], "503 GET other": [0.0, 1, 0]},
    )
    assert (total.learner, total.told, total.pids) == ({"pid": 1}, {"rows": 2}, {"server-0": 1, "server-1": 7})
    own.served_rows = 10
    assert [first.total().served_rows, second.total().served_rows] == [14, 14]
    again, _ = board(folder, "0", served_rows=1, learner={"pid": 9})
    assert (again.total().served_rows, again.total().began, again.total().learner) == (15, 5.0, {"pid": 9})
    assert list(cleared(folder).iterdir()) == []


def test_the_answers_of_a_port_are_told_and_those_of_the_process_counted() -> None:
    others = Requests()
    others.note("GET", "/status", 200, 0.2)
    requests_of = PortRequests(others.plain)
    requests_of.note("POST", "/a b", 404, 0.5)
    assert {key: values[0] for key, values in requests_of.plain().items()} == {"404 POST /a b": 0.5}
    assert {key: seconds.total for key, seconds in requests_of.all().items()} == {("GET", "/status", 200): 0.2}
