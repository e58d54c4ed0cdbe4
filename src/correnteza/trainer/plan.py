"""What the next version is made of: the policy of the adaptive forest.

There is a *first* expert, whose window grows from the last change of the world to `window_rows`. When the
error rises, a *rival* is begun on the rows since then; it takes the first one's place when it has proved
better on the same records, and is dropped when it has not, so a false alarm costs time and no error. An
expert that lost its place is retired: kept as it is for a while, in case its world comes back.

Where there are derived features, the stream begins with a rival that does not see them. So whether they are used is
decided by the error on the same records, once; later rivals see what the first expert sees.

Each training grows a few trees on the newest rows, in proportion to what is new, lets the oldest trees go, and takes the
new rows into the leaves of the others; when a window has become twice as long, the expert is built anew with its
linear part.

Invariants:
- `plan` is pure: the same arguments give the same recipe.
- The weight of each expert is its recent error's doing alone (`weights`); no expert is trusted before it has
  been tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from correnteza.trainer.recipe import LOCAL, Base, Cohort, Expert, Local, Recipe
from correnteza.trainer.scores import Drag, Score

TURNOVER = (0.6, 3.0)
"""Windows of new rows until all trees have been replaced: fewer where windows are small, and trees soon grown."""
TURNOVER_ROWS = 2000
"""Window in which it takes one window."""
LEAST = 0.1
"""Share of the trees that a training replaces at least."""
TICKS = 5
"""Trainings, at least, until all trees have been replaced: so each costs a fifth of a full one at most."""
APART = 4
"""Trainings, at least, while a window of rows passes."""
GROWN = 2.0
"""A window of so many times the rows that an expert was built on has it built anew."""
PACE = 160.0
"""Trees are grown after rows**1.5 / PACE new rows, where nothing else says when: after 6 at 100, after 69 at 500."""
BESIDE = 120
"""Versions come at most so often while the largest window passes."""
HELPS = 0.95
"""Share of the first expert's error that the local correction must stay below to count."""
CARRIES = 0.75
"""Share of the error that a correction by the last errors must leave at most to be worth versions of its own."""
LOCAL_PACE = 500
"""Such versions come this often while a window of rows passes, at most."""
LOCAL_WINDOW_ROWS = 1500
"""Windows up to which they come."""
RIVAL_ROWS = 20
"""Fewest rows that an expert is built on."""
PROOF_ROWS = 100
"""Tested rows before a rival may take over."""
PROOF = 0.97
"""Share of the first expert's error that a rival must stay below to take over."""
TRIAL_ROWS = 4000
"""Tested rows after which a rival that has not taken over is dropped."""
RETIRED = 2
"""Retired experts that are kept."""
RETIRED_SHARE = 4
"""One in so many of their trees is kept: enough to see that their world is back, and to bridge the time."""
TESTED_ROWS = 20
"""Tested rows before an expert has any weight."""
POWER = 8.0
"""An expert whose error is twice another's has 1/2**POWER of its weight."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a plan has to keep to.

    Args:
        trees: of each expert.
        window_rows: most rows of a window.
        seed: of the pipeline.
        paced: whether each expert grows trees at its own pace, and not with every version.
        derived: whether there are derived features.
    """

    trees: int
    window_rows: int
    seed: int
    paced: bool = False
    derived: bool = False


def plan(
    parent: Recipe | None,
    at: int,
    scaler_version: int,
    scores: Mapping[int, Score],
    bounds: Bounds,
    changed: int | None = None,
    local: Local | None = None,
) -> Recipe:
    """The recipe of the next version.

    Args:
        parent: recipe of the newest version; None before the first, or to begin anew.
        at: number of the last labelled row.
        scaler_version: in which the rows of a new beginning are expressed; the parent's stays.
        scores: recent errors by expert.
        bounds: what to keep to.
        changed: number of the first row of a new world, where a rise of the error was found; else None.
        local: the correction of the first expert, its weight not yet set.
    """
    if parent is None:
        number = max(scores, default=0) + 1  # nobody else's errors
        first = Expert(number, max(1, at - bounds.window_rows + 1), at, 1.0, Base(1, 1, 0), ())
        begun = (first, replace(first, number=number + 1, weight=0.0, plain=True)) if bounds.derived else (first,)
        experts = tuple(_built(expert, at, bounds) for expert in begun)
        return Recipe(at, scaler_version, experts, next_number=number + len(experts))
    experts = _succession(parent.experts, scores, bounds)
    number = parent.next_number
    if changed is not None and not _rival(experts):
        start = max(experts[0].start, min(changed, at - RIVAL_ROWS + 1))
        rival = Expert(number, start, at, 0.0, Base(1, 1, 0), (), plain=experts[0].plain)
        experts, number = (*experts, rival), number + 1
    experts = tuple(expert if expert.retired else _renewed(expert, at, bounds) for expert in experts)
    return _weighted(replace(parent, at=at, experts=experts, local=local, next_number=number), scores)


