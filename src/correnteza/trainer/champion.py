"""The version in service, followed by the processes that use it.

Invariants:
- A version is loaded and has answered its probe rows as when it was made before it replaces the old one.
- A version that cannot be loaded or is not the registered one is refused with an event; the old one stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from correnteza.errors import ModelError
from correnteza.events import Events
from correnteza.log.base import OwnedLog
from correnteza.records import Schema
from correnteza.trainer import probe
from correnteza.trainer.artefacts import MODEL
from correnteza.trainer.predictor import Predictor, loading
from correnteza.trainer.registry import Registry

LOOK_BACK = 50
"""Promotions that a starting process goes back over to find a version that can be loaded."""


@dataclass(frozen=True, slots=True)
class Champion:
    """A version that is ready to answer.

    Args:
        version: its number.
        since: when it was promoted.
        predictor: the loaded model.
    """

    version: int
    since: datetime
    predictor: Predictor


class Follower:
    """Keeps the version in service loaded. For one thread; `champion` may be read by any.

    Args:
        schema: of the records; a version for another one is refused.
        registry: where versions are.
        promotions: the log of promotions.
        events: where refused versions are told.

    Attributes:
        champion: the version in service; None before the first.
        refused: why the last refused version was refused; empty when the newest is in service.
        seen: offset that the next promotion will have.
    """

    def __init__(self, schema: Schema, registry: Registry, promotions: OwnedLog, events: Events) -> None:
        self.champion: Champion | None = None
        self.refused = ""
        self.seen = 1
        self._ready: Champion | None = None
        self._foreseen: tuple[str, Future[Predictor]] | None = None
        self._schema = schema
        self._registry = registry
        self._promotions = promotions
        self._events = events

    def look(self) -> bool:
        """Load what was promoted since the last call; whether there is another champion now.

        Raises:
            LogUnavailableError: try again later.
        """
        head = self._promotions.bounds().next
        if head == self.seen:
            return False
        before, self.refused = self.champion, ""
        for version, since in self._candidates(head):
            if (before is not None and version == before.version) or self._load(version, since):
                break
        self.seen = head
        return self.champion is not before

    def pinned(self) -> bool:
        """Whether the version in service was put there by hand."""
        current = self._registry.current()
        return current is not None and current.pinned

    def foresee(self, model: bytes) -> None:
        """Begin to load a model that is about to be registered."""
        self._foreseen = hashlib.sha256(model).hexdigest(), loading(model)

    def load(self, version: int, since: datetime) -> Champion | None:
        """A version that is not in service, loaded and tried out; None when it is refused. It is kept for a promotion."""
        try:
            manifest = self._registry.manifest(version)
            predictor = self._loaded(version, manifest["files"][MODEL])
            self._try_out(predictor, manifest.get("probe") or {})
        except (ModelError, ValueError, RuntimeError) as error:
            self.refused = f"version {version} is refused: {error}"
            self._events.emit("model_refused", str(error), version=version)
            return None
        self._ready = Champion(version, since, predictor)
        return self._ready

    def _loaded(self, version: int, sha256: str) -> Predictor:
        """The registered model, and no other one that was foreseen."""
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is not None and foreseen[0] == sha256:
            return foreseen[1].result()
        return Predictor(self._registry.model_bytes(version))

    def _candidates(self, head: int) -> Iterator[tuple[int, datetime]]:
        """The version in service; behind it, as long as nothing is loaded, those that were in service before."""
        back = 1 if self.champion is not None else LOOK_BACK
        rows = self._promotions.read(self._promotions.cursor(head - 1), back, back=back).batch
        newest_first: dict[int, datetime] = {}
        for version, at in zip(reversed(rows["version"].to_pylist()), reversed(rows["at"].to_pylist()), strict=True):
            newest_first.setdefault(version, at)
        return iter(newest_first.items())

    def _load(self, version: int, since: datetime) -> bool:
        ready, self._ready = self._ready, None
        if ready is None or ready.version != version:
            ready = self.load(version, since)
            self._ready = None
        if ready is not None:
            self.champion = replace(ready, since=since)
        return ready is not None

    def _try_out(self, predictor: Predictor, answers: Mapping[str, Any]) -> None:
        fields = (self._schema.numeric, self._schema.categories)
        if (predictor.numbers, predictor.categories) != fields:
            raise ValueError(f"it was trained for the fields {predictor.numbers + predictor.categories}, not for [schema]'s")
        probe.check(predictor, answers)
