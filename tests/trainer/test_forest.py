"""Laws of the adaptive forest: it is what its recipe says, whatever is remembered; and no row can bend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.errors import TrainingFailedError
from correnteza.features import Floats, Scaler
from correnteza.records import Field, Schema
from correnteza.trainer import footing, forest, growing, onnx, plan
from correnteza.trainer.forest import Memo, Mixture, Rows, bounds, build
from correnteza.trainer.linear import Carried
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.recipe import LOCAL, Base, Cohort, Expert, Local, Recipe
from correnteza.trainer.scores import Score

FOREST = "sklearn.ensemble.RandomForestRegressor"
TREES = 6
PARAMS: Mapping[str, Any] = {"n_estimators": TREES, "min_samples_leaf": 5}
SCHEMA = Schema((Field("size", "float"), Field("age", "float"), Field("kind", "category")), "price")
CODES = {"kind": ["a", "b", "c"]}
SCALER = Scaler(1, np.array([10.0, -3.0]), np.array([2.0, 0.5]))
STREAM = 900


def stream(seed: int, count: int = STREAM) -> Rows:
    """Labelled rows with missing values, whose numbers drift out of the range that they began in."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, count).astype(np.float64)
    features = np.column_stack([rng.normal(size=count) + np.arange(count) / 200, rng.normal(size=count), codes])
    targets = 50 + 8 * features[:, 0] + 3 * np.sin(3 * features[:, 1]) + 5 * (codes == 2) + rng.normal(size=count)
    features[rng.random(features.shape) < 0.05] = np.nan
    return Rows(np.arange(1, count + 1), features, targets, 2)


def cut(rows: Rows, first: int, last: int) -> Rows:
    places = slice(first - 1, last)
    return Rows(rows.numbers[places], rows.features[places], rows.targets[places], rows.n_numeric)


def alone(count: int, trees: int = TREES, seed: int = 7) -> Recipe:
    """One expert on the rows 1 to `count`."""
    return Recipe(count, 1, (Expert(1, 1, count, 1.0, Base(1, count, seed), (Cohort(1, count, trees, trees, seed),)),))


def fitted(features: Floats, targets: Floats, numbers: int, params: Mapping[str, Any] = PARAMS) -> Mixture:
    rows = Rows(np.arange(1, len(targets) + 1), features, targets, numbers)
    return build(alone(len(targets), params["n_estimators"]), rows, FOREST, params, Memo())


def exported(mixture: Mixture, rows: Rows) -> bytes:
    return onnx.export(mixture, SCALER, CODES, SCHEMA, rows.features[:50])


def evolving(seed: int) -> list[Recipe]:
    """A stream's recipes: trees grown, a rival, a succession, a correction."""
    limits = plan.Bounds(TREES, 400, seed)
    recipes, scores = [plan.plan(None, 60, 1, {}, limits)], {}
    for step, at in enumerate(range(100, STREAM + 1, 100)):
        winner = 2 if step >= 3 else 1
        scores = {n: Score(200, 30.0 if n == winner else 90.0, 30.0) for n in (*recipes[-1].numbers, LOCAL)}
        changed = at - 40 if step in (2, 6) else None
        local = Local(0.0, 0.5, (0.1, -0.2)) if step % 2 else None
        recipes.append(plan.plan(recipes[-1], at, 1, scores, limits, changed, local))
    return recipes


# A function of its arguments


