"""The latest rows of the logs; filtered by id; as a download."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from nicegui import run, ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.downloads import FORMATS, LOGS, MOST_ROWS
from correnteza.dashboard.feeds import Feed, tail
from correnteza.dashboard.layout import View, frame, main, static
from correnteza.dashboard.markup import Html, escape, join, table, tag
from correnteza.dashboard.pages.parts import tail_of
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import DASH, time_of
from correnteza.errors import CorrentezaError

SHOWN = 50
SEARCHED = 5000
"""Rows, the last ones, in which an id is looked for."""
FEEDS = {key: tail(service, log, SHOWN) for key, (service, log) in LOGS.items()}
NEEDS = (FEEDS["raw"],)
IDS = ("id", "prediction_id", "record_id")
SHORT, LONG = 16, 200
"""Characters of a cell from which on it is cut by the browser, with the rest on hovering, and beyond which by us."""
SENTENCES = ("reason", "error", "detail")
"""Columns that get more room."""


class Choice:
    """What a reader of the page looks at.

    Attributes:
        log: its key in `LOGS`.
        text: part of the ids that are wanted.
        paused: whether the rows stay as they are.
        found: rows that were searched for; None where the latest are shown.
    """

    def __init__(self) -> None:
        self.log = "raw"
        self.text = ""
        self.paused = False
        self.found: Sequence[dict[str, Any]] | None = None
        self.shown = Html()


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view, choice = frame(request, watch, settings, "data"), Choice()
    words = view.words

    async def chosen() -> None:
        choice.log, choice.text = log.value, (text.value or "").strip()
        choice.found = await _search(view, choice) if choice.text else None
        choice.shown = Html()
        links.content = _links(view, choice)
        view.tick()

    with main():
        static(escape(words("data_title")), name="h1")
        with ui.element("section").classes("card"):
            with ui.element("div").classes("controls"):
                names = {key: words(f"log_{key}") for key in LOGS}
                log = (
                    ui.select(names, value=choice.log, label=words("log"), on_change=chosen)
                    .props("outlined dense")
                    .classes("choice")
                )
                text = ui.input(words("filter"), on_change=chosen).props("outlined dense clearable debounce=400")
                ui.switch(words("pause"), on_change=lambda change: setattr(choice, "paused", change.value))
                links = static(_links(view, choice), "links")
            scroll = view.region(lambda: _rows(view, choice), "scroll rows")
            scroll.props(f'tabindex="0" role="region" aria-label="{words("data_title")}"')


async def _search(view: View, choice: Choice) -> list[dict[str, Any]]:
    service, path = LOGS[choice.log]
    try:
        rows = await run.io_bound(lambda: view.watch.client.page(service, "latest", SEARCHED, log=path, back=SEARCHED).records)
    except CorrentezaError as error:
        ui.notify(view.words("failed", reason=error), type="negative")
        return []
    return [row for row in rows or () if any(choice.text in str(row.get(name) or "") for name in IDS)]


def _rows(view: View, choice: Choice) -> Html:
    if choice.paused and choice.shown:
        return choice.shown
    feed: Feed = FEEDS[choice.log]
    rows = list(reversed(tail_of(view, feed) if choice.found is None else choice.found))[:SHOWN]
    choice.shown = _table(view, choice, rows)
    return choice.shown


def _table(view: View, choice: Choice, rows: Sequence[dict[str, Any]]) -> Html:
    words = view.words
    if not rows:
        return tag("p", words("no_rows"), cls="note")
    names = list(rows[0])
    numeric = [place for place, name in enumerate(names) if any(isinstance(row[name], int | float) for row in rows)]
    searched = words.number(SEARCHED if choice.found is not None else len(rows))
    note = tag("p", words("rows_shown", shown=len(rows), searched=searched), cls="note")
    return join(
        [note, table(words(f"log_{choice.log}"), names, ([_cell(view, n, row[n]) for n in names] for row in rows), numeric)]
    )


def _cell(view: View, name: str, value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, float):
        return view.words.number(value)
    text = str(value)
    if (moment := time_of(value)) is not None and len(text) > SHORT:
        is_today = moment.date() == datetime.now(UTC).date()
        return tag("span", f"{moment:%H:%M:%S}" if is_today else f"{moment:%Y-%m-%d %H:%M:%S}", title=text)
    if len(text) <= SHORT:
        return text
    shown = text if len(text) <= LONG else f"{text[:LONG]}…"
    return tag("span", shown, cls="cut long" if name in SENTENCES else "cut", title=shown)


def _links(view: View, choice: Choice) -> Html:
    words = view.words
    query = {"rows": MOST_ROWS, **({"id": choice.text} if choice.text else {})}
    links = (
        tag(
            "a",
            name.upper() if name == "csv" else name.title(),
            href=f"/download/{choice.log}.{name}?{urlencode(query)}",
            download="",
        )
        for name in FORMATS
    )
    return join([tag("span", words("download", rows=words.number(MOST_ROWS)), cls="note"), *links])
