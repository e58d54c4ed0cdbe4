"""What `correnteza run` and `correnteza status` show: one row per service, made from its `GET /status`.

Invariant: everything here but `ask` is a pure function of answers already received; an answer that
lacks a value shows a dash, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from correnteza.errors import CorrentezaError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from correnteza.client import Client

DASH = "-"
PAGES = "dashboard"
"""The service whose address is for people."""
MODEL_COLUMNS: Mapping[str, Literal["left", "right"]] = {
    "version": "right",
    "in service": "left",
    "decision": "left",
    "rows": "right",
    "train s": "right",
    "MAE": "right",
    "created": "left",
    "reason": "left",
}
WARNING_COLOUR = "yellow"
BAR_WIDTH = 10
STATE_COLOURS = {"ready": "green", "running": "green", "starting": "cyan", "stopped": "dim"} | dict.fromkeys(
    ("down", "silent", "restarting", "failed"), "red"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One service at one moment; None is not known, or does not apply.

    Args:
        service: its name.
        url: its address.
        state: `ready`, else what the service or its supervisor says: `starting`, `waiting`, `restarting`, `down`.
        reason: why it is not ready.
        rows: rows that it has learned from, or else rows ever appended to its main log.
        rows_per_s: rows per second through it, lately.
        lag_rows: rows upstream that it has not read.
        lag_s: seconds since it was level with its upstream log.
        restarts: how often the supervisor has started it again.
        model_version: the version in service (trainer), or that gave the last answer (consumer).
        mae: rolling mean absolute error, in the unit of the target.
        answers: predictions received so far (consumer).
        backfill: how much of the log was read again, from 0 to 1, where everything is made anew (normalizer).
    """

    service: str
    url: str
    state: str = "down"
    reason: str = ""
    rows: int | None = None
    rows_per_s: float | None = None
    lag_rows: int | None = None
    lag_s: float | None = None
    restarts: int = 0
    model_version: int | None = None
    mae: float | None = None
    answers: int | None = None
    backfill: float | None = None


def row(service: str, url: str, status: Mapping[str, Any] | None, restarts: int = 0, state: str = "") -> Row:
    """A row from a service's status.

    Args:
        service: its name.
        url: its address.
        status: what it answered; None when it did not.
        restarts: how often it was started again.
        state: what to call one that does not answer; `down` by default.

    >>> row("consumer", "http://x", {"ready": True, "rolling_mae": 3.5, "logs": {"records": {"next_offset": 8}}}).rows
    7
    """
    if status is None:
        return Row(service, url, state or "down", restarts=restarts)
    rolling = _part(status, "rolling")
    next_offset = _number(_part(_part(status, "logs"), "records").get("next_offset"))
    return Row(
        service,
        url,
        state=_state(status),
        reason=str(status.get("reason") or ""),
        rows=_whole(status.get("learned_rows", None if next_offset is None else int(next_offset) - 1)),
        rows_per_s=_number(status.get("rows_per_s")),
        lag_rows=_whole(status.get("lag_rows")),
        lag_s=_number(status.get("lag_s")),
        restarts=restarts,
        model_version=_whole(status.get("model_version")),
        mae=_number(rolling.get("mae", status.get("rolling_mae"))),
        answers=_whole(status.get("answers")),
        backfill=_number(_part(status, "lineage").get("backfill")),
    )