@pytest.fixture(params=["all tell", "flat"])
def footings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts with all the trees that their recipe names, and with fewer on some of the rows."""
    if request.param == "flat":
        monkeypatch.setattr(footing, "FLAT_LEAST", 0)
        monkeypatch.setattr(footing, "FLAT", 1e9)
        monkeypatch.setattr(footing, "FLAT_ROWS", 150)


@pytest.mark.usefixtures("footings")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_version_is_the_same_whether_its_ancestors_are_remembered_or_not(seed: int) -> None:
    """Byte by byte: with a memo since the beginning, which is given the new rows alone; and with none, and all rows."""
    rows, memo = stream(seed), Memo()
    for place, recipe in enumerate(evolving(seed)):
        fresh = cut(rows, recipe.first_renewed if place else 1, recipe.at)
        kept = build(recipe, fresh, FOREST, PARAMS, memo)
        anew = build(recipe, cut(rows, 1, recipe.at), FOREST, PARAMS, Memo())
        assert exported(kept, rows) == exported(anew, rows)


@pytest.mark.usefixtures("footings")
@pytest.mark.parametrize("restarted", range(1, 9))
def test_a_version_is_the_same_when_the_process_before_it_left_its_checkpoint_alone(restarted: int) -> None:
    rows, memo = stream(3), Memo()
    recipes = evolving(3)
    memo.remember(build(recipes[restarted - 1], cut(rows, 1, recipes[restarted - 1].at), FOREST, PARAMS, Memo()))
    for recipe in recipes[restarted : restarted + 2]:
        kept = build(recipe, cut(rows, recipe.first_renewed, recipe.at), FOREST, PARAMS, memo)
        anew = build(recipe, cut(rows, 1, recipe.at), FOREST, PARAMS, Memo())
        assert exported(kept, rows) == exported(anew, rows)


@given(remembered=st.integers(1, 8), back=st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_whatever_is_remembered_a_version_is_never_made_of_fewer_or_other_trees(remembered: int, back: int) -> None:
    """Of a checkpoint only those trees are known that were kept in it; an earlier version asks for more of them."""
    rows, recipes = stream(4), evolving(4)
    asked, memo = recipes[max(0, remembered - back)], Memo()
    memo.remember(build(recipes[remembered], rows, FOREST, PARAMS, Memo()))
    made = build(asked, rows, FOREST, PARAMS, memo)
    wanted = [sum(cohort.kept for cohort in expert.cohorts) for expert in asked.experts]
    assert [len(member.trees) for member in made.members] == wanted
    assert exported(made, rows) == exported(build(asked, rows, FOREST, PARAMS, Memo()), rows)


@pytest.mark.usefixtures("footings")
def test_a_version_that_nothing_came_of_leaves_its_ancestor_able_to_have_other_descendants() -> None:
    """A refused version has been built; the next one is made from the champion again, and is sent the new rows alone."""
    rows, limits, memo = stream(5), plan.Bounds(TREES, 400, 5), Memo()
    champion = plan.plan(plan.plan(None, 600, 1, {}, limits), 640, 1, {}, limits)
    build(champion, cut(rows, 1, 640), FOREST, PARAMS, memo)
    refused = plan.plan(champion, 700, 1, {}, limits)
    build(refused, cut(rows, refused.first_renewed, 700), FOREST, PARAMS, memo)
    after = plan.plan(champion, 760, 1, {}, limits)
    made = build(after, cut(rows, after.first_renewed, 760), FOREST, PARAMS, memo)
    assert exported(made, rows) == exported(build(after, rows, FOREST, PARAMS, Memo()), rows)


def test_more_rows_at_hand_than_needed_change_nothing() -> None:
    rows = stream(6)
    one, other = (build(alone(300), part, FOREST, PARAMS, Memo()) for part in (cut(rows, 1, 300), rows))
    assert exported(one, rows) == exported(other, rows)


def test_an_experts_answers_do_not_depend_on_which_others_there_are() -> None:
    """Its trees have learned what its own linear part leaves, which ends where its own rows ended."""
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.uniform(-1, 1, 200), rng.uniform(4, 5, 200)])[:, None]
    rows = Rows(np.arange(1, 401), x, 10 * x[:, 0] + rng.normal(size=400), 1)
    first = Expert(1, 1, 200, 1.0, Base(1, 200, 1), (Cohort(1, 400, TREES, TREES, 1),))
    rival = Expert(2, 201, 400, 0.0, Base(201, 400, 2), (Cohort(201, 400, TREES, TREES, 2),))
    one, both = (build(Recipe(400, 1, experts), rows, FOREST, PARAMS, Memo()) for experts in ((first,), (first, rival)))
    np.testing.assert_allclose(both.answers(x)[:, 0], one.answers(x)[:, 0], rtol=1e-9)


@pytest.mark.parametrize(("first", "last"), [(2, 300), (1, 299), (50, 60)])
def test_missing_rows_are_a_failed_training_that_names_them(first: int, last: int) -> None:
    with pytest.raises(TrainingFailedError, match="labelled rows 1 to 300 are needed"):
        build(alone(300), cut(stream(8), first, last), FOREST, PARAMS, Memo())


def test_rows_that_are_remembered_as_trees_are_not_missed() -> None:
    rows, memo = stream(8), Memo()
    build(alone(300), rows, FOREST, PARAMS, memo)
    assert build(alone(300), cut(rows, 300, 300), FOREST, PARAMS, memo).members


def test_what_a_version_does_not_use_is_forgotten() -> None:
    """What the last few versions were made of is remembered, for the next one may go on from any of them."""
    rows, memo, recipes = stream(9), Memo(), evolving(9)
    for place, recipe in enumerate(recipes):
        build(recipe, cut(rows, 1, recipe.at), FOREST, PARAMS, memo)
        last = recipes[max(0, place + 1 - forest.GENERATIONS) : place + 1]
        parts = sum(len(each.experts) + sum(len(expert.cohorts) for expert in each.experts) for each in last)
        assert len(memo.parts) <= parts


@pytest.mark.parametrize(("path", "grows"), [(FOREST, True), ("sklearn.ensemble.ExtraTreesRegressor", True)])
def test_forests_are_told_from_other_estimators(path: str, grows: bool) -> None:
    assert growing.is_forest(path) is grows
    for other in ("sklearn.linear_model.Ridge", "sklearn.ensemble.GradientBoostingRegressor", "own.RandomForestRegressor"):
        assert not growing.is_forest(other)


# Absurd targets


def friedman(seed: int, count: int = 1000) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(count, 5))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4] + rng.normal(size=count)
    return (x - 0.5) / 0.29, y


@pytest.mark.parametrize("seed", range(4))
def test_one_record_in_a_hundred_a_million_times_too_large_hardly_moves_the_error_on_the_others(seed: int) -> None:
    features, targets = friedman(seed)
    absurd = targets.copy()
    absurd[seed::100] *= 1e6
    unseen, expected = friedman(seed + 100)
    params = {**PARAMS, "n_estimators": 20}
    clean, soiled = (np.abs(fitted(features, y, 5, params).predict(unseen) - expected).mean() for y in (targets, absurd))
    assert soiled <= 1.1 * clean


@pytest.mark.parametrize("factor", [-1e6, 1e100])
def test_absurd_targets_of_the_other_sign_and_beyond_all_measure_do_no_more(factor: float) -> None:
    features, targets = friedman(1)
    absurd = targets.copy()
    absurd[::100] *= factor
    unseen, expected = friedman(101)
    clean, soiled = (np.abs(fitted(features, y, 5).predict(unseen) - expected).mean() for y in (targets, absurd))
    assert soiled <= 1.1 * clean


@pytest.mark.parametrize("seed", range(5))
def test_a_heavy_tail_is_no_outlier(seed: int) -> None:
    """Lognormal with sigma 2: the targets span nine orders of magnitude, and hardly one in a thousand is clipped."""
    targets = np.random.default_rng(seed).lognormal(0.0, 2.0, 5000)
    low, high = bounds(targets)
    assert np.mean((targets < low) | (targets > high)) < 2e-3
    assert np.clip(targets, low, high).sum() > 0.8 * targets.sum()


@given(st.lists(st.floats(-1e300, 1e300), min_size=20, max_size=60))
@settings(max_examples=300, deadline=None)
def test_bounds_are_finite_and_hold_most_of_the_targets(targets: list[float]) -> None:
    values = np.array(targets)
    low, high = bounds(values)
    assert np.isfinite([low, high]).all()
    assert low <= high
    assert np.mean((values >= low) & (values <= high)) >= 0.9


# Missing fields


def world_of_three(seed: int, count: int = 1500) -> tuple[Floats, Floats]:
    """Two numbers and a category, never missing and independent of each other; the category is seldom what costs most."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(count, 2)), rng.choice(5, count, p=[0.4, 0.3, 0.2, 0.05, 0.05])])
    return x, 100 + 10 * x[:, 0] + 4 * np.sin(2 * x[:, 1]) + 15 * x[:, 2] + rng.normal(size=count)


