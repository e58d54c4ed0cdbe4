"""What the dashboard costs, in a real Chromium: first paint, processor time with one open page, memory, leaks.

- First paint: of the first page, in a new browser profile each time, from the request to the first content, and to the
  first figure that came from the API.
- Cost: processor time of the dashboard's process, with no page open and with one.
- Leaks: memory of the process, and the page's heap and elements after a collection, early and late in one sitting.

All services run, each in its own process, with their defaults. Needs Debian's `chromium` and Playwright.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from importlib.util import find_spec
from typing import Any

import psutil

import system
from system import System, wait_for

SERVICES = ("generator", "normalizer", "trainer", "consumer", "dashboard")
PAGE = "/model"
"""The page with the most on it: two charts of 500 points, a scatter, a histogram."""
GOALS = {"first_paint_ms": 1000.0, "page_cpu_percent": 5.0, "rss_mb": 200.0}
PAINTS = 5


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="that a page stays open")
    parser.add_argument("--quick", action="store_true", help="30 s")
    arguments = parser.parse_args()
    seconds = 30.0 if arguments.quick else arguments.seconds
    program = shutil.which("chromium")
    if program is None or find_spec("playwright") is None:
        print("bench/dashboard.py: skipped, for want of chromium (apt install chromium) or playwright (pip install playwright)")
        return
    from playwright.sync_api import sync_playwright

    with System({}, SERVICES) as running, sync_playwright() as playwright:
        wait_for(lambda: bool((running.get("trainer", "/evaluation") or {}).get("rolling")), 60, "evaluated rows")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        process = psutil.Process(running.processes["dashboard"].pid)
        alone = cpu_percent(process, 10.0)
        paints = [paint(browser, running.url("dashboard")) for _ in range(PAINTS)]
        figures = {"idle_cpu_percent": alone, **sitting(browser, running, process, seconds)}
        figures["first_paint_ms"] = round(statistics.median(first for first, _ in paints))
        figures["first_figure_ms"] = round(statistics.median(figure for _, figure in paints))
        browser.close()
    system.report("bench/dashboard.py", figures, lines(figures, seconds))


def paint(browser: Any, url: str) -> tuple[float, float]:
    """Milliseconds to the first content and to the first figure, with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_function("/[0-9]/.test(document.querySelector('.tile .big')?.innerText ?? '')", polling="raf")
    figure = page.evaluate("performance.now()")
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return first, figure


def sitting(browser: Any, running: System, process: psutil.Process, seconds: float) -> dict[str, float]:
    """What one open page costs, and what has grown between a third of the time and its end."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(running.url("dashboard", PAGE))
    page.wait_for_selector(".chart canvas")
    protocol = page.context.new_cdp_session(page)
    protocol.send("Performance.enable")
    began = process.cpu_times()
    page.wait_for_timeout(seconds / 3 * 1000)
    early = weight(protocol, process)
    page.wait_for_timeout(seconds * 2 / 3 * 1000)
    late, ended = weight(protocol, process), process.cpu_times()
    used_s = ended.user + ended.system - began.user - began.system
    grown = {f"{name}_growth_percent": round(100 * (late[name] / early[name] - 1), 1) for name in late}
    return {"page_cpu_percent": round(100 * used_s / seconds, 2), **{k: round(v, 1) for k, v in late.items()}, **grown}


def weight(protocol: Any, process: psutil.Process) -> dict[str, float]:
    """Memory of the process, and heap and elements of the page after a collection."""
    protocol.send("HeapProfiler.collectGarbage")
    found = {each["name"]: each["value"] for each in protocol.send("Performance.getMetrics")["metrics"]}
    return {"rss_mb": process.memory_info().rss / 1e6, "heap_mb": found["JSHeapUsedSize"] / 1e6, "elements": found["Nodes"]}


def cpu_percent(process: psutil.Process, seconds: float) -> float:
    """Share of one core that a process uses."""
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return round(100 * float(after.user + after.system - before.user - before.system) / seconds, 2)


def lines(figures: dict[str, float], seconds: float) -> list[str]:
    """The result in words."""
    met = {name: "met" if figures[name] <= goal else "missed" for name, goal in GOALS.items()}
    return [
        f"first paint of the first page, new profile, median of {PAINTS}: **{figures['first_paint_ms']} ms** "
        f"(goal: {GOALS['first_paint_ms']:g} ms: {met['first_paint_ms']}); first figure after {figures['first_figure_ms']} ms",
        f"processor, share of one core: {figures['idle_cpu_percent']} % without a page, **{figures['page_cpu_percent']} %** "
        f"with `{PAGE}` open (goal: {GOALS['page_cpu_percent']:g} %: {met['page_cpu_percent']})",
        f"memory of the process: **{figures['rss_mb']} MB** (goal: {GOALS['rss_mb']:g} MB: {met['rss_mb']})",
        f"from {seconds / 3:g} s to {seconds:g} s of one open page: process {figures['rss_mb_growth_percent']:+} %, the page's "
        f"heap ({figures['heap_mb']} MB) {figures['heap_mb_growth_percent']:+} %, its elements "
        f"({figures['elements']:g}) {figures['elements_growth_percent']:+} %",
    ]


if __name__ == "__main__":
    main()
