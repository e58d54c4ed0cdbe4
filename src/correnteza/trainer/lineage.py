"""Which recipe the next version begins with.

Invariant: a version that was refused, superseded or rolled back has no descendants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from correnteza import config
from correnteza.errors import ModelError
from correnteza.features import Scaler
from correnteza.records import Schema
from correnteza.trainer import growing
from correnteza.trainer.recipe import Recipe
from correnteza.trainer.registry import Registry

APART = 1e3
"""Deviations by which the statistics may have moved before a lineage ends: single precision would not tell rows apart."""
WINDOWS = 2
"""Windows of rows that are kept at hand: trees that grew a window ago are still in the forest."""
CHILDLESS = ("refused", "superseded", "rolled_back")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A version that the next one is made from.

    Args:
        version: its number.
        recipe: what it is made of.
    """

    version: int
    recipe: Recipe


def adaptive(settings: config.Trainer) -> bool:
    """Whether versions are made by recipes; otherwise the estimator is fitted anew to the whole window."""
    return settings.policy == "adaptive" or (settings.policy == "auto" and growing.is_forest(settings.estimator))


def newest(registry: Registry, settings: config.Trainer, schema: Schema) -> Ancestor | None:
    """The newest version that may have descendants and was made by the same settings."""
    decisions = registry.decisions()
    for row in reversed(registry.versions()):
        if decisions.get(row.version) not in CHILDLESS:
            return of(registry, row.version, settings, schema)
    return None


def of(registry: Registry, version: int, settings: config.Trainer, schema: Schema) -> Ancestor | None:
    """A version as an ancestor; None when it cannot be one."""
    try:
        manifest = registry.manifest(version)
    except ModelError:
        return None
    if not adaptive(settings) or not manifest.get("recipe") or _made_of(manifest) != _asked(settings, schema):
        return None
    return Ancestor(version, Recipe.of(manifest["recipe"]))


def within(scaler: Scaler, newest: Scaler) -> bool:
    """Whether rows in the newest statistics can be expressed in the older ones without loss."""
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.abs(newest.mean - scaler.mean) / scaler.scale
        grown = np.maximum(newest.scale / scaler.scale, scaler.scale / newest.scale)
    return bool(np.all(moved < APART) and np.all(grown < APART))


def _made_of(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    return manifest["estimator"], dict(manifest["params"]), manifest["seed"], manifest["schema_sha256"]


def _asked(settings: config.Trainer, schema: Schema) -> tuple[Any, ...]:
    return settings.estimator, dict(settings.params), settings.seed, schema.fingerprint
