"""A killed service resumes within 5 s of its restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .conftest import SERVICES, Pipeline

TOML = """
[generator]
start_time = "2026-01-01T00:00:00Z"

[trainer]
params = { n_estimators = 10, min_samples_leaf = 5 }
retrain_every_s = 1
"""
PROMISED_S = 5.0
TRIES = 5
"""The best of so many counts: a test machine may be busy with something else for a moment."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The demo, with a model in service."""
    folder: Path = tmp_path_factory.mktemp("resume")
    pipeline = Pipeline(folder / "demo", TOML)
    pipeline.start()
    pipeline.wait(lambda: progress(pipeline, "consumer"), "the first answers")
    yield pipeline
    assert set(pipeline.stop().values()) == {0}, pipeline.last_words()


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_resumes_in_time(running: Pipeline, name: str) -> None:
    """Until its rows go on where they were, and until it answers."""
    took_s = []
    for _ in range(TRIES):
        before = running.wait(lambda: progress(running, name), f"progress of the {name}")
        running.kill(name)
        began = time.monotonic()
        running.start(name)
        running.wait(lambda: progress(running, name) > before, f"the {name} to go on")  # noqa: B023 - called at once
        took_s.append(time.monotonic() - began - kept_waiting_s(running.processes[name].pid))
        if took_s[-1] < PROMISED_S:
            return
    pytest.fail(f"the {name} took {took_s} s to resume")


def kept_waiting_s(pid: int) -> float:
    """How long a process and its children were ready to run while others had the processors: not what is promised.

    Of each its main thread, which does what a start needs; 0 where the system does not tell.
    """
    waited_ns = 0
    with suppress(OSError, psutil.NoSuchProcess):
        for one in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            waited_ns += int(Path(f"/proc/{one}/schedstat").read_text(encoding="ascii").split()[1])
    return waited_ns / 1e9


def progress(pipeline: Pipeline, name: str) -> int:
    """Rows so far, of a service that is ready; 0 when it is not."""
    if pipeline.get(name, "/health/ready") is None:
        return 0
    status = pipeline.get(name, "/status")
    if status is None:
        return 0
    return int(status["learned_rows"] if name == "trainer" else status["logs"]["records"]["next_offset"] - 1)
