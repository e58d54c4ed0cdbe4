"""The model versions: the rows that list them, which one is in service, and their files.

Invariants:
- A version is in the registry when its row in the log `models` is committed, which is after its
  files are durable; it is in service when the last row of the log `promotions` says so.
- No file is used before it is verified (see `artefacts`); no checkpoint is unpickled before that.
- Rows are never changed; files of old versions go, their rows stay. Of a bounded number of them `model.json` stays
  too, in the log `manifests`, so that they can be made again.
- Reading costs what is new in the logs, and memory is bounded, however many versions there were.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from correnteza.errors import ModelError, TamperedModelError, UnknownModelError
from correnteza.lineages import Lineage
from correnteza.log.base import Store
from correnteza.log.sql import SqlStore
from correnteza.trainer import rotation
from correnteza.trainer.artefacts import CHECKPOINT, MODEL, Artefacts, load_key
from correnteza.trainer.manifests import MANIFESTS, Manifests
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS, Current, Kind, promotion_rows
from correnteza.trainer.rotation import Aged
from correnteza.trainer.tail import Tail
from correnteza.trainer.versions import MODELS, Meta, ModelRow, model_rows, row_of_log, row_of_manifest

if TYPE_CHECKING:
    from correnteza.trainer.training import Trained

__all__ = ["MODELS", "PROMOTIONS", "Current", "Meta", "ModelRow", "Registry", "load_key", "model_rows", "promotion_rows"]

ROWS_IN_MEMORY = 1000
MOST_DECISIONS = 2
"""About one version: that it is promoted, and that it is rolled back."""
LIBRARIES = ("correnteza", "numpy", "onnx", "scikit-learn", "skl2onnx")
"""Whose versions decide what a training gives."""


class Registry:
    """The versions of one pipeline. Safe to use from several threads, and by several processes.

    Only the learner calls `write`, `recover` and `prune`; only a rebuild calls `put_back`.

    Args:
        folder: where the directories of the versions are (`…/models`); it is created.
        store: opens the logs `models`, `promotions`, `decisions` and `manifests` in it.
        key: of the HMACs, from `load_key`.
        first_version: number of the first version.
        durable: whether the files of a version are on the disk when `write` returns.
    """

    def __init__(self, folder: Path, store: Store, key: bytes, first_version: int = 1, durable: bool = True) -> None:
        self._first_version = first_version
        self._artefacts = Artefacts(folder, key, durable)
        self._promotions = store.log("promotions", PROMOTIONS, bounded=False)
        self._models_tail = Tail(store.log("models", MODELS, bounded=False), ROWS_IN_MEMORY)
        self._promotions_tail = Tail(self._promotions, 1)
        self._decisions_tail = Tail(store.log("decisions", DECISIONS, bounded=False), ROWS_IN_MEMORY * MOST_DECISIONS)
        self._manifests = Manifests(store.log("manifests", MANIFESTS), self._artefacts)
        self._aged: dict[int, Aged] = {}
        self._previous: int | None = None
        self._rows: dict[int, ModelRow] = {}
        self._decisions: dict[int, str] = {}
        self._current: Current | None = None
        self._libraries = {name: metadata.version(name) for name in LIBRARIES}
        self._lock = threading.RLock()

    def recover(self) -> tuple[str, ...]:
        """Remove what a crash left: temporary directories, and versions without a row; returns their names."""
        orphans = [version for version in self._artefacts.versions() if version >= self.next_version()]
        for version in orphans:
            self._artefacts.remove(version)
        return (*self._artefacts.sweep(), *map(str, orphans))

    def next_version(self) -> int:
        """The number that the next version gets: one more than the last row's."""
        return max(self._known(), default=self._first_version - 1) + 1

    def write(self, version: int, trained: Trained, meta: Meta) -> ModelRow:
        """Write the directory of a version, durably and whole; the caller then commits the row.

        Args:
            version: its number; a directory of that number without a row is replaced.
            trained: what the training made.
            meta: what else is known.

        Returns:
            The row to commit with `model_rows`.

        Raises:
            ModelError: the version has a row already.
        """
        if version < self.next_version():
            raise ModelError(f"model version {version} is registered already; expected {self.next_version()}")
        about = {
            **asdict(meta),
            "created_at": meta.created_at.isoformat(),
            "train_s": trained.train_s,
            "size_bytes": len(trained.onnx) + len(trained.checkpoint),
            "warnings": trained.warnings,
            "probe": trained.probe,
            "libraries": self._libraries,
        }
        files = {MODEL: trained.onnx, **({CHECKPOINT: trained.checkpoint} if trained.checkpoint else {})}
        return row_of_manifest(self._artefacts.write(version, files, about))

    def promote(self, version: int, reason: str, pinned: bool) -> Current:
        """Put a version in service with a commit of its own, now; for people, through the server.

        Args:
            version: one whose files are still there.
            reason: why.
            pinned: whether newer versions must not replace it by themselves.

        Raises:
            UnknownModelError: there is no such version, or its files were removed.
            TamperedModelError: its files are not the registered ones.
        """
        self.model_bytes(version)
        before = self.current()
        previous = None if before is None else before.version
        kind: Kind = "by_hand" if pinned else "unpinned"
        self._promotions.append(promotion_rows(version, datetime.now(UTC), reason, pinned, kind=kind, previous=previous))
        return Current(version, pinned, reason)

    def versions(self) -> list[ModelRow]:
        """The last `ROWS_IN_MEMORY` versions, oldest first."""
        return list(self._known().values())

    def get(self, version: int) -> ModelRow:
        """One version.

        Raises:
            UnknownModelError: there is no such version, or it is so old that neither memory nor files know it.
        """
        known = self._known()
        if version in known:
            return known[version]
        first, last = min(known, default=1), max(known, default=0)
        if 1 <= version < first:
            return row_of_manifest(self._artefacts.manifest(version))
        held = f"there are {first} to {last}" if known else "there is none yet"
        raise UnknownModelError(f"no model version {version}; {held}")

    def current(self) -> Current | None:
        """The version in service, or None before the first."""
        with self._lock:
            for batch in self._promotions_tail.new():
                last = batch.slice(batch.num_rows - 1).to_pylist()[0]
                self._current = Current(last["version"], bool(last["pinned"]), last["reason"])
                self._previous = last["previous"]
            return self._current

    def decisions(self) -> dict[int, str]:
        """What was last decided about each of the versions in memory; one without an entry is a challenger still."""
        with self._lock:
            for batch in self._decisions_tail.new():
                self._decisions.update(zip(batch["version"].to_pylist(), batch["decision"].to_pylist(), strict=True))
            for version in sorted(self._decisions)[:-ROWS_IN_MEMORY]:
                del self._decisions[version]
            return dict(self._decisions)

    def manifest(self, version: int) -> dict[str, Any]:
        """`model.json`, verified, without its HMAC.

        Raises:
            UnknownModelError: there is no such version, or its files were removed.
            TamperedModelError: it is not what was registered.
        """
        return self._registered(version, self.get(version).sha256, self._artefacts.manifest(version))

    def remembered(self, version: int) -> dict[str, Any]:
        """As `manifest`, also of a version whose files were removed, as long as the log `manifests` has it.

        Raises:
            UnknownModelError: there is no such version, or nothing is left of it.
            TamperedModelError: it is not what was registered.
        """
        try:
            return self.manifest(version)
        except UnknownModelError:
            manifest = self._manifests.find(version)
            if manifest is None:
                raise
            row = self._known().get(version)
            return manifest if row is None else self._registered(version, row.sha256, manifest)

    def _registered(self, version: int, sha256: str, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["files"][MODEL] != sha256:
            raise TamperedModelError(
                f"{self._artefacts.folder / str(version)}: is not the version {version} that the database lists "
                f"(sha256 {sha256}); restore database and models from the same copy, or promote another version"
            )
        return manifest

    def model_bytes(self, version: int) -> bytes:
        """`model.onnx`, verified.

        Raises:
            UnknownModelError: there is no such version, or its files were removed.
            TamperedModelError: a file is not the registered one; names it.
        """
        return self._artefacts.read(version, MODEL, self.manifest(version))

    def checkpoint(self, version: int) -> dict[str, Any]:
        """What `Trained.checkpoint` holds, verified before it is unpickled; never for a serving process.

        Raises:
            UnknownModelError: there is no such version, or its files were removed.
            TamperedModelError: a file is not the registered one; names it.
        """
        import joblib

        return dict(joblib.load(io.BytesIO(self.checkpoint_bytes(version))))

    def checkpoint_bytes(self, version: int) -> bytes:
        """`Trained.checkpoint`, verified.

        Raises:
            UnknownModelError: there is no such version, its files were removed, or it was made without a checkpoint.
            TamperedModelError: a file is not the registered one; names it.
        """
        manifest = self.manifest(version)
        if CHECKPOINT not in manifest["files"]:
            raise UnknownModelError(f"model version {version} has no checkpoint; it was made with trainer.checkpoints = false")
        return self._artefacts.read(version, CHECKPOINT, manifest)

    def put_back(self, version: int, trained: Trained, manifest: Mapping[str, Any]) -> Path:
        """Write the files of a version again that were removed; pruning leaves them alone from now on.

        Args:
            version: its number.
            trained: what the same training made again.
            manifest: what `remembered` returned.

        Returns:
            Where they are.

        Raises:
            ModelError: it is another model than the registered one.
        """
        found, expected = hashlib.sha256(trained.onnx).hexdigest(), manifest["files"][MODEL]
        if found != expected:
            raise ModelError(f"version {version} is not put back: what was made has sha256 {found}, expected {expected}")
        about = {name: value for name, value in manifest.items() if name not in ("version", "files")}
        made = {MODEL: trained.onnx, CHECKPOINT: trained.checkpoint}
        files = {name: content for name, content in made.items() if name in manifest["files"]}
        self._artefacts.write(version, files, {**about, "kept": True})
        return self._artefacts.folder / str(version)

    def prune(self, keep: int, older: int = 0, now_s: float | None = None) -> tuple[int, ...]:
        """Remove the files of old versions; their rows stay.

        Args:
            keep: how many of the newest versions keep their files; the one in service, the one before it and its parent do
                anyway, and those that a rebuild has put back.
            older: how many of the others do at most, the farther apart the older they are; see `rotation`.
            now_s: Unix time in seconds; that of the machine if None.

        Returns:
            The versions whose files were removed.
        """
        current = self.current()
        needed = set() if current is None else {current.version, self._previous, self.get(current.version).parent}
        newest = self.next_version() - keep
        here = [version for version in self._artefacts.versions() if version < newest and version not in needed]
        stay = rotation.kept(self._ages(here), time.time() if now_s is None else now_s, older) if older else ()
        old = tuple(version for version in here if version not in stay and self._manifests.released(version))
        for version in old:
            self._artefacts.remove(version)
        self._manifests.trim()
        return old

    def _ages(self, versions: Sequence[int]) -> dict[int, Aged]:
        """When versions were made and what became of them; those whose files are damaged are left out."""
        known, decisions = self._known(), self.decisions()
        self._aged = {version: self._aged[version] for version in versions if version in self._aged}
        for version in versions:
            with suppress(ModelError):
                if version in known or version not in self._aged:
                    made = (known[version] if version in known else self.get(version)).created_at
                    self._aged[version] = Aged(made.timestamp(), decisions.get(version, "promoted") == "promoted")
        return self._aged

    def _known(self) -> dict[int, ModelRow]:
        """The rows in memory, up to date."""
        with self._lock:
            for batch in self._models_tail.new():
                self._rows.update((row["version"], row_of_log(row)) for row in batch.to_pylist())
            for version in list(self._rows)[:-ROWS_IN_MEMORY]:
                del self._rows[version]
            return dict(self._rows)


def of_lineage(lineage: Lineage, store: Store) -> Registry:
    """The registry of a lineage. While it has not taken over, its versions count on from those of the one before.

    Args:
        lineage: where its versions are.
        store: the lineage's own.
    """
    registry = Registry(lineage.folder / "models", store, load_key(lineage.folder))
    path = None if lineage.before is None else lineage.before.folder / "trainer.db"
    if path is None or registry.versions() or not path.exists():
        return registry
    before = SqlStore(path)
    try:
        first = Registry(path.parent / "models", before, load_key(path.parent)).next_version()
    finally:
        before.close()
    return Registry(lineage.folder / "models", store, load_key(lineage.folder), first)
