"""The supervisor with fake services, on free ports: DATA_DIR JOURNAL MODES, modes by service as JSON."""

import json
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from correnteza import output, supervisor
from correnteza.config import load
from correnteza.errors import CorrentezaError

FAKE = Path(__file__).parent / "fake_service.py"


def free_port_base() -> int:
    """A port base whose ports are all free now."""
    for base in range(21_000, 60_000, 10):
        with ExitStack() as stack:
            try:
                for port in range(base, base + 5):
                    stack.enter_context(closing(socket.socket())).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise SystemExit("no free ports")


def main(data_dir: str, journal: str, modes: str) -> int:
    """Run it; the exit code."""
    settings = load(None, {"pipeline": {"data_dir": data_dir}, "services": {"port_base": free_port_base()}})
    output.set_up(settings.services.log_format)
    by_name = json.loads(modes)
    try:
        return supervisor.run(settings, command=lambda name: [sys.executable, str(FAKE), name, by_name[name], journal])
    except CorrentezaError as error:
        output.print_error(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
