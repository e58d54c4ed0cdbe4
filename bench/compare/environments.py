"""A virtual environment for each peer, made once under `build/compare`, so that none of them meets another's versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "compare"
INSTALL_S = 900
TRAIN_S = 120
DONE = "requirements.txt"
"""What was installed; written last, so that half an environment is made anew."""


class Skipped(Exception):  # noqa: N818 - no error: the others are compared all the same
    """A peer that cannot take part; the text says why."""


def prepare(name: str, requirements: Sequence[str]) -> Path:
    """The environment of a peer, made if need be; returns its folder.

    Args:
        name: of the peer.
        requirements: for pip.

    Raises:
        Skipped: pip did not succeed.
    """
    place = FOLDER / name
    wanted = "\n".join(requirements)
    done = place / DONE
    if done.exists() and done.read_text() == wanted:
        return place
    print(f"{name}: installing {', '.join(requirements)} into {place}", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    run(name, [_python311(), "-m", "venv", str(place)], TRAIN_S)
    pip = [str(python(place)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    run(name, [*pip, *requirements], INSTALL_S)
    done.write_text(wanted)
    return place


def python(place: Path) -> Path:
    """The interpreter of an environment."""
    return place / "bin" / "python"


def model(name: str, place: Path) -> Path:
    """The forest, trained with the environment's own scikit-learn; trained once."""
    folder = place / "run"
    path = folder / "model.joblib"
    if not path.exists():
        run(name, [str(python(place)), str(Path(__file__).with_name("forest.py")), str(folder)], TRAIN_S)
    return path


def versions(place: Path, packages: Sequence[str]) -> str:
    """What is installed, as `fastapi 0.1, scikit-learn 1.2`."""
    program = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    return run("versions", [str(python(place)), "-c", program, *packages], TRAIN_S).strip()


def environment(place: Path) -> dict[str, str]:
    """Variables of its processes: its programs come first, and its files stay in its own folder."""
    (place / "run").mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place / "run"),
        "MODEL": str(place / "run" / "model.joblib"),
        "PYTHONWARNINGS": "ignore",
        "BENTOML_DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def run(name: str, command: Sequence[str], seconds: float, place: Path | None = None) -> str:
    """Output of a command that ends by itself.

    Raises:
        Skipped: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment(place) if place else None
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Skipped(f"{name}: {error}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Skipped(f"{name}: {Path(command[0]).name} ended with code {done.returncode}: {last[:300]}")
    return done.stdout


def _python311() -> str:
    """Not all peers have releases for newer ones."""
    return shutil.which("python3.11") or sys.executable
