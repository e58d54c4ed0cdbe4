"""What `correnteza run` and `correnteza status` show: one row per service, made from its `GET /status`.

Invariant: everything here but `ask` is a pure function of answers already received; an answer that
lacks a value shows a dash, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from correnteza.errors import CorrentezaError

if TYPE_CHECKING:
    from rich.table import Table

    from correnteza.client import Client

DASH = "-"
WARNING_COLOUR = "yellow"
STATE_COLOURS = {"ready": "green", "running": "green", "starting": "cyan", "stopped": "dim", "down": "red", "restarting": "red"}


@dataclass(frozen=True, slots=True)
class Row:
    """One service at one moment; None is not known, or does not apply.

    Args:
        service: its name.
        url: its address.
        state: `ready`, else what the service or its supervisor says: `starting`, `waiting`, `restarting`, `down`.
        reason: why it is not ready.
        rows: rows ever appended to its main log.
        rows_per_s: rows per second through it, lately.
        lag_rows: rows upstream that it has not read.
        lag_s: seconds since it was level with its upstream log.
        restarts: how often the supervisor has started it again.
        model_version: the version in service (trainer), or that gave the last answer (consumer).
        mae: rolling mean absolute error, in the unit of the target.
        answers: predictions received so far (consumer).
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


def row(service: str, url: str, status: Mapping[str, Any] | None, restarts: int = 0, state: str = "") -> Row:
    """A row from a service's status.

    Args:
        service: its name.
        url: its address.
        status: what it answered; None when it did not.
        restarts: how often it was started again.
        state: what the supervisor knows of one that does not answer.

    >>> row("consumer", "http://x", {"ready": True, "rolling_mae": 3.5, "logs": {"records": {"next_offset": 8}}}).rows
    7
    """
    if status is None:
        return Row(service, url, "starting" if state == "running" else state or "down", restarts=restarts)
    rolling = _part(status, "rolling")
    next_offset = _number(_part(_part(status, "logs"), "records").get("next_offset"))
    return Row(
        service,
        url,
        state="ready" if status.get("ready") is True else str(status.get("state") or "running"),
        reason=str(status.get("reason") or ""),
        rows=None if next_offset is None else max(0, int(next_offset) - 1),
        rows_per_s=_number(status.get("rows_per_s")),
        lag_rows=_whole(status.get("lag_rows")),
        lag_s=_number(status.get("lag_s")),
        restarts=restarts,
        model_version=_whole(status.get("model_version")),
        mae=_number(rolling.get("mae", status.get("rolling_mae"))),
        answers=_whole(status.get("answers")),
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


def render(rows: Sequence[Row], notes: Sequence[str] = (), title: str = "") -> Table:
    """The live table; notes stand under it.

    Args:
        rows: one per service, in their order.
        notes: warnings and crashes, oldest first.
        title: what stands above.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", caption_justify="left")
    table.add_column("service")
    table.add_column("state")
    for heading in ("rows", "rows/s", "lag rows", "lag s", "model", "MAE", "restarts"):
        table.add_column(heading, justify="right")
    table.add_column("address", overflow="fold")
    for entry in rows:
        table.add_row(*_cells(entry))
    if notes:
        table.caption = "\n".join(f"[{WARNING_COLOUR}]{escape(note)}[/]" for note in notes)
    return table


def _cells(entry: Row) -> list[str]:
    from rich.markup import escape

    colour = STATE_COLOURS.get(entry.state, WARNING_COLOUR)
    state = f"[{colour}]{escape(entry.state)}[/]" + (f" [dim]{escape(_short(entry.reason))}[/]" if entry.reason else "")
    return [
        entry.service,
        state,
        figure(entry.rows),
        figure(entry.rows_per_s),
        figure(entry.lag_rows),
        figure(entry.lag_s),
        figure(entry.model_version),
        figure(entry.mae),
        f"[red]{entry.restarts}[/]" if entry.restarts else "0",
        f"{entry.url}/docs",
    ]


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


def _part(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = status.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
