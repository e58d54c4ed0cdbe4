"""Laws of `make`: what it installs when, what it says, and what Ctrl-C leaves. Pip and services are stand-ins."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.tools import PATIENCE_S

from correnteza.testing import wait_for

from .ports import free_ports

ROOT = Path(__file__).parents[1]
FAKES = Path(__file__).parent / "fakes"
SERVICES = 5

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="GNU make is not installed")

PYTHON = """\
#!/bin/sh
echo "$@" >> "{calls}"
case "$*" in
    "--version") echo "Python {version}";;
    *version_info*) exec "{python}" -c 'import sys; sys.exit(not {new_enough})';;
    *ensurepip*) exit {no_venv};;
    "-m venv --clear .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
    *"pip --version") [ -e .venv/bin/python ];;
    *" install "*) exit {pip_fails};;
esac
"""


def kill_fake(pid: int) -> None:
    """End a fake service that a failed test has left; any other process that has its pid by now stays."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if any("fake_service.py" in word for word in process.cmdline()):
            process.kill()


class Checkout:
    """A copy of the project's Makefile beside a stand-in for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.data = folder / "data"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.python()

    def python(self, version: str = "3.11.7", *, new_enough: bool = True, no_venv: int = 0, pip_fails: int = 0) -> None:
        """What the stand-in for Python is like."""
        text = PYTHON.format(
            calls=self.calls,
            python=sys.executable,
            version=version,
            new_enough=new_enough,
            no_venv=no_venv,
            pip_fails=pip_fails,
        )
        (self.folder / "python3").write_text(text)
        (self.folder / "python3").chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Without what a surrounding make has set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "CORRENTEZA_"))}
        return {**kept, "PATH": f"{self.folder}:{os.environ['PATH']}", "TERM": "xterm"}

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make to its end."""
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def installs(self) -> list[str]:
        """The calls of `pip install` so far."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if " install " in line]

    def pretend_installed(self) -> None:
        """Put a supervisor of fake services where `make run` expects the command."""
        (self.folder / ".venv" / "bin").mkdir(parents=True)
        command = self.folder / ".venv" / "bin" / "correnteza"
        arguments = f'{free_ports()} "{self.data}" "{self.folder / "journal"}" \'{MODES}\''
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKES / "run_supervisor.py"}" {arguments}\n')
        command.chmod(0o755)
        (self.folder / ".venv" / "installed").touch()

    def pids(self) -> list[int]:
        """The fake services that have started."""
        journal = self.folder / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [int(line.split()[2]) for line in lines if line.startswith("start")]


MODES = '{"generator": "good", "normalizer": "good", "trainer": "good", "consumer": "good", "dashboard": "good"}'


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    yield made
    for pid in made.pids():
        kill_fake(pid)


def test_install_creates_the_environment_with_the_pinned_versions(checkout: Checkout) -> None:
    done = checkout.make("install")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    (call,) = checkout.installs()
    assert "--constraint constraints.txt" in call
    assert call.endswith("--editable .[dashboard]")


def test_install_is_done_again_only_when_what_it_reads_has_changed(checkout: Checkout) -> None:
    checkout.make("install")
    checkout.make("install")
    assert len(checkout.installs()) == 1
    later = time.time() + 10
    os.utime(checkout.folder / "constraints.txt", (later, later))
    checkout.make("install")
    assert len(checkout.installs()) == 2


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.python(pip_fails=1)
    assert checkout.make("install").returncode != 0
    shutil.copy(checkout.folder / "python3", checkout.folder / ".venv" / "bin" / "python")
    checkout.python()
    shutil.copy(checkout.folder / "python3", checkout.folder / ".venv" / "bin" / "python")
    assert checkout.make("install").returncode == 0
    assert len(checkout.installs()) == 2


@pytest.mark.parametrize("target", ["install", "run", "test"])
def test_a_python_that_is_too_old_is_named_with_the_way_out(checkout: Checkout, target: str) -> None:
    checkout.python("3.9.1", new_enough=False)
    done = checkout.make(target)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: python3 is Python 3.9.1; 3.11 or newer is needed: make PYTHON=/path/to/python3.11"]
    assert not checkout.installs()


def test_no_python_at_all_is_said(checkout: Checkout) -> None:
    done = checkout.make("install", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "error: no-such-python: no such command" in done.stderr


def test_a_python_without_venv_is_said_with_the_way_out(checkout: Checkout) -> None:
    checkout.python(no_venv=1)
    done = checkout.make("install")
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr


APT = """\
#!/bin/sh
echo "$@" >> calls
case "$*" in *install*) [ "$(grep -c " $5\\$" calls)" -gt {failures} ];; esac
"""


@pytest.mark.parametrize(("failures", "missing"), [(0, []), (1, []), (2, ["chromium", "prometheus"])])
def test_a_tool_is_asked_for_twice_and_then_said_and_noted_to_be_missing(
    checkout: Checkout, failures: int, missing: list[str]
) -> None:
    programs = checkout.folder / "programs"
    programs.mkdir()
    for name in ("make", "sh", "mkdir", "grep", "tail"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, text in (("id", "#!/bin/sh\necho 0\n"), ("apt-get", APT.format(failures=failures))):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    command, environment = ["make", "tools"], checkout.environment() | {"PATH": str(programs)}
    done = subprocess.run(command, cwd=checkout.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (checkout.folder / "build" / "missing").read_text().split() == missing
    assert [line.split()[1] for line in done.stderr.splitlines() if "cannot be installed" in line] == missing


def test_an_interrupt_of_the_whole_group_leaves_nothing_running(checkout: Checkout) -> None:
    checkout.pretend_installed()
    make = subprocess.Popen(
        ["make", "run"], cwd=checkout.folder, env=checkout.environment(), stdin=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: len(checkout.pids()) == SERVICES)
    os.killpg(make.pid, signal.SIGINT)
    assert make.wait(PATIENCE_S) in (0, 2, 130, -signal.SIGINT)
    assert not [pid for pid in psutil.pids() if _session(pid) == make.pid]


TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
AFTERWARDS = "import os; print('terminal is', 'back' if os.tcgetpgrp(0) == os.getpgrp() else 'lost')"


def test_on_a_terminal_an_interrupt_ends_make_with_code_zero_and_gives_the_terminal_back(checkout: Checkout) -> None:
    checkout.pretend_installed()
    script = f"""make run; echo "code $?"; '{sys.executable}' -c "{AFTERWARDS}" """
    ours, theirs = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, "sh", "-c", script],
        cwd=checkout.folder,
        env=checkout.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = bytearray()

    def shows(text: bytes) -> bool:
        with contextlib.suppress(OSError):  # the other end is closed
            seen.extend(os.read(ours, 65_536))
        return text in seen

    wait_for(lambda: shows(b"/docs") and len(checkout.pids()) == SERVICES)
    os.write(ours, b"\x03")
    wait_for(lambda: shows(b"terminal is "))
    assert b"code 0" in seen
    wait_for(lambda: shows(b"terminal is back"))
    os.close(ours)
    assert shell.wait(PATIENCE_S) == 0


def _session(pid: int) -> int:
    try:
        return -1 if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return -1