@pytest.fixture(scope="module")
def three() -> Predictor:
    features, targets = world_of_three(1)
    mixture = fitted(features, targets, 2, {**PARAMS, "n_estimators": 60})
    return Predictor(onnx.export(mixture, Scaler(1, np.zeros(2), np.ones(2)), {"kind": list("bcde")}, SCHEMA, features))


def told(of: Predictor, features: Floats, *hidden: int) -> tuple[Floats, Floats]:
    """Predictions and spreads, with some fields left out."""
    numbers = features[:, :2].copy()
    numbers[:, [field for field in hidden if field < 2]] = np.nan
    names = np.array(["?", *"bcde"])[features[:, 2].astype(int)]  # code 0 is that of the unknown
    kinds = np.full(len(features), "") if 2 in hidden else names
    said = of.answers(numbers, kinds[:, None].astype(object))
    return said.prediction, said.spread


@pytest.mark.parametrize("hidden", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_a_record_with_few_fields_is_answered_with_about_the_mean_of_those_that_agree_with_it(
    three: Predictor, hidden: tuple[int, ...]
) -> None:
    """And not with that of the most frequent ones: off by less than a tenth of the deviation of what is hidden."""
    features, targets = world_of_three(2)
    prediction, _ = told(three, features, *hidden)
    effects = np.array([10.0, 4.0 * np.sqrt(0.5), 15.0 * np.std(features[:, 2])])[list(hidden)]
    assert abs(np.mean(prediction - targets)) < 0.1 * np.hypot.reduce(effects)


@pytest.mark.parametrize("hidden", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_what_a_missing_field_would_have_said_widens_the_interval(three: Predictor, hidden: tuple[int, ...]) -> None:
    """With the multiplier of complete records, nine of ten of those without the field are held, too; not all of them."""
    features, targets = world_of_three(3)
    prediction, spread = told(three, features)
    multiplier = np.quantile(np.abs(targets - prediction) / spread, 0.9)
    prediction, wider = told(three, features, *hidden)
    assert 0.8 < np.mean(np.abs(targets - prediction) <= multiplier * wider) < 0.99
    assert (wider > spread).all()


def test_a_field_that_was_missing_when_it_was_learned_keeps_the_way_that_the_trees_found_for_it() -> None:
    features, targets = world_of_three(4)
    features[:500, 0] = np.nan
    targets[:500] = 300.0
    mixture = fitted(features, targets, 2, {**PARAMS, "n_estimators": 20})
    unseen = features[:1].repeat(5, axis=0)
    unseen[:, 1:] = features[600:605, 1:]
    np.testing.assert_allclose(mixture.predict(unseen), 300.0, atol=25.0)


# Rows that are hard to learn from

HARD: dict[str, tuple[Floats, Floats]] = {}
NORMAL = np.random.default_rng(0).normal(size=(40, 2))
HARD["a constant target"] = (NORMAL, np.full(40, 3.0))
HARD["targets of 1e300"] = (NORMAL, 1e300 * NORMAL[:, 0])
HARD["a target of 1e300 among others"] = (NORMAL, np.where(np.arange(40) == 7, 1e300, NORMAL[:, 0]))
HARD["constant targets and one of 1e300"] = (NORMAL, np.where(np.arange(40) == 7, 1e300, 5.0))
HARD["one row"] = (NORMAL[:1], np.array([4.0]))
HARD["two rows"] = (NORMAL[:2], np.array([4.0, 9.0]))
HARD["fewer rows than in a leaf"] = (NORMAL[:4], NORMAL[:4, 0])
HARD["an all-missing column"] = (np.column_stack([NORMAL[:, 0], np.full(40, np.nan)]), NORMAL[:, 0])
HARD["nothing but missing values"] = (np.full((40, 2), np.nan), NORMAL[:, 0])
HARD["constant columns"] = (np.ones((40, 2)), NORMAL[:, 0])
HARD["features of 1e300"] = (np.where(np.arange(40)[:, None] == 3, 1e300, NORMAL), NORMAL[:, 0])
HARD["tiny targets"] = (NORMAL, 1e-300 * NORMAL[:, 0])


@pytest.mark.parametrize("case", HARD)
def test_hard_rows_give_a_version_that_answers(case: str) -> None:
    """Finite answers within the targets' range and a linear part's reach, and a spread above zero."""
    features, targets = HARD[case]
    schema = Schema(SCHEMA.fields[:2], SCHEMA.target)
    with np.errstate(all="ignore"):  # the squares of 1e300
        model = onnx.export(fitted(features, targets, 2), SCALER, {}, schema, features)
        answers = Predictor(model).answers(SCALER.restore(features), np.empty((len(features), 0), object))
    assert np.isfinite(answers.prediction).all()
    assert np.isfinite(answers.spread).all()
    assert (answers.spread > 0).all()
    with np.errstate(over="ignore"):
        room = 2 * np.ptp(targets) + 1e-9 * np.abs(targets).max()
    assert answers.prediction.min() >= targets.min() - room
    assert answers.prediction.max() <= targets.max() + room


def test_a_constant_target_is_answered_exactly() -> None:
    mixture = fitted(*HARD["a constant target"], 2)
    np.testing.assert_allclose(mixture.predict(NORMAL), 3.0, rtol=1e-12)


def test_small_windows_get_smaller_leaves() -> None:
    features = np.linspace(-1, 1, 40)[:, None]
    mixture = fitted(features, np.sign(features[:, 0]) * 5, 1, {**PARAMS, "min_samples_leaf": 30})
    assert mixture.predict(np.array([[1.0]]))[0] > 4 > -4 > mixture.predict(np.array([[-1.0]]))[0]


def test_where_a_line_helps_it_goes_first_and_where_it_does_not_there_is_none() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    line, steps = 10 * x[:, 0] + rng.normal(size=400), 10.0 * (x[:, 0] > 0) * (x[:, 1] > 0) + 0.1 * rng.normal(size=400)
    assert fitted(x, line, 2).members[0].footing.linear.slopes.any()
    assert not fitted(x, steps, 2).members[0].footing.linear.slopes.any()


def test_a_line_is_bent_where_that_helps_and_the_graph_bends_it_too() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 2))
    mixture = fitted(x, 3 * x[:, 0] + 5 * x[:, 1] ** 2 + 0.1 * rng.normal(size=400), 2)
    assert mixture.members[0].footing.linear.curves.any()
    schema = Schema(SCHEMA.fields[:2], SCHEMA.target)
    answers = Predictor(onnx.export(mixture, SCALER, {}, schema, x)).answers(SCALER.restore(x), np.empty((400, 0), object))
    np.testing.assert_allclose(answers.prediction, mixture.predict(x), rtol=1e-9)


