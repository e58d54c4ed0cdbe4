"""Counts answered requests.

Invariant: one writer, the event loop; any thread may read. Labels come from routes, known methods and codes that
services answer, so their number has a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from correnteza.metrics import SECONDS, Histogram

Key = tuple[str, str, int]
"""Method, route and status."""
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
OTHER = "other"


class Requests:
    """How long answers took, by method, route and status."""

    def __init__(self) -> None:
        self._known: dict[Key, Histogram] = {}

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take down an answer.

        Args:
            method: of the request.
            route: the path as the route has it, or `other`.
            status: of the answer.
            seconds: from the request's head to the beginning of the answer.
        """
        key = (method, route, status)
        known = self._known.get(key)
        if known is None:
            key = (method if method in METHODS else OTHER, route, status)
            known = self._known.setdefault(key, Histogram())
        known.note(seconds)

    def all(self) -> Mapping[Key, Histogram]:
        """All answers so far."""
        return dict(self._known)

    def plain(self) -> dict[str, list[float]]:
        """The same as plain values, as in `{"200 POST /predict": [0.4, 3, ...]}`."""
        return {f"{status} {method} {route}": known.plain() for (method, route, status), known in dict(self._known).items()}


def of_plain(plain: Mapping[str, Sequence[float]]) -> dict[Key, Histogram]:
    """What `Requests.plain` told of.

    >>> counted = Requests()
    >>> counted.note("POST", "/predict", 200, 0.5)
    >>> [(key, known.total) for key, known in of_plain(counted.plain()).items()]
    [(('POST', '/predict', 200), 0.5)]
    """
    parted = ((key.split(" ", 2), values) for key, values in plain.items())
    return {(method, route, int(status)): Histogram.of(values, SECONDS) for (status, method, route), values in parted}
