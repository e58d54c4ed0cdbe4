"""Streams and runs that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from correnteza import config
from correnteza.log.memory import MemoryStore
from correnteza.trainer import judging

from .late import ROWS
from .worlds import WAYS, World, normalized, raw


@pytest.fixture(scope="session")
def upstream_store() -> MemoryStore:
    return normalized(raw(700))


@pytest.fixture(scope="session")
def turned_store() -> MemoryStore:
    """A stream whose world changes at once."""
    return normalized(raw(700, turned=450))


@pytest.fixture(scope="session")
def open_store() -> MemoryStore:
    """What the normalizer makes of a stream whose targets all come late."""
    return normalized(raw(ROWS, labelled=lambda _: False))


@pytest.fixture(scope="session")
def truths() -> list[float]:
    """The target of each record."""
    found: list[float] = raw(ROWS, labelled=lambda _: True)["price"].to_pylist()
    return found


@pytest.fixture(scope="module")
def tested_early() -> Iterator[None]:
    """Versions are tested in shadow from so few rows on that a short stream has tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "YOUNG_ROWS", 100)
        yield


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tested_early: None) -> config.Trainer:
    """The settings of a law that holds whether versions are tested or not."""
    return WAYS[str(request.param)]


@pytest.fixture(scope="module")
def undisturbed(way: config.Trainer, upstream_store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("undisturbed"), upstream_store, way)
    world.run()
    return world
