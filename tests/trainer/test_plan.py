"""Laws of the policy, over long random histories: who is trusted, who takes over, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.trainer import plan
from correnteza.trainer.plan import Bounds
from correnteza.trainer.recipe import LOCAL, Base, Cohort, Expert, Local, Recipe
from correnteza.trainer.scores import Drag, Score

TREES, WINDOW_ROWS = 20, 1500
BOUNDS = Bounds(TREES, WINDOW_ROWS, seed=1)


@dataclass
class History:
    """A stream as the policy sees it: trainings when they are worth it, errors as they are drawn.

    Args:
        seed: of the errors.
        bounds: of the plan.
        error: mean error of an expert by its number.
    """

    seed: int
    bounds: Bounds = BOUNDS
    error: Callable[[int], float] = lambda _: 1.0
    scores: dict[int, Score] = field(default_factory=dict)
    recipes: list[Recipe] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self.recipes.append(plan.plan(None, 20, 1, {}, self.bounds))

    @property
    def last(self) -> Recipe:
        return self.recipes[-1]

    def go_on(self, rows: int, drift: bool = False, local: bool = False) -> Recipe:
        """Test the experts on some rows, then train: a drift began half way, if there is one."""
        numbers = self.last.numbers
        for number in set(self.scores) - set(numbers):
            del self.scores[number]
        for number in numbers:
            before = self.scores.get(number, Score())
            error = self.error(number) * float(self._rng.uniform(0.9, 1.1))
            self.scores[number] = Score(before.rows + rows, 30.0 * error, 30.0, before.total + rows * error)
        at = self.last.at + rows
        bounds = replace(self.bounds, paced=True)
        correction = Local(0.0, 0.1, (0.2,)) if local else None
        changed = at - rows // 2 if drift else None
        self.recipes.append(plan.plan(self.last, at, 1, dict(self.scores), bounds, changed, correction))
        return self.last


STEPS = st.lists(st.tuples(st.integers(1, 700), st.booleans(), st.booleans()), min_size=1, max_size=40)


def history(seed: int, steps: list[tuple[int, bool, bool]]) -> History:
    made = History(seed, error=lambda number: 1.0 + (seed * (number + 3)) % 7)
    for rows, drift, local in steps:
        made.go_on(rows, drift, local)
    return made


@given(seed=st.integers(0, 1000), steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_every_plan_keeps_within_its_bounds(seed: int, steps: list[tuple[int, bool, bool]]) -> None:
    """Weights are shares, forests are full and never overfull, windows end, and only a few experts are kept."""
    for recipe in history(seed, steps).recipes:
        assert sum(recipe.weights) == pytest.approx(1.0)
        assert all(0.0 <= weight <= 1.0 for weight in recipe.weights)
        assert sum(expert.retired for expert in recipe.experts) <= plan.RETIRED
        assert sum(not expert.retired for expert in recipe.experts) <= 2
        assert not recipe.experts[0].retired
        assert len({expert.number for expert in recipe.experts}) == len(recipe.experts)
        assert all(expert.number < recipe.next_number for expert in recipe.experts)
        for expert in recipe.experts:
            kept_within(expert, recipe.at)


def kept_within(expert: Expert, at: int) -> None:
    kept = sum(cohort.kept for cohort in expert.cohorts)
    assert 1 <= kept <= TREES if expert.retired else kept == TREES
    assert all(1 <= cohort.kept <= cohort.trees <= TREES for cohort in expert.cohorts)
    assert [cohort.last for cohort in expert.cohorts] == sorted({cohort.last for cohort in expert.cohorts})
    parts: list[Base | Cohort] = [expert.base, *expert.cohorts]
    for part in parts:
        assert expert.start <= part.first <= part.last <= at
        assert part.last - part.first < WINDOW_ROWS
    assert expert.base.rows == expert.cohorts[0].last - expert.cohorts[0].first + 1 or expert.base.last < expert.cohorts[0].last


@given(seed=st.integers(0, 1000), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_the_same_history_gives_the_same_plans(seed: int, steps: list[tuple[int, bool, bool]]) -> None:
    assert history(seed, steps).recipes == history(seed, steps).recipes


@given(seed=st.integers(0, 1000), steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_nobody_is_trusted_before_the_test_and_nobody_takes_over_without_proof(
    seed: int, steps: list[tuple[int, bool, bool]]
) -> None:
    made = History(seed, error=lambda number: 1.0 + (seed * (number + 3)) % 7)
    for rows, drift, local in steps:
        before = made.last
        after = made.go_on(rows, drift, local)
        anybody = any(n in made.scores and made.scores[n].rows >= plan.TESTED_ROWS for n in after.numbers)
        for number, weight in zip(after.numbers[1:], after.weights[1:], strict=True):
            if number not in made.scores or made.scores[number].rows < plan.TESTED_ROWS:
                assert weight == 0.0
        assert anybody or after.weights[0] == 1.0
        if after.experts[0].number != before.experts[0].number:
            won, lost = made.scores[after.experts[0].number], made.scores[before.experts[0].number]
            assert won.rows >= plan.PROOF_ROWS
            assert won.mean < lost.mean
            kept = [e for e in after.experts if e.number == before.experts[0].number]
            first, rival = before.experts[0], after.experts[0]
            shared = 2 * (rival.start - first.start) <= rival.born - first.start + 2
            assert shared != bool(kept)
            assert all(e.retired for e in kept)


def test_an_expert_is_not_kept_when_most_of_what_it_knew_is_the_world_of_the_rival_that_won() -> None:
    """Little of another world is lost with it, and it would only answer as the rival does."""
    alone = plan.plan(None, 1000, 1, {}, BOUNDS)
    scores = {1: Score(500, 90.0, 30.0), 2: Score(500, 30.0, 30.0)}
    for changed, left in ((400, [2]), (600, [2, 1])):
        tried = plan.plan(alone, 1000, 1, {}, BOUNDS, changed)
        assert [e.number for e in plan.plan(tried, 1500, 1, scores, BOUNDS).experts] == left


def test_another_seed_gives_other_trees_of_the_same_rows() -> None:
    one, other = (plan.plan(None, 100, 1, {}, Bounds(TREES, WINDOW_ROWS, seed)) for seed in (1, 2))
    assert one.experts[0].cohorts[0].seed != other.experts[0].cohorts[0].seed
    assert replace(one.experts[0].cohorts[0], seed=0) == replace(other.experts[0].cohorts[0], seed=0)


@given(seed=st.integers(0, 2**31 - 1), steps=STEPS)
@settings(max_examples=30, deadline=None)
def test_no_two_cohorts_ever_share_a_seed(seed: int, steps: list[tuple[int, bool, bool]]) -> None:
    made = History(seed, replace(BOUNDS, seed=seed))
    for rows, drift, local in steps:
        made.go_on(rows, drift, local)
    cohorts = {replace(c, kept=0) for recipe in made.recipes for expert in recipe.experts for c in expert.cohorts}
    assert len({cohort.seed for cohort in cohorts}) == len(cohorts)


# A new world


def after_drift(error: Callable[[int], float]) -> History:
    """A history with a drift, at which a rival was begun."""
    made = History(5, error=error)
    for _ in range(10):
        made.go_on(100)
    made.go_on(60, drift=True)
    return made


def test_a_drift_begins_a_rival_on_the_rows_of_the_new_world_and_trusts_the_first_one_alone() -> None:
    recipe = after_drift(lambda _: 1.0).last
    first, rival = recipe.experts
    assert (first.number, rival.number, recipe.next_number) == (1, 2, 3)
    assert rival.cohorts[0].first == rival.start == recipe.at - 30
    assert recipe.weights == (1.0, 0.0)


def test_the_window_of_a_rival_has_the_least_rows_also_when_the_drift_was_seen_at_once() -> None:
    recipe = plan.plan(plan.plan(None, 500, 1, {}, BOUNDS), 520, 1, {}, BOUNDS, changed=520)
    assert recipe.experts[1].cohorts[0].last - recipe.experts[1].cohorts[0].first + 1 == plan.RIVAL_ROWS


def test_a_rival_that_errs_less_has_nearly_all_the_weight_and_soon_takes_over() -> None:
    made = after_drift(lambda number: 1.0 if number == 2 else 4.0)
    made.go_on(plan.TESTED_ROWS)
    assert made.last.experts[0].number == 1
    assert made.last.weights[1] > 0.99
    made.go_on(plan.PROOF_ROWS)
    assert [expert.number for expert in made.last.experts] == [2, 1]
    assert made.last.experts[1].retired


def test_a_false_alarm_costs_no_error_the_rival_never_has_the_weight_and_is_dropped_in_the_end() -> None:
    made = after_drift(lambda number: 1.0 if number == 1 else 2.0)
    rows = 0
    while len(made.last.experts) > 1:
        made.go_on(50)
        rows += 50
        assert made.last.experts[0].number == 1
        assert made.last.weights[0] > 0.9
        assert rows <= plan.TRIAL_ROWS + 50
    assert made.last.next_number == 3


def test_a_second_alarm_while_a_rival_is_tried_begins_no_other() -> None:
    made = after_drift(lambda _: 1.0)
    made.go_on(30, drift=True)
    assert [expert.number for expert in made.last.experts] == [1, 2]


def test_a_retired_expert_is_kept_as_it_is_and_gets_its_weight_back_with_its_world() -> None:
    made = after_drift(lambda number: 1.0 if number == 2 else 4.0)
    made.go_on(plan.PROOF_ROWS)
    retired = made.last.experts[1]
    for _ in range(5):
        made.go_on(100)
        assert replace(made.last.experts[1], weight=0.0) == replace(retired, weight=0.0)
    made.error = lambda number: 1.0 if number == 1 else 4.0
    made.go_on(50)
    assert made.last.experts[1].weight > 0.99


def through(made: History, worlds: range) -> History:
    """Let worlds follow each other, of which each is known by the expert of its number alone."""
    for world in worlds:
        made.error = lambda number, world=world: 1.0 if number == world else 4.0  # type: ignore[misc]
        made.go_on(100, drift=True)
        made.go_on(plan.PROOF_ROWS)
        made.go_on(plan.PROOF_ROWS)
    return made


def test_of_many_worlds_the_last_ones_are_kept() -> None:
    made = through(History(6), worlds=range(2, 8))
    numbers = [expert.number for expert in made.last.experts]
    assert numbers[0] == 7
    assert numbers[1:] == sorted(numbers[1:])[-plan.RETIRED :] == [5, 6][-plan.RETIRED :]


def test_a_retired_expert_whose_world_is_back_is_not_let_go_for_newer_ones_that_are_worse() -> None:
    made = through(History(6), worlds=range(2, 4))
    made.error = lambda number: {1: 1.0, 4: 2.0}.get(number, 4.0)  # the first world again, and a rival that learns it anew
    made.go_on(100, drift=True)
    made.go_on(plan.PROOF_ROWS)
    assert [expert.number for expert in made.last.experts] == [4, 1, 3]
    assert made.last.experts[1].weight > 0.99


# What it costs


def grown(before: Recipe | None, after: Recipe) -> int:
    """How many trees of `after` are not in `before`."""
    known: set[tuple[Base, Cohort]] = set()
    if before is not None:
        known = {(e.base, replace(c, kept=0)) for e in before.experts for c in e.cohorts}
    return sum(c.trees for e in after.experts for c in e.cohorts if (e.base, replace(c, kept=0)) not in known)


def steady(rows: int, trees: int = 100) -> list[Recipe]:
    """Versions of a stream without drift, trained when it is worth it, until the window has been full for a while."""
    made = History(1, Bounds(trees, rows, seed=1))
    while made.last.at < 4 * rows:
        made.go_on(plan.grow_rows(made.last))
    return made.recipes


@pytest.mark.parametrize("rows", [2000, 10_000, 50_000])
def test_in_a_large_window_a_tick_grows_at_most_a_fifth_of_the_trees(rows: int) -> None:
    recipes = [recipe for recipe in steady(rows) if recipe.at > 2 * rows]
    assert len(recipes) > 1
    ticks = [(a, b) for a, b in pairwise(recipes) if a.experts[0].base == b.experts[0].base]
    assert len(ticks) > 0.6 * len(recipes)  # the others renew the linear part, every other window
    assert max(grown(*pair) for pair in ticks) <= 100 // 5


@pytest.mark.parametrize("rows", [1000, 5000, 20_000])
def test_all_the_work_of_a_stream_is_bounded_per_record(rows: int) -> None:
    """Work is trees times the rows that each was grown on; per record it is at most a few hundred trees' rows."""
    recipes = steady(rows)
    work, before = 0.0, None
    for recipe in recipes:
        work += grown(before, recipe) * min(recipe.at, rows)
        before = recipe
    assert work / recipes[-1].at < 100 * 10