def ask(client: Client, services: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """The status of each service; None for one that does not answer."""
    answers: dict[str, dict[str, Any] | None] = {}
    for service in services:
        try:
            answers[service] = client.status(service)
        except CorrentezaError:
            answers[service] = None
    return answers


def render(rows: Sequence[Row], notes: Sequence[str] = (), title: str = "") -> Group:
    """The live table; it fits a terminal of 80 columns.

    Args:
        rows: one per service, in their order.
        notes: warnings and crashes, oldest first; they stand at the end.
        title: what stands above.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(title, style="bold"), Text()] if title else []
    column = max((len(f"{entry.url}/docs") for entry in rows), default=0)
    parts += [_figures(rows), Text(), *(_address(entry, column) for entry in rows)]
    if notes:
        parts += [Text(), *(Text(note, style=WARNING_COLOUR, no_wrap=True, overflow="ellipsis") for note in notes)]
    return Group(*parts)


def _figures(rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("service", no_wrap=True)
    table.add_column("state", no_wrap=True, max_width=10)
    for heading in ("rows", "rows/s", "lag rows", "lag s", "model", "MAE", "restarts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in rows:
        values = (entry.rows, entry.rows_per_s, entry.lag_rows, entry.lag_s, entry.model_version, entry.mae, entry.restarts)
        colour = STATE_COLOURS.get(entry.state, WARNING_COLOUR)
        table.add_row(entry.service, Text(entry.state, style=colour), *(figure(value) for value in values))
    return table


def _address(entry: Row, column: int) -> Text:
    """Where to look closer, and why the service is not ready."""
    from rich.text import Text

    line = Text(
        f"{entry.service:<10} {entry.url + ('' if entry.service == PAGES else '/docs'):<{column}} ",
        no_wrap=True,
        overflow="ellipsis",
    )
    if entry.backfill is not None and entry.backfill < 1:
        line.append(f"{bar(entry.backfill)} ", style=WARNING_COLOUR)
    return line.append(entry.reason.replace("\n", " "), style="dim")


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar.

    >>> bar(0.42)
    '████░░░░░░'
    """
    done = int(min(max(share, 0.0), 1.0) * BAR_WIDTH)
    return "█" * done + "░" * (BAR_WIDTH - done)


def figure(value: float | None) -> str:
    """A number as people read it: thousands parted, few digits behind the point.

    >>> figure(1234567), figure(98.76), figure(1234.5), figure(0.04567), figure(None)
    ('1,234,567', '98.8', '1,234', '0.0457', '-')
    """
    if value is None:
        return DASH
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def models(versions: Sequence[Mapping[str, Any]]) -> Table:
    """The model versions, as the trainer's `GET /models` lists them; MAE is that at the promotion."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in MODEL_COLUMNS.items():
        table.add_column(heading, justify=justify)
    for entry in versions:
        service = "pinned" if entry.get("pinned") else "yes" if entry.get("in_service") else ""
        numbers = (_number(entry.get("rows")), _number(entry.get("train_s")), _number(_part(entry, "evaluation").get("mae")))
        texts = (str(entry.get("created_at") or "")[:19], str(entry.get("reason") or ""))
        decision = str(entry.get("decision") or "").replace("_", " ")
        table.add_row(
            str(entry.get("version")), service, decision, *(figure(n) for n in numbers), *(Text(text) for text in texts)
        )
    return table


@dataclass(frozen=True, slots=True)
class Change:
    """Something worth a log line that two looks at a service differ in: `ready`, `first_prediction`, `model_version`."""

    service: str
    kind: str
    detail: Mapping[str, Any]


def changes(before: Row | None, now: Row) -> list[Change]:
    """What is new about a service since the look before.

    >>> old, new = Row("trainer", "http://x", "starting"), Row("trainer", "http://x", "ready", model_version=1)
    >>> [change.kind for change in changes(old, new)]
    ['ready', 'model_version']
    """
    found: list[Change] = []
    if now.state == "ready" and (before is None or before.state != "ready"):
        found.append(Change(now.service, "ready", {"address": now.url}))
    if now.service == "trainer" and now.model_version and (before is None or before.model_version != now.model_version):
        found.append(Change(now.service, "model_version", {"model_version": now.model_version, "mae": now.mae}))
    if now.answers and (before is None or not before.answers):
        found.append(Change(now.service, "first_prediction", {"answers": now.answers, "model_version": now.model_version}))
    return found


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """All services in one log line: `generator="100 rows/s, lag 0"`."""
    return {entry.service: _sentence(entry) for entry in rows}


def _sentence(entry: Row) -> str:
    parts = [entry.state if entry.state != "ready" else ""]
    parts.append(f"{figure(entry.rows_per_s)} rows/s" if entry.rows_per_s is not None else "")
    parts.append(f"lag {figure(entry.lag_rows)} rows" if entry.lag_rows is not None else "")
    parts.append(f"model {entry.model_version}" if entry.model_version else "")
    parts.append(f"MAE {figure(entry.mae)}" if entry.mae is not None else "")
    return ", ".join(part for part in parts if part) or DASH


def _state(status: Mapping[str, Any]) -> str:
    """`ready` for one that is ready and at work; else what it says of its stages."""
    own = str(status.get("state") or "running")
    return "ready" if own == "running" and status.get("ready") is True else own


def _part(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = status.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
