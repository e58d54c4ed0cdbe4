"""Laws of the supervisor, with small programs in the place of the services."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.tools import PATIENCE_S

from correnteza import report, supervisor
from correnteza.children import Backoff, Child, Death
from correnteza.config import SERVICES as SERVICE_NAMES
from correnteza.config import Settings, load
from correnteza.errors import ServiceError
from correnteza.guards import only_one
from correnteza.supervisor import SERVICES
from correnteza.testing import wait_for

from .ports import free_ports

DRIVER = Path(__file__).parent / "fakes" / "run_supervisor.py"


def gone(pid: int) -> bool:
    """Whether a process has ended (it may still wait for its parent to take note)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def kill_fake(pid: int) -> None:
    """End a fake service that a failed test has left; any other process that has its pid by now stays."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if any("fake_service.py" in word for word in process.cmdline()):
            process.kill()


class Run:
    """One supervisor with fake services, as a process of its own session."""

    def __init__(self, folder: Path, modes: dict[str, str]) -> None:
        self.journal = folder / "journal"
        self.output = folder / "output"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, DRIVER, str(free_ports()), str(folder / "data"), str(self.journal), json.dumps(modes)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def entries(self, what: str) -> list[list[str]]:
        """What the services wrote down: `start`, `stop` or `child`, then name and pid."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.split() for line in lines if line.startswith(what)]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The supervisor's own log lines of one kind."""
        lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]

    def started(self) -> list[int]:
        """The pids of all services, once all have started."""
        wait_for(lambda: len(self.entries("start")) >= len(SERVICES))
        return [int(pid) for _, _, pid in self.entries("start")]

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal gives it to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        self.interrupt()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts supervisors; kills at the end whatever a failed test left."""
    runs: list[Run] = []

    def begin(**modes: str) -> Run:
        runs.append(Run(tmp_path, {name: modes.get(name, "good") for name in SERVICES}))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        for _, _, pid in run.entries("start"):
            kill_fake(int(pid))


def settings_for(folder: Path, port_base: int) -> Settings:
    return load(None, {"pipeline": {"data_dir": folder}, "services": {"port_base": port_base}})


def test_services_start_with_the_data_and_stop_against_it(start: Callable[..., Run]) -> None:
    run = start()
    pids = run.started()
    assert run.stop() == 0
    assert [event["service"] for event in run.events("service_started")] == list(SERVICES)
    assert [name for _, name, _ in run.entries("stop")] == list(reversed(SERVICES))
    assert all(gone(pid) for pid in pids)


def test_an_interrupt_of_the_group_reaches_no_service_directly(start: Callable[..., Run]) -> None:
    run = start()
    run.started()
    assert run.stop() == 0
    assert not run.entries("interrupted")


def test_a_dying_service_is_restarted_with_growing_pauses_and_the_others_stay(start: Callable[..., Run]) -> None:
    run = start(trainer="crash")
    wait_for(lambda: len(run.events("service_died")) >= 3)
    assert run.stop() == 0
    deaths = run.events("service_died")
    assert [death["restart_in_s"] for death in deaths[:3]] == [0.2, 0.4, 0.8]
    assert {(death["service"], death["how"]) for death in deaths} == {("trainer", "exit code 3")}
    assert [death["deaths"] for death in deaths[:3]] == [1, 2, 3]
    names = [name for _, name, _ in run.entries("start")]
    assert names.count("trainer") >= 3
    assert [names.count(name) for name in SERVICES if name != "trainer"] == [1] * (len(SERVICES) - 1)


def test_a_killed_service_leaves_no_process_of_its_own_behind(start: Callable[..., Run]) -> None:
    run = start(trainer="parent")
    run.started()
    pid, child = wait_for(lambda: [(int(p), int(c)) for _, p, c in run.entries("child")])[0]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(child))
    wait_for(lambda: run.events("service_restarted"))
    assert run.stop() == 0
    assert run.events("service_died")[0]["how"] == "signal SIGKILL"


def test_a_service_that_ignores_the_request_is_killed_within_ten_seconds(start: Callable[..., Run]) -> None:
    run = start(normalizer="stubborn")
    pids = run.started()
    began = time.monotonic()
    assert run.stop() == 0
    assert time.monotonic() - began < 10
    assert [event["service"] for event in run.events("service_killed")] == ["normalizer"]
    assert [name for _, name, _ in run.entries("stop")] == ["dashboard", "consumer", "trainer", "generator"]
    assert all(gone(pid) for pid in pids)


def test_a_second_interrupt_kills_at_once(start: Callable[..., Run]) -> None:
    run = start(**dict.fromkeys(SERVICES, "stubborn"))
    pids = run.started()
    run.interrupt()
    wait_for(lambda: run.events("stopping"))
    began = time.monotonic()
    run.interrupt()
    assert run.process.wait(PATIENCE_S) == supervisor.INTERRUPTED
    assert time.monotonic() - began < supervisor.PATIENCE_S / 2
    assert all(gone(pid) for pid in pids)


def test_services_end_when_their_supervisor_is_killed_and_a_second_run_works(start: Callable[..., Run]) -> None:
    first = start()
    pids = first.started()
    first.process.kill()
    first.process.wait()
    wait_for(lambda: all(gone(pid) for pid in pids))
    assert sorted(name for _, name, _ in first.entries("stop")) == sorted(SERVICES)
    first.journal.unlink()
    second = start()
    second.started()
    assert second.stop() == 0


def test_only_one_supervisor_runs_on_a_data_folder(start: Callable[..., Run]) -> None:
    first = start()
    first.started()
    second = start()
    assert second.process.wait(PATIENCE_S) == 1
    assert f"with pid {first.process.pid};" in second.output.read_text()
    assert len(first.entries("start")) == len(SERVICES)
    assert first.stop() == 0


def test_the_lock_goes_with_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with only_one(tmp_path), pytest.raises(ServiceError, match=str(os.getpid())), only_one(tmp_path):
            pass


@pytest.mark.parametrize("service", SERVICES)
def test_a_taken_port_is_named_with_its_holder_before_anything_starts(tmp_path: Path, service: str) -> None:
    asked: list[str] = []

    def command(name: str) -> list[str]:
        asked.append(name)
        return [sys.executable, "-c", ""]

    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError) as caught:
            supervisor.run(settings_for(tmp_path, port - SERVICE_NAMES.index(service)), command=command)
    (line,) = [line for line in str(caught.value).splitlines() if f"port {port} " in line]
    assert line.startswith(f"port {port} of the {service} is taken by ")
    assert f"(pid {os.getpid()})" in line
    assert not asked


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    settings = load(None, {"pipeline": {"data_dir": tmp_path}, "services": {"host": "192.0.2.1", "port_base": 21_000}})
    with pytest.raises(ServiceError, match=r"the generator cannot listen on 192\.0\.2\.1:21001"):
        supervisor.run(settings)


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"pipeline\.data_dir"):
        supervisor.run(settings_for(tmp_path / "file" / "data", 21_000))


def test_every_line_of_a_service_is_in_its_log_file(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(generator="chatty")
    run.started()
    log = tmp_path / "data" / "logs" / "generator.log"
    wait_for(lambda: log.exists() and "last line" in log.read_text())
    assert run.stop() == 0
    assert log.read_text().splitlines()[:3] == ["first line", "{'not': 'json'", "last line"]
    assert "generator: first line" in run.output.read_text().splitlines()


def test_log_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_BYTES", 1000)
    files = report.Files(tmp_path)
    for number in range(1000):
        files.write("generator", f"line {number}")
    files.close()
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 1 + report.KEPT_FILES
    assert all(path.stat().st_size <= 1000 for path in kept)
    assert (tmp_path / "generator.log").read_text().endswith("line 999\n")


def test_pauses_double_up_to_ten_seconds_and_begin_again_after_health() -> None:
    backoff = Backoff()
    pauses = [backoff.after(0.1) for _ in range(8)]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(30.0) == 0.2


def test_a_program_that_cannot_be_started_dies_like_any_other(tmp_path: Path) -> None:
    child = Child("generator", [str(tmp_path / "no-such-program")], lambda line: None)
    child.start()
    death = child.check()
    assert isinstance(death, Death)
    assert death.how.startswith("not started: ")
    assert child.state == "restarting"
    assert child.check() is None
    child.kill()


def test_wrong_settings_end_everything_instead_of_restarting_for_ever(tmp_path: Path) -> None:
    """A schema that does not fit the file is told once, in one line, and `run` ends with code 1."""
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "correnteza.toml").write_text(
        '[schema]\ntarget = "y"\nfields = { xx = "float" }\n[generator]\nsource = "replay"\npath = "a.csv"\n'
        "[services]\nport_base = 31400\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "correnteza", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    assert ended.stdout.count("error: ") == 1, ended.stdout
    assert "'xx'" in ended.stdout
    assert "Traceback" not in ended.stdout
    assert "settings_refused" in ended.stdout


def test_what_is_wrong_is_told_while_it_runs_and_nothing_when_it_stops(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake services answer nobody."""
    condition = {"name": "service_down", "metric": "up", "comparison": "<", "threshold": 1, "for_s": 0}
    monkeypatch.setenv("CORRENTEZA_ALERTS__CONDITIONS", json.dumps([condition]))
    monkeypatch.setenv("CORRENTEZA_ALERTS__EVERY_S", "0.1")
    run = start()
    wait_for(lambda: len(run.events("alert_firing")) == len(SERVICES))
    assert run.stop() == 0
    assert [event["service"] for event in run.events("alert_firing")] == sorted(SERVICES)
    assert run.events("alerts_failed") == run.events("alert_resolved") == []
