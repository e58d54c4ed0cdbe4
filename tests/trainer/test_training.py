"""A training is a function of its job; one that hangs, raises or dies is reported, and the next one works."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import joblib
import numpy as np
import psutil
import pytest
from tests.tools import PATIENCE_S

from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.features import Scaler
from correnteza.records import Field, Schema
from correnteza.trainer import plan, process
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.process import TrainingProcess
from correnteza.trainer.training import Job, fit

SCHEMA = Schema((Field("age", "float"), Field("job", "category")), "income")
FOREST = "sklearn.ensemble.RandomForestRegressor"
HELPERS = Path(__file__).parent / "helpers"


def job(estimator: str = FOREST, params: dict[str, Any] | None = None, version: int = 1, rows: int = 200) -> Job:
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.normal(size=rows), rng.integers(0, 3, rows).astype(float)])
    features[::9] = np.nan
    if params is None:
        params = {"n_estimators": 5} if estimator == FOREST else {}
    targets = np.nan_to_num(features[:, 0]) ** 2 + rng.normal(size=rows)
    scaler = Scaler(2, np.array([40.0]), np.array([10.0]))
    return Job(version, estimator, params, 1, features, targets, scaler, {"job": ["nurse", "clerk"]}, SCHEMA)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other processes bring about."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingProcess]:
    monkeypatch.syspath_prepend(str(HELPERS))
    process = TrainingProcess(nice=7)
    yield process
    process.close()


def hang(training: TrainingProcess, marker: Path) -> psutil.Process:
    """Start a training that never ends; returns its process once it has begun."""
    training.start(job("odd_regressors.Hanging", {"marker": str(marker)}))
    until(lambda: training.poll() is not None or marker.exists())
    assert training.pid is not None
    return psutil.Process(training.pid)


def test_a_training_is_a_function_of_its_job_here_and_in_the_child(training: TrainingProcess) -> None:
    here = fit(job())
    training.start(job())
    assert training.wait(PATIENCE_S).onnx == here.onnx == fit(job()).onnx
    assert fit(job(version=2)).onnx != here.onnx


def test_a_checkpoint_holds_what_the_model_was_exported_from(tmp_path: Path) -> None:
    trained = fit(job())
    (tmp_path / "checkpoint").write_bytes(trained.checkpoint)
    held = joblib.load(tmp_path / "checkpoint")
    row = np.array([[0.3, 2.0]])
    served = Predictor(trained.onnx).predict(held["scaler"].restore(row[:, :1]), np.array([["clerk"]], object))
    assert served[0] == pytest.approx(held["estimator"].predict(row)[0], rel=1e-12)
    assert (held["codes"], held["schema"]) == ({"job": ["nurse", "clerk"]}, SCHEMA)


def test_one_child_does_all_trainings_niced_and_untouched_by_what_libraries_print(training: TrainingProcess) -> None:
    pids: set[int | None] = set()
    for version in (1, 2):
        training.start(job("odd_regressors.Loud", {"n_estimators": 3}, version))
        with pytest.raises(RuntimeError, match="under way"):
            training.start(job())
        assert training.busy
        assert training.started_at is not None
        assert training.wait(PATIENCE_S).warnings == ("UserWarning: mind the gap",)
        assert not training.busy
        assert training.started_at is None
        assert training.poll() is None
        pids.add(training.pid)
    (pid,) = pids
    assert pid is not None
    assert psutil.Process(pid).nice() >= min(19, psutil.Process().nice() + 7)
    training.close()
    assert not psutil.pid_exists(pid)


def test_what_an_estimator_raises_is_the_reason_and_the_child_goes_on(training: TrainingProcess) -> None:
    training.start(job("odd_regressors.Raising"))
    with pytest.raises(
        TrainingFailedError, match=r"odd_regressors.Raising .* 200 rows: ArithmeticError: the numbers are no good"
    ):
        training.wait(PATIENCE_S)
    pid = training.pid
    training.start(job(params={"n_estimators": 5, "depth": 3}))
    with pytest.raises(TrainingFailedError, match=r"trainer.params.depth: .* no such parameter; did you mean 'max_depth'"):
        training.wait(PATIENCE_S)
    training.start(job())
    assert training.wait(PATIENCE_S).onnx
    assert training.pid == pid


def test_what_fails_ahead_of_its_time_is_told_by_the_training_that_wants_it(training: TrainingProcess) -> None:
    recipe = plan.plan(None, 200, 2, {}, plan.Bounds(trees=5, window_rows=1000, seed=1))
    wanted = replace(job(), recipe=recipe, numbers=np.arange(1, 201))
    lacking = replace(wanted, features=wanted.features[:9], targets=wanted.targets[:9], numbers=np.arange(1, 10))
    training.start(job())
    assert training.wait(PATIENCE_S).onnx
    training.look_ahead(replace(lacking, ahead=True))
    training.start(lacking)
    with pytest.raises(TrainingFailedError, match="labelled rows 1 to 200 are needed, and 9 of them are at hand"):
        training.wait(PATIENCE_S)
    training.look_ahead(replace(wanted, ahead=True))
    assert not training.busy
    training.start(lacking)
    assert training.wait(PATIENCE_S).onnx == fit(wanted).onnx, "all that it wants was made ahead"


def test_nothing_is_made_ahead_by_a_process_that_remembers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an evaluation that breaks off does not start another process in order to end it."""
    spawn = Mock(side_effect=process._spawn)
    monkeypatch.setattr(process, "_spawn", spawn)
    training = TrainingProcess(nice=7)
    training.start(job())
    assert training.wait(PATIENCE_S).onnx
    assert training.pid is not None
    psutil.Process(training.pid).kill()
    until(lambda: training.fresh)
    training.look_ahead(replace(job(), ahead=True))
    training.close()
    assert spawn.call_count == 1


