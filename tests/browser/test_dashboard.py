"""Laws of the dashboard, in a real browser: what it shows is what the API says, and it does what it says."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
import requests
from pyarrow import csv, parquet
from tests.end_to_end.conftest import SERVICES, Pipeline
from tests.tools import PATIENCE_S

from correnteza.dashboard.words import Words

from .conftest import BUILD, Visit

PAGES = {
    "flow": "/",
    "model": "/model",
    "drift": "/drift",
    "registry": "/registry",
    "try": "/try",
    "data": "/data",
    "rate": "/rate",
}
UNCUT = "[...document.querySelectorAll('.strips dt')].every(name => name.scrollWidth <= name.clientWidth)"
LEGIBLE = "rgb(31, 122, 55)"
"""Of a notice: white on it has a contrast of 5.4 to 1."""
NOTICED_S = 5.0
"""A killed service is shown as such within so long."""
TRIES = 5
"""The best of so many counts: a test machine may be busy with something else for a moment."""
RATE = 200
EN = Words("en")
READERS = {"CSV": csv.read_csv, "Parquet": parquet.read_table, "Arrow": lambda file: pa.ipc.open_stream(file).read_all()}
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def put_rate(pipeline: Pipeline, rate: float) -> None:
    for service, unit in (("generator", "records_per_second"), ("consumer", "requests_per_second")):
        wanted = rate if service == "generator" else min(rate, 5)
        requests.put(pipeline.url(service, "/rate"), json={unit: wanted}, timeout=PATIENCE_S).raise_for_status()


@contextmanager
def stillness(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """The stream stands still: the status of each service, which no longer changes."""
    put_rate(pipeline, 0)

    def settled() -> dict[str, Any] | None:
        found = {name: pipeline.get(name, "/status") for name in SERVICES}
        raw = found["generator"]["logs"]["records"]["next_offset"]
        level = found["normalizer"]["logs"]["records"]["next_offset"] == raw and found["trainer"]["learned_rows"] == raw - 1
        ends = [found[name]["logs"]["records"]["next_offset"] for name in SERVICES]
        was, before[:] = list(before), ends
        return found if level and was == ends and not found["trainer"]["training"] else None

    before: list[int] = []
    try:
        yield pipeline.wait(settled, "the stream to stand still")
    finally:
        put_rate(pipeline, RATE)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_a_page_is_usable_by_all_and_fits_its_window(
    chromium: Any, pipeline: Pipeline, axe: str, name: str, narrow: bool
) -> None:
    visit = Visit(chromium, pipeline, narrow)
    page = visit.open(PAGES[name])
    page.wait_for_timeout(1200)  # a round of updates, so that what is looked at is what stays
    BUILD.joinpath("screenshots").mkdir(parents=True, exist_ok=True)
    page.screenshot(path=BUILD / "screenshots" / f"{name}-{'390-dark' if narrow else '1280-light'}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(UNCUT) or not narrow
    assert page.evaluate("document.documentElement.lang") == ("pt-BR" if narrow else "en")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15, "axe has looked"
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in serious] == []
    visit.close()


def test_the_flow_is_that_of_the_services(visit: Visit, pipeline: Pipeline) -> None:
    visit.open("/")
    with stillness(pipeline) as status:
        rows = {name: status[name]["logs"]["records"]["next_offset"] - 1 for name in SERVICES}
        rows["trainer"] = status["trainer"]["learned_rows"]
        for name in SERVICES:
            visit.shows(f"[data-service={name}] dd", EN.number(rows[name]))
        visit.shows(".tile", f"version {status['trainer']['model_version']}")
        visit.shows(".tile", f"{EN.number(rows['generator'], 'rows')} so far")
    pipeline.wait(lambda: pipeline.get("generator", "/status")["rows_per_s"] > 0, "rows again")
    before = EN.number(rows["generator"], "rows")
    visit.page.wait_for_function("before => !document.querySelector('.tile').innerText.includes(before)", arg=before)


def test_the_figures_of_the_model_are_those_of_the_evaluation(visit: Visit, pipeline: Pipeline) -> None:
    visit.open("/model")
    with stillness(pipeline):
        found = pipeline.get("trainer", "/evaluation")
        visit.shows(".tile", EN.number(found["rolling"]["mae"]))
        visit.shows(".tile", EN.percent(found["rolling"]["coverage"], 1))
        blocks = pipeline.get("trainer", "/evaluation/history?block_rows=10")["blocks"]
        drawn = "() => Object.values(getElement(ID).chart.getOption().series[0].data).at(-1)[0]"
        chart = visit.page.locator(".chart").first.get_attribute("id")
        ends = drawn.replace("ID", repr(chart).replace("'c", "'"))
        visit.page.wait_for_function(f"() => ({ends})() === {blocks[-1]['last_offset']}")
        visit.shows(".strips dt", "education_years")


def test_the_scores_are_those_of_the_drift_monitors(visit: Visit, pipeline: Pipeline) -> None:
    visit.open("/drift")
    with stillness(pipeline):
        drift = pipeline.get("trainer", "/evaluation")["drift"]
        for name, state in {**drift["fields"], "income": drift["target"]}.items():
            visit.shows(f"[data-field={name}] .pill", EN.number(state["score"], "SD"))
    assert visit.page.locator("[data-field=age] rect.b1").count() > 5


def test_a_version_is_promoted_pinned_and_let_go_after_a_confirmation(visit: Visit, pipeline: Pipeline) -> None:
    pipeline.wait(lambda: len(pipeline.get("trainer", "/models")) >= 2, "a second version")
    page = visit.open("/registry")
    version = pipeline.get("trainer", "/models")[-2]["version"]

    def current() -> dict[str, Any]:
        return next(row for row in pipeline.get("trainer", "/models") if row["in_service"])

    page.get_by_label("Version", exact=True).click()
    page.get_by_role("option", name=re.compile(rf"^{version} ·")).click()
    page.get_by_role("button", name="Put into service").click()
    page.get_by_role("button", name="Cancel").click()
    assert not current()["pinned"], "nothing happens without a confirmation"
    page.get_by_role("button", name="Put into service").click()
    page.get_by_role("button", name="Yes").click()
    visit.shows(".now", f"version {version} pinned")
    assert (current()["version"], current()["pinned"]) == (version, True)
    page.get_by_role("button", name="Let newer ones in again").click()
    page.get_by_role("button", name="Yes").click()
    visit.shows(".now", "in service")
    assert not current()["pinned"]


def test_an_answer_is_that_of_the_api_and_says_what_moved_it(visit: Visit, pipeline: Pipeline) -> None:
    page = visit.open("/try")
    filled = "[...document.querySelectorAll('.form input')].every(box => box.value !== '')"
    page.wait_for_function(filled)  # with the latest record, from the beginning
    with stillness(pipeline):
        page.get_by_role("button", name="Clear", exact=True).last.click()
        page.get_by_label("age", exact=True).fill("37")
        page.get_by_label("education_years").fill("16")
        page.get_by_role("button", name="Predict").click()
        page.locator("[data-prediction]").wait_for()
        shown = float(page.locator("[data-prediction]").get_attribute("data-prediction"))
        version = pipeline.get("trainer", "/status")["model_version"]
        record = {"age": 37, "education_years": 16}
        asked = requests.post(pipeline.url("trainer", f"/models/{version}/predict"), json=record, timeout=PATIENCE_S).json()
        assert shown == pytest.approx(asked["prediction"])
        assert sorted(page.locator(".strips dt").all_inner_texts()) == ["age = 37", "education_years = 16"]
    page.get_by_role("button", name="Take the latest record").click()
    page.wait_for_function(filled)


def test_rows_are_shown_as_text_filtered_and_downloaded(visit: Visit, pipeline: Pipeline) -> None:
    record = dict.fromkeys(("event_time", "city", "job", "education_years", "experience_years", "weekly_hours"))
    hostile = {**record, "id": "hostile-1", "name": HOSTILE, "age": 40, "income": 3000}
    requests.post(pipeline.url("generator", "/records"), json=hostile, timeout=PATIENCE_S).raise_for_status()
    page = visit.open("/data")
    page.get_by_label("Id contains").fill("hostile")
    visit.shows(".rows tbody tr", HOSTILE)
    page.wait_for_function("() => document.querySelectorAll('.rows tbody tr').length === 1")
    tables = {}
    for name, read in READERS.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        tables[name] = read(io.BytesIO(download.value.path().read_bytes()))
    assert {name: table["name"].to_pylist() for name, table in tables.items()} == {name: [HOSTILE] for name in tables}
    page.get_by_label("Id contains").fill("")
    with stillness(pipeline) as status:
        visit.shows(".rows tbody tr:first-child th", str(status["generator"]["logs"]["records"]["next_offset"] - 1))


def test_rates_and_the_drift_are_changed(visit: Visit, pipeline: Pipeline) -> None:
    page = visit.open("/rate")
    page.get_by_label("Records per second").fill("150")
    page.get_by_role("button", name="Set").first.click()
    assert page.locator(".q-notification").first.evaluate("notice => getComputedStyle(notice).backgroundColor") == LEGIBLE
    visit.shows("[data-rate=generator]", "now 150.0 per second")
    assert pipeline.get("generator", "/rate") == {"records_per_second": 150.0}
    page.get_by_role("button", name="2.0").click()
    page.get_by_role("button", name="Yes").click()
    visit.shows("[data-drift]", "factor now 2.0")
    assert pipeline.get("generator", "/drift") == {"factor": 2.0}
    page.get_by_role("button", name="1.0").click()
    page.get_by_role("button", name="Yes").click()
    visit.shows("[data-drift]", "factor now 1.0")
    put_rate(pipeline, RATE)


@pytest.mark.parametrize("service", [*SERVICES, "dashboard"])
def test_the_api_is_documented_without_a_network(visit: Visit, pipeline: Pipeline, service: str) -> None:
    visit.base = pipeline.url(service)
    visit.page.goto(pipeline.url(service, "/docs"))
    visit.page.locator(".opblock-summary-path").filter(has_text="/health/ready").first.wait_for()


def test_language_and_colours_are_chosen_and_kept(visit: Visit) -> None:
    page = visit.open("/drift")
    page.get_by_role("link", name="Português").click()
    page.get_by_role("heading", name="O mundo mudou?").wait_for()
    page.get_by_role("link", name="Escuro").click()
    page.wait_for_selector("html[data-theme=dark]")
    visit.open("/model")
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dataset.theme]") == ["pt-BR", "dark"]


def test_a_killed_service_is_shown_with_its_reason_and_so_is_its_return(visit: Visit, pipeline: Pipeline) -> None:
    visit.open("/")
    took_s: list[float] = []
    while not took_s or (took_s[-1] >= NOTICED_S and len(took_s) < TRIES):
        visit.shows("#health", "All services are ready")
        pipeline.kill("consumer")
        began = time.monotonic()
        visit.shows("[data-service=consumer] .pill", "down")
        visit.shows("#health", "Consumer: down")
        took_s.append(time.monotonic() - began)
        assert "connection" in visit.text("[data-service=consumer] .reason").lower()
        pipeline.start("consumer")
    visit.shows("#health", "All services are ready")
    assert min(took_s) < NOTICED_S, took_s
