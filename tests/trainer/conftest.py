"""Streams and runs that several tests look at."""

from __future__ import annotations

import pytest

from correnteza.log.memory import MemoryStore

from .worlds import World, normalized, raw


@pytest.fixture(scope="session")
def upstream_store() -> MemoryStore:
    return normalized(raw(700))


@pytest.fixture(scope="session")
def undisturbed(upstream_store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("undisturbed"), upstream_store)
    world.run()
    return world
