"""A service for the supervisor's tests: NAME MODE JOURNAL. It writes down when it starts and stops."""

import os
import signal
import subprocess
import sys
import threading

from correnteza.children import stop_when_parent_dies


def note(journal: str, *words: object) -> None:
    """Append a line, in one write."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def main(name: str, mode: str, journal: str) -> None:
    """Run until SIGTERM, or as the mode says."""
    stopped = threading.Event()

    def on_term(*_: object) -> None:
        if mode != "stubborn":
            note(journal, "stop", name, os.getpid())
            stopped.set()

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, lambda *_: note(journal, "interrupted", name))
    stop_when_parent_dies()
    note(journal, "start", name, os.getpid())
    if mode == "chatty":
        print("first line\n{'not': 'json'\nlast line", flush=True)
    if mode == "crash":
        sys.exit(3)
    if mode == "parent":
        note(journal, "child", os.getpid(), subprocess.Popen(["sleep", "60"]).pid)
    while not stopped.wait(0.05):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
