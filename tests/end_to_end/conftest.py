"""Real services in processes of their own, for tests that treat the system as its users and its enemies do."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from tests.ports import free_ports
from tests.tools import PATIENCE_S

PORTS = {"dashboard": 0, "generator": 1, "normalizer": 2, "trainer": 3, "consumer": 4}
SERVICES = tuple(name for name in PORTS if name != "dashboard")


class Pipeline:
    """The four services of one pipeline, as separate processes.

    Args:
        folder: holds `correnteza.toml`, the data and the services' output.
        toml: the settings; ports and data folder are added.
    """

    def __init__(self, folder: Path, toml: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.base = free_ports()
        self.data = folder / "data"
        head = f'[pipeline]\nname = "test"\ndata_dir = "{self.data}"\n\n[services]\nport_base = {self.base}\n\n'
        (folder / "correnteza.toml").write_text(head + toml, encoding="utf-8")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.patience = threading.Event()  # never set: waiting on it is a pause that needs no sleep

    def start(self, *names: str) -> None:
        """Start services."""
        for name in names or SERVICES:
            with (self.folder / f"{name}.log").open("ab") as log:
                command = [sys.executable, "-m", "correnteza", name, "--config", "correnteza.toml"]
                self.processes[name] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """`kill -9`, at once."""
        self.processes[name].kill()
        self.processes[name].wait()

    def kill_child(self, name: str) -> bool:
        """`kill -9` of one child of a service; whether there was one."""
        children = psutil.Process(self.processes[name].pid).children()
        if children:
            children[0].kill()
        return bool(children)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all in the reverse order of the data's way; their exit codes."""
        codes = {}
        for name in [n for n in reversed([*SERVICES, "dashboard"]) if n in self.processes]:
            process = self.processes.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                codes[name] = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        return codes

    def url(self, name: str, path: str = "") -> str:
        """Address of a route."""
        return f"http://127.0.0.1:{self.base + PORTS[name]}{path}"

    def get(self, name: str, path: str) -> Any:
        """JSON of a route, or None when it does not answer 200."""
        try:
            answer = requests.get(self.url(name, path), timeout=PATIENCE_S)
        except requests.RequestException:
            return None
        return answer.json() if answer.ok else None

    def lives(self, name: str) -> bool:
        """Whether a service answers."""
        return self.get(name, "/health/live") is not None

    def wait(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
        """Wait until a condition holds, and return what it gave; fails with the services' last words."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds} s for {what}\n{self.last_words()}")
            self.patience.wait(0.05)
        return found

    def last_words(self) -> str:
        """The end of each service's output."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    def query(self, service: str, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a service's database, read by Python's own SQLite."""
        connection = sqlite3.connect(f"file:{self.data / service}.db?mode=ro", uri=True)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Makes pipelines by name and settings; whatever still runs at the end is killed."""
    made: list[Pipeline] = []

    def make(name: str, toml: str) -> Pipeline:
        made.append(Pipeline(tmp_path / name, toml))
        return made[-1]

    yield make
    for pipeline in made:
        for process in pipeline.processes.values():
            process.kill()
            process.wait()
