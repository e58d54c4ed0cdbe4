"""Laws of the generator as a service, over HTTP: its source, its rate, what it says of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.tools import PATIENCE_S

from correnteza import config, events
from correnteza.codec import ARROW, NDJSON
from correnteza.errors import ConfigError
from correnteza.generator import service as generator
from correnteza.generator.pace import NoSource, Paced
from correnteza.generator.stage import GeneratorStage
from correnteza.log.memory import MemoryStore
from correnteza.testing import read_all

Running = Any  # the generator of conftest.py
Run = Callable[..., Any]
Wanted = Callable[..., Any]
"""Longest that a condition is waited for."""


def test_the_rate_can_be_asked_and_changed_and_a_change_is_an_event(shared: Running) -> None:
    for sent, found in [(5, 5.0), (0, 0.0), ("inf", "inf"), (2.5, 2.5)]:
        answer = requests.put(f"{shared.url}/rate", json={"records_per_second": sent}, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()) == (200, {"records_per_second": found})
        assert shared.get("/rate") == {"records_per_second": found}
        assert shared.get("/status")["records_per_second"] == found
    told = [row for row in shared.rows("events") if row["kind"] == "rate_changed"]
    assert json.loads(told[-1]["detail"]) == {"records_per_second": 2.5}
    assert told[-1]["reason"] == "from inf to 2.5 records per second"
    requests.put(f"{shared.url}/rate", json={"records_per_second": 2.5}, timeout=PATIENCE_S)
    assert len([row for row in shared.rows("events") if row["kind"] == "rate_changed"]) == len(told)


def test_the_drift_can_be_switched_and_a_switch_is_an_event(run: Run, wanted: Wanted, tmp_path: Path) -> None:
    with run(wanted(tmp_path, schema=None, generator={"source": "people", "records_per_second": 0})) as people:
        assert people.get("/drift") == {"factor": 1.0}
        for factor in (2.0, 2.0, 1.0):
            assert requests.put(f"{people.url}/drift", json={"factor": factor}, timeout=PATIENCE_S).json() == {"factor": factor}
            assert people.get("/status")["drift_factor"] == factor
        told = [row["reason"] for row in people.rows("events") if row["kind"] == "drift_switched"]
        assert told == ["from factor 1 to 2, from the next record on", "from factor 2 to 1, from the next record on"]
        for wrong in (0, 11, -1, "2", None):
            assert requests.put(f"{people.url}/drift", json={"factor": wrong}, timeout=PATIENCE_S).status_code == 422


def test_another_source_than_the_demos_has_no_drift_to_switch(shared: Running) -> None:
    answer = requests.put(f"{shared.url}/drift", json={"factor": 2}, timeout=PATIENCE_S)
    assert answer.status_code == requests.get(f"{shared.url}/drift", timeout=PATIENCE_S).status_code == 409
    assert "generator.source" in answer.json()["detail"]
    assert shared.get("/status")["drift_factor"] is None


NO_RATES = [-1, "5", "-inf", True, None, [], {}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"5",
        b'{"records_per_second": NaN}',
        b'{"records_per_second": 1e999}',
        b'{"records_per_second": 1, "x": 1}',
        *(json.dumps({"records_per_second": value}).encode() for value in NO_RATES),
    ],
)
def test_what_is_no_rate_is_refused_and_changes_nothing(shared: Running, body: bytes) -> None:
    before = shared.get("/rate")
    answer = requests.put(f"{shared.url}/rate", body, headers={"Content-Type": "application/json"}, timeout=PATIENCE_S)
    assert 400 <= answer.status_code < 500
    assert shared.get("/rate") == before


def test_people_are_made_up_to_the_limit_and_posts_are_taken_beside_them(run: Run, wanted: Wanted, tmp_path: Path) -> None:
    table = {"limit": 2500, "records_per_second": math.inf, "batch_rows": 700, "start_time": "2026-01-01"}
    with run(wanted(tmp_path, schema=None, generator=table)) as found:
        status = found.until(lambda status: bool(status["ended"]))
        assert (status["source"], status["records_per_second"], status["ready"]) == ("people", "inf", True)
        assert status["position"].startswith("people.2500.")
        person = {k: v for k, v in found.get("/records?limit=1")["records"][0].items() if k not in ("offset", "id")}
        assert found.post(person).json() == {"accepted": 1, "first_offset": 2501, "last_offset": 2501}
        assert found.get("/status")["posted_rows"] == 1
        assert [row["id"] for row in found.rows()][:2500] == [f"p{n:08}" for n in range(1, 2501)]
        assert [row["kind"] for row in found.rows("events")] == ["source_ended"]
        assert found.failures == []


def test_a_restart_goes_on_where_the_source_stopped(run: Run, wanted: Wanted, tmp_path: Path) -> None:
    store = MemoryStore()
    for limit in (1000, 1800):
        table = {"limit": limit, "records_per_second": math.inf, "batch_rows": 300}
        with run(wanted(tmp_path, schema=None, generator=table), store) as found:
            found.until(lambda status: bool(status["ended"]))
    rows = read_all(store.logs()["raw"])
    assert [row["id"] for row in rows] == [f"p{n:08}" for n in range(1, 1801)]
    steps = {(b["event_time"] - a["event_time"]).total_seconds() for a, b in pairwise(rows)}
    assert steps == {0.01}


def test_a_file_is_replayed_whole_with_its_rejects(run: Run, wanted: Wanted, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("at,n,x,kind,y\n2026-01-01,1,1,a,1\n2026-01-01,1.5,1,a,1\n1,2\n2026-01-02,2,1,b,2\n")
    table = {"source": "replay", "path": str(path), "records_per_second": math.inf}
    with run(wanted(tmp_path, generator=table)) as found:
        found.until(lambda status: bool(status["ended"]))
        assert [row["id"] for row in found.get("/records")["records"]] == ["a-1", "a-4"]
        assert [row["source_row"] for row in found.get("/rejected")["records"]] == [2, 3]
        assert [row["kind"] for row in found.rows("events")] == ["records_rejected", "source_ended"]


def test_a_paused_source_yields_nothing_until_it_is_let_go(run: Run, wanted: Wanted, tmp_path: Path) -> None:
    table = {"limit": 50, "records_per_second": 0}
    with run(wanted(tmp_path, schema=None, generator=table)) as found:
        status = found.until(lambda status: bool(status["stages"]["source"]["state"] == "running"))
        assert (status["logs"]["records"]["rows"], status["ended"]) == (0, False)
        requests.put(f"{found.url}/rate", json={"records_per_second": "inf"}, timeout=PATIENCE_S)
        assert found.until(lambda status: bool(status["ended"]))["logs"]["records"]["rows"] == 50


def test_without_a_source_it_only_waits_for_posts(shared: Running) -> None:
    status = shared.get("/status")
    assert (status["source"], status["ended"], status["ready"]) == ("none", False, True)


def test_a_source_that_cannot_be_is_a_config_error(wanted: Wanted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator\.source = 'people': \[schema\] is not the demo's"):
        generator.build(wanted(tmp_path, generator={"source": "people"}), MemoryStore())
    with pytest.raises(ConfigError, match=r"no such file"):
        generator.build(wanted(tmp_path, generator={"source": "replay", "path": "gone.csv"}), MemoryStore())


def test_the_schema_is_what_may_be_posted(shared: Running) -> None:
    schema = shared.get("/schema")
    assert schema["required"] == ["at", "n", "x", "kind"]
    assert schema["properties"]["x"] == {"type": ["number"], "minimum": 0, "maximum": 10}
    described = shared.get("/openapi.json")["paths"]["/records"]["post"]
    assert set(described["requestBody"]["content"]) == {"application/json", NDJSON, ARROW}
    assert "201" in described["responses"]


def test_a_generator_that_is_to_stop_is_not_kept_waiting_by_its_source() -> None:
    store = MemoryStore()
    told = events.Events("generator", store.log("events", events.SCHEMA))
    schema = config.demo_schema().build()
    store.log("raw", schema.raw)
    runner = generator.PacedRunner(
        GeneratorStage(schema), Paced(NoSource(schema.raw), 0.0), store, told, batch_rows=10, wait_s=1000.0
    )
    runner.start(lambda error: None)
    runner.stop(PATIENCE_S)
    assert runner.figures.state == "stopped"
