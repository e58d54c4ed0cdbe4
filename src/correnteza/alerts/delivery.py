"""Takes messages to where they are wanted: a webhook, a command.

Invariants:
- At least once, in order: a message is tried again with growing pauses until it is taken, refused for good, or
  GIVE_UP_S old. Each try has the same idempotency key.
- Whoever alerts never waits here, and no more than KEPT messages are held.
- A message that is not delivered is told.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import requests

from correnteza.alerts.signing import HEADER, KEY_HEADER, signature
from correnteza.alerts.state import Alert, Notification

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
GIVE_UP_S = 3600.0
KEPT = 100
ANSWER_S = 10.0
"""How long a webhook may take to answer."""
COMMAND_S = 30.0
"""How long a command may run."""
AGAIN = frozenset({408, 425, 429})
"""Refusals that are not for good; so is every 5xx."""


class Undelivered(Exception):  # noqa: N818 - a state more than an error
    """A try did not work.

    Args:
        reason: why.
        final: whether another try would not help.
    """

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class Message:
    """What is delivered.

    Args:
        key: the same for each try, different for each message.
        body: JSON.
        born_s: when it was made, in seconds of a clock that never goes back.
    """

    key: str
    body: bytes
    born_s: float


class Tell(Protocol):
    """Takes what happened, as `report.Report.event` does."""

    def __call__(self, kind: str, level: str = "info", **detail: Any) -> None:
        """One event."""


def message(notification: Notification, pipeline: str, unix_s: float, born_s: float) -> Message:
    """A notification as JSON.

    Args:
        notification: what there is to tell.
        pipeline: its name.
        unix_s: the time, in seconds.
        born_s: the same on the clock that deadlines are counted by.
    """
    told = {
        "pipeline": pipeline,
        "at": _iso(unix_s),
        "text": f"{pipeline}: {text(notification)}",
        "firing": [_plain(alert, unix_s) for alert in notification.firing],
        "resolved": [_plain(alert, unix_s) for alert in notification.resolved],
        "still_firing": notification.still,
    }
    key = hashlib.sha256(json.dumps({**told, "unix_s": unix_s}, sort_keys=True).encode()).hexdigest()[:32]
    return Message(key, json.dumps({"key": key, **told}, ensure_ascii=False).encode(), born_s)


def text(notification: Notification) -> str:
    """A notification in one line."""
    parts = [f"FIRING {sentence(alert)}" for alert in notification.firing]
    parts += [f"RESOLVED {sentence(alert)}" for alert in notification.resolved]
    return "; ".join(parts) + (f"; {notification.still} more still firing" if notification.still else "")


def sentence(alert: Alert) -> str:
    """One alert: what it is called, where, and the value beside the threshold."""
    name, service, labels = alert.key
    where = ", ".join([service, *(f"{key}={value}" for key, value in labels)])
    c = alert.condition
    meaning = f": {c.meaning}" if c.meaning else ""
    return f"{name} ({where}){meaning} [{c.metric} is {alert.value:g}; alerts at {c.comparison} {c.threshold:g}]"


def _plain(alert: Alert, unix_s: float) -> dict[str, Any]:
    name, service, labels = alert.key
    about = alert.condition.model_dump(include={"metric", "comparison", "threshold", "for_s", "meaning"})
    since = {"since": _iso(unix_s - alert.age_s)} if alert.age_s else {}
    return {"name": name, "service": service, "labels": dict(labels), "value": alert.value, **about, **since}


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_webhook(url: str, key: bytes, clock: Callable[[], float] = time.time) -> Callable[[Message], None]:
    """Posts messages; any 2xx takes one.

    Args:
        url: where to.
        key: signs them.
        clock: Unix time in seconds.
    """

    def deliver(one: Message) -> None:
        headers: Mapping[str, str] = {
            "Content-Type": "application/json",
            HEADER: signature(key, one.body, clock()),
            KEY_HEADER: one.key,
        }
        try:
            answer = requests.post(url, data=one.body, headers=headers, timeout=ANSWER_S, allow_redirects=False)
        except requests.RequestException as error:  # whose text holds the address, which may be a secret
            raise Undelivered(f"no answer: {type(error).__name__}") from None
        if not answer.ok or answer.is_redirect:
            code = answer.status_code
            raise Undelivered(f"it answered {code}", final=code < 500 and code not in AGAIN)

    return deliver


def to_command(command: Sequence[str]) -> Callable[[Message], None]:
    """Runs a command with the message on its standard input; exit code 0 takes it.

    Args:
        command: program and arguments; no shell reads them.
    """

    def deliver(one: Message) -> None:
        try:
            done = subprocess.run(command, input=one.body, capture_output=True, timeout=COMMAND_S, check=False)  # noqa: S603
        except FileNotFoundError as error:
            raise Undelivered(f"{command[0]}: {error.strerror}", final=True) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Undelivered(f"{command[0]}: {error}") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise Undelivered(f"{command[0]}: exit code {done.returncode}{''.join(f': {line[:200]}' for line in last)}")

    return deliver


class Outbox:
    """Delivers messages from a thread of its own.

    Args:
        name: where they go, in a word.
        deliver: one try; raises Undelivered.
        tell: takes what happened.
        first_pause_s: before the second try; doubled from try to try.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Message], None],
        tell: Tell,
        first_pause_s: float = FIRST_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._tell = tell
        self._first_pause_s = first_pause_s
        self._clock = clock
        self._waiting: deque[Message] = deque()
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alerts-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, one: Message) -> None:
        """Hand over a message; the oldest one gives way when there are too many."""
        with self._news:
            lost = self._waiting.popleft() if len(self._waiting) >= KEPT else None
            self._waiting.append(one)
            self._news.notify()
        if lost is not None:
            self._lost(lost, f"more than {KEPT} messages are waiting")

    def stop(self, timeout_s: float = 2.0) -> None:
        """Try what is waiting once more, then end; does not wait longer than `timeout_s`."""
        self._stopping.set()
        with self._news:
            self._news.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (one := self._next()) is not None:
            self._see_through(one)

    def _next(self) -> Message | None:
        with self._news:
            while not self._waiting:
                if self._stopping.is_set():
                    return None
                self._news.wait()
            return self._waiting.popleft()

    def _see_through(self, one: Message) -> None:
        pause_s = self._first_pause_s
        while True:
            try:
                self._deliver(one)
            except Undelivered as error:
                if error.final or self._clock() - one.born_s > GIVE_UP_S or self._stopping.is_set():
                    self._lost(one, str(error))
                    return
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
            except Exception as error:  # a fault in here must not end the thread
                self._lost(one, f"{type(error).__name__}: {error}")
                return
            else:
                return

    def _lost(self, one: Message, reason: str) -> None:
        self._tell("alert_not_delivered", "error", service="alerts", reason=f"{self._name}: {reason}", key=one.key)
