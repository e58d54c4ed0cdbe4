"""A running pipeline with its dashboard, and a real Chromium: one of each for all tests in this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.conftest import SERVICES, Pipeline
from tests.tools import PATIENCE_S, absent

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
SETTINGS = """
[generator]
records_per_second = 200

[trainer]
params = { n_estimators = 10, min_samples_leaf = 5 }
"""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """All five services, with a model."""
    made = Pipeline(tmp_path_factory.mktemp("browser"), SETTINGS)
    try:
        made.start(*SERVICES, "dashboard")
        made.wait(lambda: (made.get("trainer", "/status") or {}).get("model_version", 0), "a model")
        made.wait(lambda: (made.get("trainer", "/evaluation") or {}).get("rolling"), "evaluated rows")
        made.wait(lambda: made.lives("dashboard"), "the dashboard")
        yield made
        assert set(made.stop().values()) == {0}, made.last_words()
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        absent("chromium", "on Debian: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=1000 * PATIENCE_S
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


class Visit:
    """A reader's window on the dashboard; notes whatever should not happen.

    Args:
        browser: that opens it.
        pipeline: whose dashboard is looked at.
        narrow: whether it is a telephone at night, with a Portuguese reader; else a wide window by day.
    """

    def __init__(self, browser: Any, pipeline: Pipeline, narrow: bool = False) -> None:
        self.base = pipeline.url("dashboard")
        self.faults: list[str] = []
        self.context = browser.new_context(
            viewport=NARROW if narrow else WIDE,
            color_scheme="dark" if narrow else "light",
            locale="pt-BR" if narrow else "en-US",
        )
        self.context.set_default_timeout(1000 * PATIENCE_S)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        self.page.on("request", lambda request: self._note(not self._is_ours(request.url), f"request: {request.url}"))
        self.page.on("websocket", lambda socket: self._note(not self._is_ours(socket.url), f"socket: {socket.url}"))

    def _note(self, is_fault: bool, text: str) -> None:
        if is_fault:
            self.faults.append(text)

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.base, self.base.replace("http:", "ws:"), "data:", "blob:"))

    def open(self, path: str) -> Any:
        """Open a page and wait until it is drawn and connected."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector("main h1", state="attached")
        self.page.wait_for_function("window.socket && window.socket.connected")
        return self.page

    def text(self, selector: str) -> str:
        """The text of the first element, with ordinary spaces."""
        return " ".join(str(self.page.locator(selector).first.inner_text()).replace("\N{NO-BREAK SPACE}", " ").split())

    def shows(self, selector: str, text: str) -> None:
        """Wait until an element has a text in it."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def close(self) -> None:
        """Close the window; nothing wrong may have happened in it."""
        self.context.close()
        assert not self.faults


@pytest.fixture
def visit(chromium: Any, pipeline: Pipeline) -> Iterator[Visit]:
    """A window of a wide screen."""
    made = Visit(chromium, pipeline)
    yield made
    made.close()
