"""`correnteza models rebuild`: trains a version again from the log and compares it with the registered one.

Invariants:
- What is trained is what the version's sealed `model.json` says, not what the settings say today.
- The logs are only read. Files are written only where they are asked for, and only when the model that was made
  is the registered one, byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from correnteza import lineages
from correnteza.config import Settings
from correnteza.errors import (
    ConfigError,
    ModelError,
    OffsetRemovedError,
    ServiceError,
    TamperedModelError,
    TrainingFailedError,
    UnknownModelError,
)
from correnteza.features import CATEGORIES, SCALERS, Scaler
from correnteza.log.base import LATEST
from correnteza.log.sql import SqlStore
from correnteza.records import OFFSET, Schema
from correnteza.trainer import labels
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.artefacts import MODEL
from correnteza.trainer.past import Past
from correnteza.trainer.place import Place
from correnteza.trainer.process import TrainingProcess
from correnteza.trainer.recipe import Recipe
from correnteza.trainer.registry import Registry, load_key
from correnteza.trainer.training import Job, Trained
from correnteza.trainer.upstream import Upstream
from correnteza.trainer.window import Expressed


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it.

    Args:
        version: its number.
        registered: sha256 of the registered `model.onnx`.
        found: sha256 of the one that was made again.
        rows: how many rows it was trained on.
        notes: what is different from when the version was made, a sentence each.
        folder: where its files were put back; None when they were not.
    """

    version: int
    registered: str
    found: str
    rows: int
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def equal(self) -> bool:
        """Whether it is the same model, byte by byte."""
        return self.found == self.registered

    def __str__(self) -> str:
        """One sentence."""
        begin = f"version {self.version}, trained again on {self.rows:,} rows of the log,"
        if not self.equal:
            return f"{begin} is another model: sha256 {self.found}, registered is {self.registered}"
        kept = "" if self.folder is None else f"; its files are in {self.folder} again"
        return f"{begin} is the registered model, byte by byte (sha256 {self.found}){kept}"


def run(settings: Settings, version: int, keep: bool = False) -> Rebuilt:
    """Rebuild a version from the databases in the data folder, whether the services run or not.

    Args:
        settings: of the pipeline.
        version: its number.
        keep: whether to put its files back where they were removed.

    Raises:
        CorrentezaError: as `rebuild`; or there are no databases.
    """
    folder, own = lineages.current(settings, begin=False).folder, settings.trainer
    for name in ("trainer.db", "normalizer.db", "key"):
        if not (folder / name).exists():
            raise ServiceError(f"{folder / name}: is not there; name the data folder with --data-dir")
    trainer, normalizer = SqlStore(folder / "trainer.db"), SqlStore(folder / "normalizer.db")
    training = TrainingProcess(own.nice)

    def train(job: Job) -> Trained:
        training.start(job)
        return training.wait(own.train_timeout_s)

    try:
        schema = settings.schema_of_model
        registry = Registry(folder / "models", trainer, load_key(folder))
        upstream = Upstream(
            normalizer.log("normalized", schema.normalized),
            normalizer.log("scalers", SCALERS, bounded=False),
            normalizer.log("categories", CATEGORIES, bounded=False),
            schema,
        )
        past = Past(upstream, trainer.log("predictions", PREDICTIONS), trainer.log(labels.LOG, labels.LABELS), schema)
        return rebuild(version, registry, upstream, past, schema, train, keep)
    finally:
        training.close()
        trainer.close()
        normalizer.close()


def rebuild(
    version: int,
    registry: Registry,
    upstream: Upstream,
    past: Past,
    schema: Schema,
    train: Callable[[Job], Trained],
    keep: bool = False,
) -> Rebuilt:
    """Train a version again and compare.

    Args:
        version: its number.
        registry: where it is registered.
        upstream: the normalizer's logs.
        past: reads them together with the outcomes that were taken.
        schema: of the records.
        train: what trains, as `training.fit`.
        keep: whether to put its files back where they were removed or damaged; pruning then leaves them alone.

    Raises:
        UnknownModelError: there is no such version, or nothing tells any more how it was made.
        TamperedModelError: its `model.json` is not the registered one.
        OffsetRemovedError: rows that it was trained on are no longer in the log; names them.
        ConfigError: [schema] is another one now.
        TrainingFailedError: it cannot be trained again; names libraries that are not the same.
    """
    manifest = registry.remembered(version)
    job, notes = job_of(manifest, upstream, past, schema), changed_libraries(manifest)
    try:
        trained = train(job)
    except (TrainingFailedError, ConfigError) as error:
        raise TrainingFailedError("; ".join((str(error), *notes))) from error
    found = hashlib.sha256(trained.onnx).hexdigest()
    rebuilt = Rebuilt(version, manifest["files"][MODEL], found, len(job.targets), notes)
    if not (keep and rebuilt.equal) or _is_there(registry, version):
        return rebuilt
    return Rebuilt(version, rebuilt.registered, found, rebuilt.rows, notes, registry.put_back(version, trained, manifest))


