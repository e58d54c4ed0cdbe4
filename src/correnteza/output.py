"""What goes to the terminal: structured log lines, and errors as one line each.

Invariant: a log line that cannot be written never stops a service.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO

import structlog

from correnteza.tracing import current


class _Lossy:
    """Writes lines; drops those for which there is no reader any more, as when a supervisor was killed."""

    def __init__(self, stream: TextIO) -> None:
        self._print = structlog.PrintLogger(stream)

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            self._print.msg(message)

    log = debug = info = warning = error = critical = exception = fatal = msg


def set_up(log_format: str, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's log output to a stream, in one form.

    Args:
        log_format: `console`, `json`, or `auto`: console on a terminal, else JSON.
        stream: where to; standard output by default.
    """
    target = stream or sys.stdout
    on_terminal = target.isatty()
    plain = log_format == "console" or (log_format == "auto" and on_terminal)
    renderer: Any = structlog.dev.ConsoleRenderer(colors=on_terminal) if plain else structlog.processors.JSONRenderer()
    common: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), _traced]
    structlog.configure(
        processors=[*common, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Lossy(target),
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common, structlog.processors.format_exc_info],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _traced(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the span that a line was written in, if there is one."""
    span = current()
    if span is not None:
        _, line["trace_id"], line["span_id"], _ = span.context.split("-")
    return line


def print_error(message: str) -> None:
    """One line per fault on standard error, each beginning with `error:`."""
    with suppress(OSError):
        for line in message.splitlines() or ["unknown"]:
            print(f"error: {line}", file=sys.stderr)