def test_a_missing_number_says_what_it_says_on_average_also_where_the_line_is_bent() -> None:
    """At 0, which is its mean, a parabola says something else than on average."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 2))
    mixture = fitted(x, 3 * x[:, 0] + 5 * x[:, 1] ** 2 + 0.1 * rng.normal(size=600), 2)
    assert mixture.members[0].footing.linear.curves[0, 1] > 4
    without = np.column_stack([x[:, 0], np.full(600, np.nan)])
    assert np.abs(mixture.predict(without) - (3 * x[:, 0] + 5)).mean() < 1
    schema = Schema(SCHEMA.fields[:2], SCHEMA.target)
    answers = Predictor(onnx.export(mixture, SCALER, {}, schema, x)).answers(
        SCALER.restore(without), np.empty((600, 0), object)
    )
    np.testing.assert_allclose(answers.prediction, mixture.predict(without), rtol=1e-9)


# The graph


ODD = np.array(
    [[np.nan, 0.0], [np.nan, np.nan], [1e300, -1e300], [np.inf, -np.inf], [1e16, 3.0], [-50.0, 50.0], [10.0, -3.0], [0.0, 0.0]]
)


@pytest.fixture(scope="module")
def versions() -> list[tuple[Mixture, Predictor]]:
    rows = stream(10)
    made = [build(recipe, rows, FOREST, PARAMS, Memo()) for recipe in evolving(10)[::3]]
    return [(mixture, Predictor(exported(mixture, rows))) for mixture in made]


def rows_of(numbers: Floats, kinds: list[str]) -> tuple[Floats, Floats]:
    """Raw numbers beside every kind, and the same as the mixture takes them."""
    codes = {"": np.nan, **{kind: code for code, kind in enumerate(CODES["kind"], 1)}}
    raw = np.repeat(numbers, len(kinds), axis=0)
    column = np.array([codes.get(kind, 0.0) for kind in kinds] * len(numbers))
    standardised = np.clip((raw - SCALER.mean) / SCALER.scale, -1e15, 1e15)
    return raw, np.column_stack([standardised, column])


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_the_graph_answers_what_the_mixture_says_for_missing_unseen_and_far_off_values(
    versions: list[tuple[Mixture, Predictor]],
) -> None:
    kinds = ["", "a", "b", "c", "never seen"]
    drawn = np.random.default_rng(3).normal(10.0, 8.0, size=(40, 2))
    raw, features = rows_of(np.vstack([ODD, drawn]), kinds)
    texts = np.array([[kind] for kind in kinds] * (len(raw) // len(kinds)), object)
    for mixture, predictor in versions:
        found = predictor.answers(raw, texts)
        np.testing.assert_allclose(found.prediction, mixture.predict(features), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.experts, mixture.answers(features), rtol=1e-9, atol=1e-9)
        assert predictor.experts == mixture.recipe.numbers
        assert (found.spread > 0).all()


def test_the_mixture_is_the_weighted_sum_of_its_experts_and_the_correction_is_on_top_of_the_first_one(
    versions: list[tuple[Mixture, Predictor]],
) -> None:
    seen = 0
    for mixture, _ in versions:
        features = stream(11, 50).features
        said, recipe = mixture.answers(features), mixture.recipe
        np.testing.assert_allclose(mixture.predict(features), said @ np.array(recipe.weights), rtol=1e-12)
        if recipe.local is not None:
            seen += 1
            part = mixture.linear()
            values = np.clip(np.nan_to_num(features[:, :2], nan=0.0), part.low[0], part.high[0])
            correction = recipe.local.intercept + values @ np.array(recipe.local.slopes)
            np.testing.assert_allclose(said[:, -1] - said[:, 0], correction, rtol=1e-9, atol=1e-9)
    assert seen


@given(numbers=st.lists(st.tuples(*[st.floats(allow_nan=True)] * 2), min_size=1, max_size=5), kind=st.text(max_size=3))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_every_raw_record_gets_a_finite_prediction_and_a_spread_above_zero(
    versions: list[tuple[Mixture, Predictor]], numbers: list[tuple[float, float]], kind: str
) -> None:
    texts = np.full((len(numbers), 1), kind.replace("\x00", ""), object)
    for _, predictor in versions:
        answers = predictor.answers(np.array(numbers), texts)
        assert np.isfinite(answers.prediction).all()
        assert (answers.spread > 0).all()
        assert np.isfinite(answers.spread).all()


def test_an_expert_that_has_all_the_weight_answers_alone() -> None:
    rows = stream(12)
    recipe = evolving(12)[4]
    experts = (*(replace(e, weight=0.0) for e in recipe.experts[:-1]), replace(recipe.experts[-1], weight=1.0))
    mixture = build(replace(recipe, experts=experts, local=None), rows, FOREST, PARAMS, Memo())
    np.testing.assert_allclose(mixture.predict(rows.features), mixture.answers(rows.features)[:, -1], rtol=1e-12)


# Derived features


def test_an_expert_that_does_not_see_derived_features_does_not_depend_on_them() -> None:
    """Neither in learning nor in its answers, whatever stands in them."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(300, 3))
    targets = features[:, 0] + 3.0 * features[:, 2]
    other = features.copy()
    other[:, 2] = rng.normal(size=300)
    recipe = alone(300)
    recipe = replace(recipe, experts=(replace(recipe.experts[0], plain=True),))
    numbers = np.arange(1, 301)
    made = [build(recipe, Rows(numbers, seen, targets, 3, n_derived=1), FOREST, PARAMS, Memo()) for seen in (features, other)]
    answers = [mixture.predict(seen) for mixture in made for seen in (features, other)]
    assert all(np.array_equal(answers[0], each) for each in answers[1:])
    seeing = fitted(features, targets, 3)
    assert np.abs(seeing.predict(features) - targets).mean() < 0.5 * np.abs(answers[0] - targets).mean()