def test_each_expert_grows_trees_at_its_own_pace_or_with_every_version() -> None:
    made = History(2)
    made.go_on(500)
    rows, paced = plan.pace(made.last.at), replace(BOUNDS, paced=True)
    assert rows > 1
    assert plan.plan(made.last, made.last.at + rows - 1, 1, {}, paced).experts == made.last.experts
    assert grown(made.last, plan.plan(made.last, made.last.at + rows, 1, {}, paced)) > 0
    assert grown(made.last, plan.plan(made.last, made.last.at + 1, 1, {}, BOUNDS)) > 0


def test_a_training_without_new_rows_changes_nothing_but_the_weights() -> None:
    made = History(3)
    made.go_on(100)
    again = plan.plan(made.last, made.last.at, 1, {}, BOUNDS)
    assert grown(made.last, again) == 0


@given(seed=st.integers(0, 1000), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_a_version_is_due_after_at_least_one_row_and_no_later_than_trees_are(
    seed: int, steps: list[tuple[int, bool, bool]]
) -> None:
    """Whether or not the last errors tell of the next ones."""
    told = Drag(5.0, Score(99, 300.0, 30.0), Score(99, 30.0, 30.0))
    for recipe in history(seed, steps).recipes:
        for drag in (Drag(), told):
            assert 1 <= plan.due_rows(recipe, drag) <= plan.grow_rows(recipe)


# Weights

MEANS = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1e150)), min_size=1, max_size=5)