def test_a_training_that_is_killed_is_reported_and_the_next_one_gets_a_new_child(
    training: TrainingProcess, tmp_path: Path
) -> None:
    child = hang(training, tmp_path / "begun")
    os.kill(child.pid, signal.SIGINT)  # Ctrl-C is for the parent alone
    assert training.poll() is None
    training.kill("enough")
    assert not child.is_running()
    with pytest.raises(TrainingFailedError, match="enough"):
        training.poll()
    assert not training.busy
    training.start(job())
    assert training.wait(PATIENCE_S).onnx == fit(job()).onnx
    assert training.pid != child.pid


def test_a_training_over_its_time_is_killed_and_says_which_setting_to_change(training: TrainingProcess, tmp_path: Path) -> None:
    child = hang(training, tmp_path / "begun")
    with pytest.raises(TrainingFailedError, match=r"longer than 0.01 s and was killed; raise trainer.train_timeout_s"):
        training.wait(0.01)
    assert not child.is_running()


def test_a_training_killed_before_its_child_is_there_is_reported_too(training: TrainingProcess) -> None:
    training.start(job())
    training.kill("changed my mind")
    with pytest.raises(TrainingFailedError, match="changed my mind"):
        training.wait(PATIENCE_S)


def test_a_child_that_dies_is_reported_with_how_it_ended_and_the_next_training_works(training: TrainingProcess) -> None:
    for params, words in (({"by_signal": False}, "ended with exit code 3"), ({"by_signal": True}, "was ended by SIGKILL")):
        training.start(job("odd_regressors.Dying", params))
        with pytest.raises(TrainingFailedError, match=words):
            training.wait(PATIENCE_S)
    training.start(job())
    assert training.wait(PATIENCE_S).onnx


def test_a_job_larger_than_any_pipe_does_not_block_the_caller(training: TrainingProcess) -> None:
    big = job("sklearn.linear_model.LinearRegression", rows=1_000_000)
    training.start(big)
    assert big.features.nbytes > 10e6
    assert training.wait(PATIENCE_S).onnx


def test_a_job_that_cannot_be_sent_is_reported_and_the_next_one_is_not_mixed_up_with_it(training: TrainingProcess) -> None:
    training.start(job(params={"n_estimators": lambda: 5}))
    with pytest.raises(TrainingFailedError, match="could not be started"):
        training.wait(PATIENCE_S)
    training.start(job())
    assert training.wait(PATIENCE_S).onnx


def test_the_child_ends_with_its_parent_in_the_middle_of_a_training(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(HELPERS.parents[2])!r});"
        "import test_training as t; from pathlib import Path; p = t.TrainingProcess();"
        "sys.path.insert(0, str(t.HELPERS)); print(t.hang(p, Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "begun")]
    with subprocess.Popen(command, cwd=HELPERS.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_wrong_estimator_is_a_mistake_in_the_settings_when_trained_here() -> None:
    with pytest.raises(ConfigError, match="no class 'RandomForestRegresor'"):
        fit(job("sklearn.ensemble.RandomForestRegresor"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone")
def test_a_training_that_wants_too_much_memory_fails_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HELPERS))
    training = TrainingProcess(nice=7, memory_mb=768)
    try:
        training.start(job("odd_regressors.Greedy"))
        with pytest.raises(TrainingFailedError, match="memory"):
            training.wait(PATIENCE_S)
        training.start(job())
        assert training.wait(PATIENCE_S).onnx == fit(job()).onnx
    finally:
        training.close()


def test_a_child_that_was_started_before_its_first_job_remembers_nothing_yet(training: TrainingProcess) -> None:
    training.prepare()
    until(lambda: training.pid is not None)
    assert training.fresh
    training.start(job())
    training.wait(60)
    assert not training.fresh
