"""Looks at the services again and again, and tells what there is to tell: for `correnteza run`, or alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from correnteza.alerts.conditions import conditions_of
from correnteza.alerts.delivery import Message, Outbox, Tell, message, sentence, to_command, to_webhook
from correnteza.alerts.scrape import Fetch, Scraper, http_fetch
from correnteza.alerts.signing import load_key
from correnteza.alerts.state import Notification, Pauses, State, advance
from correnteza.config import Settings

SERVICES = ("generator", "normalizer", "trainer", "consumer")
"""Whom to watch unless more are named; the dashboard may well not run."""
ANSWER_S = 2.0
"""How long a service may take to say its metrics."""
STOP_S = 3.0
TICK_S = 0.1
KEY_FILE = "alerts.key"


class Watcher:
    """A thread that watches the services.

    Args:
        settings: of the pipeline.
        tell: takes alerts, and what goes wrong with them.
        outboxes: where messages go besides.
        services: whom to watch.
        fetch: reads an address; by default over HTTP.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Tell,
        outboxes: Sequence[Outbox],
        services: Sequence[str] = SERVICES,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own = settings.alerts
        urls: Mapping[str, str] = {name: settings.services.url(name) for name in services}
        self._scraper = Scraper(urls, fetch or http_fetch(ANSWER_S), clock)
        self._conditions = conditions_of(settings)
        self._pauses = Pauses(own.group_s, own.cooldown_s)
        self._every_s = own.every_s
        self._enabled = own.enabled
        self._pipeline = settings.pipeline.name
        self._tell = tell
        self._outboxes = outboxes
        self._clock = clock
        self._state = State()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin to watch, if `alerts.enabled` says so."""
        if not self._enabled:
            return
        for outbox in self._outboxes:
            outbox.start()
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Conclude nothing from now on: services that are stopped on purpose do not answer either."""
        self._stop.set()

    def stop(self) -> None:
        """End, within seconds."""
        self._stop.set()
        if self._thread.ident is None:  # never started
            return
        self._thread.join(STOP_S)
        for outbox in self._outboxes:
            outbox.stop()

    def look(self) -> None:
        """Look once, and tell."""
        seen = self._scraper.look()
        if self._stop.is_set():
            return
        self._state, notification = advance(self._state, seen, self._conditions, self._clock(), self._pauses)
        if notification is not None:
            self._notify(notification)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except Exception as error:  # whatever it is, the next look may do
                self._tell("alerts_failed", "error", service="alerts", reason=f"{type(error).__name__}: {error}")

    def _notify(self, notification: Notification) -> None:
        for alert in notification.firing:
            self._tell("alert_firing", "warning", service=alert.key[1], reason=sentence(alert))
        for alert in notification.resolved:
            self._tell("alert_resolved", service=alert.key[1], reason=sentence(alert))
        made: Message = message(notification, self._pipeline, time.time(), time.monotonic())
        for outbox in self._outboxes:
            outbox.put(made)


def watcher(settings: Settings, tell: Tell, services: Sequence[str] = SERVICES) -> Watcher:
    """A watcher with the webhook and the command of the settings.

    Args:
        settings: of the pipeline.
        tell: takes what happens.
        services: whom to watch.

    Raises:
        ConfigError: the key of the webhook cannot be read.
    """
    own, outboxes = settings.alerts, []
    if own.webhook is not None:
        path = own.webhook_key_file or settings.pipeline.folder / KEY_FILE
        key = load_key(path, make=own.webhook_key_file is None)
        outboxes.append(Outbox("webhook", to_webhook(own.webhook, key), tell))
    if own.command:
        outboxes.append(Outbox("command", to_command(own.command), tell))
    return Watcher(settings, tell, outboxes, services)


def run(settings: Settings) -> int:
    """Watch until SIGINT or SIGTERM: `correnteza alerts`; returns the exit code.

    Args:
        settings: of the pipeline.

    Raises:
        ConfigError: the key of the webhook cannot be read.
    """
    import structlog

    out = structlog.get_logger("alerts")

    def tell(kind: str, level: str = "info", **detail: object) -> None:
        getattr(out, level)(kind, **detail)

    asked: list[int] = []
    before = {kind: signal.signal(kind, lambda number, _: asked.append(number)) for kind in (signal.SIGINT, signal.SIGTERM)}
    on = settings.alerts.model_copy(update={"enabled": True})  # whoever asks for it wants it
    made = watcher(settings.model_copy(update={"alerts": on}), tell)
    made.start()
    tell("watching", conditions=[condition.name for condition in conditions_of(settings)])
    try:
        while not asked:
            time.sleep(TICK_S)
    finally:
        made.stop()
        for kind, handler in before.items():
            signal.signal(kind, handler)
    return 0
