"""HTML as text: what the pages put into their regions.

Invariant: every text that comes from outside, as names and reasons in records, passes `escape`; records may hold
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as _escape
from typing import Any


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def escape(value: Any) -> Html:
    """A text as HTML; HTML as it is.

    >>> escape("<b>"), escape(Html("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return value if isinstance(value, Html) else Html(_escape(str(value)))


def tag(name: str, *content: Any, **attributes: Any) -> Html:
    """An element; an attribute that is None is left out, `_` in its name stands for `-`, `cls` for `class`.

    >>> tag("b", "a < b", cls="note", title=None)
    '<b class="note">a &lt; b</b>'
    """
    names = ((("class" if key == "cls" else key.rstrip("_").replace("_", "-")), v) for key, v in attributes.items())
    written = "".join(f' {key}="{_escape(str(value))}"' for key, value in names if value is not None)
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """Parts in a row."""
    return Html("".join(escape(part) for part in parts))


def pill(text: str, tone: str = "") -> Html:
    """A short word on a coloured ground; the tone is `good`, `warn`, `bad` or nothing."""
    return tag("span", text, cls=f"pill {tone}".strip())


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()) -> Html:
    """A table with a caption for screen readers; the first cell of a row is its heading.

    Args:
        caption: what it shows.
        headings: of the columns.
        rows: cells.
        numeric: columns (from 0) that hold numbers.
    """
    right = set(numeric)
    classes = ["num" if column in right else None for column in range(len(headings))]
    head = join(tag("th", text, scope="col", cls=cls) for text, cls in zip(headings, classes, strict=True))
    body = join(tag("tr", *(_cell(place, cell, classes) for place, cell in enumerate(row))) for row in rows)
    return tag("table", tag("caption", caption, cls="away"), tag("thead", tag("tr", head)), tag("tbody", body))


def _cell(place: int, cell: Any, classes: Sequence[str | None]) -> Html:
    return tag("td", cell, cls=classes[place]) if place else tag("th", cell, scope="row", cls=classes[place])


def line(values: Sequence[float | None], label: str, width: int = 120, height: int = 28) -> Html:
    """A sparkline from 0 upwards; gaps where nothing is known.

    Args:
        values: oldest first.
        label: what it shows, for those who do not see it.
        width: of the drawing, in its own units.
        height: likewise.
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    step = width / max(1, len(values) - 1)
    paths: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            paths.append([])
        else:
            paths[-1].append(f"{place * step:.1f},{height - 2 - (height - 4) * value / top:.1f}")
    drawn = join(Html(f'<polyline points="{" ".join(points)}"/>') for points in paths if len(points) > 1)
    return tag(
        "svg", drawn, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", role="img", aria_label=label, cls="spark"
    )


def bars(counts: Sequence[Sequence[float]], label: str, width: int = 240, height: int = 72) -> Html:
    """Histograms over the same bins, one behind the other, on one scale.

    Args:
        counts: for each histogram its bars, the one in the background first.
        label: what it shows, for those who do not see it.
        width: of the drawing, in its own units.
        height: likewise.
    """
    drawn = []
    top = max((value for heights in counts for value in heights), default=0.0) or 1.0
    for place, heights in enumerate(counts):
        step = width / max(1, len(heights))
        for column, value in enumerate(heights):
            tall = height * value / top
            drawn.append(
                Html(
                    f'<rect class="b{place}" x="{column * step + 0.5:.1f}" y="{height - tall:.1f}" '
                    f'width="{max(0.5, step - 1):.1f}" height="{tall:.1f}"/>'
                )
            )
    return tag(
        "svg", *drawn, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", role="img", aria_label=label, cls="bars"
    )
