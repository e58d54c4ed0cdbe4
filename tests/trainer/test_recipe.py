"""Laws of recipes: JSON keeps them whole, and they say which rows and which predictions they stand for."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.trainer.recipe import LOCAL, Base, Cohort, Expert, Local, Recipe

ROW = st.integers(1, 10**9)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
BASES = st.builds(Base, ROW, ROW, st.integers(0, 2**32 - 1))
COHORTS = st.builds(Cohort, ROW, ROW, st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**32 - 1))
SOME_COHORTS = st.lists(COHORTS, min_size=1, max_size=4).map(tuple)
EXPERTS = st.builds(Expert, st.integers(1, 99), ROW, ROW, st.floats(0, 1), BASES, SOME_COHORTS, st.booleans())
LOCALS = st.builds(Local, st.floats(0, 1), FLOATS, st.lists(FLOATS, max_size=4).map(tuple))
RECIPES = st.builds(
    Recipe,
    at=ROW,
    scaler_version=st.integers(1, 999),
    experts=st.lists(EXPERTS, min_size=1, max_size=4).map(tuple),
    local=st.none() | LOCALS,
    next_number=st.integers(2, 99),
)


@given(RECIPES)
def test_a_recipe_survives_json_exactly(recipe: Recipe) -> None:
    assert Recipe.of(json.loads(json.dumps(recipe.plain()))) == recipe == Recipe.of(recipe.plain())


@given(RECIPES)
def test_it_has_a_number_and_a_weight_for_each_of_its_predictions(recipe: Recipe) -> None:
    """The experts in their order; the correction, if there is one, comes last."""
    assert len(recipe.numbers) == len(recipe.weights) == len(recipe.experts) + (recipe.local is not None)
    assert recipe.numbers[: len(recipe.experts)] == tuple(expert.number for expert in recipe.experts)
    if recipe.local is not None:
        assert (recipe.numbers[-1], recipe.weights[-1]) == (LOCAL, recipe.local.weight)


@given(RECIPES)
def test_no_part_needs_a_row_before_its_first(recipe: Recipe) -> None:
    named = {e.base.first for e in recipe.experts} | {c.first for e in recipe.experts for c in e.cohorts}
    assert recipe.first == min(named)


def recipe(*experts: Expert, at: int = 100, local: Local | None = None) -> Recipe:
    return Recipe(at, 1, experts, local)


def expert(base: Base, *cohorts: Cohort) -> Expert:
    return Expert(1, 1, cohorts[-1].last, 1.0, base, cohorts)


def test_what_is_new_in_it_needs_the_rows_of_the_cohorts_that_end_with_it() -> None:
    old, new = Cohort(1, 90, 10, 5, 0), Cohort(41, 100, 5, 5, 1)
    assert recipe(expert(Base(1, 80, 0), old, new)).first_renewed == 41
    assert recipe(expert(Base(1, 80, 0), old, new), expert(Base(21, 100, 0), Cohort(21, 100, 9, 9, 2))).first_renewed == 21


def test_where_nothing_was_grown_only_the_last_row_is_needed() -> None:
    assert recipe(expert(Base(1, 80, 0), Cohort(1, 90, 10, 10, 0))).first_renewed == 100


def test_its_youngest_part_is_the_shortest_window_of_those_that_are_not_retired() -> None:
    old, young = expert(Base(1, 80, 0), Cohort(1, 90, 10, 10, 0)), expert(Base(81, 100, 0), Cohort(81, 100, 9, 9, 2))
    assert recipe(old, young).youngest_rows == 20
    assert recipe(old, replace(young, retired=True)).youngest_rows == 100


def test_an_expert_has_learned_from_the_rows_up_to_its_last_cohort() -> None:
    assert expert(Base(1, 80, 0), Cohort(1, 90, 10, 5, 0), Cohort(41, 100, 5, 5, 1)).last == 100


def test_a_base_counts_both_its_ends() -> None:
    assert Base(5, 5, 0).rows == 1
    assert Base(5, 14, 0).rows == 10


@pytest.mark.parametrize("field", ["at", "experts", "local"])
def test_a_recipe_cannot_be_changed(field: str) -> None:
    made = recipe(expert(Base(1, 9, 0), Cohort(1, 9, 1, 1, 0)))
    with pytest.raises(FrozenInstanceError):
        setattr(made, field, None)
