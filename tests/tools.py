"""What tests share: their patience, and the programs that some of them need and a machine may lack."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

PATIENCE_S = 300.0
"""How long a test waits for what must come. A slow machine may need long, and a failure that comes late costs nothing."""
_PAUSE = threading.Event()  # never set: waiting on it is a pause between two looks
MISSING = Path(__file__).parents[1] / "build" / "missing"
"""What `make test` tried to get, in vain, by name."""


def absent(name: str, fix: str) -> NoReturn:
    """Skip a test that needs something; in CI fail, unless `make test` tried to get it and could not.

    Args:
        name: as `make test` writes it down.
        fix: how to get it.
    """
    tried = name in (MISSING.read_text(encoding="utf-8").split() if MISSING.exists() else ())
    if os.environ.get("CI") == "true" and not tried:
        pytest.fail(f"{name} is not there; {fix}; CI tests with it")
    pytest.skip(f"{name} is not there{', and could not be had' if tried else ''}; {fix}")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds; its value."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        _PAUSE.wait(0.02)
    pytest.fail(f"waited {PATIENCE_S} s in vain: {what}")
