"""Laws of the table: every answer of a service can be shown, and what is new is said once."""

import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from correnteza.table import Change, Row, changes, figure, models, render, row, summary

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "ready",
    "state",
    "reason",
    "logs",
    "lag_rows",
    "lag_s",
    "rows_per_s",
    "model_version",
    "rolling",
    "rolling_mae",
    "answers",
    "lineage",
)
STATUS: dict[str, Any] = {
    "service": "trainer",
    "ready": True,
    "state": "running",
    "reason": "",
    "logs": {"records": {"first_offset": 1, "next_offset": 12_346, "rows": 12_345}},
    "lag_rows": 7,
    "lag_s": 0.25,
    "rows_per_s": 99.96,
    "model_version": 3,
    "rolling": {"mae": 812.4},
}


def drawn(what: object, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(what)
    return stream.getvalue()


def full(service: str, **more: Any) -> Row:
    values: dict[str, Any] = {
        "state": "restarting",
        "rows": 12_345_678,
        "rows_per_s": 123_456.7,
        "lag_rows": 1_234_567,
        "lag_s": 86_400.0,
        "model_version": 1234,
        "mae": 123_456.7,
        "restarts": 99,
    }
    return Row(service, "http://127.0.0.1:8003", **{**values, **more})


def test_a_status_becomes_a_row_with_all_its_figures() -> None:
    assert row("trainer", "http://x", STATUS, restarts=2) == Row(
        "trainer", "http://x", "ready", "", 12_345, 99.96, 7, 0.25, 2, 3, 812.4
    )


def test_a_service_that_is_ready_but_waits_is_not_shown_as_ready() -> None:
    assert row("trainer", "http://x", {**STATUS, "state": "waiting"}).state == "waiting"
    assert row("trainer", "http://x", {**STATUS, "ready": False}).state == "running"


def test_a_service_that_does_not_answer_has_the_state_its_supervisor_gives_it() -> None:
    assert row("trainer", "http://x", None).state == "down"
    assert row("trainer", "http://x", None, state="restarting").state == "restarting"


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_answer_of_a_service_breaks_the_table(status: dict[str, Any]) -> None:
    entry = row("trainer", "http://x", status)
    assert "trainer" in drawn(render([entry], ["a note"], "title"))
    assert set(summary([entry])) == {"trainer"}
    changes(None, entry)


def test_the_table_fits_eighty_columns_whatever_the_figures() -> None:
    rows = [full(name, reason="why " * 30) for name in ("generator", "normalizer", "trainer", "consumer")]
    lines = drawn(render(rows, ["a note " * 20], "title")).splitlines()
    assert len(lines) <= 20
    for entry in rows:
        assert any(entry.service in line and "12,345,678" in line and line.rstrip().endswith("99") for line in lines)
        assert any(entry.service in line and "http://127.0.0.1:8003/docs" in line for line in lines)


@given(st.floats(allow_nan=True) | st.integers())
def test_what_is_made_anew_has_a_bar_that_fills_and_goes_when_it_is_done(share: float) -> None:
    entry = row("normalizer", "http://x", {**STATUS, "lineage": {"number": 2, "backfill": share}})
    shown = drawn(render([entry]))
    assert ("░" in shown) == (share < 1)
    assert shown.count("█") <= 9
    assert drawn(render([row("normalizer", "http://x", {**STATUS, "lineage": {"backfill": 0.52}})])).count("█") == 5


def test_text_of_services_is_never_read_as_markup() -> None:
    seen = drawn(render([Row("trainer", "http://x", "[red]", "[bold]x[/nothing]")], ["[/] [blue]"]))
    assert all(text in seen for text in ("[red]", "[bold]x[/nothing]", "[/] [blue]"))


def test_what_is_new_is_said_once() -> None:
    before = Row("trainer", "http://x", "starting")
    now = Row("trainer", "http://x", "ready", model_version=1, mae=5.0)
    assert changes(before, now) == [
        Change("trainer", "ready", {"address": "http://x"}),
        Change("trainer", "model_version", {"model_version": 1, "mae": 5.0}),
    ]
    assert changes(now, now) == []


def test_a_consumer_tells_its_first_answer_and_no_model_versions() -> None:
    before = Row("consumer", "http://x", "ready", answers=0, model_version=None)
    first = Row("consumer", "http://x", "ready", answers=5, model_version=1)
    later = Row("consumer", "http://x", "ready", answers=50, model_version=2)
    assert [change.kind for change in changes(before, first)] == ["first_prediction"]
    assert changes(first, later) == []


def test_the_version_in_service_is_marked() -> None:
    listed: list[dict[str, Any]] = [
        {"version": 1, "rows": 100, "train_s": 0.5, "created_at": "2024-02-29T10:00:00Z", "reason": "first", "evaluation": {}},
        {
            "version": 2,
            "decision": "rolled_back",
            "rows": 200,
            "evaluation": {"mae": 812.4},
            "in_service": True,
            "pinned": False,
        },
        {"version": 3, "in_service": True, "pinned": True},
    ]
    _, first, second, third = drawn(models(listed), 200).splitlines()
    assert "yes" not in first
    assert "2024-02-29T10:00:00" in first
    assert "yes" in second
    assert "812.4" in second
    assert "rolled back" in second
    assert "pinned" in third


@given(st.floats() | st.integers() | st.none())
def test_every_number_has_a_figure(value: float | None) -> None:
    assert figure(value)
