"""What the dashboard costs, in a real Chromium: first paint, processor time with one open page, memory, leaks.

- First paint: of the first page, in a new browser profile each time, from the request to the first content, and to the
  first figure that came from the API.
- Cost: processor time of the dashboard's process, with no page open and with one.
- Leaks: memory of the process, and the page's heap and elements after a collection, early and late in one sitting.
  With `--minutes 60` nothing but this is measured, for an hour, with every page open in a window of its own.

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
PAGES = ("/", "/model", "/drift", "/registry", "/try", "/data", "/rate")
WEIGHINGS = 12
"""Of a long sitting; the first quarter of the time does not count, in which caches fill and windows of rows grow."""
WARM_UP = 0.25


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="that a page stays open")
    parser.add_argument("--minutes", type=float, help="keep every page open for so long, and report what grows")
    parser.add_argument("--quick", action="store_true", help="30 s")
    arguments = parser.parse_args()
    seconds = 30.0 if arguments.quick else arguments.seconds
    program = shutil.which("chromium")
    if program is None or find_spec("playwright") is None:
        print("bench/dashboard.py: skipped, for want of chromium (apt install chromium) or playwright (pip install playwright)")
        return
    from playwright.sync_api import sync_playwright

    with System({}, SERVICES) as running, sync_playwright() as playwright:
        wait_for(lambda: bool((running.get("trainer", "/evaluation") or {}).get("rolling")), 120, "evaluated rows")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        process = psutil.Process(running.processes["dashboard"].pid)
        if arguments.minutes:
            found = long_sitting(browser, running, process, arguments.minutes)
            system.report(f"bench/dashboard.py --minutes {arguments.minutes:g}", grown(found), long_lines(found))
            return
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


def long_sitting(browser: Any, running: System, process: psutil.Process, minutes: float) -> list[dict[str, float]]:
    """What process and pages weigh, at equal distances of time; one window for each page."""
    windows = {path: browser.new_context(viewport={"width": 1280, "height": 900}).new_page() for path in PAGES}
    protocols = {}
    for path, window in windows.items():
        window.goto(running.url("dashboard", path))
        window.wait_for_selector("main h1", state="attached")
        protocols[path] = window.context.new_cdp_session(window)
        protocols[path].send("Performance.enable")
    began_s, found = time.monotonic(), []
    for number in range(WEIGHINGS + 1):
        due_s = began_s + number * minutes * 60 / WEIGHINGS
        windows["/"].wait_for_timeout(max(0.0, due_s - time.monotonic()) * 1000)
        found.append({"minute": round((time.monotonic() - began_s) / 60, 1), **weights(protocols, process)})
        print(found[-1], flush=True)
    return found


def weights(protocols: dict[str, Any], process: psutil.Process) -> dict[str, float]:
    """Memory of the process, heap and elements of every page, and of all together."""
    each = {path: weight(protocol, process) for path, protocol in protocols.items()}
    parts = {f"{name} {path}": round(each[path][name], 2) for path in each for name in ("heap_mb", "elements")}
    total = {name: round(sum(one[name] for one in each.values()), 1) for name in ("heap_mb", "elements")}
    return {"rss_mb": round(process.memory_info().rss / 1e6, 1), **total, **parts}


def grown(found: list[dict[str, float]]) -> dict[str, float]:
    """What each figure grew by per hour after the warm-up: the slope of the line through its values.

    >>> grown([{"minute": float(m), "rss_mb": 100 + m / 60} for m in range(60)])
    {'rss_mb_per_hour': 1.0}
    """
    late = [one for one in found if one["minute"] >= WARM_UP * found[-1]["minute"]]
    minutes = [one["minute"] for one in late]
    slopes = {name: statistics.linear_regression(minutes, [one[name] for one in late]).slope for name in late[0]}
    return {f"{name}_per_hour": round(60 * slope, 2) for name, slope in slopes.items() if name != "minute"}


def long_lines(found: list[dict[str, float]]) -> list[str]:
    """The long sitting in words: a table over time, and what each page grew by."""
    slopes = grown(found)
    rows = [f"| {one['minute']:g} | {one['rss_mb']} | {one['heap_mb']} | {one['elements']:g} |" for one in found]
    pages = [
        f"`{path}` {slopes[f'heap_mb {path}_per_hour']:+} MB and {slopes[f'elements {path}_per_hour']:+g} elements"
        for path in PAGES
    ]
    return [
        f"all {len(PAGES)} pages open for {found[-1]['minute']:g} minutes, each in a window of its own; growth per hour after "
        f"the first quarter, in which caches fill: process **{slopes['rss_mb_per_hour']:+} MB**, the pages' heaps together "
        f"**{slopes['heap_mb_per_hour']:+} MB**, their elements **{slopes['elements_per_hour']:+g}**",
        "per page and hour: " + "; ".join(pages),
        "\n  ".join(["after so long:\n", "| minute | process, MB | heaps, MB | elements |", "|---|---|---|---|", *rows]) + "\n",
    ]


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
