"""Whatever instant a service is killed at, the logs are those of a run that nobody disturbed.

Invariant 2 of the architecture: outputs, state and position are one transaction. It is held here over
real processes, real files and real `kill -9`, at random instants and under load.
"""

from __future__ import annotations

import csv
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.tools import PATIENCE_S

from correnteza.client import Client
from correnteza.errors import LogUnavailableError

from .conftest import SERVICES, Pipeline

KILLS = 20
"""Kills of each service."""
POST_KILLS = 8
"""Kills of the generator while somebody posts."""
ROWS = 9_000

TOML = """
[schema]
target = "y"
timestamp = "at"
fields = {{ a = "float", b = {{ kind = "float", min = -50 }}, n = "integer", kind = "category", note = "text" }}

[generator]
source = "replay"
path = "{path}"
records_per_second = {rate}

[normalizer]
block_rows = 256
max_categories = 12

[trainer]
params = {{ n_estimators = 5, min_samples_leaf = 5 }}
window_rows = 2000
retrain_every_rows = 1000

[consumer]
requests_per_second = {asking}
"""

STABLE = {
    "generator": {"raw": "*", "rejected": "*"},
    "normalizer": {"normalized": "*", "rejected": "*", "scalers": "*", "categories": "*"},
    "trainer": {
        "evaluations": "*",
        "models": "version, parent, reason, estimator, rows, first_offset, last_offset, scaler_version, sha256",
        "promotions": "version, reason, pinned",
    },
    "consumer": {"results": "record_id, raw_offset, input, target", "rejected": "raw_offset, record_id, reason"},
}
"""What must be equal: everything but times of the clock, and what the version in service happened to answer."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream with drifting means, new categories, missing values, cells of the wrong type and values out of bounds."""
    path = tmp_path_factory.mktemp("stream") / "stream.csv"
    chance = random.Random(11)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "at", "a", "b", "n", "kind", "note", "y"])
        for i in range(ROWS):
            out.writerow(_row(i, chance))
    return path


def _row(i: int, chance: random.Random) -> list[object]:
    a, b = chance.gauss(i / 1000, 1 + i / 3000), chance.gauss(0, 20)
    y = 3 * a - b + chance.gauss(0, 0.1)
    cells: list[object] = [
        f"r{i}",
        f"2026-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z",
        a,
        b,
        i % 17,
        f"k{i // 600}",
        "ça",
        y,
    ]
    if i % 13 == 5:
        cells[2 + i % 4] = ""
    if i % 401 == 7:
        cells[2] = "not a number"
    if i % 97 == 3:
        cells[7] = ""
    return cells


def test_logs_are_the_same_after_kills_at_random_instants(pipelines: Callable[[str, str], Pipeline], stream: Path) -> None:
    """Row by row and bit for bit, over all services, with at least twenty kills of each."""
    undisturbed = pipelines("undisturbed", TOML.format(path=stream, rate="inf", asking="inf"))
    undisturbed.start()
    finish(undisturbed)
    disturbed = pipelines("disturbed", TOML.format(path=stream, rate=60, asking=20))
    disturbed.start()
    killed = kill_all(disturbed)
    finish(disturbed)
    assert all(killed[name] >= KILLS for name in SERVICES), killed
    for service, tables in STABLE.items():
        for table, columns in tables.items():
            assert_equal(undisturbed, disturbed, service, table, columns)
    state = "select state from correnteza_stages where name = 'normalizer'"
    assert undisturbed.query("normalizer", state) == disturbed.query("normalizer", state), "scaler state differs"
    random_inputs = "select input from results where mode = 'random' order by offset"
    one, other = undisturbed.query("consumer", random_inputs), disturbed.query("consumer", random_inputs)
    common = min(len(one), len(other))
    assert common > 0
    assert one[:common] == other[:common]


