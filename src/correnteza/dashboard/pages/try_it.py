"""A form made from the schema; the answer with its interval, and which fields moved it most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard import insight
from correnteza.dashboard.feeds import EVALUATION, Feed, tail
from correnteza.dashboard.layout import View, act, button, card, frame, main, measure, static
from correnteza.dashboard.markup import Html, escape, join, tag
from correnteza.dashboard.pages.parts import strips, tail_of
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import part
from correnteza.records import Field, Schema

MOST_VALUES = 1000
"""Values of a category that are offered."""
CATEGORIES = Feed(
    "categories", "normalizer", lambda client, _: client.page("normalizer", None, MOST_VALUES, log="categories").records, 10.0
)
LATEST = tail("generator", "records", 1)
NEEDS = (EVALUATION, CATEGORIES, LATEST)


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view, schema = frame(request, watch, settings, "try"), settings.schema_of_records
    words = view.words
    with main():
        static(escape(words("try_title")), name="h1")
        with ui.element("div").classes("halves"):
            with card(view, "try_fields", note=words("try_note")):
                inputs = _form(view, schema)
                buttons = ui.element("div").classes("buttons")
            with card(view, "answer"):
                said = static(tag("p", words("no_answer"), cls="note")).props('role="status"')

    async def asked() -> None:
        record = {name: value for name, box in inputs.items() if (value := _value(schema, name, box.value)) is not None}
        found = await act(view, lambda: _ask(view, record), lambda _: words("done"))
        if found is not None:
            said.content = _answer(view, *found)

    latest, clear = _filling(view, inputs)
    with buttons:
        button(words("ask"), asked, "go")
        button(words("fill"), latest)
        button(words("clear"), clear)


def _filling(view: View, inputs: Mapping[str, Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    """What fills the form in with the latest record, and what clears it; it begins filled in, once there is a record."""
    untouched = [True]

    def filled(record: Mapping[str, Any]) -> None:
        untouched[0] = False
        for name, box in inputs.items():
            box.set_value(record.get(name))

    def latest() -> Mapping[str, Any]:
        return next(iter(tail_of(view, LATEST)), {})

    def begin() -> None:  # every second, which also keeps the record fresh for the button
        if (record := latest()) and untouched[0]:
            if all(box.value in (None, "") for box in inputs.values()):
                filled(record)
            untouched[0] = False

    begin()
    view.each_tick(begin)
    return lambda: filled(latest()), lambda: filled({})


def _form(view: View, schema: Schema) -> dict[str, Any]:
    """An input per field that the model looks at."""
    known = view.value(CATEGORIES) or []
    inputs: dict[str, Any] = {}
    with ui.element("div").classes("form"):
        for field in schema.fields:
            if field.name in schema.features:
                values = [row["value"] for row in known if row["field"] == field.name]
                inputs[field.name] = _input(field, values)
    return inputs


def _input(field: Field, values: list[str]) -> Any:
    if field.kind == "category":
        return ui.input(field.name, autocomplete=values).props("outlined dense clearable")
    step = 1 if field.kind == "integer" else None
    return ui.number(field.name, min=field.minimum, max=field.maximum, step=step).props("outlined dense clearable")


def _value(schema: Schema, name: str, value: Any) -> Any:
    """What an input holds, as the API takes it; None where it is empty."""
    if value in (None, ""):
        return None
    if schema.kind_of(name) == "category":
        return str(value)
    number = float(value)
    return int(number) if number.is_integer() else number


def _ask(view: View, record: dict[str, Any]) -> tuple[dict[str, Any], list[insight.Effect]]:
    client = view.watch.client
    answer = client.predict(record)
    return answer, insight.explain(client, record, answer["model_version"], answer["prediction"])


def _answer(view: View, answer: dict[str, Any], effects: list[insight.Effect]) -> Html:
    words, unit = view.words, view.settings.schema_of_records.target
    parts: list[Any] = [
        tag("p", measure(view, answer["prediction"]), cls="big", data_prediction=answer["prediction"]),
        tag("p", _interval(view, answer)),
        tag("p", words("by_version", version=answer["model_version"]), cls="note"),
    ]
    if effects:
        rows = [
            (f"{e.field} = {words.number(e.value) if _is_number(e.value) else e.value}", e.size, _signed(view, e.size))
            for e in effects
        ]
        parts += [tag("h3", words("effects")), tag("p", words("effects_note", unit=unit), cls="note"), strips(rows)]
    return join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _signed(view: View, size: float) -> str:
    return f"{'+' if size > 0 else ''}{view.words.number(size)}"


def _interval(view: View, answer: dict[str, Any]) -> str:
    words, unit = view.words, view.settings.schema_of_records.target
    if answer["lower"] is None:
        return words("no_interval")
    ends = {end: words.number(answer[end], unit) for end in ("lower", "upper")}
    return words("interval", level=words.percent(part(view.value(EVALUATION), "level")), **ends)
