"""Laws of the errors since the stream began."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.log.memory import MemoryStore
from correnteza.trainer import evaluation
from correnteza.trainer.totals import SUMS, VERSIONS, Scored, Sums, Totals

from .late import Late, played
from .worlds import TESTED

pytestmark = pytest.mark.usefixtures("tested_early")


def scored(rows: int, seed: int, versions: int = 3) -> Scored:
    """Rows with targets of very different sizes, and gaps where there was no interval or naive prediction."""
    rng = np.random.default_rng(seed)
    target = rng.normal(100, 20, rows) * 10.0 ** rng.integers(-9, 9, rows)
    prediction = target + rng.normal(0, 5, rows)
    half = np.where(rng.random(rows) < 0.2, np.nan, 6.0)
    naive = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(100, 1, rows))
    version = rng.integers(1, versions + 1, rows)
    return Scored(version, target, prediction, prediction - half, prediction + half, naive, naive + 1.0)


def part(rows: Scored, chosen: slice) -> Scored:
    return Scored(*(column[chosen] for column in rows.columns()))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120), st.integers(0, 2**20), st.lists(st.integers(0, 120), max_size=10), st.sampled_from([1, 3, 60]))
def test_neither_cuts_nor_restarts_change_a_bit(rows: int, seed: int, cuts: list[int], versions: int) -> None:
    """Also where there are more versions than are kept."""
    stream, signs = scored(rows, seed, versions), np.random.default_rng(seed).choice([1.0, 1.0, -1.0], rows)
    singly = Totals()
    for row in range(rows):
        singly = singly.extended(part(stream, slice(row, row + 1)), signs[row : row + 1])
    cut = Totals()
    for begin, end in pairwise(sorted({0, rows, *(at for at in cuts if at < rows)})):
        cut = cut.extended(part(stream, slice(begin, end)), signs[begin:end])
        cut = Totals.of(json.loads(json.dumps(cut.plain())))
    assert json.dumps(cut.plain()) == json.dumps(singly.plain())
    assert len(cut.versions) <= VERSIONS
    assert int(stream.version[-1]) in cut.versions


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(0, 2**20), st.sampled_from([1e16, 1e100, -1e308]))
def test_an_absurd_target_that_is_taken_out_again_leaves_nothing_behind(rows: int, seed: int, absurd: float) -> None:
    stream = scored(rows, seed)
    wrong = part(stream, slice(0, 1))
    wrong = Scored(wrong.version, np.array([absurd]), *wrong.columns()[2:])
    begun = Totals().extended(part(stream, slice(0, rows // 2)), np.ones(rows // 2))
    spoilt = begun.extended(wrong, np.ones(1)).extended(part(stream, slice(rows // 2, rows)), np.ones(rows - rows // 2))
    found, expected = spoilt.extended(wrong, -np.ones(1)), Totals(spoilt.origin).extended(stream, np.ones(rows))
    for name, a, b in zip(SUMS, total(found.overall), total(expected.overall), strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-6), name


def total(sums: Sums) -> list[float]:
    return [value + rest for value, rest in zip(sums.values, sums.rest, strict=True)]


def test_the_totals_are_the_metrics_of_all_evaluations_with_corrections_and_restarts(
    tmp_path: Path, open_store: MemoryStore, truths: list[float]
) -> None:
    """Overall and by version; and each correction takes the answer out that it replaces."""
    world = Late(tmp_path, open_store, TESTED.model_copy(update={"retrain_every_rows": 60}))
    played(world, truths)
    assert any(row["replaces"] is not None for row in world.joined())
    world.restart()
    told = world.go_on().totals.told()
    rows = evaluation.last_rows(world.store.log("evaluations", evaluation.EVALUATIONS), 10_000)
    report = evaluation.report(rows)
    assert report.overall is not None
    assert told["overall"] == pytest.approx(asdict(report.overall), rel=1e-9)
    assert len(told["versions"]) > 2
    by_version = {of.pop("model_version"): of for of in told["versions"]}
    assert by_version.keys() == report.versions.keys()
    for version, metrics in report.versions.items():
        assert by_version[version] == pytest.approx(asdict(metrics), rel=1e-9)


def test_before_the_first_row_there_are_no_totals() -> None:
    assert Totals().told() == {"overall": None, "versions": []}
