"""What `deploy/` has for Prometheus and Grafana, held against the real Prometheus and a running pipeline."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.ports import free_ports
from tests.tools import PATIENCE_S, absent

from correnteza.config import Settings
from correnteza.metrics import FAMILIES, UP, exposed

from .conftest import PORTS, SERVICES, Pipeline

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = ("recording.yml", "alerts.yml")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "correnteza.json").read_text(encoding="utf-8"))
QUERIES = [(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p.get("targets", ())]
SELDOM = ("correnteza_memory_", "correnteza_model_challenger_")
"""There only with features that remember, or while a version answers in shadow."""
METRICS = [(name, exposed(family)[-1]) for name, family in FAMILIES.items() if not name.startswith(SELDOM)]
VARIABLES = {"$pipeline": ".*", "$__rate_interval": "10s", "$__interval": "10s"}
TOML = """
[generator]
records_per_second = 200

[trainer]
params = { n_estimators = 5 }
window_rows = 500
metric_rows = 300

[consumer]
requests_per_second = 10
"""
RECORD = dict.fromkeys(["id", *Settings().schema_of_records.raw.names]) | {"age": 30}


def program(name: str) -> str:
    """A program of Prometheus."""
    found = shutil.which(name)
    if found is None:
        absent("prometheus", "on Debian: apt install prometheus")
    return found


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=DEPLOY, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Rules and dashboard alone


def test_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_each_alert_fires_at_its_fault_and_not_without_it() -> None:
    promtool("test", "rules", "tests.yml")


def test_each_alert_is_tested_and_has_a_page_that_says_what_to_do() -> None:
    text, tests = (DEPLOY / "alerts.yml").read_text(), (DEPLOY / "tests.yml").read_text()
    alerts, pages = re.findall(r"- alert: (\w+)", text), re.findall(r"runbook: (\S+)", text)
    assert len(alerts) == len(pages) > 0
    for alert, page in zip(alerts, pages, strict=True):
        assert f"alertname: {alert}" in tests, alert
        assert f"# {alert}\n" in (ROOT / page).read_text(encoding="utf-8"), page
    assert sorted({ROOT / page for page in pages}) == sorted((ROOT / "docs" / "runbooks").glob("[!R]*.md"))


@pytest.mark.parametrize("text", [*((DEPLOY / name).read_text() for name in RULES), *(query for _, query in QUERIES)])
def test_rules_and_dashboard_name_only_metrics_that_there_are(text: str) -> None:
    recorded = set(re.findall(r"- record: (\S+)", (DEPLOY / "recording.yml").read_text()))
    known = {series for family in FAMILIES.values() for series in exposed(family)} | recorded
    named = re.findall(r"(?:\w+:)?correnteza_\w+(?::\w+)?", re.sub(r"#.*", "", text))
    assert [name for name in named if name not in known] == []
    assert named or UP in text


# With a running pipeline


class World:
    """A pipeline and a Prometheus that looks at it every second, with waits of two seconds in its alerts."""

    def __init__(self, folder: Path) -> None:
        self._program = program("prometheus")
        self.pipeline = Pipeline(folder / "pipeline", TOML)
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_ports()}"
        self._configure()
        self._process: subprocess.Popen[bytes] | None = None

    def _configure(self) -> None:
        for name in RULES:
            text = (DEPLOY / name).read_text()
            (self._folder / name).write_text(re.sub(r"\bfor: \d+m\b", "for: 2s", text))
        text = (DEPLOY / "prometheus.yml").read_text().replace("_interval: 5s", "_interval: 1s")
        text = re.sub(r"      - targets: .*:8000.*\n.*\n", "", text)  # the dashboard does not run here
        for place in (PORTS[name] for name in SERVICES):
            assert f":{8000 + place}" in text
            text = text.replace(f"127.0.0.1:{8000 + place}", f"127.0.0.1:{self.pipeline.base + place}")
        (self._folder / "prometheus.yml").write_text(text)

    def start(self) -> None:
        self.pipeline.start()
        with (self.pipeline.folder / "prometheus.log").open("wb") as log:
            files = [f"--config.file={self._folder / 'prometheus.yml'}", f"--storage.tsdb.path={self._folder / 'tsdb'}"]
            address = f"--web.listen-address={self.url.removeprefix('http://')}"
            self._process = subprocess.Popen([self._program, *files, address], stdout=log, stderr=log)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
        for process in self.pipeline.processes.values():
            process.send_signal(signal.SIGCONT)
        self.pipeline.stop()

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples of a query that are numbers."""
        try:
            answer = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=PATIENCE_S).json()
        except (requests.RequestException, ValueError):
            return []
        assert answer["status"] == "success", (query, answer)
        return [one for one in answer["data"]["result"] if not math.isnan(float(one["value"][1]))]

    def number(self, query: str) -> float | None:
        """The sum of the samples; None without any."""
        found = self.ask(query)
        return sum(float(one["value"][1]) for one in found) if found else None

    def firing(self) -> set[tuple[str, str, str]]:
        """Name, service and stage of the alerts that fire."""
        found = self.ask('ALERTS{alertstate="firing"}')
        return {tuple(one["metric"].get(name, "") for name in ("alertname", "service", "stage")) for one in found}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("prometheus"))
    try:
        made.start()
        made.pipeline.wait(lambda: made.number("sum(up)") == len(SERVICES), "all services scraped")
        yield made
    finally:
        made.stop()


