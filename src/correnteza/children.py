"""One service as a child process: its start, its output, its death, its restart with back-off.

Invariants:
- A child does not outlive its supervisor: its stdin is a pipe whose other end only the supervisor
  holds, so it reads the end of that file even when the supervisor was killed (`stop_when_parent_dies`).
- A child has a process group of its own: a terminal's Ctrl-C does not reach it, and what it started
  itself dies with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Literal

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
HEALTHY_S = 30.0
"""A child that ran so long starts again with the shortest pause."""
REFUSED = 78
"""Exit code of a service whose settings are wrong (EX_CONFIG of sysexits.h): to start it again would not help."""
LINE_BYTES = 65_536
"""Longer lines of a child are cut into pieces."""

State = Literal["running", "restarting", "stopped"]


def stop_when_parent_dies(stdin: int = 0) -> None:
    """End this process in good order (as SIGTERM does) as soon as its stdin ends.

    Args:
        stdin: file descriptor of a pipe to which nobody ever writes and that only the parent holds open.
    """

    def watch() -> None:
        with suppress(OSError):
            while os.read(stdin, 4096):
                pass
        _silence()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _silence() -> None:
    """Send output nowhere: the pipe that took it has gone with the parent, and a write would fail."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


@dataclass(slots=True)
class Backoff:
    """Pauses before restarts: 0.2 s, doubled each time up to 10 s; from the start again after 30 s of health.

    >>> backoff = Backoff()
    >>> [backoff.after(uptime_s) for uptime_s in (0, 1, 1, 31)]
    [0.2, 0.4, 0.8, 0.2]
    """

    _last_s: float = 0.0

    def after(self, uptime_s: float) -> float:
        """The pause, in seconds, before the restart of a child that has run for `uptime_s` seconds."""
        again = self._last_s and uptime_s < HEALTHY_S
        self._last_s = min(2 * self._last_s, BACKOFF_MAX_S) if again else BACKOFF_FIRST_S
        return self._last_s


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended that was not told to.

    Args:
        how: `exit code 3`, `signal SIGKILL`, or why it could not be started.
        uptime_s: seconds it had run.
        deaths: how often it has died so far, this time included.
        pause_s: seconds until it is started again.
        refused: whether it said that its settings are wrong.
    """

    how: str
    uptime_s: float
    deaths: int
    pause_s: float
    refused: bool = False


@dataclass
class Child:
    """A service that the supervisor runs.

    Args:
        name: name of the service.
        command: the program and its arguments.
        on_line: called with each line of its output, from a thread of its own.
        environment: its whole environment; None for a copy of this process's.
        pass_fds: file descriptors that it inherits.
    """

    name: str
    command: Sequence[str]
    on_line: Callable[[str], None]
    environment: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    deaths: int = 0
    state: State = "stopped"
    _process: subprocess.Popen[bytes] | None = None
    _pump: threading.Thread | None = None
    _backoff: Backoff = field(default_factory=Backoff)
    _changed_s: float = 0.0
    _pause_s: float = 0.0
    _failure: str = ""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it; a failure to do so shows as a death at the next `check`."""
        self.state, self._changed_s, self._failure = "running", time.monotonic(), ""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is this package's own
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment,
                pass_fds=self.pass_fds,
                process_group=0,
            )
        except OSError as error:
            self._failure = f"not started: {error}"
            return
        self._pump = threading.Thread(target=self._read, args=(self._process.stdout,), name=f"{self.name}-output", daemon=True)
        self._pump.start()

    def check(self) -> Death | None:
        """Its death, once, if it has died since the last check; restarts it when its pause is over."""
        now = time.monotonic()
        if self.state == "restarting" and now - self._changed_s >= self._pause_s:
            self.start()
        if self.state != "running" or self.alive():
            return None
        uptime_s = now - self._changed_s
        self.deaths += 1
        self._pause_s = self._backoff.after(uptime_s)
        code = self._process.returncode if self._process else 0
        how = self._failure or described(code)
        self._bury()
        self.state, self._changed_s = "restarting", now
        return Death(how, uptime_s, self.deaths, self._pause_s, refused=code == REFUSED)

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Ask it to stop; it will not be started again."""
        self.state = "stopped"
        if self._process is not None and self.alive():
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self.state = "stopped"
        if self._process is not None:
            self._kill_group()
            self._process.wait()
        self._bury()

    def ended(self) -> bool:
        """Whether it has stopped; clears away what it left."""
        if self.alive():
            return False
        self._bury()
        return True

    def _bury(self) -> None:
        """Clear away what a dead child left: its own children, its pipes."""
        if self._process is None:
            return
        self._kill_group()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._pump is not None:
            self._pump.join(1.0)
        self._process = self._pump = None

    def _kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for line in iter(lambda: output.readline(LINE_BYTES), b""):
                self.on_line(line.decode(errors="replace").rstrip("\r\n"))


def described(code: int) -> str:
    """A return code of `subprocess` in words.

    >>> described(3), described(-9)
    ('exit code 3', 'signal SIGKILL')
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
