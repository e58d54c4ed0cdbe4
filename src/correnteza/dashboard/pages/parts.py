"""Parts that several pages show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from correnteza.dashboard import charts
from correnteza.dashboard.feeds import CURVES, EVALUATION, EVENTS, Feed
from correnteza.dashboard.layout import View
from correnteza.dashboard.markup import Html, bars, join, tag
from correnteza.dashboard.words import part


def tail_of(view: View, feed: Feed) -> Sequence[dict[str, Any]]:
    """The rows that a tail has."""
    tail = view.value(feed)
    return tail.rows if tail is not None else ()


def error_chart(view: View, reach: Callable[[], int], cls: str = "") -> None:
    """The rolling error over the last rows; `reach` says how many."""
    words, unit = view.words, view.settings.schema_of_records.target

    def made() -> dict[str, Any]:
        return charts.error_chart(words, unit, view.value(CURVES[reach()]) or (), tail_of(view, EVENTS["trainer"]))

    def said() -> str:
        rolling = part(view.value(EVALUATION), "rolling")
        values = {name: words.number(part(rolling, key), unit) for name, key in (("mae", "mae"), ("baseline", "baseline_mae"))}
        return words("said_error", **values)

    view.chart(made, said, cls)


def strips(rows: Sequence[tuple[str, float, str]]) -> Html:
    """Horizontal bars with their names and values; a negative one goes to the left.

    Args:
        rows: name, size and the size in words.
    """
    top = max((abs(size) for _, size, _ in rows), default=0.0) or 1.0
    both = any(size < 0 for _, size, _ in rows)
    return tag("dl", *(_strip(name, size / top, said, both) for name, size, said in rows), cls="strips")


def _strip(name: str, share: float, said: str, both: bool) -> Html:
    wide = 100 * abs(share) / (2 if both else 1)
    left = (50 - (wide if share < 0 else 0)) if both else 0
    bar = Html(f'<i class="{"less" if share < 0 else "more"}" style="left:{left:.1f}%;width:{wide:.1f}%"></i>')
    return tag("div", tag("dt", name), tag("dd", tag("span", bar, cls="bar"), tag("span", said, cls="said")))


def drawn(counts: Sequence[Sequence[float]], label: str, ends: tuple[str, str, str]) -> Html:
    """Bars with what stands at their left, middle and right."""
    return join([bars(counts, label), tag("div", *(tag("span", end) for end in ends), cls="ends")])
