"""What ECharts is told: pure functions from answers of the API to its options.

Invariant: a chart has at most `POINTS` points per line and `MOST_MARKS` marks. Colours are named as in the style sheet
and looked up by the browser, so they follow its light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from correnteza.dashboard.feeds import POINTS
from correnteza.dashboard.words import Words

ROLLED_BLOCKS = 10
"""Blocks in the rolling mean of the error."""
LEAST_ROWS = 30
"""Rows of the challenger from which on its line is drawn."""
MOST_MARKS = 40
MARKED = {"error_drift": "warn", "target_drift": "warn", "input_drift": "warn", "model_rolled_back": "bad"}
"""Kinds of events that are marked, and in which colour."""

NARROW_PX = 480
_MEDIA = [
    {"query": {"maxWidth": NARROW_PX}, "option": {"grid": {"top": 84}}},
    {"option": {"grid": {"top": 56}}},
]
"""In a narrow window the legend takes two lines."""

Blocks = Sequence[Mapping[str, Any]]
Events = Sequence[Mapping[str, Any]]


def rolling(blocks: Blocks, figure: str, rows: str, least: int = 1) -> list[float | None]:
    """A figure over the last `ROLLED_BLOCKS` blocks, weighted by their rows; None where there are fewer than `least`.

    >>> rolling([{"mae": 1.0, "rows": 1}, {"mae": 4.0, "rows": 2}, {"mae": None, "rows": 0}], "mae", "rows")
    [1.0, 3.0, 3.0]
    """
    weights = [0, *accumulate(block[rows] if block[figure] is not None else 0 for block in blocks)]
    sums = [0.0, *accumulate((block[figure] or 0.0) * block[rows] for block in blocks)]
    found: list[float | None] = []
    for end in range(1, len(blocks) + 1):
        start = max(0, end - ROLLED_BLOCKS)
        weight = weights[end] - weights[start]
        found.append((sums[end] - sums[start]) / weight if weight >= least else None)
    return found


def error_chart(words: Words, unit: str, blocks: Blocks, events: Events) -> dict[str, Any]:
    """Rolling error of champion, challenger and the naive baseline, with marks where versions changed and drifts were found.

    Args:
        words: the reader's language.
        unit: of the target.
        blocks: as `GET /evaluation/history` has them.
        events: of the trainer.
    """
    at = [block["last_offset"] for block in blocks]
    skip = _skipped(blocks)
    champion, baseline = rolling(blocks, "mae", "rows"), rolling(blocks, "baseline_mae", "rows")
    beside = rolling(blocks, "challenger_mae", "challenger_rows", LEAST_ROWS)
    challenger = [value if block["challenger_rows"] else None for value, block in zip(beside, blocks, strict=True)]
    lines = [
        _line(words("champion"), at[skip:], champion[skip:], "--accent", width=2.5),
        _line(words("challenger"), at[skip:], challenger[skip:], "--warn", width=1.5),
        _line(words("baseline"), at[skip:], baseline[skip:], "--quiet", width=1.5, dashed=True),
        _versions(words("version_change"), blocks),
    ]
    lines[0]["markLine"] = {"symbol": "none", "silent": True, "animation": False, "data": _marks(words, blocks, events)}
    options = _frame(words, words("offset_axis"), f"{words('mae')} ({unit})", at[skip:])
    return {**options, "legend": _legend(), "media": _MEDIA, "series": lines}


def _skipped(blocks: Blocks) -> int:
    """Points at the beginning whose rolling mean lacks the blocks before, where there were such."""
    return ROLLED_BLOCKS - 1 if len(blocks) == POINTS else 0


def coverage_chart(words: Words, level: float | None, blocks: Blocks) -> dict[str, Any]:
    """The share of the targets inside their interval, over time, and what it should be."""
    at = [block["last_offset"] for block in blocks][_skipped(blocks) :]
    share = [None if value is None else 100 * value for value in rolling(blocks, "coverage", "rows")][_skipped(blocks) :]
    line = _line(words("coverage"), at, share, "--accent", width=2)
    if level is not None:
        wanted = {"yAxis": 100 * level, "label": {"show": False}, "lineStyle": {"type": "dashed", ":color": _colour("--quiet")}}
        line["markLine"] = {"symbol": "none", "silent": True, "animation": False, "data": [wanted]}
    options = _frame(words, words("offset_axis"), f"{words('coverage')} (%)", at)
    options["yAxis"].update(scale=True)
    return {**options, "series": [line]}


def scatter(words: Words, unit: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Predicted against true, and the line where both are the same."""
    points = [[float(f"{row[name]:.5g}") for name in ("target", "prediction")] for row in rows if row["target"] is not None]
    values = [value for point in points for value in point] or [0.0, 1.0]
    ends = [min(values), max(values)]
    options = _frame(words, f"{words('true')} ({unit})", f"{words('predicted')} ({unit})", ends)
    options["yAxis"].update(scale=True)
    same = {**_line("", ends, ends, "--quiet", width=1, dashed=True), "silent": True}
    dots = {
        "type": "scatter",
        "data": points,
        "symbolSize": 5,
        "itemStyle": {":color": _colour("--accent"), "opacity": 0.45},
        "animation": False,
    }
    return {**options, "series": [dots, same]}


