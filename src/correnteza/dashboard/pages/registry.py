"""The model versions: figures, parents, reasons, what became of them; promote, pin and roll back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import EVALUATION, MODELS, STORY
from correnteza.dashboard.layout import View, act, button, card, frame, glossary, main, static, sure
from correnteza.dashboard.markup import Html, escape, pill, table, tag
from correnteza.dashboard.watch import Watch
from correnteza.dashboard.words import part

NEEDS = (MODELS, STORY, EVALUATION)
SHOWN = 20


def draw(request: Request, watch: Watch, settings: Settings) -> None:
    """Draw the page."""
    view = frame(request, watch, settings, "registry")
    words = view.words
    with main():
        static(escape(words("registry_title")), name="h1")
        with ui.element("section").classes("card controls"):
            _controls(view)
        with card(view, "story"):
            view.region(lambda: _story(view), "story")
        with card(view, "versions_short"):
            label = words("registry_title")
            view.region(lambda: _table(view), "scroll").props(f'tabindex="0" role="region" aria-label="{label}"')
        glossary(view, "pinned", "challenger", "mae_before", "mae_own", "parent")


def _versions(view: View) -> list[dict[str, Any]]:
    """The last versions, newest first."""
    return list(reversed((view.value(MODELS) or [])[-SHOWN:]))


def _current(view: View) -> dict[str, Any]:
    return next((row for row in _versions(view) if row["in_service"]), {})


def _before(view: View) -> int | None:
    """The version that was in service before the one that is, as far as it is listed."""
    used = [row["version"] for row in _versions(view) if row["decision"] == "promoted" and not row["in_service"]]
    current = _current(view).get("version")
    return next((version for version in used if current is None or version < current), None)


def _controls(view: View) -> None:
    words, client = view.words, view.watch.client
    view.region(lambda: _now(view), "now")
    choice = ui.select(_choices(view), label=words("choose_version")).props("outlined dense options-dense").classes("choice")
    choice.on("popup-show", lambda: choice.set_options(_choices(view), value=choice.value))

    async def promote(version: int | None) -> None:
        if version is not None and await sure(view, words("promote_sure", version=version)):
            await act(view, lambda: client.promote(version), lambda _: words("promoted", version=version))

    async def unpin() -> None:
        if await sure(view, words("unpin_sure")):
            await act(view, client.unpin, lambda row: words("promoted", version=row["version"]))

    button(words("promote"), lambda: promote(choice.value), "go")
    back = button(words("rollback_none"), lambda: promote(_before(view)))
    free = button(words("unpin"), unpin)
    view.each_tick(_state_of(view, back, free))


def _state_of(view: View, back: ui.button, free: ui.button) -> Callable[[], None]:
    """What keeps the buttons true."""

    def look() -> None:
        version, pinned = _before(view), bool(_current(view).get("pinned"))
        text = view.words("rollback", version=version) if version else view.words("rollback_none")
        if back.text != text:
            back.set_text(text)
        if back.enabled != (version is not None):
            back.set_enabled(version is not None)
        if free.enabled != pinned:
            free.set_enabled(pinned)

    look()
    return look


def _choices(view: View) -> dict[int, str]:
    words = view.words
    return {
        row["version"]: f"{row['version']} · {words.clock(row['created_at'])} · {words.number(part(row, 'evaluation', 'mae'))}"
        for row in _versions(view)
    }


def _now(view: View) -> Html:
    words, row = view.words, _current(view)
    if not row:
        return tag("p", words("tile_version_none"), cls="note")
    pinned = row["pinned"]
    note = words("pinned_note", version=row["version"]) if pinned else words("free_note")
    state = pill(words("pinned" if pinned else "in_service"), "warn" if pinned else "good")
    return tag("div", tag("p", words("version_n", version=row["version"]), " ", state, cls="mid"), tag("p", note, cls="note"))


def _story(view: View) -> Html:
    sentences = view.value(STORY) or []
    if not sentences:
        return tag("p", view.words("nothing_yet"), cls="note")
    return tag("ol", *(tag("li", sentence, lang="en") for sentence in reversed(sentences[-6:])))


def _table(view: View) -> Html:
    words = view.words
    own = {row["model_version"]: row["mae"] for row in part(view.value(EVALUATION), "versions") or []}
    unit = view.settings.schema_of_records.target
    headings = (
        words("version"),
        words("decision"),
        f"{words('mae_before')} ({unit})",
        f"{words('mae_own')} ({unit})",
        f"{words('trained_on')} ({words('unit_rows')})",
        f"{words('training_time')} (s)",
        words("parent"),
        words("created"),
        words("reason"),
    )
    rows = (_row(view, row, own.get(row["version"])) for row in _versions(view))
    return table(words("registry_title"), headings, rows, numeric=(2, 3, 4, 5, 6))


def _row(view: View, row: dict[str, Any], own: float | None) -> tuple[Any, ...]:
    words = view.words
    decision = str(row["decision"] or "undecided")
    state = pill(words("pinned" if row["pinned"] else "in_service"), "good") if row["in_service"] else words.kind(decision)
    return (
        row["version"],
        state,
        words.number(part(row, "evaluation", "mae")),
        words.number(own),
        words.number(row["rows"]),
        words.number(row["train_s"]),
        row["parent"] or "",
        words.clock(row["created_at"]),
        tag("span", row["reason"], lang="en"),
    )