def scored(means: list[tuple[int, float]]) -> Mapping[int, Score]:
    return {number: Score(rows, mean * 30.0, 30.0 if rows else 0.0) for number, (rows, mean) in enumerate(means, 1)}


@given(MEANS)
def test_weights_are_shares_and_who_errs_less_has_no_less(means: list[tuple[int, float]]) -> None:
    found = plan.weights(tuple(range(1, len(means) + 1)), scored(means))
    assert sum(found) == pytest.approx(1.0)
    tried = [(mean, weight) for (rows, mean), weight in zip(means, found, strict=True) if rows >= plan.TESTED_ROWS]
    for mean, weight in tried:
        assert all(weight >= other for worse, other in tried if worse > mean)
    if tried:
        assert sum(weight for _, weight in tried) == pytest.approx(1.0)
    else:
        assert found[0] == 1.0


def test_the_correction_has_a_weight_by_its_errors_like_every_expert() -> None:
    experts = (Expert(1, 1, 100, 1.0, Base(1, 100, 0), (Cohort(1, 100, TREES, TREES, 0),)),)
    parent = Recipe(100, 1, experts)
    scores = {1: Score(50, 60.0, 30.0), LOCAL: Score(50, 30.0, 30.0)}
    recipe = plan.plan(parent, 110, 1, scores, BOUNDS, local=Local(0.0, 1.0, (2.0,)))
    assert recipe.local is not None
    assert recipe.weights == plan.weights((1, LOCAL), scores)
    assert (recipe.local.intercept, recipe.local.slopes) == (1.0, (2.0,))


