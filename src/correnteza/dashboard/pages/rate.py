"""How fast the stream runs, and a drift that is switched on while one watches the model adapt."""

from __future__ import annotations

from functools import partial
from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import CURVES, EVALUATION, EVENTS, RATES
from correnteza.dashboard.layout import View, act, button, card, frame, main, static, sure
from correnteza.dashboard.markup import Html, escape
from correnteza.dashboard.pages.parts import error_chart
from correnteza.dashboard.watch import Watch

REACH = min(CURVES)
NEEDS = (*RATES.values(), EVALUATION, CURVES[REACH], EVENTS["trainer"])
PRESETS = {"generator": (0, 10, 100, 500, 2000), "consumer": (0, 1, 5, 20)}
FACTORS = (0.5, 1.0, 1.5, 2.0)


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view = frame(request, watch, settings, "rate")
    with main():
        static(escape(view.words("rate_title")), name="h1")
        with ui.element("div").classes("thirds"):
            for service in RATES:
                _rate(view, service)
            _drift(view)
        with card(view, "watch"):
            error_chart(view, lambda: REACH, "tall")


def _rate(view: View, service: str) -> None:
    words = view.words

    async def change(value: Any) -> None:
        if value is not None:
            rate = float(value)
            await act(
                view, lambda: view.watch.client.set_rate(service, rate), lambda now: words("rate_set", rate=words.number(now))
            )

    with card(view, f"rate_{service}", note=words(f"rate_{service}_note")):
        view.region(lambda: _now(view, service), "mid").props(f'data-rate="{service}"')
        with ui.element("div").classes("buttons"):
            for preset in PRESETS[service]:
                button(words.number(preset), partial(change, preset))
        with ui.element("div").classes("buttons"):
            box = ui.number(words(f"rate_{service}"), min=0).props("outlined dense")
            button(words("set"), lambda: change(box.value), "go")


def _now(view: View, service: str) -> Html:
    words = view.words
    return escape(words("rate_now", rate=words.number(view.value(RATES[service]), words("per_second"))))


def _drift(view: View) -> None:
    words, unit = view.words, view.settings.schema_of_records.target

    async def change(factor: float) -> None:
        if await sure(view, f"{words('factor')} {words.number(factor)}?"):
            client = view.watch.client
            await act(view, lambda: client.set_drift(factor), lambda now: words("drift_set", factor=words.number(now)))

    with card(view, "drift_switch", note=words("drift_switch_note", unit=unit)):
        view.region(lambda: _factor(view), "mid").props('data-drift="factor"')
        with ui.element("div").classes("buttons") as buttons:
            for factor in FACTORS:
                text = f"\N{MULTIPLICATION SIGN} {words.number(factor)}"
                button(text, lambda factor=factor: change(factor))  # type: ignore[misc]
        buttons.set_visibility(view.settings.generator.source == "people")


def _factor(view: View) -> Html:
    words, factor = view.words, view.status("generator").get("drift_factor")
    return escape(words("drift_none") if factor is None else words("drift_factor", factor=words.number(factor)))
