"""The first page: what flows, how good the model is, what changed."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import CURVES, EVALUATION, EVENTS, PROMOTED, SERVICES
from correnteza.dashboard.layout import TONES, View, card, frame, glossary, main, measure, state_word, static, tile
from correnteza.dashboard.markup import Html, escape, join, line, pill, tag
from correnteza.dashboard.pages.parts import error_chart, tail_of
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import part
from correnteza.table import Row

NEEDS = (EVALUATION, CURVES[5000], PROMOTED, *EVENTS.values())
EVENTS_SHOWN = 7
ROWS = 5000
"""Rows that the error chart reaches back."""


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view = frame(request, watch, settings, "flow")
    words = view.words
    with main():
        static(escape(words("flow_title")), "away", "h1")
        with ui.element("div").classes("tiles"):
            for figure in (_records, _error, _version, _coverage):
                view.region(lambda figure=figure: figure(view), "tile")  # type: ignore[misc]
        with ui.element("section").classes("pipeline").props(f'aria-label="{words("services")}"'):
            for place, service in enumerate(SERVICES):
                if place:
                    view.region(lambda before=SERVICES[place - 1]: _pipe(view, before), "pipe-box").props('aria-hidden="true"')  # type: ignore[misc]
                _service(view, service)
        with ui.element("div").classes("halves"):
            with card(view, "error_recent"):
                error_chart(view, lambda: ROWS)
            with card(view, "happened"):
                view.region(lambda: _events(view), "events")
        glossary(view, "mae", "baseline", "challenger", "coverage_title", "lag", "rejected")


def _service(view: View, service: str) -> None:
    words = view.words
    with ui.element("article").classes("service"):
        title = tag("h2", tag("a", words(service), href=f"{view.url(service)}/docs"))
        static(join([title, tag("p", words(f"{service}_does"), cls="note")]))
        view.region(lambda: _figures(view, service), "figures").props(f'data-service="{service}"')


def _records(view: View) -> Html:
    words, status = view.words, view.status("generator")
    rows = (part(status, "logs", "records", "next_offset") or 1) - 1
    note = words("tile_rate_note", rows=words.number(rows, words("unit_rows")))
    return tile(words("tile_rate"), measure(view, status.get("rows_per_s"), words("unit_rows_s")), note)


def _error(view: View) -> Html:
    words, rolling = view.words, part(view.value(EVALUATION), "rolling")
    skill = part(rolling, "skill")
    key = "tile_error_note" if (skill or 0) >= 0 else "tile_error_worse"
    note = words(key, skill=words.percent(abs(skill))) if skill is not None else "\N{NO-BREAK SPACE}"
    return tile(words("tile_error"), measure(view, part(rolling, "mae")), note)


def _version(view: View) -> Html:
    words, status = view.words, view.status("trainer")
    version = status.get("model_version")
    if version is None:
        return tile(words("tile_version"), words("tile_version_none"), status.get("reason", ""))
    return tile(words("tile_version"), words("version_n", version=version), words.since(status.get("model_since")))


def _coverage(view: View) -> Html:
    words, evaluation = view.words, view.value(EVALUATION)
    note = words("tile_coverage_note", level=words.percent(part(evaluation, "level")))
    return tile(words("tile_coverage"), words.percent(part(evaluation, "rolling", "coverage"), 1), note)


def _pipe(view: View, service: str) -> Html:
    """What flows from a service to the next; the drawing moves, in three speeds, and changes only with them."""
    rate = view.status(service).get("rows_per_s") or 0
    speed = "still" if rate <= 0 else "slow" if rate < 20 else "fast" if rate < 2000 else "rapid"
    return Html(f'<div class="pipe {speed}"><i></i></div>')


def _figures(view: View, service: str) -> Html:
    words = view.words
    row = next(r for r in view.rows() if r.service == service)
    status = view.status(service)
    parts: list[Any] = [
        tag("p", pill(state_word(words, row.state), TONES.get(row.state, "good" if row.state == "ready" else "bad")))
    ]
    if row.state != "ready" and row.reason:
        parts.append(tag("p", row.reason, cls="reason"))
    if status:
        parts += [
            tag("p", words.number(row.rows_per_s, words("unit_rows_s")), cls="mid"),
            line(list(view.watch.trails[service]), words("rate_trail")),
            tag("dl", *_facts(view, row, status)),
        ]
    return join(parts)


def _facts(view: View, row: Row, status: dict[str, Any]) -> list[Html]:
    words = view.words
    facts = [(words("rows_total"), words.number(row.rows))]
    if row.service != "generator":
        facts.append((words("lag"), f"{words.number(row.lag_rows, words('unit_rows'))} · {words.span(row.lag_s)}"))
    rejected = part(status, "logs", "rejected", "next_offset")
    if rejected is not None:
        facts.append((words("rejected"), words.number(rejected - 1)))
    return [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]


def _events(view: View) -> Html:
    rows = [row for feed in EVENTS.values() for row in tail_of(view, feed)]
    rows += [
        {**row, "service": "learner", "kind": view.words("version_n", version=row["version"])}
        for row in tail_of(view, PROMOTED)
    ]
    rows.sort(key=lambda row: str(row["at"]), reverse=True)
    if not rows:
        return tag("p", view.words("nothing_yet"), cls="note")
    return tag("ol", *(_event(view, row) for row in rows[:EVENTS_SHOWN]))


def _event(view: View, row: dict[str, Any]) -> Html:
    kind = str(row["kind"])
    tone = "bad" if kind.endswith(("_failed", "_died", "_refused", "rolled_back")) else "warn" if "drift" in kind else ""
    clock = tag("time", view.words.clock(row["at"]), datetime=row["at"])
    named = tag("b", view.words.kind(kind), cls=tone or None)
    detail = tag("span", row["reason"], lang="en")
    return tag("li", clock, tag("span", row["service"], cls="who"), tag("span", named, " ", detail))
