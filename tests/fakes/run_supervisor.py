"""The supervisor with fake services: PORT_BASE DATA_DIR JOURNAL MODES, modes by service as JSON."""

import json
import sys
from pathlib import Path

from correnteza import output, supervisor
from correnteza.config import load
from correnteza.errors import CorrentezaError

FAKE = Path(__file__).parent / "fake_service.py"


def main(port_base: str, data_dir: str, journal: str, modes: str) -> int:
    """Run it; the exit code."""
    settings = load(None, {"pipeline": {"data_dir": data_dir}, "services": {"port_base": port_base}})
    output.set_up(settings.services.log_format)
    by_name = json.loads(modes)
    try:
        return supervisor.run(settings, command=lambda name: [sys.executable, str(FAKE), name, by_name[name], journal])
    except CorrentezaError as error:
        output.print_error(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
