"""Contexts as texts: W3C Trace Context, https://www.w3.org/TR/trace-context/.

Invariant: whatever comes in a header, a context is either well formed or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

TRACEPARENT = "traceparent"
"""The header with the context of a request."""
TRACES = "Row-Traces"
"""The header with the contexts of the rows of an answer, parted by commas."""
DROPPED = "Row-Traces-Dropped"
"""The header with the number of contexts that the answer's rows have besides."""
MOST = 32
"""Contexts that are handed on with rows, and links of a span; further ones are counted."""

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Current(Protocol):
    """What is known of the span that this thread or request is in."""

    @property
    def context(self) -> str:
        """Its `traceparent`."""

    def note(self, values: Mapping[str, str | int | float]) -> None:
        """Add attributes."""


CURRENT: ContextVar[Current | None] = ContextVar("correnteza_span", default=None)


def current() -> Current | None:
    """The span that this thread or request is in; None where there is none, as always when nothing is traced."""
    return CURRENT.get()


def outgoing() -> dict[str, str]:
    """The headers that let a request to another service go on in this trace."""
    span = CURRENT.get()
    return {} if span is None else {TRACEPARENT: span.context}


@dataclass(frozen=True, slots=True)
class Traces:
    """What rows were written in.

    Args:
        contexts: `traceparent` texts, each once, at most `MOST`.
        dropped: how many there are besides.
    """

    contexts: tuple[str, ...] = ()
    dropped: int = 0

    @classmethod
    def of(cls, contexts: Iterable[str], dropped: int = 0) -> Traces:
        """Contexts of which some may be the same or none.

        What is not recorded (sampled out) counts only where nothing is recorded, and then as one: it tells those who
        read on that this trace is left out.

        >>> on, off = "00-" + 31 * "0" + "1-" + 15 * "0" + "1-01", "00-" + 31 * "0" + "2-" + 15 * "0" + "2-00"
        >>> Traces.of([off, on, "", on]).contexts == (on,), Traces.of([off]).contexts == (off,)
        (True, True)
        """
        known = [one for one in dict.fromkeys(contexts) if one]
        recorded = [one for one in known if is_sampled(one)]
        kept = recorded or known[-1:]
        return cls(tuple(kept[:MOST]), dropped + max(0, len(kept) - MOST))

    def __add__(self, other: Traces) -> Traces:
        """Those of two parts together."""
        return Traces.of((*self.contexts, *other.contexts), self.dropped + other.dropped)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As headers of an answer; none where nothing is known."""
        found = [(TRACES.lower().encode(), ",".join(self.contexts).encode())] if self.contexts else []
        return [*found, (DROPPED.lower().encode(), b"%d" % self.dropped)] if self.dropped else found

    @classmethod
    def told(cls, headers: Mapping[str, str]) -> Traces:
        """What an answer's headers say; what is not well formed is left out."""
        text = headers.get(TRACES)
        if text is None:
            return NONE
        dropped = headers.get(DROPPED, "")
        return cls.of(filter(well_formed, text.split(",")), int(dropped[:9]) if dropped.isdecimal() else 0)


NONE = Traces()


def well_formed(context: str) -> bool:
    """Whether a text is a `traceparent` of version 00.

    >>> well_formed("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), well_formed("00-0-0-01")
    (True, False)
    """
    return _FORM.fullmatch(context) is not None


def is_sampled(context: str) -> bool:
    """Whether the trace of a context is recorded."""
    return bool(int(context[53:55], 16) & 1)


def incoming(headers: Iterable[tuple[bytes, bytes]]) -> Traces:
    """The context that a request came with, by its headers as ASGI has them; one that is malformed counts as none.

    A later version of the form may have more parts behind the four that are known.
    """
    found = [value.decode("latin-1").strip() for name, value in headers if name == TRACEPARENT.encode()]
    if len(found) != 1:
        return NONE
    text, later = found[0][:55], found[0][55:]
    if not well_formed(text) or (later and (text.startswith("00") or not later.startswith("-"))):
        return NONE
    return Traces((f"00{text[2:]}",))
