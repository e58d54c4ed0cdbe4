"""What `correnteza evaluate` shows: figures by parts of the stream, and curves as PNG and as one HTML page.

Invariants:
- Every figure is one of `evaluation.metrics`; nothing is defined a second time here.
- A curve has at most `POINTS` points, however long the stream is.
- The page needs nothing from elsewhere: no script, no font, no network.
- matplotlib is an extra (`correnteza[plot]`); only `draw` imports it.
"""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from correnteza.features import Floats, Ints
from correnteza.offline import Result
from correnteza.records import as_batch
from correnteza.trainer.evaluation import Metrics, metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 2000
PARTS = 10
BASELINES = {"baseline_mae": "running mean", "last_value_mae": "last value"}
"""Fields of `Metrics` with the error of a naive prediction, and what that predicts."""
ERROR_DRIFT = "error_drift"
INPUT_DRIFTS = ("input_drift", "target_drift")
"""Kinds of the events that the learner tells drifts in."""
WINDOWS_PER_STREAM = 40
WINDOW_MIN, WINDOW_MAX = 20, 5000
LOG_FROM = 30.0
"""The error's axis is logarithmic when the largest error shown is so many times the model's median."""
LOG_REACH = 1e4
"""A logarithmic axis goes so many times above and below that median at most; what is beyond leaves the picture."""
SIZE_INCHES = (10.0, 5.8)
DPI = 160
MODEL, INK, FAINT, GRID, DRIFT = "#0072b2", "#30343b", "#6b7280", "#e3e6ea", "#aa3377"
LINES = {"baseline_mae": ("#d55e00", (0, (5, 2))), "last_value_mae": ("#007a5a", (0, (1.5, 1.5)))}
"""Colour (Okabe and Ito's, which the colour-blind tell apart) and dashes of each baseline."""
DRIFT_DASHES = (0, (4, 2))
DARK = {
    MODEL: "#5cb8f2",
    INK: "#e8eaed",
    FAINT: "#9aa3ae",
    GRID: "#363b42",
    DRIFT: "#e58fc0",
    "#d55e00": "#f0a050",
    "#007a5a": "#4fd1a5",
}
"""What each colour becomes on a dark page."""


@dataclass(frozen=True, slots=True)
class Part:
    """The metrics of the records from `first` to `last` (from 1, both included); None where none was predicted."""

    first: int
    last: int
    metrics: Metrics | None


