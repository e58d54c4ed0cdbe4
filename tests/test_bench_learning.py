"""The benchmarks of learning: what is measured is what they say, on streams of a few hundred rows."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from tests.tools import PATIENCE_S

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
PEERS = ("plain", "arf", "hat", "linear", "amf")
BIKE = """instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,casual,registered,cnt
1,2011-01-01,1,0,1,0,0,6,0,1,0.24,0.2879,0.81,0,3,13,16
2,2011-01-01,1,0,1,1,0,6,0,1,0.22,0.2727,0.8,0,8,32,40
"""
METRO = """holiday,temp,rain_1h,snow_1h,clouds_all,weather_main,weather_description,date_time,traffic_volume
None,288.28,0.0,0.0,40,Clouds,scattered clouds,2012-10-02 09:00:00,5545
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("program", ["learning.py", "freshness.py"])
def test_every_program_tells_what_it_does_and_has_a_quick_form(program: str) -> None:
    done = subprocess.run([sys.executable, str(BENCH / program), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def test_generated_streams_are_the_same_each_time_and_have_their_drifts_in_proportion(bench: Any) -> None:
    streams = bench("streams")
    for name in streams.GENERATED:
        once, again = streams.load(name, 240), streams.load(name, 240)
        assert once == again
        assert len(once.records) == 240
    assert streams.load("gra", 240).drifts == (80, 160)
    assert streams.load("lea", 240).drifts == (60, 120, 180)
    assert streams.load("gsg", 240).drifts == ()


@pytest.mark.parametrize("name", ["mv", "planes2d", "trump", "chicks"])
def test_batches_hold_all_records_in_their_order(bench: Any, name: str) -> None:
    stream = bench("streams").load(name, 230)
    table = pa.Table.from_batches(stream.batches(100))
    assert table.schema == stream.schema.build().raw
    rows = table.drop_columns(["id"]).to_pylist()
    assert [(row, row.pop("target")) for row in rows] == list(stream.records)


def test_files_are_read_without_what_gives_the_target_away(bench: Any, tmp_path: Path) -> None:
    for name, text in {"bike_sharing_hour": BIKE, "metro_interstate_traffic_volume": METRO}.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    streams = bench("streams")
    bike, metro = streams.load("bike", None, tmp_path), streams.load("metro", None, tmp_path)
    assert [target for _, target in bike.records] == [16.0, 40.0]
    assert not {"instant", "dteday", "casual", "registered", "cnt"} & set(bike.records[0][0])
    fields, target = metro.records[0]
    assert (fields["hour"], fields["weekday"], fields["month"], target) == (9, 1, 10, 5545.0)
    assert metro.schema.build().categories == ("holiday", "weather_main", "weather_description")
    with pytest.raises(FileNotFoundError):
        streams.load("bike", None, tmp_path / "elsewhere")


@pytest.mark.parametrize("learner", PEERS)
def test_no_prediction_depends_on_its_own_target_or_on_later_rows(bench: Any, learner: str) -> None:
    streams, peers = bench("streams"), bench("learning_peers")
    whole = streams.load("mv", 240)
    changed = [(fields, target if row < 150 else 0.0) for row, (fields, target) in enumerate(whole.records)]
    run = peers.LEARNERS[learner]
    predictions = run(whole).predictions
    others = run(streams.Stream("mv", tuple(changed))).predictions
    np.testing.assert_array_equal(predictions[:151], others[:151])
    assert not np.array_equal(predictions[151:], others[151:]) or learner == "plain"


def test_the_plain_refit_predicts_behind_each_refit_with_the_rows_before_it(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.ensemble import RandomForestRegressor

    peers = bench("learning_peers")
    monkeypatch.setattr(peers, "PLAIN_EVERY_ROWS", 150)
    monkeypatch.setattr(peers, "PLAIN_WINDOW_ROWS", 120)
    stream = bench("streams").load("gra", 200)
    features = np.array([list(fields.values()) for fields, _ in stream.records])
    forest = RandomForestRegressor(**peers.PLAIN_PARAMS).fit(features[30:150], peers.targets_of(stream)[30:150])
    np.testing.assert_array_equal(peers.plain(stream).predictions[150:], forest.predict(features[150:]))


def test_ours_is_scored_on_every_record(bench: Any) -> None:
    """Records before the first version count with the running mean, the others with what was served."""
    peers = bench("learning_peers")
    stream = bench("streams").load("trump", 300)
    run = peers.ours(stream)
    unscored = run.more["unscored_rows"]
    mean = peers.running_mean(peers.targets_of(stream))
    assert 0 < unscored < 300
    np.testing.assert_array_equal(run.predictions[:unscored], mean[:unscored])
    assert run.more["versions"] >= 1
    assert np.isfinite(run.predictions).all()
    figures = peers.score(stream, run)
    assert figures["mae"] is not None
    assert 0 <= figures["coverage"] <= 1


def test_evaluations_out_of_step_with_the_records_are_an_error(bench: Any) -> None:
    peers = bench("learning_peers")
    stream = bench("streams").load("trump", 10)
    target = peers.targets_of(stream)[3:5]
    columns = {"raw_offset": [4, 5], "target": target, "prediction": [1.0, 2.0], "lower": [None, 0.0], "upper": [None, 9.0]}
    run = peers._aligned(stream, pa.table(columns), 1.0, {})
    assert run.predictions[3:5].tolist() == [1.0, 2.0]
    assert run.more["unscored_rows"] == 8
    assert np.flatnonzero(~np.isnan(run.lower)).tolist() == [4]
    with pytest.raises(ValueError, match="not in step"):
        peers._aligned(stream, pa.table(columns | {"raw_offset": [5, 6]}), 1.0, {})


@pytest.mark.parametrize("answer", [math.nan, math.inf, 1e9])
def test_a_learner_with_wild_predictions_diverges(bench: Any, answer: float) -> None:
    peers = bench("learning_peers")
    stream = bench("streams").load("trump", 50)
    predictions = peers.targets_of(stream)
    predictions[20] = answer
    figures = peers.score(stream, peers.Run(predictions, 1.0))
    assert figures["diverges"]
    assert (figures["mae"] is None) == (not math.isfinite(answer))
    json.dumps(figures, allow_nan=False)
    assert "| diverges" in bench("learning")._line("it", figures, None)


def test_a_learner_that_overflows_diverges_and_does_not_end_the_run(bench: Any) -> None:
    peers = bench("learning_peers")

    class Overflowing:
        def predict_one(self, fields: dict[str, float]) -> None:
            return None

        def learn_one(self, fields: dict[str, float], target: float) -> None:
            raise OverflowError("too large")

    stream = bench("streams").load("trump", 50)
    run = peers.of_river(Overflowing)(stream)
    assert run.predictions[0] == 0.0
    assert run.more == {"stopped": "OverflowError: too large"}
    assert peers.score(stream, run)["diverges"]


def test_coverage_counts_rows_with_an_interval_alone_and_shows_the_worst_stretch(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = bench("learning_peers")
    monkeypatch.setattr(peers, "COVERED_ROWS", 2)
    targets = np.arange(6.0)
    lower = np.array([np.nan, 0.0, 0.0, 9.0, 9.0, 0.0])
    run = peers.Run(targets, 1.0, lower, lower + 9.0)
    found = peers.coverage(run, targets, slice(0, None))
    assert found == {"coverage": 0.6, "coverage_min": 0.0, "coverage_max": 1.0}
    assert peers.coverage(run, targets, slice(4, None)) == {"coverage": 0.5, "coverage_min": 0.5, "coverage_max": 0.5}
    assert peers.coverage(run, targets, slice(5, None)) == {"coverage": 1.0}
    assert peers.coverage(peers.Run(targets, 1.0), targets, slice(0, None)) == {}


def test_an_error_that_does_not_come_back_before_the_next_drift_never_recovers(bench: Any) -> None:
    errors = np.concatenate([np.ones(1000), np.full(1000, 2.0), np.ones(1000)])
    assert bench("learning_peers").recovery_rows(errors, (1000, 2000)) == [None, 500]


def test_the_program_compares_learners_in_processes_of_their_own_and_ends_with_our_figures(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    options = ["--rows", "250", "--stream", "gra", "--only", "ours", "linear", "--results", str(results)]
    done = subprocess.run([sys.executable, str(BENCH / "learning.py"), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"gra"}
    assert {"mae", "records_per_s", "coverage", "ticks", "versions", "drifts", "recovery_rows"} <= set(figures["gra"])
    text = results.read_text()
    assert text.startswith("## bench/learning.py, ")
    assert "| **correnteza** | 250 |" in text
    assert "| River `StandardScaler \\| LinearRegression` | 250 |" in text


def test_a_peer_that_fails_is_told_and_ours_that_fails_ends_the_run(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = bench("learning")

    def failing(learner: str, *_: Any) -> dict[str, Any]:
        raise RuntimeError(f"{learner} is broken")

    monkeypatch.setattr(learning, "measured", failing)
    told: list[str] = []
    assert learning.side_by_side(["arf", "amf"], "gra", 10, Path(), told) == {}
    assert told == ["left out: arf is broken"]
    with pytest.raises(RuntimeError, match="ours is broken"):
        learning.side_by_side(["ours"], "gra", 10, Path(), told)


def test_peak_memory_is_that_of_the_whole_family_and_nothing_of_it_is_left(bench: Any) -> None:
    inner = "import time; held = bytearray(200_000_000); print('held', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    peak = bench("learning").Peak(process.pid)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    family = psutil.Process(process.pid).children(recursive=True)
    bench("system").wait_for(lambda: peak.bytes > 200_000_000, PATIENCE_S, "a look at it")
    peak.end()
    process.wait(PATIENCE_S)
    assert psutil.wait_procs(family, PATIENCE_S)[1] == []
    process.stdout.close()


def test_a_record_is_fresh_at_the_first_answer_by_any_version_that_learned_from_it(bench: Any) -> None:
    """Also when a later version has learned from less, as after a roll-back."""
    fresh_s = bench("freshness").fresh_s
    assert fresh_s([(10, 1.0)], {1: 2.0, 2: 3.0, 3: 4.0}, {1: 5, 2: 10, 3: 7}) == [2.0]
    assert fresh_s([(11, 1.0)], {1: 2.0}, {1: 5}) == [math.inf]


def test_a_record_that_is_never_learned_from_counts_with_the_time_that_it_waited(bench: Any) -> None:
    freshness = bench("freshness")
    commits = [(20 * i, float(i)) for i in range(1, 11)]
    seen = freshness.Seen(commits, answers={1: 6.0}, learned={1: 80})
    figures = freshness.figures_of(seen, began=1.0, seconds=5.0)
    assert figures["records"] == 5 * freshness.BATCH_ROWS
    assert figures["never_learned"] == freshness.BATCH_ROWS
    assert figures["max_s"] == 5.0
    assert figures["records_per_s"] == 20.0


class Halting:
    """A system whose second service does not start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Halting:
        self.processes["generator"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        raise TimeoutError("waited 60 s for trainer to answer")

    def __exit__(self, *_: object) -> None:
        raise AssertionError("not entered")


def test_nothing_that_was_started_is_left_when_a_service_does_not_start(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freshness, halting = bench("freshness"), Halting(tmp_path / "system")
    halting.folder.mkdir()
    monkeypatch.setattr(freshness, "System", lambda *_: halting)
    with pytest.raises(TimeoutError), freshness.started():
        pass
    assert halting.processes["generator"].wait(PATIENCE_S) != 0
    assert not halting.folder.exists()


def test_what_is_posted_has_a_target_and_what_is_asked_has_none(bench: Any) -> None:
    freshness = bench("freshness")
    posted = json.loads(b"{" + next(freshness.people()))
    asked = json.loads(b"{" + next(freshness.people(labelled=False)))
    assert {key: value for key, value in posted.items() if key != "income"} == asked
    assert posted["income"] > 0
    assert "event_time" not in posted


def test_freshness_is_measured_on_a_running_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRENTEZA_TRAINER__RETRAIN_EVERY_S", "0.5")
    options = ["--seconds", "2", "--rate", "200", "--warm-up", "0", "--port-base", "21800", "--results", str(tmp_path / "R.md")]
    done = subprocess.run([sys.executable, str(BENCH / "freshness.py"), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 < figures["p50_s"] <= figures["p99_s"] <= figures["max_s"]
    assert figures["never_learned"] == 0
    assert figures["records_per_s"] == pytest.approx(200, rel=0.2)