def kill_all(pipeline: Pipeline) -> dict[str, int]:
    """Kill every service again and again, each in a thread of its own; every third kill of the trainer hits its child."""
    killed = dict.fromkeys(SERVICES, 0)
    failures: list[BaseException] = []

    def torment(name: str, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while killed[name] < KILLS:
                pipeline.wait(lambda: pipeline.lives(name), f"{name} to come back")
                pipeline.patience.wait(chance.uniform(0.0, 1.2))
                if name == "trainer" and killed[name] % 3 == 1 and pipeline.kill_child(name):
                    killed[name] += 1
                    continue
                pipeline.kill(name)
                killed[name] += 1
                pipeline.start(name)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=torment, args=(name, seed)) for seed, name in enumerate(SERVICES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return killed


def finish(pipeline: Pipeline) -> None:
    """Let the stream run to its end through all stages, then stop everything."""
    for name in SERVICES:
        pipeline.wait(lambda: pipeline.lives(name), name)  # noqa: B023 - called at once
    put(pipeline.url("generator", "/rate"), {"records_per_second": "inf"})
    put(pipeline.url("consumer", "/rate"), {"requests_per_second": "inf"})
    pipeline.wait(lambda: (pipeline.get("generator", "/status") or {}).get("ended"), "the end of the file")
    raw = next_offset(pipeline, "generator")
    pipeline.wait(lambda: (pipeline.get("normalizer", "/status") or {}).get("raw_rows") == raw, "the normalizer")
    normalized = next_offset(pipeline, "normalizer")
    pipeline.wait(lambda: (pipeline.get("trainer", "/status") or {}).get("learned_rows") == normalized, "the learner")
    pipeline.wait(lambda: answered(pipeline) == raw, "the consumer")
    assert pipeline.stop() == dict.fromkeys(reversed(SERVICES), 0), pipeline.last_words()


def put(url: str, body: dict[str, Any]) -> None:
    """PUT JSON."""
    requests.put(url, json=body, timeout=PATIENCE_S).raise_for_status()


def next_offset(pipeline: Pipeline, name: str) -> int:
    """Rows ever appended to the main log of a service."""
    return int(pipeline.get(name, "/status")["logs"]["records"]["next_offset"]) - 1


def answered(pipeline: Pipeline) -> int:
    """Raw records that the consumer has a result or a refusal for."""
    counts = "select (select count(*) from results where mode = 'records') + (select count(*) from rejected)"
    return int(pipeline.query("consumer", counts)[0][0])


def assert_equal(one: Pipeline, other: Pipeline, service: str, table: str, columns: str) -> None:
    """The rows of a table are equal in both."""
    where = "where mode = 'records'" if table == "results" else ""
    statement = f"select {columns} from {table} {where} order by offset"
    expected, found = one.query(service, statement), other.query(service, statement)
    assert len(found) == len(expected), f"{service}.{table}: {len(found)} rows, expected {len(expected)}"
    for left, right in zip(expected, found, strict=True):
        assert left == right, f"{service}.{table}: {right} where the undisturbed run has {left}"


def test_every_post_is_stored_once_when_the_generator_is_killed(pipelines: Callable[[str, str], Pipeline]) -> None:
    """A client that repeats an unanswered post with its key ends with each record stored once, in order."""
    toml = '[generator]\nsource = "none"\n[schema]\ntarget = "y"\nfields = { x = "float" }\n'
    pipeline = pipelines("posts", toml)
    pipeline.start("generator")
    pipeline.wait(lambda: pipeline.lives("generator"), "the generator")
    posted: list[str] = []
    enough = threading.Event()
    poster = threading.Thread(target=post_until, args=(pipeline, enough, posted))
    poster.start()
    chance = random.Random(5)
    for _ in range(POST_KILLS):
        pipeline.wait(lambda: pipeline.lives("generator"), "the generator to come back")
        pipeline.patience.wait(chance.uniform(0.0, 0.4))
        pipeline.kill("generator")
        pipeline.start("generator")
    enough.set()
    poster.join(PATIENCE_S)
    assert not poster.is_alive()
    pipeline.stop()
    stored = [row[0] for row in pipeline.query("generator", "select id from raw order by offset")]
    assert stored == posted
    assert len(stored) > 5 * POST_KILLS


def post_until(pipeline: Pipeline, enough: threading.Event, posted: list[str]) -> None:
    """Post records in small batches, each under one key until it is answered."""
    client = Client(pipeline.url("generator", "").rsplit(":", 1)[0] + f":{pipeline.base}")
    number = 0
    while not enough.is_set():
        records = [{"id": f"p{number}-{i}", "x": float(i), "y": json.loads(str(i))} for i in range(1 + number % 3)]
        while True:
            try:
                client.post_records(records, idempotency_key=f"key-{number}")
                break
            except LogUnavailableError:
                pipeline.patience.wait(0.05)
        posted += [str(record["id"]) for record in records]
        number += 1
