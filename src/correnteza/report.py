"""Where the supervisor tells what happens: log files, and the live table or log lines.

Invariants:
- Every line of every service is in `<data folder>/logs/<service>.log`, whatever the terminal shows.
- The files are bounded: at most KEPT_FILES old ones of MAX_BYTES each.
- Reports are called from several threads (one per service, the watcher, the supervisor) and lock.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol, TextIO

from correnteza.errors import ServiceError
from correnteza.table import Row, changes, render, summary

MAX_BYTES = 5_000_000
KEPT_FILES = 2
SUMMARY_EVERY_S = 10.0
NOTES = 8
"""Warnings that stay in sight under the live table."""
SERIOUS = frozenset({"warning", "error", "critical"})
CONSOLE_LEVEL = re.compile(r"\[(warning|error|critical)\s*\]|^\w*(Error|Exception): ")


class Report(Protocol):
    """What the supervisor tells."""

    def event(self, kind: str, level: str = "info", **detail: Any) -> None:
        """Something that the supervisor did or saw.

        Args:
            kind: what, in a fixed word: `service_died`.
            level: `info`, `warning` or `error`.
            detail: values that belong to it; `service` and `reason` with every warning and error.
        """

    def line(self, service: str, line: str) -> None:
        """One line of a service's output."""

    def look(self, rows: Sequence[Row]) -> None:
        """How the services are now; called about once a second."""

    def close(self) -> None:
        """Nothing more will come."""


class LogFile(RotatingFileHandler):
    """A bounded file of lines; a full disk costs lines, not the service."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)

    def write(self, line: str) -> None:
        """Append a line."""
        self.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Drop the line."""


class Files:
    """The log files of all services and of the supervisor.

    Args:
        folder: where they are; created when it is not there.

    Raises:
        ServiceError: it cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(
                f"log folder {folder}: {error.strerror}; set pipeline.data_dir to a folder you can write to"
            ) from None
        self._folder = folder
        self._open: dict[str, LogFile] = {}
        self._lock = threading.Lock()

    def write(self, service: str, line: str) -> None:
        """Append a line to the service's file."""
        with self._lock:
            file = self._open.get(service) or self._open.setdefault(service, LogFile(self._folder / f"{service}.log"))
        file.write(line)

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()


class LineReport:
    """Without a terminal: one log line per event, and one about all services every ten seconds.

    Args:
        files: where lines are kept.
        stream: where they are printed; the services' own lines pass through as they are.
    """

    def __init__(self, files: Files, stream: TextIO | None = None) -> None:
        import structlog

        self._files = files
        self._stream = stream or sys.stdout
        self._out = structlog.get_logger("supervisor")
        self._seen: dict[str, Row] = {}
        self._lock = threading.Lock()
        self._summed_s = time.monotonic()

    def event(self, kind: str, level: str = "info", **detail: Any) -> None:
        """See `Report`."""
        with self._lock:
            self._files.write("supervisor", _written(kind, level, detail))
            getattr(self._out, level)(kind, **detail)

    def line(self, service: str, line: str) -> None:
        """See `Report`."""
        self._files.write(service, line)
        with self._lock:
            _print(line if line.startswith("{") else f"{service}: {line}", self._stream)

    def look(self, rows: Sequence[Row]) -> None:
        """See `Report`."""
        for row in rows:
            for change in changes(self._seen.get(row.service), row):
                self.event(change.kind, service=change.service, **change.detail)
            self._seen[row.service] = row
        if time.monotonic() - self._summed_s >= SUMMARY_EVERY_S:
            self._summed_s = time.monotonic()
            self.event("summary", **summary(rows))

    def close(self) -> None:
        """See `Report`."""
        self._files.close()


class LiveReport:
    """On a terminal: the live table, with the last warnings and crashes under it.

    Args:
        files: where all lines are kept.
        title: what stands above the table.
    """

    def __init__(self, files: Files, title: str) -> None:
        from rich.live import Live

        self._files = files
        self._title = title
        self._rows: Sequence[Row] = ()
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._lock = threading.Lock()
        self._live = Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def event(self, kind: str, level: str = "info", **detail: Any) -> None:
        """See `Report`."""
        self._files.write("supervisor", _written(kind, level, detail))
        if level in SERIOUS:
            self._note(f"{detail['service']} {kind.removeprefix('service_')}: {detail['reason']}")
        elif kind == "stopping":
            self._title = f"{self._title} - stopping"
            self.look(self._rows)

    def line(self, service: str, line: str) -> None:
        """See `Report`."""
        self._files.write(service, line)
        text = serious(line)
        if text:
            self._note(f"{service}: {text}")

    def look(self, rows: Sequence[Row]) -> None:
        """See `Report`."""
        with self._lock, suppress(OSError):  # the terminal may have gone
            self._rows = rows
            if self._live.is_started:
                self._live.update(render(rows, list(self._notes), self._title), refresh=True)

    def close(self) -> None:
        """See `Report`."""
        with self._lock, suppress(OSError):
            self._live.stop()
        self._files.close()

    def _note(self, text: str) -> None:
        self._notes.append(f"{datetime.now():%H:%M:%S} {text}")
        self.look(self._rows)


def serious(line: str) -> str:
    r"""What a service's line says, if it is a warning or worse; else the empty text.

    >>> serious('{"level": "warning", "event": "training_failed", "reason": "out of memory"}')
    'training_failed: out of memory'
    >>> serious('{"level": "info", "event": "model_version"}')
    ''
    >>> serious("ValueError: no such thing")
    'ValueError: no such thing'
    """
    if not line.startswith("{"):
        return line if CONSOLE_LEVEL.search(line) else ""
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if entry.get("level") not in SERIOUS:
        return ""
    reason = entry.get("reason") or entry.get("error") or ""
    return f"{entry.get('event', '')}: {reason}" if reason else str(entry.get("event", ""))


def _written(kind: str, level: str, detail: dict[str, Any]) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({**detail, "event": kind, "level": level, "timestamp": at}, default=str)


def _print(line: str, stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        stream.write(line + "\n")
        stream.flush()