def test_a_beginning_anew_keeps_nothing() -> None:
    recipe = plan.plan(None, 5000, 7, {1: Score(50, 60.0, 30.0)}, BOUNDS, changed=4990)
    (only,) = recipe.experts
    assert (recipe.scaler_version, only.weight, only.base.first) == (7, 1.0, 5000 - WINDOW_ROWS + 1)


@given(st.integers(0, 1000), st.lists(st.integers(1, 700), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_while_a_version_is_pinned_rises_of_its_error_bring_one_rival_and_no_more(seed: int, steps: list[int]) -> None:
    """Nobody tests the rival as long as its version does not answer: it waits without weight, and within its bounds."""
    made = History(seed)
    made.go_on(100)
    pinned = dict(made.scores)
    for rows in steps:
        made.scores = {number: replace(score, rows=score.rows + rows) for number, score in pinned.items()}
        at = made.last.at + rows
        made.recipes.append(plan.plan(made.last, at, 1, dict(made.scores), made.bounds, at - rows // 2))
    experts = [expert for recipe in made.recipes for expert in recipe.experts]
    rivals = {expert.number for expert in experts} - pinned.keys()
    assert len(rivals) == 1
    assert all(len(recipe.experts) <= 2 and recipe.weights[0] == 1.0 for recipe in made.recipes)
    assert all(sum(cohort.kept for cohort in expert.cohorts) <= TREES for expert in experts)
    made.error = lambda number: 0.5 if number in rivals else 1.0
    made.scores = pinned
    for _ in range(4):
        made.go_on(plan.PROOF_ROWS)
    assert made.last.experts[0].number in rivals, "once it is tested, it can take over"


# Derived features


@pytest.mark.parametrize(("blind_error", "verdict"), [(1.0, "used"), (0.5, "left out")])
def test_derived_features_stay_only_where_the_error_on_the_same_rows_says_so(blind_error: float, verdict: str) -> None:
    """A rival that does not see them takes over where it is clearly better, and is dropped where it is not."""
    history = History(3, replace(BOUNDS, derived=True), lambda number: blind_error if number == 2 else 1.0)
    first, blind = history.last.experts
    assert (first.plain, blind.plain, first.weight, blind.weight) == (False, True, 1.0, 0.0)
    told = []
    while history.last.at < 2 * plan.TRIAL_ROWS:
        history.go_on(50)
        told.append(plan.settled(history.recipes[-2], history.last, history.scores))
    assert [one for one in told if one] == [one for one in told if f"derived features are {verdict}" in one]
    assert len([one for one in told if one]) == 1
    assert history.last.experts[0].plain == (verdict == "left out")
    history.go_on(50, drift=True)
    rival = next(expert for expert in history.last.experts[1:] if not expert.retired)
    assert rival.plain == history.last.experts[0].plain


def test_without_derived_features_nothing_is_on_trial() -> None:
    history = History(3)
    assert [expert.plain for expert in history.last.experts] == [False]
    assert plan.settled(None, history.last, {}) == ""
