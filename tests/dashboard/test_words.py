"""Laws of texts, of markup and of charts."""

from __future__ import annotations

import re
import string
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import correnteza.dashboard as dashboard
from correnteza import table
from correnteza.config import Settings, demo_schema
from correnteza.dashboard import charts, insight, markup, service
from correnteza.dashboard.feeds import POINTS
from correnteza.dashboard.texts import LANGUAGES, NAMES, TEXTS
from correnteza.dashboard.words import Words
from correnteza.errors import ServiceError
from correnteza.listening import bind

FOLDER = Path(dashboard.__file__).parent


def named(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_text_is_there_in_all_languages_with_the_same_values() -> None:
    assert set(NAMES) == set(LANGUAGES)
    for key, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES), key
        assert all(texts), key
        assert len({frozenset(named(text)) for text in texts}) == 1, key


def test_every_text_that_a_page_names_is_there() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.py"))
    wanted = set(re.findall(r'\bwords\("(\w+)"', code)) | set(re.findall(r'card\(view, "(\w+)"', code))
    assert len(wanted) > 50
    assert wanted <= set(TEXTS)
    assert {f"mark_{kind}" for kind in charts.MARKED} <= set(TEXTS)


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans()), st.sampled_from(LANGUAGES))
def test_any_value_can_be_said(value: Any, language: str) -> None:
    words = Words(language)
    for said in (words.number(value), words.percent(value), words.span(value), words.since(value), words.clock(value)):
        assert said


class Seen(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_no_value_becomes_an_element(value: str) -> None:
    seen = Seen()
    seen.feed(markup.table("t", ["a", "b"], [[value, value]]) + markup.tag("p", value, title=value))
    seen.close()
    assert seen.elements == ["table", "caption", "thead", "tr", "th", "th", "tbody", "tr", "th", "td", "p"]
    assert seen.text.count(value) >= 3


def blocks(count: int) -> list[dict[str, Any]]:
    known = {"model_version": 1, "rows": 10, "mae": 1.0, "baseline_mae": 2.0, "coverage": 0.9, "challenger_rows": 0}
    return [
        {
            **known,
            "first_offset": 10 * n + 1,
            "last_offset": 10 * n + 10,
            "normalized_offset": 10 * n + 20,
            "challenger_mae": None,
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, POINTS])
def test_a_chart_has_a_point_per_block_and_marks_a_drift_at_its_place(count: int) -> None:
    drift = {"kind": "error_drift", "detail": '{"normalized_offset": 42}'}
    odd = [{"kind": "error_drift", "detail": detail} for detail in ("", "[]", "{}", '{"normalized_offset": 9999999}')]
    options = charts.error_chart(Words("en"), "income", blocks(count), [drift, *odd] * 100)
    assert [len(line["data"]) for line in options["series"][:3]] == [count - 9 if count == POINTS else count] * 3
    marks = options["series"][0]["markLine"]["data"]
    assert {mark["xAxis"] for mark in marks} == ({40} if count == POINTS else set())
    assert len(marks) <= charts.MOST_MARKS
    charts.coverage_chart(Words("pt"), 0.9, blocks(count))


def test_importances_are_zero_for_what_the_model_does_not_look_at() -> None:
    class Model:
        def status(self, _: str) -> dict[str, Any]:
            return {"model_version": 3}

        def page(self, *_: Any, **__: Any) -> Any:
            rng = np.random.default_rng(1)
            rows = [{name: float(rng.normal()) for name in schema.features} for _ in range(50)]
            return type("Page", (), {"records": rows})

        def predict(self, records: list[dict[str, Any]], version: int) -> list[dict[str, Any]]:
            return [{"prediction": 10 * r.get("age", 0.0) + r.get("weekly_hours", 0.0)} for r in records]

    schema = demo_schema().build()
    found = insight.importances(schema).ask(Model(), None)  # type: ignore[arg-type]
    assert [effect.field for effect in found[:2]] == ["age", "weekly_hours"]
    assert [effect.size for effect in found[2:]] == [0.0] * (len(schema.features) - 2)
    moved = insight.explain(Model(), {"age": 2.0, "weekly_hours": -5.0, "job": None}, 3, 15.0)  # type: ignore[arg-type]
    assert [(effect.field, effect.size) for effect in moved] == [("age", 20.0), ("weekly_hours", -5.0)]


def test_without_nicegui_the_dashboard_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "is_installed", lambda: False)
    refused = pytest.raises(ServiceError, match=r"pip install 'correnteza\[dashboard\]'")
    with bind("127.0.0.1", 0) as listening, refused:
        service.main(Settings(), listening)


def test_the_dashboards_address_is_that_of_its_pages() -> None:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as shown:
        console.print(table.render([table.Row("dashboard", "http://h:8000"), table.Row("trainer", "http://h:8003")]))
    assert "http://h:8000/docs" not in shown.get()
    assert "http://h:8003/docs" in shown.get()