def test_every_metric_and_every_query_of_the_dashboard_returns_data(world: World) -> None:
    """Also of what seldom happens: counters are there from the beginning."""
    missing = {*QUERIES, *METRICS}
    post(world, "/records", RECORD | {"id": "late"})
    post(world, "/outcomes", {"id": "late", "target": 1000})

    def all_answered() -> bool:
        for title, query in sorted(missing):
            asked = query
            for name, value in VARIABLES.items():
                asked = asked.replace(name, value)
            if world.ask(asked):
                missing.discard((title, query))
        return not missing

    try:
        world.pipeline.wait(all_answered, "data for every query")
    except pytest.fail.Exception:
        pytest.fail(f"no data for {missing}\n{world.pipeline.last_words()}")


def test_prometheus_has_what_the_status_says(world: World) -> None:
    """A refused record is counted by its reason; what goes out of one stage comes into the next."""
    reject = 'correnteza_rejected_rows_total{service="generator", reason="out_of_range"}'
    before = world.number(reject)
    post(world, "/records?on_error=skip", RECORD | {"age": -5})
    requests.put(
        world.pipeline.url("generator", "/rate"), json={"records_per_second": 0}, timeout=PATIENCE_S
    ).raise_for_status()
    world.pipeline.wait(lambda: world.number(reject) == (before or 0) + 1, "the reject")
    out, came = (
        'sum(correnteza_stage_output_rows_total{log="raw"})',
        'sum(correnteza_stage_input_rows_total{stage="normalizer"})',
    )
    world.pipeline.wait(lambda: world.number(f"{out} == {came}"), "all rows")
    assert world.number(came) == world.pipeline.get("generator", "/status")["logs"]["records"]["rows"]
    world.pipeline.wait(lambda: world.number("correnteza_evaluation_mae") == mae(world), "the same error")


def mae(world: World) -> float:
    found: float = world.pipeline.get("trainer", "/status")["rolling"]["mae"]
    return found


def post(world: World, path: str, one: dict[str, Any]) -> None:
    requests.post(world.pipeline.url("generator", path), json=[one], timeout=PATIENCE_S).raise_for_status()


def test_a_killed_normalizer_fires_the_alerts_about_it_until_it_is_back(world: World) -> None:
    down, waiting = ("CorrentezaServiceDown", "normalizer", ""), ("CorrentezaStageStopped", "trainer", "learner")
    assert not {down, waiting} & world.firing()
    world.pipeline.kill("normalizer")
    world.pipeline.wait(lambda: {down, waiting} <= world.firing(), "the alerts")
    assert [service for name, service, _ in world.firing() if name == "CorrentezaServiceDown"] == ["normalizer"]
    world.pipeline.start("normalizer")
    world.pipeline.wait(lambda: not {down, waiting} & world.firing(), "their end")
