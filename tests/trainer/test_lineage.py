"""Laws of descent: a version that was refused or rolled back has no descendants, nor has one of other settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza import config
from correnteza.features import Floats, Scaler
from correnteza.log.memory import MemoryStore
from correnteza.records import Field, Schema
from correnteza.trainer import lineage
from correnteza.trainer.promotions import DECISIONS, Decision, decision_rows
from correnteza.trainer.recipe import Base, Cohort, Expert, Recipe
from correnteza.trainer.registry import MODELS, Meta, Registry, model_rows
from correnteza.trainer.training import Trained

SCHEMA = Schema((Field("age", "float"),), "income")
SETTINGS = config.Trainer()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def recipe(version: int) -> Recipe:
    return Recipe(version, 1, (Expert(1, 1, version, 1.0, Base(1, version, 0), (Cohort(1, version, 10, 10, 0),)),))


class Versions:
    """A registry to which versions are added."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.models = self.store.log("models", MODELS)
        self.decisions = self.store.log("decisions", DECISIONS)
        self.registry = Registry(folder, self.store, b"k" * 32)

    def add(self, *decisions: Decision | None, settings: config.Trainer = SETTINGS, schema: Schema = SCHEMA) -> None:
        for decision in decisions:
            version = self.registry.next_version()
            meta = Meta(
                parent=None,
                created_at=NOW,
                reason="",
                decision="",
                estimator=settings.estimator,
                params=settings.params,
                seed=settings.seed,
                rows=version,
                first_offset=1,
                last_offset=version,
                scaler_version=1,
                schema_sha256=schema.fingerprint,
                evaluation={},
                recipe=recipe(version).plain() if lineage.adaptive(settings) else None,
            )
            self.models.append(model_rows(self.registry.write(version, Trained(b"model", b"", 0.1), meta)))
            if decision is not None:
                self.decide(version, decision)

    def decide(self, version: int, decision: Decision) -> None:
        self.decisions.append(decision_rows(version, NOW, decision, ""))

    def newest(self, settings: config.Trainer = SETTINGS, schema: Schema = SCHEMA) -> int | None:
        found = lineage.newest(self.registry, settings, schema)
        if found is not None:
            assert found.recipe == recipe(found.version)
        return None if found is None else found.version


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "models")


@pytest.mark.parametrize(
    ("decisions", "ancestor"),
    [
        (("promoted",), 1),
        (("promoted", None), 2),
        (("promoted", "superseded"), 1),
        (("promoted", "held"), 2),
        (("promoted", "refused"), 1),
        (("promoted", "rolled_back"), 1),
        (("promoted", "promoted", "rolled_back", "refused"), 2),
        (("refused",), None),
        ((), None),
    ],
)
def test_the_newest_version_that_was_not_found_wanting_has_the_descendants(
    versions: Versions, decisions: tuple[Decision | None, ...], ancestor: int | None
) -> None:
    versions.add(*decisions)
    assert versions.newest() == ancestor


def test_the_last_decision_about_a_version_counts(versions: Versions) -> None:
    versions.add("promoted", "promoted")
    assert versions.newest() == 2
    versions.decide(2, "rolled_back")
    assert versions.newest() == 1


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"params": {"n_estimators": 9}}, {"estimator": "sklearn.ensemble.ExtraTreesRegressor"}]
)
def test_versions_that_other_settings_made_have_no_descendants(versions: Versions, changes: dict[str, object]) -> None:
    versions.add("promoted")
    assert versions.newest(SETTINGS.model_copy(update=changes)) is None


def test_versions_of_another_schema_have_no_descendants(versions: Versions) -> None:
    versions.add("promoted")
    assert versions.newest(schema=Schema((Field("size", "float"),), "income")) is None


def test_a_version_of_the_plain_policy_is_no_ancestor_and_has_none(versions: Versions) -> None:
    plain = SETTINGS.model_copy(update={"policy": "plain"})
    versions.add("promoted", settings=plain)
    assert versions.newest() is None
    assert versions.newest(plain) is None
    versions.add("promoted")
    assert versions.newest(plain) is None


def test_settings_that_do_not_make_another_forest_keep_the_lineage(versions: Versions) -> None:
    versions.add("promoted")
    assert versions.newest(SETTINGS.model_copy(update={"margin": 0.5, "keep_versions": 3})) == 1


def test_a_version_whose_files_are_gone_is_no_ancestor(versions: Versions, tmp_path: Path) -> None:
    versions.add("promoted")
    for file in (tmp_path / "models" / "1").iterdir():
        file.unlink()
    assert versions.newest() is None
    assert lineage.of(versions.registry, 7, SETTINGS, SCHEMA) is None


@pytest.mark.parametrize(
    ("policy", "estimator", "adaptive"),
    [
        ("auto", "sklearn.ensemble.RandomForestRegressor", True),
        ("auto", "sklearn.linear_model.Ridge", False),
        ("plain", "sklearn.ensemble.RandomForestRegressor", False),
        ("adaptive", "sklearn.ensemble.ExtraTreesRegressor", True),
    ],
)
def test_forests_are_adaptive_unless_it_is_said_otherwise(policy: str, estimator: str, adaptive: bool) -> None:
    settings = SETTINGS.model_copy(update={"policy": policy, "estimator": estimator})
    assert lineage.adaptive(settings) is adaptive


# How far the numbers may go


def scaler(mean: Floats | list[float], scale: Floats | list[float]) -> Scaler:
    return Scaler(1, np.array(mean), np.array(scale))


def test_statistics_that_stay_near_or_move_by_many_deviations_keep_the_lineage() -> None:
    first = scaler([0.0, 10.0], [1.0, 2.0])
    assert lineage.within(first, first)
    assert lineage.within(first, scaler([0.9 * lineage.APART, 10.0], [1.0, 2.0]))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("factor", [1.1, 1e6, 1e300])
def test_a_field_whose_mean_or_scale_has_gone_too_far_ends_it(place: int, factor: float) -> None:
    first = scaler([0.0, 0.0], [1.0, 1.0])
    far = np.ones(2)
    far[place] = factor * lineage.APART
    assert not lineage.within(first, scaler(far, [1.0, 1.0]))
    assert not lineage.within(first, scaler([0.0, 0.0], far))
    assert not lineage.within(first, scaler([0.0, 0.0], 1.0 / far))


@given(
    mean=st.floats(-1e300, 1e300),
    other=st.floats(-1e300, 1e300),
    scale=st.floats(1e-300, 1e300),
    grown=st.floats(1e-300, 1e300),
)
def test_whatever_the_statistics_it_is_decided_without_a_warning(mean: float, other: float, scale: float, grown: float) -> None:
    assert isinstance(lineage.within(scaler([mean], [scale]), scaler([other], [grown])), bool)