# Lines and leaves


def wandering(count: int = 900) -> Rows:
    """A target that wanders upwards, and the last known target as a feature."""
    rng = np.random.default_rng(11)
    targets = np.cumsum(0.5 + rng.normal(size=count + 1))
    last = (targets[:-1] - 2.0) / 3.0
    return Rows(np.arange(1, count + 1), last[:, None], targets[1:], 1, 1, Carried(0, 2.0, 3.0))


def test_where_the_target_wanders_trees_stand_on_the_last_one() -> None:
    """So an answer goes beyond all that was learned from when the last target is beyond it."""
    rows = wandering()
    made = fitted_to(rows)
    far = np.array([[(2000.0 - 2.0) / 3.0]])
    assert abs(made.predict(far)[0] - 2000.0) < 10.0
    hidden = build(without_derived(alone(900)), rows, FOREST, PARAMS, Memo())
    assert abs(hidden.predict(far)[0]) < 1000.0


def fitted_to(rows: Rows) -> Mixture:
    return build(alone(len(rows.targets)), rows, FOREST, PARAMS, Memo())


def without_derived(recipe: Recipe) -> Recipe:
    return replace(recipe, experts=tuple(replace(expert, plain=True) for expert in recipe.experts))


def test_trees_of_before_learn_the_rows_of_later_cohorts() -> None:
    """The level rises by ten after the first cohort; without the new rows in their leaves the old trees would not know."""
    count = 600
    x = np.random.default_rng(12).uniform(size=(count, 1))
    targets = np.where(np.arange(count) < 300, 0.0, 10.0)
    rows = Rows(np.arange(1, count + 1), x, targets, 1)
    cohorts = (Cohort(1, 300, TREES, TREES, 1), Cohort(1, count, 1, 1, 2))
    expert = Expert(1, 1, 300, 1.0, Base(1, 300, 1), cohorts)
    made = build(Recipe(count, 1, (expert,)), rows, FOREST, PARAMS, Memo())
    old = made.members[0].trees[0].predict(x.astype(np.float32))
    assert abs(old.mean() - 5.0) < 0.5


