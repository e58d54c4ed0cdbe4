"""Each field's distribution now against the training window, its score, and when it was last seen to drift."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard import insight
from correnteza.dashboard.feeds import EVALUATION, EVENTS, Feed
from correnteza.dashboard.layout import View, card, frame, main, static
from correnteza.dashboard.markup import Html, escape, join, pill, table, tag
from correnteza.dashboard.pages.parts import drawn, tail_of
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import DASH, part

NEEDS = (EVALUATION, EVENTS["trainer"])
HIGH = 3.0
"""Score from which a field is coloured."""
SHOWN = 12


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view, schema = frame(request, watch, settings, "drift"), settings.schema_of_records
    words, spreads = view.words, insight.spreads(schema)
    names = [*schema.features, schema.target]
    with main():
        static(escape(words("drift_title")), name="h1")
        note = words("drift_note", now=words.number(insight.SAMPLE_ROWS))
        static(join([tag("p", note), tag("p", words("score_note"))]), "note")
        with ui.element("div").classes("grid"):
            for name in names:
                view.region(lambda name=name: _field(view, spreads, name), "card", "section").props(f'data-field="{name}"')  # type: ignore[misc]
        with card(view, "drifts_seen"):
            view.region(lambda: _found(view), "scroll").props(f'tabindex="0" role="region" aria-label="{words("drifts_seen")}"')


def _field(view: View, feed: Feed, name: str) -> Html:
    words, schema = view.words, view.settings.schema_of_records
    drift = part(view.value(EVALUATION), "drift")
    state = part(drift, "target") if name == schema.target else part(drift, "fields", name)
    score, row = part(state, "score"), part(state, "drifted_at_row")
    head = tag("h2", name, " ", tag("span", words("target") if name == schema.target else "", cls="note"))
    found = next((s for s in view.value(feed) or () if s.field == name), None)
    tone = "" if score is None else "warn" if score >= HIGH else "good"
    told = words("at_row", row=words.number(row)) if row is not None else words("never")
    facts = [(words("score"), pill(words.number(score, words("score_unit")), tone)), (words("last_drift"), told)]
    if found is not None and found.now_mean is not None:
        facts += [(words("mean_now"), words.number(found.now_mean)), (words("mean_window"), words.number(found.window_mean))]
    shown = _spread(view, found) if found is not None and found.labels else ""
    return join([head, shown, tag("dl", *(tag("div", tag("dt", n), tag("dd", v)) for n, v in facts), cls="facts")])


def _spread(view: View, found: insight.Spread) -> Html:
    words, label = view.words, view.words("spread_said", field=found.field)
    if found.now_mean is not None:
        return drawn([found.window, found.now], label, (words.number(found.labels[0]), "", words.number(found.labels[-1])))
    return drawn([found.window, found.now], label, (_cut(found.labels[0]), "", _cut(found.labels[-1])))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _found(view: View) -> Html:
    words = view.words
    rows: list[dict[str, Any]] = [row for row in tail_of(view, EVENTS["trainer"]) if row["kind"].endswith("_drift")]
    if not rows:
        return tag("p", words("nothing_yet"), cls="note")
    cells = (
        (words.clock(row["at"]) or DASH, words.kind(str(row["kind"])), tag("span", row["reason"], lang="en"))
        for row in reversed(rows[-20:])
    )
    return table(words("drifts_seen"), (words("created"), words("decision"), words("reason")), cells)
