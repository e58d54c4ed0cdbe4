"""Programs that some tests need and a machine may lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

MISSING = Path(__file__).parents[1] / "build" / "missing"
"""What `make test` tried to install, in vain."""


def absent(program: str, fix: str) -> NoReturn:
    """Skip a test that needs a program; in CI fail, unless `make test` tried to install it and could not.

    Args:
        program: as its package is called.
        fix: how to get it.
    """
    tried = program in (MISSING.read_text(encoding="utf-8").split() if MISSING.exists() else ())
    if os.environ.get("CI") == "true" and not tried:
        pytest.fail(f"{program} is not there; {fix}; CI tests with it")
    pytest.skip(f"{program} is not there{', and could not be installed' if tried else ''}; {fix}")
