"""What the pages are made of: calls of the public API, each with how often it is worth repeating.

Invariant: everything that a page shows comes from `correnteza.client.Client`, so a user can get it, too; and every
call is bounded in rows, however long the stream has run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from correnteza.client import Client

SERVICES = ("generator", "normalizer", "trainer", "consumer")
"""The services that are shown, in the way of the data."""
RECENT_EVENTS = 100
RECENT_ROWS = 400
"""Evaluated rows in the scatter and the histogram."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Something that is asked of a service again and again.

    Args:
        name: distinguishes it from all others.
        service: who is asked; a service is asked one thing at a time.
        ask: the call; whatever it raises is shown instead of its answer.
        every_s: seconds between two calls.
        lasting: whether the last answer is still shown when a call fails.
    """

    name: str
    service: str
    ask: Callable[[Client], Any] = field(compare=False)
    every_s: float = 1.0
    lasting: bool = True


def status(service: str) -> Feed:
    """`GET /status` of a service."""
    return Feed(f"status {service}", service, lambda client: client.status(service), lasting=False)


STATUS = {service: status(service) for service in SERVICES}
EVALUATION = Feed("evaluation", "trainer", lambda client: client.evaluation())
MODELS = Feed("models", "trainer", lambda client: client.models())
STORY = Feed("story", "trainer", lambda client: client.history(30), every_s=2.0)
RATES = {
    service: Feed(f"rate {service}", service, partial(Client.rate, service=service)) for service in ("generator", "consumer")
}


def tail(service: str, log: str, rows: int, every_s: float = 1.0) -> Feed:
    """The last rows of a log, oldest first."""
    return Feed(
        f"tail {service} {log} {rows}",
        service,
        lambda client: client.page(service, "latest", rows, log=log, back=rows).records,
        every_s,
    )


EVENTS = {service: tail(service, "events", RECENT_EVENTS, 1.0) for service in SERVICES}
EVALUATED = tail("trainer", "evaluations", RECENT_ROWS)
