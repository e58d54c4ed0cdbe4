"""Spans as the stages use them, without OpenTelemetry.

Invariant: what is noted about rows is noted for the very rows that were committed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from correnteza.tracing.contexts import CURRENT, NONE, Current, Traces
from correnteza.tracing.ranges import Tables

Value = str | int | float
Kind = Literal["internal", "server", "client"]


class Appended(Protocol):
    """Offsets of the first and last row of an append, as `log.base.Appended` has them."""

    @property
    def first(self) -> int:
        """Of the first."""

    @property
    def last(self) -> int:
        """Of the last."""


A = TypeVar("A", bound=Appended)


class Span(ABC):
    """Something that takes time. Inside `with` it is the current one, and ends with it unless it has ended before.

    Args:
        context: its `traceparent`.
    """

    def __init__(self, context: str) -> None:
        self.context = context
        self._ended = False
        self._token: Token[Current | None] | None = None

    @abstractmethod
    def note(self, values: Mapping[str, Value]) -> None:
        """Add attributes; a name without a dot is one of ours, and gets `correnteza.` in front."""

    @abstractmethod
    def rename(self, name: str) -> None:
        """Give it another name than the one that it began with."""

    @abstractmethod
    def fail(self, reason: str) -> None:
        """It came to nothing."""

    @abstractmethod
    def _close(self) -> None:
        """Take down the end."""

    def end(self) -> None:
        """It is over."""
        if not self._ended:
            self._ended = True
            self._close()

    def __enter__(self) -> Span:
        """Be the current one."""
        self._token = CURRENT.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Be over."""
        if self._token is not None:
            CURRENT.reset(self._token)
        if kind is not None:
            self.fail(f"{kind.__name__}: {error}")
        self.end()


class Backend(Protocol):
    """What takes spans down."""

    def start(self, name: str, causes: Traces, values: Mapping[str, Value], kind: Kind) -> Span:
        """See `Tracer.begin`."""

    def close(self) -> None:
        """See `Tracer.close`."""


class Tracer:
    """Begins spans, and knows in which the last rows of each log were written. Safe to use from several threads.

    Args:
        backend: takes the spans down.
    """

    def __init__(self, backend: Backend) -> None:
        self._tables = Tables()
        self._start = backend.start
        self.close = backend.close
        self.note, self.rows, self.writing = self._tables.note, self._tables.of, self._tables.writing

    def begin(
        self, name: str, causes: Traces = NONE, values: Mapping[str, Value] | None = None, kind: Kind = "internal"
    ) -> Span:
        """Begin a span.

        Args:
            name: what is done.
            causes: what it follows from.
            values: attributes, named as in `Span.note`.
            kind: internal, or the server's or client's side of a request.
        """
        return self._start(name, causes, values or {}, kind)

    def committed(self, context: str, logs: Iterable[str], commit: Callable[[], Mapping[str, A]]) -> Mapping[str, A]:
        """Commit rows that are all written in one context.

        Args:
            context: of them.
            logs: names of the logs that they go to.
            commit: does it, and returns the offsets by name of the log.
        """
        with self.writing(logs):
            appended = commit()
            for log, rows in appended.items():
                self.note(log, rows.first, rows.last, context)
            return appended
