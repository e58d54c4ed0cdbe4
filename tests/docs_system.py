"""Pages of the documentation as blocks, and a running system to try them on."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.tools import PATIENCE_S

from .ports import free_ports

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
ENGLISH, PORTUGUESE = ROOT / "README.md", ROOT / "README.pt-BR.md"
PAGES = (ENGLISH, PORTUGUESE, ROOT / "ARCHITECTURE.md", ROOT / "docs" / "reference.md", *sorted(ROOT.glob("docs/how-to/*.md")))
BIKES = "needs the bike data"
BIKE_ROWS = 1300
FENCE = re.compile(r"(?:<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Args:
        page: where it stands.
        line: of its first line, from 1.
        language: behind the fence; empty for a drawing.
        text: what it holds.
        note: the comment above it.
        output: the `json` or `text` block right behind it, where it is one that is run.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str
    output: Block | None = None

    @property
    def where(self) -> str:
        """Its place, for messages and names of tests."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    found: list[Block] = []
    behind = -1
    for match in reversed(list(FENCE.finditer(content))):
        language, text = match["language"], match["text"]
        follows = found and language in ("sh", "python") and found[0].language in ("json", "text")
        output = found[0] if follows and not content[match.end() : behind].strip() else None
        line = content.count("\n", 0, match.start("text")) + 1
        found.insert(0, Block(page, line, language, text, match["note"] or "", output))
        behind = match.start()
    return found


def runnable(note: str = "") -> list[Any]:
    """The blocks with a note that are run, page by page."""
    every = [block for page in PAGES if page != PORTUGUESE for block in blocks(page)]
    return [pytest.param(b, id=b.where) for b in every if b.language in ("sh", "python") and b.note == note]


def without_comments(block: Block) -> str:
    """Its text without what a translation changes."""
    mark = r"\s*#[^\n]*" if block.language in ("toml", "python") else r"(?m)^#[^\n]*\n"
    return re.sub(mark, "", block.text).strip()


class System:
    """`correnteza run` in a folder of its own, which looks to its blocks as a checkout does.

    Args:
        folder: where it runs.
        arguments: of `run`.
        environment: further settings.
        done: says whether it is far enough for its blocks.
    """

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str], done: Callable[[System], bool]) -> None:
        self.folder = folder
        self.base = free_ports()
        self._pause = threading.Event()  # never set: waiting on it is a pause that needs no sleep
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CORRENTEZA_")}
        self.environment = inherited | {"CORRENTEZA_SERVICES__PORT_BASE": str(self.base), "no_proxy": "localhost,127.0.0.1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        lay_out(folder)
        self.log = (folder / "run.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "correnteza", "run", *arguments],
            cwd=folder,
            env=self.environment | environment,
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self.wait(lambda: done(self), "the system to be ready")
        except BaseException:
            self.process.kill()
            raise

    def url(self, place: int, path: str) -> str:
        """Address of a call; `place` is that of the service behind the first port."""
        return f"http://127.0.0.1:{self.base + place}{path}"

    def get(self, place: int, path: str) -> Any:
        """JSON of a call, or an empty table when it does not answer."""
        try:
            return requests.get(self.url(place, path), timeout=PATIENCE_S).json()
        except (requests.RequestException, ValueError):
            return {}

    def predict(self, record: dict[str, Any]) -> Any:
        """The answer for a record."""
        return requests.post(self.url(3, "/predict"), json=record, timeout=PATIENCE_S).json()

    def run(self, block: Block) -> str:
        """What a block prints."""
        text = re.sub(r"(localhost|127\.0\.0\.1):800([0-4])", lambda m: f"{m[1]}:{self.base + int(m[2])}", block.text)
        command = ["sh", "-ec", text] if block.language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{block.where} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            log = (self.folder / "run.log").read_text(errors="replace")[-3000:]
            assert self.process.poll() is None, f"it ended early:\n{log}"
            assert time.monotonic() < end, f"waited {PATIENCE_S:g} s for {what}:\n{log}"
            self._pause.wait(0.1)

    def stop(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log.close()


def lay_out(folder: Path) -> None:
    """What the README's reader has: `.venv`, `examples`, the data; the drift's data are those of the demo."""
    command = folder / ".venv" / "bin" / "correnteza"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m correnteza "$@"\n')
    command.chmod(0o755)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "drift").symlink_to("people")


def demo_is_ready(system: System) -> bool:
    """Two versions, intervals, answers."""
    return (
        len(system.get(3, "/models")) > 1
        and system.get(3, "/status").get("multiplier") is not None
        and bool(system.get(4, "/status").get("answers"))
    )


def bikes_are_learned(system: System) -> bool:
    """All rows that are replayed here have been learned from."""
    return bool(system.get(3, "/status").get("learned_rows") == BIKE_ROWS)


class World:
    """The system that runs now; another one only after that has stopped in good order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._system: System | None = None
        self._broken: set[str] = set()

    def of(self, name: str) -> System:
        """The system of a pipeline: `demo` or `bikes`."""
        if self._system is None or self._name != name:
            assert name not in self._broken, f"the system {name} did not start; the first test that needed it says why"
            self.end()
            self._broken.add(name)
            self._name, self._system = name, self._bikes() if name == "bikes" else self._demo()
        return self._system

    def _demo(self) -> System:
        trainer = {"RETRAIN_EVERY_S": "2", "KEEP_VERSIONS": "1000"}  # the first versions are asked for to the end
        environment = {f"CORRENTEZA_TRAINER__{key}": value for key, value in trainer.items()}
        return System(self._folder / "demo", [], environment, demo_is_ready)

    def _bikes(self) -> System:
        folder = self._folder / "bikes"
        compressed = data_file("bike_sharing_hour.csv.gz").read_bytes()
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "hour.csv").write_bytes(gzip.decompress(compressed))
        limit = {"CORRENTEZA_GENERATOR__LIMIT": str(BIKE_ROWS)}
        return System(folder, ["--config", "examples/bikes.toml"], limit, bikes_are_learned)

    def end(self) -> None:
        """Stop it."""
        system, self._system = self._system, None
        if system is not None:
            assert system.stop() == 0


def data_file(name: str) -> Path:
    """A shared data set."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there; put the data sets into shared/data beside the repository")
    return path
