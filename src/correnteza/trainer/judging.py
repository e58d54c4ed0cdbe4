"""What becomes of a version that was tested beside another one.

Invariant: a ruling is a function of the test and of what is known of the version; nothing is remembered here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from correnteza.trainer.duel import Duel
from correnteza.trainer.promotions import Kind
from correnteza.trainer.state import Trial

TRIAL_ROWS = 5000
"""Rows after which a test that has not come to an end is ended."""
YOUNG_ROWS = 1000
"""A version goes into service at once if its youngest part was grown on fewer rows, as after a drift: a test would take
nearly as many rows as it has learned from, and by then it would be out of date. It is watched like every other, and
rolled back if it is worse."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be done.

    Args:
        promoted: whether the version goes into service, or stays there.
        kind: why it goes into service; None when it does not.
        reason: in words that can stand behind a colon.
        evidence: the numbers behind it.
    """

    promoted: bool
    kind: Kind | None
    reason: str
    evidence: Mapping[str, Any]


def at_once(first: bool, drift: bool, rows: int, tested: bool) -> Ruling | None:
    """Whether a new version goes into service without a test; None when it is to be tested.

    Args:
        first: whether there is no version in service.
        drift: whether it was trained because the error rose.
        rows: that its youngest part was trained on.
        tested: whether versions are tested at all.
    """
    if first:
        return Ruling(True, "first", "the first version", {})
    if not tested:
        return Ruling(True, "newest", "the newest version", {})
    if drift:
        return Ruling(True, "drift", "the error had risen", {})
    if rows < YOUNG_ROWS:
        return Ruling(True, "young", f"versions are tested whose youngest part has seen {YOUNG_ROWS:,} rows", {})
    return None


def ruling(trial: Trial | None, version: int, against: int) -> Ruling | None:
    """What the test of a challenger against the champion comes to; None as long as it is open.

    Args:
        trial: the test.
        version: of the challenger.
        against: the version in service.
    """
    if trial is None or (trial.version, trial.against) != (version, against):
        return None
    duel = trial.duel
    if duel.verdict in ("better", "not_worse"):
        return Ruling(True, "better" if duel.verdict == "better" else "not_worse", duel.words(), evidence(duel))
    if duel.verdict == "worse" or duel.rows >= TRIAL_ROWS:
        return Ruling(False, None, duel.words() if duel.verdict else f"no verdict within {TRIAL_ROWS:,} rows", evidence(duel))
    return None


def rolled_back(watch: Trial | None, version: int, parent: int) -> Ruling | None:
    """Whether a champion has turned out worse than its parent; None when it has not.

    Args:
        watch: the test of champion against parent.
        version: in service.
        parent: the one before.
    """
    if watch is None or (watch.version, watch.against) != (version, parent) or watch.duel.verdict != "worse":
        return None
    return Ruling(False, "rollback", f"version {version} was {watch.duel.words()}", evidence(watch.duel))


def evidence(duel: Duel) -> dict[str, Any]:
    """The numbers of a test under the names that the story of the versions uses."""
    numbers = duel.numbers()
    return {**numbers, "champion_mae": numbers["champion_loss"], "challenger_mae": numbers["challenger_loss"]}