def test_a_forest_of_medians_keeps_its_leaves() -> None:
    rows = stream(13)
    cohorts = (Cohort(1, 300, 2, 2, 1), Cohort(1, 400, 1, 1, 2))
    expert = Expert(1, 1, 300, 1.0, Base(1, 300, 1), cohorts)
    params = {**PARAMS, "criterion": "absolute_error"}
    first = replace(expert, cohorts=cohorts[:1])
    before, after = (
        build(Recipe(at, 1, (one,)), rows, FOREST, params, Memo()).members[0] for at, one in ((300, first), (400, expert))
    )
    np.testing.assert_array_equal(before.trees[0].values, after.trees[0].values)


def test_missing_fields_widen_no_interval_beyond_what_the_targets_vary() -> None:
    """Two fields that move together have slopes that cancel each other; each alone would account for too much."""
    rng = np.random.default_rng(14)
    x = rng.normal(size=60)
    features = np.column_stack([x, x + 1e-4 * rng.normal(size=60), np.ones(60)])
    rows = Rows(np.arange(1, 61), features, 3.0 * x + 1e3 * (features[:, 0] - features[:, 1]), 2)
    predictor = Predictor(exported(build(alone(60), rows, FOREST, PARAMS, Memo()), rows))
    spread = predictor.answers(np.full((1, 2), np.nan), np.array([[""]], dtype=object)).spread
    assert spread[0] <= 1.5 * np.std(rows.targets)
