"""Reads the services' metrics as anybody may, and makes readings of them.

Invariant: nothing that a service answers, or does not, raises; a service whose answer is not metrics is silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import requests
from prometheus_client.parser import text_string_to_metric_families

from correnteza.alerts.state import Labels, Look, Reading
from correnteza.metrics import UP

COUNTED = ("counter", "histogram")
"""Kinds whose values only grow; what is read of them is their growth per second."""
Series = tuple[str, Labels]
Fetch = Callable[[str], str]
"""The text behind an address; raises OSError or ValueError."""


class Scraper:
    """Looks at services.

    Args:
        urls: address of each service, by its name.
        fetch: reads an address.
        clock: monotonic time in seconds.
    """

    def __init__(self, urls: Mapping[str, str], fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = urls
        self._fetch = fetch
        self._clock = clock
        self._before: dict[str, tuple[float, dict[Series, float]]] = {}

    def look(self) -> Look:
        """What the services say now."""
        readings: list[Reading] = []
        silent: set[str] = set()
        for service, url in self._urls.items():
            try:
                readings += self._of(service, self._fetch(f"{url}/metrics"))
            except (OSError, ValueError):
                silent.add(service)
            readings.append(Reading(service, UP, (), float(service not in silent)))
        return Look(readings, frozenset(silent))

    def _of(self, service: str, text: str) -> list[Reading]:
        now, counted, found = self._clock(), dict[Series, float](), list[Reading]()
        for kind, name, labels, value in _samples(text):
            if kind in COUNTED:
                counted[name, labels] = value
            else:
                found.append(Reading(service, name, labels, value))
        before_s, before = self._before.get(service, (now, {}))
        self._before[service] = now, counted
        for (name, labels), value in counted.items():
            if (name, labels) in before and now > before_s:
                grown = value - before[name, labels]
                grown = value if grown < 0 else grown  # it began anew
                found.append(Reading(service, name, labels, grown / (now - before_s)))
        return found


def _samples(text: str) -> Iterator[tuple[str, str, Labels, float]]:
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if not one.name.endswith("_bucket"):
                yield family.type, one.name, tuple(sorted(one.labels.items())), one.value


def http_fetch(timeout_s: float) -> Fetch:
    """Reads over HTTP, on connections that are kept.

    Args:
        timeout_s: how long a service may take.
    """
    session = requests.Session()
    session.trust_env = False  # our own services are not behind a proxy

    def fetch(url: str) -> str:
        answer = session.get(url, timeout=timeout_s)
        answer.raise_for_status()
        return str(answer.text)

    return fetch
