"""What all pages share: the frame, and regions that are drawn anew every second.

Invariants:
- A region is sent to the browser only when its content has changed, and holds nothing that takes the focus, so an
  update never takes the place of somebody who works with the keyboard.
- What a page shows is made from answers that the watch has already: drawing waits for no service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from nicegui import run, ui
from starlette.requests import Request

from correnteza.config import Settings
from correnteza.dashboard.feeds import SERVICES, STATUS, Feed
from correnteza.dashboard.markup import Html, escape, join, pill, tag
from correnteza.dashboard.texts import LANGUAGES, NAMES, TEXTS
from correnteza.dashboard.watch import Answer, Watch
from correnteza.dashboard.words import Words, language_of
from correnteza.errors import CorrentezaError
from correnteza.table import Row, row

PAGES = {
    "flow": "/",
    "model": "/model",
    "drift": "/drift",
    "registry": "/registry",
    "try": "/try",
    "data": "/data",
    "rate": "/rate",
}
THEMES = ("auto", "light", "dark")
LANGUAGE_COOKIE, THEME_COOKIE = "correnteza_language", "correnteza_theme"
EVERY_S = 1.0
TONES = {"ready": "good", "running": "good", "starting": "warn", "waiting": "warn"}


@dataclass(slots=True)
class View:
    """One open page.

    Args:
        watch: the answers of the services.
        words: the reader's language.
        settings: of the pipeline; its schema and addresses count here.
    """

    watch: Watch
    words: Words
    settings: Settings
    _drawn: list[tuple[ui.html, Callable[[], Html]]] = field(default_factory=list)
    _ticks: list[Callable[[], None]] = field(default_factory=list)

    def value(self, feed: Feed) -> Any:
        """The last answer to a feed; None before the first."""
        return self.watch.get(feed).value

    def answer(self, feed: Feed) -> Answer:
        """The same, with what went wrong."""
        return self.watch.get(feed)

    def status(self, service: str) -> dict[str, Any]:
        """The status of a service; empty when it does not answer."""
        return self.value(STATUS[service]) or {}

    def url(self, service: str) -> str:
        """The base address of a service."""
        return self.settings.services.url(service)

    def rows(self) -> list[Row]:
        """All services as `correnteza run` shows them."""
        return [self._row(service, self.answer(STATUS[service])) for service in SERVICES]

    def _row(self, service: str, answer: Answer) -> Row:
        if answer.at_s is None:
            return Row(service, self.url(service), "starting")
        made = row(service, self.url(service), answer.value)
        return made if answer.value else replace(made, reason=answer.error)

    def region(self, draw: Callable[[], Html], cls: str = "", name: str = "div", **props: str) -> ui.html:
        """A part of the page that is drawn now and every second."""
        made = ui.html(draw(), sanitize=False, tag=name).classes(cls)
        for key, value in props.items():
            made.props[key.replace("_", "-")] = value
        self._drawn.append((made, draw))
        return made

    def chart(self, made: Callable[[], dict[str, Any]], said: Callable[[], str], cls: str = "") -> None:
        """A chart that is drawn anew every second.

        Args:
            made: ECharts options.
            said: the same in a sentence, for those who do not see it.
            cls: of the element.
        """
        chart = ui.echart(made()).classes(f"chart {cls}")
        chart.props["role"] = "img"
        chart.props["aria-label"] = said()
        before = [dict(chart.options)]

        def draw() -> None:
            options = made()
            if options == before[0]:
                return
            before[0] = dict(options)
            chart.props["aria-label"] = said()
            chart.options.clear()
            chart.options.update(options)
            chart.update()

        self._ticks.append(draw)

    def each_tick(self, call: Callable[[], None]) -> None:
        """Call something every second."""
        self._ticks.append(call)

    def tick(self) -> None:
        """Draw what has changed."""
        for region, draw in self._drawn:
            content = draw()
            if content != region.content:
                region.content = content
        for call in self._ticks:
            call()


def static(content: Html, cls: str = "", name: str = "div") -> ui.html:
    """A part of the page that stays as it is."""
    return ui.html(content, sanitize=False, tag=name).classes(cls)


def card(view: View, title: str, cls: str = "", note: str = "") -> AbstractContextManager[Any]:
    """A titled part of a page with a remark below its title, for `with`."""
    made = ui.element("section").classes(f"card {cls}")
    with made:
        text = tag("h2", view.words(title))
        static(join([text, tag("p", note, cls="note")]) if note else text, "card-head", "header")
    return made


def frame(request: Request, watch: Watch, settings: Settings, page: str) -> View:
    """The frame around a page, and the page's view; what is made afterwards `with main(view)` stands inside."""
    words = Words(language_of(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", "")))
    chosen = request.cookies.get(THEME_COOKIE)
    theme = chosen if chosen in THEMES else "auto"
    view = View(watch, words, settings)
    ui.dark_mode({"light": False, "dark": True}.get(theme))
    ui.add_head_html(_HEAD.format(lang=words.code, theme=theme))
    ui.add_body_html(_head(words, page, theme))
    ui.page_title(f"{words(page)} | Correnteza")
    with ui.teleport("#health"):
        view.region(lambda: _health(view))
    ui.timer(EVERY_S, view.tick, immediate=False)
    return view


def glossary(view: View, *terms: str) -> None:
    """What some words on the page mean, for those who ask."""
    words = view.words
    told = join(tag("div", tag("dt", words(term)), tag("dd", words(f"{term}_means"))) for term in terms)
    static(join([tag("summary", words("glossary")), tag("dl", told)]), "glossary", "details")


def main() -> Any:
    """The content of a page, for `with`."""
    return ui.element("main").classes("page").props('id="main" tabindex="-1"')


def measure(view: View, value: Any, unit: str = "") -> Html:
    """A large number with its unit; without one in the target's, for which the target's name stands."""
    return join([view.words.number(value), " ", tag("small", unit or view.settings.schema_of_records.target)])


def tile(label: str, value: Any, note: Any = "") -> Html:
    """One figure with its name above and a remark below."""
    return join([tag("p", label, cls="label"), tag("p", value, cls="big"), tag("p", note, cls="note")])


def button(text: str, call: Callable[[], Any], cls: str = "") -> ui.button:
    """A button; one with the class `go` is the one that is meant to be used."""
    return ui.button(text, on_click=call, color=None).props("unelevated no-caps").classes(f"button {cls}")


async def act(view: View, call: Callable[[], Any], said: Callable[[Any], str]) -> Any:
    """Call a service outside of the event loop, and say how it went; None when it did not work."""
    try:
        answer = await run.io_bound(call)
    except CorrentezaError as error:
        ui.notify(view.words("failed", reason=error), type="negative", multi_line=True, timeout=10_000)
        return None
    ui.notify(said(answer), type="positive")
    return answer


async def sure(view: View, question: str) -> bool:
    """Whether the reader confirms."""
    with ui.dialog().props(f'aria-label="{escape(question)}"') as dialog, ui.card().classes("dialog"):
        static(escape(question), "question", "p")
        with ui.element("div").classes("buttons"):
            button(view.words("cancel"), lambda: dialog.submit(False))
            button(view.words("yes"), lambda: dialog.submit(True), "go").props("autofocus")
    answer = bool(await dialog)
    dialog.delete()
    return answer


def _head(words: Words, page: str, theme: str) -> Html:
    """The head of the page; it is there before any script has run."""
    brand = Html(f'<a class="brand" href="/">{_MARK}<span>Correnteza</span></a>')
    nav = tag("nav", _nav(words, page), aria_label=words("pages"))
    health = tag("div", id="health", cls="health", role="status")
    switches = tag("div", _switches(words, page, theme), cls="switches")
    return join([tag("a", words("skip"), href="#main", cls="skip"), tag("header", brand, nav, health, switches, cls="top")])


def _nav(words: Words, page: str) -> Html:
    links = (tag("a", words(name), href=path, aria_current="page" if name == page else None) for name, path in PAGES.items())
    return tag("ul", *(tag("li", link) for link in links))


def _health(view: View) -> Html:
    rows = view.rows()
    bad = [r for r in rows if r.state != "ready"]
    if not bad:
        return pill(view.words("all_ready"), "good")
    tone = "bad" if any(TONES.get(r.state, "bad") == "bad" for r in bad) else "warn"
    named = ", ".join(f"{view.words(r.service)}: {state_word(view.words, r.state)}" for r in bad)
    return pill(named, tone)


def state_word(words: Words, state: str) -> str:
    """A state in words."""
    return words(f"state_{state}") if f"state_{state}" in TEXTS else state


def _switches(words: Words, page: str, theme: str) -> Html:
    return join(
        [
            _switch(words("language"), "language", [(code, NAMES[code]) for code in LANGUAGES], words.language, page),
            _switch(words("theme"), "theme", [(name, words(name)) for name in THEMES], theme, page),
        ]
    )


def _switch(label: str, kind: str, choices: Sequence[tuple[str, str]], chosen: str, page: str) -> Html:
    links = (
        tag(
            "a",
            text,
            href=f"/choose/{kind}/{value}?page={page}",
            rel="nofollow",
            aria_current="true" if value == chosen else None,
        )
        for value, text in choices
    )
    return tag("div", *links, cls="switch", role="group", aria_label=label)


_HEAD = """<link rel="stylesheet" href="/static/style.css">
<script>
const root = document.documentElement; root.lang = "{lang}"; root.dataset.theme = "{theme}";
new MutationObserver(() => root.lang === "{lang}" || (root.lang = "{lang}")).observe(root, {{attributeFilter: ["lang"]}});
</script>"""
_MARK = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2 8c4-4 6 4 10 0s6 4 10 0M2 13c4-4 6 4 10 0s6 4 10 0'
    'M2 18c4-4 6 4 10 0s6 4 10 0" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round"/></svg>'
)
