"""What a training is told: the rows of the window, what to make of them, and what will be written down of it.

Invariant: a job is a function of the window, the learner's state and the ancestor; it holds all rows that are new to
the training process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza import config
from correnteza.errors import TamperedModelError, UnknownModelError
from correnteza.features import Codes, Scaler
from correnteza.records import Schema
from correnteza.trainer import lineage, linear, plan
from correnteza.trainer.books import Progress
from correnteza.trainer.lineage import Ancestor
from correnteza.trainer.recipe import Local, Recipe
from correnteza.trainer.registry import Meta, Registry
from correnteza.trainer.state import State
from correnteza.trainer.training import Job
from correnteza.trainer.upstream import Upstream
from correnteza.trainer.window import Expressed, Window

TREES = 100
"""Of scikit-learn's forests, where the parameters do not say."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a training.

    Args:
        version: number of the version that it makes.
        parent: version in service, or None.
        reason: why it is trained.
        labels_offset: rows that the log `labels` has.
        changed: number of the first labelled row of a new world, or None.
    """

    version: int
    parent: int | None
    reason: str
    labels_offset: int
    changed: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the training process remembers.

    Args:
        versions: all of whose parts it has for sure.
        empty: whether it has nothing at all, because it has just been started.
    """

    versions: Collection[int]
    empty: bool


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A training that was started: what it will be registered as, and the progress that it makes.

    Args:
        version: its number.
        meta: what will be registered.
        progress: that it makes.
        started_at: monotonic time in seconds.
        drift: whether a rise of the error brought it about.
        young_rows: that the youngest part of it was grown on.
    """

    version: int
    meta: Meta
    progress: Progress
    started_at: float
    drift: bool
    young_rows: int


class Jobs:
    """Makes jobs.

    Args:
        settings: the section `[trainer]`.
        schema: of the records.
        registry: the model versions.
        upstream: the normalizer's logs.
    """

    def __init__(self, settings: config.Trainer, schema: Schema, registry: Registry, upstream: Upstream) -> None:
        self._settings = settings
        self._schema = schema
        self._registry = registry
        self._upstream = upstream
        self._adaptive = lineage.adaptive(settings)

    def make(self, wish: Wish, state: State, window: Window, ancestor: Ancestor | None, memory: Memory) -> tuple[Job, Meta]:
        """A job, and what is known of the version before it is made.

        Args:
            wish: what is wanted.
            state: of the learner's stage.
            window: the labelled rows; at least one.
            ancestor: the version to go on from, or None.
            memory: what the training process remembers.
        """
        recipe, warm = self._recipe(wish, state, window, ancestor, memory) if self._adaptive else (None, b"")
        newest = ancestor is not None and ancestor.version == wish.version - 1
        expressed = self._rows(state, window, recipe, newest)
        if recipe is not None and (told := plan.settled(ancestor.recipe if ancestor else None, recipe, state.scores)):
            wish = replace(wish, reason=f"{wish.reason}; {told}")
        codes = self._upstream.codes(state.offset)
        return self._job(wish.version, expressed, codes, recipe, warm), self._meta(wish, state, expressed, recipe)

    def ahead(self, state: State, window: Window, coming: pa.RecordBatch, recipe: Recipe) -> Job | None:
        """The trees of the version after one, if it is made behind some rows and nothing happens before; None if it needs none.

        Args:
            state: of the learner's stage.
            window: the labelled rows so far.
            coming: labelled rows of `normalized` that follow.
            recipe: of the version before.
        """
        at = state.rows + coming.num_rows
        later = plan.plan(recipe, at, recipe.scaler_version, state.scores, self._bounds)
        rows = at + 1 - later.first_renewed
        if later.first_renewed == at:
            return None
        known = window.copied(rows)
        self._upstream.learn(known, coming)
        expressed = known.expressed(self._upstream.scalers, len(self._schema.numeric), at, rows, recipe.scaler_version)
        return replace(self._job(0, expressed, self._upstream.codes(state.offset), later, b""), ahead=True)

    def _rows(self, state: State, window: Window, recipe: Recipe | None, newest: bool) -> Expressed:
        """The rows to learn from; where the training process may have forgotten parts, those of all parts."""
        if recipe is None:
            rows = self._settings.window_rows
        else:
            rows = state.rows + 1 - (recipe.first_renewed if newest else recipe.first)
        version = None if recipe is None else recipe.scaler_version
        return window.expressed(self._upstream.scalers, len(self._schema.numeric), state.rows, rows, version)

    def _recipe(
        self, wish: Wish, state: State, window: Window, ancestor: Ancestor | None, memory: Memory
    ) -> tuple[Recipe, bytes]:
        """The recipe, and the checkpoint for a training process that may not remember the ancestor."""
        newest = window.newest_version() or 1
        ancestor, warm = self._usable(ancestor, newest), b""
        if ancestor is not None and ancestor.version not in memory.versions:
            try:
                warm = self._registry.checkpoint_bytes(ancestor.version)
            except (UnknownModelError, TamperedModelError):
                ancestor = None if memory.empty else ancestor
        parent = None if ancestor is None else ancestor.recipe
        local = self._local(state, window, parent)
        return plan.plan(parent, state.rows, newest, state.scores, self._bounds, wish.changed, local), warm

    @property
    def _bounds(self) -> plan.Bounds:
        return plan.Bounds(
            trees=int(self._settings.params.get("n_estimators", TREES)),
            window_rows=self._settings.window_rows,
            seed=self._settings.seed,
            paced=self._settings.retrain_every_rows == "auto",
            derived=bool(self._schema.derived),
        )

    def _usable(self, ancestor: Ancestor | None, newest: int) -> Ancestor | None:
        """The ancestor, unless the numbers have gone too far from the scaler version that it is made in."""
        if ancestor is None or not self._schema.numeric:
            return ancestor
        known = self._upstream.scalers.versions.get(ancestor.recipe.scaler_version)
        return ancestor if known is not None and lineage.within(known, self._upstream.scalers.versions[newest]) else None

    def _local(self, state: State, window: Window, parent: Recipe | None) -> Local | None:
        """A correction by the last errors, if they are those of the last rows."""
        recent = [error for number, error in state.recent if number > state.rows - len(state.recent)]
        if parent is None or not recent or len(recent) < len(state.recent):
            return None
        numbers, scalers = len(self._schema.numeric), self._upstream.scalers.versions
        rows = window.expressed(self._upstream.scalers, numbers, state.rows, len(recent), parent.scaler_version)
        newest = scalers.get(window.newest_version() or 1)
        units = newest.scale / scalers[parent.scaler_version].scale if newest is not None and numbers else np.ones(numbers)
        fitted = linear.local(rows.features, np.array(recent), units)
        return None if fitted is None else Local(0.0, fitted[0], tuple(fitted[1].tolist()))

    def _job(self, version: int, expressed: Expressed, codes: Codes, recipe: Recipe | None, warm: bytes) -> Job:
        return Job(
            version=version,
            estimator=self._settings.estimator,
            params=self._settings.params,
            seed=self._settings.seed,
            features=expressed.features,
            targets=expressed.targets,
            scaler=self._upstream.scalers.versions.get(expressed.version, Scaler(1, np.zeros(0), np.ones(0))),
            codes=codes,
            schema=self._schema,
            recipe=recipe,
            numbers=expressed.numbers,
            warm=warm,
            checkpoint=self._settings.checkpoints,
            threads=self._settings.threads,
        )

    def _meta(self, wish: Wish, state: State, expressed: Expressed, recipe: Recipe | None) -> Meta:
        return Meta(
            parent=wish.parent,
            created_at=datetime.now(UTC),
            reason=wish.reason,
            decision="",
            estimator=self._settings.estimator,
            params=self._settings.params,
            seed=self._settings.seed,
            rows=len(expressed.targets) if recipe is None else _window_rows(recipe),
            first_offset=expressed.first_offset,
            last_offset=expressed.last_offset,
            scaler_version=expressed.version,
            schema_sha256=self._schema.fingerprint,
            evaluation={},
            recipe=_plain(recipe),
            read_offset=state.offset,
            labels_offset=wish.labels_offset,
        )


def _window_rows(recipe: Recipe) -> int:
    """Rows that the first expert has learned from."""
    return recipe.experts[0].last + 1 - recipe.experts[0].cohorts[-1].first


def _plain(recipe: Recipe | None) -> Mapping[str, Any] | None:
    return None if recipe is None else recipe.plain()
