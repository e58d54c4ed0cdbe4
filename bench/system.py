"""Starts the real services for a benchmark, each in its own process, and stops them at the end."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import requests

PORT_BASE = 18_700
PORTS = {"dashboard": 0, "generator": 1, "normalizer": 2, "trainer": 3, "consumer": 4}
RESULTS = Path(__file__).parent / "RESULTS.md"


class System:
    """Services of one pipeline in a temporary folder.

    Args:
        settings: environment settings without the prefix, as in `{"TRAINER__WINDOW_ROWS": 5000}`.
        services: which to start, in this order.
        port_base: the port of the first; None for `PORT_BASE` as it is then.
    """

    def __init__(self, settings: Mapping[str, object], services: tuple[str, ...], port_base: int | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="correnteza-bench-"))
        self._services = services
        self._port_base = PORT_BASE if port_base is None else port_base
        given = {"SERVICES__PORT_BASE": self._port_base, "PIPELINE__DATA_DIR": self.folder, **settings}
        self.environment = {**os.environ, **{f"CORRENTEZA_{key}": str(value) for key, value in given.items()}}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> System:
        for name in self._services:
            self._start(name, {})
        for name in self._services:
            wait_for(lambda: self._answers(name), 60, f"{name} to answer")  # noqa: B023 - called at once
        return self

    def _start(self, name: str, settings: Mapping[str, object]) -> None:
        environment = {**self.environment, **{f"CORRENTEZA_{key}": str(value) for key, value in settings.items()}}
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "correnteza", name]
            self.processes[name] = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)

    def restart(self, name: str, settings: Mapping[str, object]) -> None:
        """Stop a service and start it with other settings of its own."""
        self.processes[name].terminate()
        self.processes[name].wait(15)
        self._start(name, settings)
        wait_for(lambda: self._answers(name), 60, f"{name} to answer")

    def _answers(self, name: str) -> bool:
        """Whether our own service answers; raises RuntimeError when it has ended, as when another holds its port."""
        if self.processes[name].poll() is not None:
            raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text(errors='replace')[-500:]}")
        return self.get(name, "/health/live") is not None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            for name in self._services:
                print(f"--- {name}\n{(self.folder / f'{name}.log').read_text(errors='replace')[-2000:]}", file=sys.stderr)
        for name in reversed(self._services):
            self.processes[name].send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self, name: str) -> int:
        """Port of a service."""
        return self._port_base + PORTS[name]

    def url(self, name: str, path: str = "") -> str:
        """Address of a service."""
        return f"http://127.0.0.1:{self.port(name)}{path}"

    def get(self, name: str, path: str) -> Any:
        """JSON of a route, or None when it does not answer with 200."""
        try:
            answer = requests.get(self.url(name, path), timeout=10)
        except requests.RequestException:
            return None
        return answer.json() if answer.ok else None

    def memory_bytes(self) -> int:
        """Resident memory of all services and their children."""
        total = 0
        for process in self.processes.values():
            parent = psutil.Process(process.pid)
            for one in (parent, *parent.children(recursive=True)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
        return total

    def cpu_s(self) -> float:
        """Processor time used so far by all services and their children."""
        total = 0.0
        for process in self.processes.values():
            parent = psutil.Process(process.pid)
            for one in (parent, *parent.children(recursive=True)):
                try:
                    times = one.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                total += times.user + times.system
        return total


def wait_for(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds; raises TimeoutError naming it."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def report(program: str, figures: Mapping[str, float | int], lines: list[str]) -> None:
    """Print the figures, append them to RESULTS.md, and end with one line of JSON."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = (
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()} {platform.machine()}"
    )
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("correnteza", "scikit-learn", "onnxruntime", "pyarrow", "fastapi")
    )
    head = f"## {program}, {time.strftime('%Y-%m-%d')}, commit {commit or 'unknown'}"
    body = [head, "", f"{machine}; Python {platform.python_version()}; {versions}", "", *(f"- {line}" for line in lines), ""]
    print("\n".join(body))
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write("\n".join(body) + "\n")
    print(json.dumps(figures))