def job_of(manifest: Mapping[str, Any], upstream: Upstream, past: Past, schema: Schema) -> Job:
    """The training that made a version.

    Args:
        manifest: its `model.json`, verified.
        upstream: the normalizer's logs.
        past: reads them together with the outcomes that were taken.
        schema: of the records.

    Raises:
        ConfigError: the version was trained for another schema.
        OffsetRemovedError: rows are no longer in the log; names them.
        ModelError: the log has other rows than the version was trained on.
    """
    if manifest["schema_sha256"] != schema.fingerprint:
        raise ConfigError(f"version {manifest['version']} was trained for another [schema]; name the settings it was made with")
    recipe = Recipe.of(manifest["recipe"]) if manifest.get("recipe") else None
    read = manifest["read_offset"]
    place = Place(cursor_behind(upstream, read), read, labels=manifest["labels_offset"])
    expressed = _expressed(manifest, recipe, upstream, past, place, schema)
    return Job(
        version=manifest["version"],
        estimator=manifest["estimator"],
        params=manifest["params"],
        seed=manifest["seed"],
        features=expressed.features,
        targets=expressed.targets,
        scaler=upstream.scalers.versions.get(expressed.version, Scaler(1, np.zeros(0), np.ones(0))),
        codes=upstream.codes(read),
        schema=schema,
        recipe=recipe,
        numbers=expressed.numbers,
    )


def _expressed(
    manifest: Mapping[str, Any], recipe: Recipe | None, upstream: Upstream, past: Past, place: Place, schema: Schema
) -> Expressed:
    """The labelled rows that the version needs, in its scaler version."""
    version, first, last, rows = (int(manifest[name]) for name in ("version", "first_offset", "last_offset", "rows"))
    needed = rows if recipe is None else recipe.at + 1 - recipe.first  # a recipe also needs those of parts that it inherited
    window = upstream.window_of(needed, needed, lambda back: past.rows(place, back))
    if len(window) < needed and past.lost_offset:
        raise _lost(version, past.lost_offset)
    if len(window) < needed:
        raise _short(manifest, needed, len(window), upstream.read(None, 1).batch[OFFSET][0].as_py())
    number = needed if recipe is None else recipe.at
    expressed = window.expressed(upstream.scalers, len(schema.numeric), number, version=int(manifest["scaler_version"]))
    if expressed.first_offset <= past.lost_offset:
        raise _lost(version, past.lost_offset)
    if (expressed.last_offset, recipe is None and expressed.first_offset) != (last, recipe is None and first):
        raise ModelError(
            f"version {version} was trained on {rows} labelled rows from {first} to {last} of the log normalized; here these "
            f"begin at {expressed.first_offset} and end at {expressed.last_offset}; is it the data folder that the version "
            "was made in?"
        )
    return expressed


def _lost(version: int, offset: int) -> OffsetRemovedError:
    return OffsetRemovedError(
        f"version {version} has learned from outcomes that were taken up to row {offset} of the log normalized, and of some of "
        "them retention has removed the record, the prediction or the row in the log labels; raise retention.rows or "
        "retention.age_s to be able to rebuild older versions",
        offset,
    )


def _short(manifest: Mapping[str, Any], needed: int, there: int, begins: int) -> OffsetRemovedError | ModelError:
    """Why there are too few labelled rows, in a log that begins at an offset."""
    version, first, last = manifest["version"], manifest["first_offset"], manifest["last_offset"]
    count = f"version {version} needs {needed} labelled rows up to {last}, {there} are there"
    if begins == 1:
        return ModelError(f"log normalized: {count}; is it the data folder that the version was made in?")
    gone = f"the rows {first} to {begins - 1} of {first} to {last}" if begins > first else f"the rows up to {begins - 1}"
    return OffsetRemovedError(
        f"log normalized: {gone} were removed by retention; {count}; "
        "raise retention.rows or retention.age_s to be able to rebuild older versions",
        begins,
    )


def cursor_behind(upstream: Upstream, offset: int) -> str:
    """The cursor behind a row of `normalized`.

    Raises:
        OffsetRemovedError: the row is no longer there.
        ModelError: it has never been there.
    """
    end = upstream.read(LATEST, 1).next
    newest = upstream.read(end, 1, back=1).batch
    head = newest[OFFSET][0].as_py() if newest.num_rows else 0
    if head < offset:
        raise ModelError(f"log normalized: ends at offset {head}; expected {offset}; is it the data folder of this version?")
    part = upstream.read(end, 1, back=head + 1 - offset)
    first: int = part.batch[OFFSET][0].as_py()
    if first > offset:
        raise OffsetRemovedError(
            f"log normalized: all rows up to {first - 1} were removed by retention, among them those up to {offset} that are "
            "needed; raise retention.rows or retention.age_s to be able to rebuild older versions",
            first,
        )
    return part.next


def changed_libraries(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each library that decides what a training gives and is of another version now.

    >>> changed_libraries({"version": 3, "libraries": {"numpy": "1.2.3"}})[0].partition(", here")[0]
    'version 3 was trained with numpy 1.2.3'
    """
    notes = []
    for name, then in sorted(manifest.get("libraries", {}).items()):
        try:
            now = metadata.version(name)
        except metadata.PackageNotFoundError:
            now = "missing"
        if now != then:
            notes.append(f"version {manifest['version']} was trained with {name} {then}, here it is {now}")
    return tuple(notes)


def _is_there(registry: Registry, version: int) -> bool:
    """Whether the version's model is in its place, and sound."""
    try:
        registry.model_bytes(version)
    except (UnknownModelError, TamperedModelError):
        return False
    return True
