"""What the learner writes down about versions.

Invariants:
- A version's row, what is decided about it and the note that its training is done are one commit; so are a
  decision and its promotion.
- A version that somebody pinned stays in service, also when it was pinned while another was on its way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa

from correnteza.events import Event, Events
from correnteza.log.base import Appended, Store
from correnteza.trainer.judging import Ruling
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS, Decision, decision_rows, promotion_rows
from correnteza.trainer.registry import MODELS, Meta, Registry, model_rows
from correnteza.trainer.tracks import Tracks
from correnteza.trainer.training import Trained

NAME = "registry"
"""The stage under which versions are committed, beside the learner's own."""
Outcome = Literal["shadow", "promoted", "not_promoted"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What was done about trainings, saved with each attempt.

    Args:
        attempted: labelled rows at the last attempt.
        requested: offset of the last request that was met or refused.
        changed: labelled row at which the last rise of the error was found that a training answered.
        anew: whether the next version begins without an ancestor, because the last training failed.
        worth: new labelled rows for which the next training is worth its time, with a trigger by rows that says `auto`.
    """

    attempted: int = 0
    requested: int = 0
    changed: int = 0
    worth: int = 1
    anew: bool = False


class Books:
    """The logs `models`, `decisions` and `promotions`, for the learner alone.

    Args:
        store: the trainer's store.
        registry: the model versions.
        events: where events go.
        tracks: makes spans of what is committed.

    Attributes:
        progress: as of the last commit.
    """

    def __init__(self, store: Store, registry: Registry, events: Events, tracks: Tracks | None = None) -> None:
        self._tracks = tracks or Tracks()
        self.progress = Progress()
        self._store = store
        self._registry = registry
        self._events = events
        self._epoch = 0
        store.log("models", MODELS, bounded=False)
        store.log("decisions", DECISIONS, bounded=False)
        self._promotions = store.log("promotions", PROMOTIONS, bounded=False)

    def claim(self) -> None:
        """Become the only one who writes, and take up where the last one left."""
        claim = self._store.claim(NAME)
        self._epoch = claim.epoch
        self.progress = Progress(**json.loads(claim.state)) if claim.state else Progress()

    def replaced(self) -> int | None:
        """The version that the one in service replaced by a test or at once, and that may come back; else None."""
        head = self._promotions.bounds().next - 1
        last = self._promotions.read(self._promotions.cursor(head), 1, back=1).batch.to_pylist() if head else []
        watched = last and not last[0]["pinned"] and last[0]["kind"] not in ("rollback", "by_hand", "unpinned")
        return last[0]["previous"] if watched else None

    def pinned(self) -> int | None:
        """The version that somebody pinned, or None."""
        current = self._registry.current()
        return current.version if current is not None and current.pinned else None

    def commit(self, outputs: dict[str, pa.RecordBatch], events: Sequence[Event], progress: Progress) -> dict[str, Appended]:
        """Append rows, events and progress, all or nothing."""
        blob = json.dumps(asdict(progress), sort_keys=True).encode()
        appended = self._store.commit(NAME, self._epoch, None, blob, {**outputs, "events": self._events.rows(events)})
        self.progress = progress
        for event in events:
            self._events.announce(event)
        if "promotions" in appended:
            self._keep_pin(appended["promotions"].first)
        return appended

    def decide(self, version: int, champion: int, ruling: Ruling) -> None:
        """Write down what the test of a challenger came to."""
        decision: Decision = "promoted" if ruling.promoted else "refused"
        outputs = {"decisions": decision_rows(version, datetime.now(UTC), decision, ruling.reason, ruling.evidence)}
        if ruling.promoted:
            outputs["promotions"] = _promotion(version, champion, ruling)
        kind = "model_version" if ruling.promoted else "model_not_promoted"
        progress = self.progress if ruling.promoted else replace(self.progress, anew=False)  # the champion is the ancestor
        with self._tracks.deciding("promote" if ruling.promoted else "refuse", version, ruling.reason):
            self.commit(outputs, [Event(kind, ruling.reason, {"version": version})], progress)

    def roll_back(self, version: int, parent: int, ruling: Ruling) -> None:
        """Put the parent of the version in service back."""
        outputs = {
            "decisions": decision_rows(version, datetime.now(UTC), "rolled_back", ruling.reason, ruling.evidence),
            "promotions": _promotion(parent, version, ruling),
        }
        progress = replace(self.progress, anew=False)
        with self._tracks.deciding("roll back", version, ruling.reason):
            self.commit(outputs, [Event("model_rolled_back", ruling.reason, {"version": version})], progress)

    def register(
        self, version: int, trained: Trained, meta: Meta, ruling: Ruling | None, challenger: int | None, progress: Progress
    ) -> Outcome:
        """Write a version's files, and commit its row together with what is decided about it at once.

        Args:
            version: its number.
            trained: what the training made.
            meta: what else is known.
            ruling: what is decided at once; None when it is to be tested.
            challenger: the version in shadow, which this one supersedes; or None.
            progress: that the training made.

        Raises:
            OSError: the files cannot be written.
        """
        current, pinned = self._registry.current(), self.pinned()
        if pinned is not None:
            ruling = Ruling(False, None, f"version {pinned} is pinned", {})
        reason = "it answers beside the version in service" if ruling is None else ruling.reason
        outputs = _decisions(version, ruling, challenger)
        if ruling is not None and ruling.promoted:
            outputs["promotions"] = _promotion(version, current.version if current else None, ruling)
        outcome: Outcome = "shadow" if ruling is None else "promoted" if ruling.promoted else "not_promoted"
        kind = {"shadow": "model_challenger", "promoted": "model_version", "not_promoted": "model_not_promoted"}[outcome]
        events = [Event(kind, reason, {"version": version})]
        events += [Event("training_warned", text, {"version": version}) for text in trained.warnings]
        with self._tracks.deciding("register" if outcome != "promoted" else "register and promote", version, reason):
            row = self._registry.write(version, trained, replace(meta, decision=reason))
            self.commit({"models": model_rows(row), **outputs}, events, progress)
        return outcome

    def _keep_pin(self, promoted: int) -> None:
        """Put a version back that somebody pinned while the promotion at offset `promoted` was on its way."""
        if promoted > 1:
            last = self._promotions.read(self._promotions.cursor(promoted - 2), 1).batch
            if last["pinned"][0].as_py():
                self._registry.promote(last["version"][0].as_py(), "pinned while another version was on its way", pinned=True)


def _decisions(version: int, ruling: Ruling | None, challenger: int | None) -> dict[str, pa.RecordBatch]:
    now = datetime.now(UTC)
    rows = []
    if challenger is not None:
        rows.append(decision_rows(challenger, now, "superseded", "a newer version came before its test ended"))
    if ruling is not None:
        decision: Decision = "promoted" if ruling.promoted else "held"
        rows.append(decision_rows(version, now, decision, ruling.reason, ruling.evidence))
    return {"decisions": pa.concat_batches(rows)} if rows else {}


def _promotion(version: int, previous: int | None, ruling: Ruling) -> pa.RecordBatch:
    kind = ruling.kind or "newest"
    now = datetime.now(UTC)
    return promotion_rows(version, now, ruling.reason, kind=kind, previous=previous, evidence=ruling.evidence)
