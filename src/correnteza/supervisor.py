"""Runs all services: starts them, restarts what dies, stops them in order.

    check ports -> lock the data folder -> start generator, normalizer, trainer, consumer, dashboard
         -> tend (restart with back-off, watch /status) until SIGINT, SIGTERM or SIGHUP
         -> stop dashboard, consumer, trainer, normalizer, generator -> kill what is left

Invariants:
- Nothing is started before all guards have passed.
- Services stop against the way of the data, so that none waits for an upstream that has gone.
- Stopping takes at most PATIENCE_S; then all that is left is killed. Nothing started here stays.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from correnteza import dashboard
from correnteza.children import Child, Death
from correnteza.config import Settings
from correnteza.guards import check_ports, only_one
from correnteza.report import Files, LineReport, LiveReport, Report
from correnteza.table import Row, ask, row

if TYPE_CHECKING:
    from correnteza.alerts.watcher import Watcher
    from correnteza.client import Client

SERVICES = ("generator", "normalizer", "trainer", "consumer", "dashboard")
"""In the order of starting, which is the way of the data; the dashboard, which looks at all of them, comes last."""
PATIENCE_S = 8.0
"""From the first request to stop until what is left is killed."""
PATIENCE_EACH_S = 2.0
"""How long one service is waited for before the next is asked to stop."""
TICK_S = 0.1
LOOK_EVERY_S = 1.0
ANSWER_S = 1.0
"""Longest wait for one `GET /status`."""
INTERRUPTED = 130
"""Exit code after a second Ctrl-C, as shells have it."""

Command = Callable[[str], Sequence[str]]


def run(
    settings: Settings,
    config_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    command: Command | None = None,
) -> int:
    """Run all services until SIGINT, SIGTERM or SIGHUP.

    Args:
        settings: the settings, as the services will read them themselves.
        config_path: the file that the services read; None for the usual one.
        environment: variables added to the services' environment, for settings that came from flags.
        command: the program of a service, by its name; None for this package's own.

    Returns:
        The exit code: 0; 1 when a service refused its settings; 130 after a second Ctrl-C.

    Raises:
        ServiceError: a port is taken, or the data folder is in use or not usable; nothing was started.
    """
    with ExitStack() as stack:
        stack.enter_context(only_one(settings.pipeline.folder))
        names = SERVICES if command or dashboard.is_installed() else SERVICES[:-1]
        check_ports(settings, names)
        files = Files(settings.pipeline.folder / "logs")
        stack.enter_context(foreground())
        on_terminal = sys.stdout.isatty()
        title = f"correnteza: {settings.pipeline.name} (Ctrl-C stops it)"
        report: Report = stack.enter_context(closing(LiveReport(files, title) if on_terminal else LineReport(files)))
        program = command or (lambda name: service_command(name, config_path))
        inherited = {**os.environ, **(environment or {})}
        children = [Child(name, program(name), _pass_on(report, name), inherited) for name in names]
        if len(names) < len(SERVICES):
            report.event("service_missing", "warning", service=SERVICES[-1], reason=dashboard.MISSING)
        return Supervisor(children, report, settings).run()


def service_command(name: str, config_path: Path | None) -> list[str]:
    """The command line of a service that ends when its supervisor does."""
    file = [] if config_path is None else ["--config", str(config_path)]
    return [sys.executable, "-P", "-m", "correnteza", name, "--supervised", *file]


def _pass_on(report: Report, name: str) -> Callable[[str], None]:
    return lambda line: report.line(name, line)


class Supervisor:
    """Tends children until it is told to stop.

    Args:
        children: in the order of starting; they are stopped in the reverse order.
        report: where it tells what happens.
        settings: where the services answer.
    """

    def __init__(self, children: Sequence[Child], report: Report, settings: Settings) -> None:
        self._children = children
        self._report = report
        self._settings = settings
        self._asked = ""
        self._interrupts = 0
        self._refused = False
        self._stopped = threading.Event()
        self._answered: set[str] = set()

    def run(self) -> int:
        """Start, tend, stop; see `run` of this module."""
        watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        alerts = self._alerts()
        with self._signals():
            try:
                for child in self._children:
                    child.start()
                    self._report.event("service_started", service=child.name, pid=child.pid)
                watcher.start()
                alerts.start()
                while not self._asked:
                    for child in self._children:
                        self._tend(child)
                    time.sleep(TICK_S)
                self._report.event("stopping", reason=self._asked)
                alerts.ask_to_stop()
                self._stop()
            finally:
                self._kill_all()
                self._stopped.set()
                watcher.join(ANSWER_S)
                alerts.stop()
        return INTERRUPTED if self._interrupts > 1 else int(self._refused)

    def _alerts(self) -> Watcher:
        from correnteza.alerts.watcher import watcher

        return watcher(self._settings, self._report.event, [child.name for child in self._children])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals that ask to stop; those that are ignored (nohup) stay so."""
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._asked = self._asked or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT

    def _tend(self, child: Child) -> None:
        was = child.state
        death = child.check()
        if was == "restarting" and child.state == "running":
            self._report.event("service_restarted", service=child.name, pid=child.pid)
        if death is None:
            return
        self._answered.discard(child.name)
        if death.refused:
            self._refused = True
            reason = f"the {child.name} refuses its settings: see its message"
            self._report.event("settings_refused", "error", service=child.name, reason=reason)
            self._asked = self._asked or reason
        else:
            self._tell(child, death)

    def _tell(self, child: Child, death: Death) -> None:
        self._report.event(
            "service_died",
            "error",
            service=child.name,
            reason=f"{death.how} after {death.uptime_s:.1f} s; restart {death.deaths} in {death.pause_s:g} s",
            how=death.how,
            deaths=death.deaths,
            restart_in_s=death.pause_s,
        )

    def _stop(self) -> None:
        """Ask one after the other to stop, against the way of the data."""
        deadline_s = time.monotonic() + PATIENCE_S
        for child in reversed(self._children):
            child.terminate()
            self._wait([child], min(deadline_s, time.monotonic() + PATIENCE_EACH_S))
        self._wait(self._children, deadline_s)

    def _wait(self, children: Sequence[Child], until_s: float) -> None:
        """Wait until they have ended, the time is over, or a second Ctrl-C says to wait no longer."""
        left = [child for child in children if child.alive()]
        while left and time.monotonic() < until_s and self._interrupts < 2:
            time.sleep(TICK_S / 5)
            left = [child for child in left if child.alive()]
        for child in children:
            if not child.alive() and child.pid is not None:
                child.kill()
                self._report.event("service_stopped", service=child.name)

    def _kill_all(self) -> None:
        for child in reversed(self._children):
            if child.alive():
                self._report.event("service_killed", "warning", service=child.name, reason="did not stop when asked to")
            child.kill()

    def _watch(self) -> None:
        """Once a second, until all has stopped: how the services are."""
        from correnteza.client import Client

        urls = {child.name: self._settings.services.url(child.name) for child in self._children}
        with Client(urls, timeout_s=ANSWER_S) as client:
            while not self._stopped.wait(LOOK_EVERY_S):
                if not self._asked:
                    self._report.look(self._look(client, urls))

    def _look(self, client: Client, urls: Mapping[str, str]) -> list[Row]:
        answers = ask(client, urls)
        self._answered.update(name for name, answer in answers.items() if answer is not None)
        return [row(c.name, urls[c.name], answers[c.name], c.deaths, self._state(c)) for c in self._children]

    def _state(self, child: Child) -> str:
        """What to call a service that does not answer."""
        if child.state != "running":
            return child.state
        return "silent" if child.name in self._answered else "starting"


@contextmanager
def foreground() -> Iterator[None]:
    """Take a terminal's Ctrl-C for this process alone, for as long as the block lasts.

    GNU make, which stands in the same process group, would else be killed by the Ctrl-C itself and
    end with an error although everything stopped in good order. Without a terminal on standard
    input, or where this process already leads its group, nothing is changed.
    """
    owner = _foreground_group()
    if owner is None or owner != os.getpgrp() or owner == os.getpid():
        yield
        return
    # A process outside the foreground group may set that group only while it ignores SIGTTOU. Ctrl-Z
    # would stop this process and leave the shell waiting for make, which goes on.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTOU, signal.SIGTSTP)}
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        yield
    finally:
        with suppress(OSError):
            os.tcsetpgrp(0, owner)
            os.setpgid(0, owner)
        for number, handler in before.items():
            signal.signal(number, handler)


def _foreground_group() -> int | None:
    """The process group that gets the Ctrl-C of the terminal on standard input; None without one."""
    try:
        return os.tcgetpgrp(0)
    except OSError:
        return None