def _frame(words: Words, across: str, up: str, at: Sequence[float]) -> dict[str, Any]:
    muted = {":color": _colour("--muted")}
    axis: dict[str, Any] = {
        "type": "value",
        "nameTextStyle": muted,
        "axisLabel": {**muted, "hideOverlap": True, ":formatter": f"value => value.toLocaleString('{words.code}')"},
    }
    grid = {"splitLine": {"lineStyle": {":color": _colour("--line")}}}
    ends = {"min": at[0], "max": max(at[-1], at[0] + 1)} if at else {}
    bottom = {**axis, "name": across, "nameLocation": "middle", "nameGap": 28, "splitLine": {"show": False}, **ends}
    bottom["axisLabel"] = {**axis["axisLabel"], "showMinLabel": False, "showMaxLabel": False}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 28, "bottom": 32, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True, ":valueFormatter": _rounded(words)},
        "xAxis": bottom,
        "yAxis": {**axis, **grid, "name": up, "nameTextStyle": {**muted, "align": "left"}},
    }


def _line(
    name: str, at: Sequence[float], values: Sequence[float | None], colour: str, width: float, dashed: bool = False
) -> dict[str, Any]:
    style = {"width": width, ":color": _colour(colour), "type": "dashed" if dashed else "solid"}
    points = [[x, _short(y)] for x, y in zip(at, values, strict=True)]
    own = {":color": _colour(colour)}
    return {"type": "line", "name": name, "showSymbol": False, "data": points, "lineStyle": style, "itemStyle": own}


def _versions(name: str, blocks: Blocks) -> dict[str, Any]:
    """A tick on the axis wherever another version came into service."""
    changed = [b for a, b in pairwise(blocks) if a["model_version"] != b["model_version"]]
    ticks = [{"value": [b["first_offset"], 0], "name": f"{b['model_version']}"} for b in changed]
    style = {":color": _colour("--good")}
    return {
        "type": "scatter",
        "name": name,
        "symbol": "rect",
        "symbolSize": [2, 10],
        "symbolOffset": [0, -5],
        "data": ticks,
        "itemStyle": style,
        "silent": True,
    }


def _marks(words: Words, blocks: Blocks, events: Events) -> list[dict[str, Any]]:
    """Where drifts were found and versions were rolled back."""
    marks = []
    for event in events:
        place = _place(blocks, event)
        if event["kind"] in MARKED and place is not None:
            colour = {":color": _colour(f"--{MARKED[event['kind']]}")}
            label = {"formatter": words(f"mark_{event['kind']}"), "position": "insideEndTop", **colour}
            marks.append({"xAxis": place, "label": label, "lineStyle": {"width": 1.5, **colour}})
    return marks[-MOST_MARKS:]


def _place(blocks: Blocks, event: Mapping[str, Any]) -> int | None:
    """The offset of an event in `evaluations`; None where it lies outside of the blocks, or nothing says where."""
    try:
        row = json.loads(event["detail"]).get("normalized_offset")
    except (TypeError, ValueError, AttributeError):
        return None
    if not blocks or not isinstance(row, int) or row < blocks[0]["normalized_offset"]:
        return None
    return next((block["last_offset"] for block in blocks if block["normalized_offset"] >= row), None)


def _legend() -> dict[str, Any]:
    return {
        "top": 0,
        "left": 0,
        "itemWidth": 18,
        "itemHeight": 8,
        "textStyle": {":color": _colour("--muted")},
    }


def _rounded(words: Words) -> str:
    return f"value => value == null ? '-' : Number(value).toLocaleString('{words.code}', {{maximumSignificantDigits: 4}})"


def _colour(name: str) -> str:
    """An expression that the browser turns into the colour."""
    return f"getComputedStyle(document.body).getPropertyValue('{name}').trim()"


def _short(value: float | None) -> float | None:
    """Five digits are more than a screen shows, and a third of the bytes."""
    return None if value is None else float(f"{value:.5g}")