@dataclass(frozen=True, slots=True)
class Curves:
    """Rolling metrics over a stream.

    Args:
        window: predicted records that each point is taken over.
        at: number of the record at each point, shape [points].
        errors: by field of `Metrics` (`mae` and those of `BASELINES`) the mean absolute error, in the target's unit.
        coverage: share of targets in their intervals, NaN where there were none, shape [points].
        versions: number of the last record that each model version was trained on.
        drifts: number of the record at which each rise of the error was found.
        input_drifts: number of the record at which each drift of a field or of the target was found.
    """

    window: int
    at: Ints
    errors: Mapping[str, Floats]
    coverage: Floats
    versions: Ints
    drifts: Ints
    input_drifts: Ints


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "drift"), counted(1200, "drift")
    ('1 drift', '1,200 drifts')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def parts(result: Result) -> list[Part]:
    """The metrics per tenth of the stream, and at last those of all of it."""
    rows = _batch(result)
    ends = [result.records * k // PARTS for k in range(PARTS + 1)]
    cuts = np.searchsorted(_reached(rows), ends, side="right")
    found = [
        Part(first + 1, last, metrics(rows.slice(low, high - low)))
        for first, last, low, high in zip(ends[:-1], ends[1:], cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        if last > first
    ]
    return [*found, Part(1, result.records, metrics(rows))]


def curves(result: Result) -> Curves:
    """The rolling metrics of a stream of which at least one record was predicted."""
    rows = _batch(result)
    window = _window(rows.num_rows)
    ends = np.unique(np.linspace(min(rows.num_rows, max(1, window // 4)), rows.num_rows, POINTS).astype(np.int64))
    points = [metrics(rows.slice(max(0, end - window), min(window, end))) for end in ends.tolist()]
    known = [point for point in points if point is not None]
    return Curves(
        window,
        _reached(rows)[ends - 1],
        {name: np.array([getattr(point, name) for point in known], float) for name in ("mae", *BASELINES)},
        np.array([math.nan if p.coverage is None else p.coverage for p in known]),
        _raw_offsets(rows, result.versions["last_offset"].to_pylist()),
        drifts(result, [ERROR_DRIFT]),
        drifts(result, INPUT_DRIFTS),
    )


def drifts(result: Result, kinds: Collection[str] = (ERROR_DRIFT, *INPUT_DRIFTS)) -> Ints:
    """Number of the record at which each drift was found, in their order.

    Args:
        result: of the run.
        kinds: of the events that count.
    """
    found = [json.loads(event["detail"]) for event in result.events.to_pylist() if event["kind"] in kinds]
    offsets = [detail.get("normalized_offset", detail.get("found", 1)) for detail in found]
    return np.sort(_raw_offsets(_batch(result), offsets))


def draw(shown: Curves, target: str, level: float, title: str = "", subtitle: str = "") -> Figure:
    """The figure: errors above, coverage below.

    Args:
        shown: what to draw.
        target: name of the target.
        level: of the intervals, between 0 and 1.
        title: what stands above.
        subtitle: what stands below that.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_errors(above, shown, target)
        _draw_coverage(below, shown, level)
        for axes in (above, below):
            for at in shown.drifts.tolist():
                axes.axvline(at, color=DRIFT, linewidth=1.2, linestyle=DRIFT_DASHES, zorder=1)
        size = min(12.5, 1100 / max(1, len(title)))  # a long name still fits
        above.set_title(title, loc="left", fontsize=size, fontweight="bold", pad=42 if title else 0)
        above.annotate(subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 26), textcoords="offset points", color=FAINT)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a picture on white."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI, facecolor="white")
    return target.getvalue()


def page(figure: Figure, title: str, facts: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The figure and a table as one HTML page, light or dark as the reader's system is.

    Args:
        figure: from `draw`, without a title of its own.
        title: of the page.
        facts: sentences below the title.
        headings: of the table.
        rows: its cells; the last row stands out.
    """
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    lines = "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)
    return _PAGE.format(
        title=html.escape(title),
        light=_variables({colour: colour for colour in DARK}),
        dark=_variables(DARK),
        facts=lines,
        svg=_svg(figure),
        head=head,
        body=body,
    )


def _draw_errors(axes: Axes, shown: Curves, target: str) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter

    for name, (colour, dashes) in LINES.items():
        axes.plot(shown.at, shown.errors[name], color=colour, linestyle=dashes, linewidth=1.4, label=BASELINES[name])
    axes.plot(shown.at, shown.errors["mae"], color=MODEL, linewidth=2, label="model")
    limits = _log_limits(shown)
    axes.set_ylim(*limits or (0, None))
    axes.set_yscale("log" if limits else "linear")
    _draw_marks(axes, shown)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"mean absolute error, in units of {target}\n(over {shown.window:,} records)")
    plain = FuncFormatter(lambda value, _: f"{value:,.6g}")
    axes.yaxis.set_major_formatter(EngFormatter() if axes.get_ylim()[1] >= 1e5 else plain)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place] != "model")
    axes.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(labels),
        frameon=False,
        borderaxespad=0.1,
        borderpad=0.2,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _draw_marks(axes: Axes, shown: Curves) -> None:
    """Ticks for versions at the bottom, and for drifts of the input at the top; drifts of the error for the legend."""
    common: dict[str, Any] = {"linestyle": "", "transform": axes.get_xaxis_transform()}
    count = len(shown.versions)
    alpha = min(1.0, max(0.25, 60 / max(1, count)))
    label = counted(count, "model version")
    axes.plot(shown.versions, np.full(count, 0.02), marker="|", markersize=7, color=INK, alpha=alpha, label=label, **common)
    if len(shown.drifts):
        axes.plot([], [], color=DRIFT, linewidth=1.2, linestyle=DRIFT_DASHES, label=counted(len(shown.drifts), "error drift"))
    if count := len(shown.input_drifts):
        label = counted(count, "input drift")
        axes.plot(shown.input_drifts, np.full(count, 0.98), marker="|", markersize=7, color=DRIFT, label=label, **common)


def _draw_coverage(axes: Axes, shown: Curves, level: float) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    axes.axhline(level, color=FAINT, linewidth=1.2, linestyle=(0, (5, 2)))
    axes.plot(shown.at, shown.coverage, color=MODEL, linewidth=1.6)
    known = shown.coverage[~np.isnan(shown.coverage)]
    lowest = min([level - 0.1, *np.quantile(known, [0.01]).tolist()] if len(known) else [level - 0.1])
    axes.set_ylim(max(0.0, lowest - 0.02), 1.005)
    axes.annotate(
        f"{level:.0%}\naimed at",
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=FAINT,
    )
    axes.set_ylabel("targets within\ntheir interval")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("record number")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(0, int(shown.at[-1]))


def _log_limits(shown: Curves) -> tuple[float, float] | None:
    """The ends of a logarithmic axis, where a linear one would press the model's curve to the ground; else None."""
    together = np.concatenate(list(shown.errors.values()))
    usual = float(np.median(shown.errors["mae"]))
    above = together[(together > 0) & np.isfinite(together)]
    if not len(above) or not 0 < usual < above.max() / LOG_FROM:
        return None
    return max(above.min() / 1.5, usual / LOG_REACH), min(above.max(), usual * LOG_REACH) * 1.5


def _svg(figure: Figure) -> str:
    """The figure as SVG for a page: no ground of its own, and colours that the page decides on."""
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "correnteza"}):
        figure.savefig(target, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = target.getvalue()
    for colour in DARK:
        text = text.replace(colour, f"var({_variable(colour)})")
    return text[text.index("<svg") :].replace("<svg", '<svg role="img" aria-label="rolling error and coverage"', 1)


def _variable(colour: str) -> str:
    return f"--c{colour[1:]}"


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"{_variable(name)}: {value};" for name, value in colours.items())


def _window(rows: int) -> int:
    """A round number of records, about a fortieth of all.

    >>> _window(17_379), _window(1_000_000), _window(100)
    (500, 5000, 20)
    """
    wanted = min(max(rows / WINDOWS_PER_STREAM, WINDOW_MIN), WINDOW_MAX)
    scale = 10 ** math.floor(math.log10(wanted))
    return int(scale * min((1, 2, 5, 10), key=lambda step: abs(step - wanted / scale)))


def _raw_offsets(rows: pa.RecordBatch, normalized: Sequence[int]) -> Ints:
    """Raw offsets of rows of `normalized`: exact for those that were predicted, else between their neighbours'."""
    known = _ints(rows, "normalized_offset")
    if not len(known):
        return np.array(normalized, np.int64)
    raw = _reached(rows)
    wanted = np.array(normalized, np.float64)
    before = wanted + (raw[0] - known[0])
    return np.where(wanted < known[0], np.maximum(before, 1), np.interp(wanted, known, raw)).astype(np.int64)


def _reached(rows: pa.RecordBatch) -> Ints:
    """How far the stream had come at each row: its raw offset, or that of an earlier row where records came late."""
    reached: Ints = np.maximum.accumulate(_ints(rows, "raw_offset"))
    return reached


def _batch(result: Result) -> pa.RecordBatch:
    return as_batch(result.evaluations, result.evaluations.schema)


def _ints(rows: pa.RecordBatch, name: str) -> Ints:
    values: Ints = rows[name].to_numpy()
    return values


_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.solid_capstyle": "round",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #ffffff; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #16181c; {dark} }} }}
body {{ margin: 2rem auto; max-width: 75rem; padding: 0 1.5rem; background: var(--ground); color: var(--c30343b);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .5rem; }}
p {{ margin: .1rem 0; }}
svg {{ width: 100%; height: auto; margin: 1.5rem 0; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--ce3e6ea); white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
tr:last-child td {{ font-weight: 600; border-bottom: none; }}
</style>
</head>
<body>
<h1>{title}</h1>
{facts}
{svg}
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
</body>
</html>
"""
