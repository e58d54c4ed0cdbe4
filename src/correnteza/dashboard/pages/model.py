"""The model in service: since when, how good over time, where it errs, what it looks at."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard import charts, insight
from correnteza.dashboard.feeds import CURVES, EVALUATED, EVALUATION, EVENTS, RECENT_ROWS, Feed
from correnteza.dashboard.layout import View, card, frame, glossary, main, measure, static, tile
from correnteza.dashboard.markup import Html, escape, tag
from correnteza.dashboard.pages.parts import drawn, error_chart, strips, tail_of
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import part

FIRST_REACH = min(CURVES)
NEEDS = (EVALUATION, EVALUATED, CURVES[FIRST_REACH], EVENTS["trainer"])


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view = frame(request, watch, settings, "model")
    words, unit = view.words, settings.schema_of_records.target
    importances = insight.importances(settings.schema_of_records)
    reach = [FIRST_REACH]
    with main():
        static(escape(words("model_title")), name="h1")
        with ui.element("div").classes("tiles"):
            for figure in (_version, _error, _coverage, _delay):
                view.region(lambda figure=figure: figure(view), "tile")  # type: ignore[misc]
        with card(view, "error_over_time", note=words("error_over_time_note")):
            reaches = {rows: words("last_rows", rows=words.number(rows)) for rows in CURVES}
            choice = ui.select(reaches, value=FIRST_REACH, label=words("range"))
            choice.on_value_change(lambda change: reach.__setitem__(0, change.value))
            choice.props("outlined dense options-dense").classes("choice")
            error_chart(view, lambda: reach[0], "tall")
        with ui.element("div").classes("halves"):
            with card(view, "predicted_true", note=words("predicted_true_note", rows=RECENT_ROWS)):
                view.chart(lambda: charts.scatter(words, unit, _rows(view)), lambda: words("predicted_true"))
            with card(view, "coverage_title", note=words("coverage_note")):
                view.chart(lambda: _coverage_chart(view, reach[0]), lambda: words("coverage_title"))
            with card(view, "residuals", note=words("residuals_note", unit=unit)):
                view.region(lambda: _residuals(view))
            with card(view, "importances", note=words("importances_note", unit=unit)):
                view.region(lambda: _importances(view, importances, unit))
        glossary(view, "mae", "baseline", "challenger", "rmse", "r2", "coverage_title", "residuals", "delay")


def _rows(view: View) -> list[dict[str, Any]]:
    """The last evaluated rows whose truth is known."""
    return [row for row in tail_of(view, EVALUATED) if row["target"] is not None]


def _version(view: View) -> Html:
    words, status = view.words, view.status("trainer")
    version, challenger = status.get("model_version"), status.get("challenger")
    beside = words("challenger_note", version=challenger) if challenger else words("no_challenger")
    if version is None:
        return tile(words("tile_version"), words("tile_version_none"), status.get("reason", ""))
    return tile(
        words("tile_version"), words("version_n", version=version), f"{words.since(status.get('model_since'))} · {beside}"
    )


def _error(view: View) -> Html:
    words, rolling = view.words, part(view.value(EVALUATION), "rolling")
    note = words("rmse_r2", rmse=words.number(part(rolling, "rmse")), r2=words.number(part(rolling, "r2")))
    return tile(words("mae"), measure(view, part(rolling, "mae")), note)


def _coverage(view: View) -> Html:
    words, evaluation = view.words, view.value(EVALUATION)
    note = words("tile_coverage_note", level=words.percent(part(evaluation, "level")))
    return tile(words("coverage_title"), words.percent(part(evaluation, "rolling", "coverage"), 1), note)


def _delay(view: View) -> Html:
    words, labels = view.words, part(view.value(EVALUATION), "labels")
    median = part(labels, "delay_median_s")
    note = words("delay_none") if median is None else words("delay_note", p95=words.span(part(labels, "delay_p95_s")))
    return tile(words("delay"), words.span(0 if median is None else median), note)


def _coverage_chart(view: View, reach: int) -> dict[str, Any]:
    return charts.coverage_chart(view.words, part(view.value(EVALUATION), "level"), view.value(CURVES[reach]) or ())


def _residuals(view: View) -> Html:
    words, rows = view.words, _rows(view)
    errors = [row["prediction"] - row["target"] for row in rows]
    reach, counts = insight.histogram(errors)
    mean = sum(errors) / len(errors) if errors else None
    ends = (words.number(-reach), f"{words('bias')} {words.number(mean)}", words.number(reach))
    return drawn([[], counts], words("residuals"), ends)


def _importances(view: View, feed: Feed, unit: str) -> Html:
    words, effects = view.words, view.value(feed) or []
    if not effects:
        return tag("p", words("nothing_yet"), cls="note")
    return strips([(e.field, e.size, words.number(e.size, unit)) for e in effects[:12]])