def grow_rows(recipe: Recipe) -> int:
    """New labelled rows for which it is worth to grow trees of one of the experts.

    Every version takes some time, in proportion to all windows, so a small one beside a large one has to wait a little.
    """
    windows = [_length(expert, recipe.at) for expert in recipe.experts if not expert.retired]
    return max(min(pace(rows) for rows in windows), max(windows) // BESIDE)


def pace(rows: int) -> int:
    """New labelled rows for which it is worth to grow trees on a window of so many.

    That takes time in proportion to the window; where it is small it comes after every few rows. The exponent keeps the
    time per record from growing with the window.

    >>> pace(100), pace(1000), pace(12000)
    (6, 120, 3000)
    """
    return max(1, min(int(rows**1.5 / PACE), int(_turnover(rows) * rows / TICKS), rows // APART))


def due_rows(recipe: Recipe, drag: Drag) -> int:
    """New labelled rows for which the next version is worth its time.

    Where each error tells much of the next one, a correction by the last errors is renewed more often than trees are
    grown, as long as the window is small, and a version quickly made.
    """
    rows = max(_length(expert, recipe.at) for expert in recipe.experts if not expert.retired)
    if drag.share < CARRIES and rows <= LOCAL_WINDOW_ROWS:
        return min(grow_rows(recipe), max(1, rows // LOCAL_PACE))
    return grow_rows(recipe)


def weights(experts: tuple[int, ...], scores: Mapping[int, Score]) -> tuple[float, ...]:
    """Shares that fall off with the power of the recent mean error, and sum to 1.

    Args:
        experts: ids; the first one has all the weight as long as none was tested.
        scores: by id.

    >>> weights((1, 2), {1: Score(30, 60.0, 30.0), 2: Score(30, 30.0, 30.0)})
    (0.0038910505836575876, 0.9961089494163424)
    """
    means = [scores[e].mean if e in scores and scores[e].rows >= TESTED_ROWS else np.inf for e in experts]
    best = min(means)
    if not np.isfinite(best):
        return (1.0, *(0.0 for _ in experts[1:]))
    powers = [1.0 if mean == best else (best / mean) ** POWER for mean in means]
    return tuple(power / sum(powers) for power in powers)


def _succession(experts: tuple[Expert, ...], scores: Mapping[int, Score], bounds: Bounds) -> tuple[Expert, ...]:
    """Let a rival that has proved itself take over, and drop one that has not."""
    first, rival = experts[0], _rival(experts)
    if rival is None or rival.number not in scores or first.number not in scores:
        return experts
    tested = scores[rival.number]
    others = tuple(expert for expert in experts if expert not in (first, rival))
    if _proved(rival, first, scores):
        return (rival, *_remembered((*others, *_retired(first, rival, bounds)), scores))
    return (first, *others) if tested.rows >= TRIAL_ROWS else experts


def _retired(first: Expert, rival: Expert, bounds: Bounds) -> tuple[Expert, ...]:
    """What is kept of an expert that loses its place; nothing where half of what it knew is the rival's world."""
    if 2 * (rival.start - first.start) <= rival.born - first.start + 2:
        return ()
    kept = _kept(first.cohorts, max(1, bounds.trees // RETIRED_SHARE))
    return (replace(first, retired=True, cohorts=kept),)


def _remembered(retired: tuple[Expert, ...], scores: Mapping[int, Score]) -> tuple[Expert, ...]:
    """Of retired experts the one that is the best now, whose world may be back, and the newest others; in their order."""
    if len(retired) <= RETIRED:
        return retired
    best = min(retired, key=lambda expert: scores[expert.number].mean if expert.number in scores else np.inf)
    newest = [expert for expert in retired if expert is not best][1 - RETIRED :]
    return tuple(expert for expert in retired if expert is best or expert in newest)


def settled(parent: Recipe | None, recipe: Recipe, scores: Mapping[int, Score]) -> str:
    """What is decided about derived features from one recipe to the next, in words; empty where nothing is."""
    first, rival = (None, None) if parent is None else (parent.experts[0], _rival(parent.experts))
    if first is None or rival is None or rival.plain == first.plain:
        return ""
    now = _rival(recipe.experts)
    if now is not None and now.number == rival.number:
        return ""
    seeing, blind = (scores[each.number].overall for each in ((first, rival) if rival.plain else (rival, first)))
    verdict = "left out" if recipe.experts[0].plain else "used"
    return f"derived features are {verdict}: the mean error was {seeing:.4g} with them and {blind:.4g} without"


def _proved(rival: Expert, first: Expert, scores: Mapping[int, Score]) -> bool:
    """Whether a rival is to take over; what it sees is settled by the whole trial, for it is settled for good."""
    mine, other = scores[rival.number], scores[first.number]
    if rival.plain != first.plain:
        return mine.rows >= TRIAL_ROWS and mine.overall < PROOF * other.overall
    return mine.rows >= PROOF_ROWS and mine.mean < PROOF * other.mean


def _rival(experts: tuple[Expert, ...]) -> Expert | None:
    return next((expert for expert in experts[1:] if not expert.retired), None)


def _renewed(expert: Expert, at: int, bounds: Bounds) -> Expert:
    """The expert with new trees, or built anew when its window has become much longer."""
    first = max(expert.start, at - bounds.window_rows + 1)
    rows, new = at - first + 1, at - (expert.last if expert.cohorts else 0)
    if not expert.cohorts or rows >= GROWN * expert.base.rows or at - expert.base.last >= GROWN * rows:
        return _built(expert, at, bounds)
    if new < (pace(max(1, rows - new)) if bounds.paced else 1):
        return expert
    share = max(LEAST, new / (_turnover(rows) * rows))
    trees = min(bounds.trees, max(1, round(bounds.trees * share)))
    grown = Cohort(first, at, trees, trees, _seed(bounds.seed, expert.number, at))
    return replace(expert, cohorts=_kept((*expert.cohorts, grown), bounds.trees))


def _turnover(rows: int) -> float:
    low, high = TURNOVER
    return min(high, max(low, rows / TURNOVER_ROWS))


def _built(expert: Expert, at: int, bounds: Bounds) -> Expert:
    first = max(expert.start, at - bounds.window_rows + 1)
    seed = _seed(bounds.seed, expert.number, at)
    return replace(expert, base=Base(first, at, seed), cohorts=(Cohort(first, at, bounds.trees, bounds.trees, seed),))


def _kept(cohorts: tuple[Cohort, ...], trees: int) -> tuple[Cohort, ...]:
    """As many of the newest trees as there is room for."""
    kept: list[Cohort] = []
    for cohort in reversed(cohorts):
        room = trees - sum(other.kept for other in kept)
        if room > 0:
            kept.insert(0, replace(cohort, kept=min(cohort.kept, room)))
    return tuple(kept)


def _weighted(recipe: Recipe, scores: Mapping[int, Score]) -> Recipe:
    trusted = [number for number in recipe.numbers if number != LOCAL or _helps(recipe, scores)]
    shares = dict(zip(trusted, weights(tuple(trusted), scores), strict=True))
    experts = tuple(replace(expert, weight=shares[expert.number]) for expert in recipe.experts)
    local = recipe.local and replace(recipe.local, weight=shares.get(LOCAL, 0.0))
    return replace(recipe, experts=experts, local=local)


def _helps(recipe: Recipe, scores: Mapping[int, Score]) -> bool:
    """Whether the local correction has been clearly better than what it corrects."""
    local, first = scores.get(LOCAL), scores.get(recipe.experts[0].number)
    return local is not None and first is not None and local.mean < HELPS * first.mean


def _length(expert: Expert, at: int) -> int:
    return at - expert.cohorts[-1].first + 1


def _seed(seed: int, number: int, at: int) -> int:
    """Another one for every cohort, the same in every run."""
    return int(np.random.SeedSequence([seed, number, at]).generate_state(1)[0])
