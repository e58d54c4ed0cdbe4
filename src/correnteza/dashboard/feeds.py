"""What the pages are made of: calls of the public API, each with how often it is worth repeating.

Invariant: everything that a page shows comes from `correnteza.client.Client`, so a user can get it, too; and every
call is bounded in rows, however long the stream has run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from correnteza.client import Client
from correnteza.errors import InputError, OffsetRemovedError

SERVICES = ("generator", "normalizer", "trainer", "consumer")
"""The services that are shown, in the way of the data."""
POINTS = 500
"""Points of a line in a chart."""
NOTABLE_EVENTS = 200
EVENTS_BACK = 2000
STORY_VERSIONS = 20
RECENT_ROWS = 400
"""Evaluated rows in the scatter and the histogram."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Something that is asked of a service again and again.

    Args:
        name: distinguishes it from all others.
        service: who is asked; a service is asked one thing at a time.
        ask: the call, given its last answer, which is None at first; what it raises is shown beside that.
        every_s: seconds between two calls.
        lasting: whether the last answer is still shown when a call fails.
    """

    name: str
    service: str
    ask: Callable[[Client, Any], Any] = field(compare=False)
    every_s: float = 1.0
    lasting: bool = True


def status(service: str) -> Feed:
    """`GET /status` of a service."""
    return Feed(f"status {service}", service, lambda client, _: client.status(service), lasting=False)


STATUS = {service: status(service) for service in SERVICES}
EVALUATION = Feed("evaluation", "trainer", lambda client, _: client.evaluation())
MODELS = Feed("models", "trainer", lambda client, _: client.models())
STORY = Feed("story", "trainer", lambda client, _: client.history(STORY_VERSIONS), every_s=2.0)
RATES = {
    "generator": Feed("rate", "generator", lambda client, _: client.rate("generator")),
    "consumer": Feed("rate", "consumer", lambda client, _: client.rate("consumer")),
}


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log.

    Args:
        rows: the last ones, oldest first.
        cursor: behind the last one.
    """

    rows: tuple[dict[str, Any], ...]
    cursor: str


def tail(service: str, log: str, rows: int, keep: Callable[[dict[str, Any]], bool] = lambda _: True, look: int = 0) -> Feed:
    """The last rows of a log; after the first look only what is new is asked for.

    Args:
        service: whose log.
        log: its path.
        rows: how many are kept.
        keep: which ones.
        look: how far back the first look goes, in rows; 0 for as many as are kept.
    """
    most = look or rows

    def ask(client: Client, before: Tail | None) -> Tail:
        if before is not None:
            try:
                page = client.page(service, before.cursor, most, log=log)
            except (InputError, OffsetRemovedError):  # another log than before, or far behind: begin anew
                before = None
        if before is None or len(page.records) == most:
            before, page = None, client.page(service, "latest", most, log=log, back=most)
        old = before.rows if before else ()
        return Tail((*old, *(row for row in page.records if keep(row)))[-rows:], page.next)

    return Feed(f"tail {service} {log} {rows}", service, ask)


ROUTINE = frozenset({"model_version", "model_challenger", "scaler_version", "waiting_began", "waiting_ended"})
"""Kinds of events that come every few seconds or at every start; the registry and the state of a service tell them."""


def is_notable(event: dict[str, Any]) -> bool:
    """Whether an event is more than routine."""
    return event["kind"] not in ROUTINE


EVENTS = {service: tail(service, "events", NOTABLE_EVENTS, is_notable, EVENTS_BACK) for service in SERVICES}
PROMOTED = tail("trainer", "promotions", 1)
EVALUATED = tail("trainer", "evaluations", RECENT_ROWS)


def curve(block_rows: int) -> Feed:
    """The errors over time, in blocks of so many rows; of those known already only the last is asked for again."""

    def ask(client: Client, before: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...]:
        known = tuple(block for block in before or () if block["last_offset"] % block_rows == 0)
        behind = known[-1]["last_offset"] if known else 0
        fresh = client.curve(block_rows, POINTS, behind)
        follows = not fresh or fresh[0]["first_offset"] == behind + 1
        return (*(known if follows else ()), *fresh)[-POINTS:]

    return Feed(f"curve {block_rows}", "trainer", ask)


CURVES = {block_rows * POINTS: curve(block_rows) for block_rows in (10, 100, 500)}
"""By the rows that they reach back."""
