"""Laws of the label ledger: what becomes of outcomes, whatever the interleaving, the cuts and the kills."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.errors import CursorError, LogError, LogUnavailableError, OffsetRemovedError
from correnteza.events import Events
from correnteza.features import CATEGORIES, SCALERS
from correnteza.generator import posts
from correnteza.log.base import Policy, Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.records import ID, OFFSET
from correnteza.testing import read_all
from correnteza.trainer import ledger as ledger_module
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.labels import ADDED, LABELS, LEARNED, LOG, OUTCOMES, label_events, label_rows
from correnteza.trainer.ledger import Ledger
from correnteza.trainer.recent import MARKS, Marks, Recent
from correnteza.trainer.upstream import Upstream

from .worlds import SCHEMA, normalized, raw

ROWS = 60
HORIZON = 12
STAGE = "learner"


@lru_cache(1)
def source() -> tuple[pa.RecordBatch, MemoryStore]:
    """Rows of `normalized`, two of three without a target, and the normalizer's store."""
    store = normalized(raw(ROWS, lambda i: i % 3 == 0))
    rows = store.log("normalized", SCHEMA.normalized).read(None, ROWS).batch
    return rows.drop_columns([OFFSET]), store


def truth(offset: int) -> float:
    return 100.0 + offset


def prediction(key: str, number: int) -> dict[str, Any]:
    asked = {"id": key, "size": 80.5 + number, "kind": "k1"} if number % 2 else {"kind": "never seen", "rooms": 3}
    return {
        "prediction_id": key,
        "at": datetime.fromtimestamp(1000 + number, UTC),
        "model_version": 1 + number,
        "prediction": 10.0 * number,
        "lower": 10.0 * number - 1,
        "upper": None,
        "record": json.dumps(asked),
    }


@dataclass
class World:
    """Logs that grow, and a ledger over them whose batches are committed."""

    store: Store = field(default_factory=MemoryStore)
    horizon: int = HORIZON
    read_rows: list[dict[str, Any]] = field(default_factory=list)
    now_s: float = 5000.0

    def __post_init__(self) -> None:
        self.rows, explained = source()
        self.upstream_store = MemoryStore()
        self.normalized = self.upstream_store.log("normalized", SCHEMA.normalized)
        self.outcomes = self.upstream_store.log("outcomes", OUTCOMES)
        self.explained = explained
        self.predictions = self.store.log("predictions", PREDICTIONS)
        self.labels = self.store.log(LOG, LABELS)
        self.told = Events("learner")
        self.arrived = self.predicted = 0
        self.start()

    def start(self) -> None:
        """A ledger as after a kill: it knows what was committed, and nothing else."""
        upstream = Upstream(
            self.normalized, self.explained.log("scalers", SCALERS), self.explained.log("categories", CATEGORIES), SCHEMA
        )
        self.upstream = upstream
        self.ledger = Ledger(
            upstream, self.outcomes, self.predictions, self.labels, SCHEMA, self.told, self.horizon, lambda: self.now_s
        )
        claim = self.store.claim(STAGE)
        self.epoch, self.position = claim.epoch, claim.position

    def arrive(self, rows: int) -> None:
        self.normalized.append(self.rows.slice(self.arrived, rows))
        self.arrived = min(ROWS, self.arrived + rows)

    def tell(self, *outcomes: tuple[str | None, float | None]) -> None:
        rows = [{"id": key, "target": target} for key, target in outcomes]
        self.outcomes.append(pa.RecordBatch.from_pylist(rows, schema=OUTCOMES))

    def predict(self, *keys: str) -> None:
        rows = [prediction(key, self.predicted + i) for i, key in enumerate(keys)]
        self.predicted += len(keys)
        self.predictions.append(pa.RecordBatch.from_pylist(rows, schema=PREDICTIONS))

    def read(self, limit: int = 100) -> list[dict[str, Any]]:
        """One read and its commit."""
        part = self.ledger.read(self.position, limit)
        assert part.batch.num_rows <= limit
        if part.batch.num_rows:
            self.store.commit(STAGE, self.epoch, part.next, b"", {LOG: label_rows(part.batch, SCHEMA.target)})
        self.position = part.next
        rows: list[dict[str, Any]] = part.batch.to_pylist()
        self.read_rows += rows
        return rows

    def drain(self, limit: int = 100) -> list[dict[str, Any]]:
        """Read until nothing more comes."""
        found: list[dict[str, Any]] = []
        while rows := self.read(limit):
            found += rows
        return found

    def effects(self) -> list[tuple[str | None, str]]:
        return [(row[ID], row["effect"]) for row in self.read_rows if row["effect"] is not None]


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["effect"] is not None]


def open_id(place: int) -> str:
    """The id of the record at an offset without a target."""
    assert place % 3 != 1
    return f"r{place - 1}"


def test_the_ledger_reads_the_columns_that_the_generator_writes() -> None:
    assert OUTCOMES.equals(posts.OUTCOMES)


def test_without_outcomes_the_records_are_those_of_upstream_in_any_cut() -> None:
    world = World()
    world.arrive(ROWS)
    while world.read(7):
        pass
    own = [{name: row[name] for name in [OFFSET, *SCHEMA.normalized.names]} for row in world.read_rows]
    assert own == read_all(world.normalized)
    assert all(row[name] is None for row in world.read_rows for name in ADDED.names)


def test_an_outcome_in_time_is_joined_to_the_features_of_its_record() -> None:
    world = World()
    world.arrive(5)
    world.read()
    world.now_s += 30.0
    world.tell((open_id(3), 7.5))
    (row,) = world.read()
    expected = {**read_all(world.normalized)[2], "price": 7.5}
    assert {name: row[name] for name in SCHEMA.normalized.names} == {name: expected[name] for name in SCHEMA.normalized.names}
    assert (row["effect"], row[OFFSET], row["of_offset"], row["label_offset"]) == ("joined", 5, 3, 1)
    assert row["delay_s"] == pytest.approx(30.0)
    assert row["answer_version"] is None


def test_an_outcome_for_a_prediction_has_the_features_that_were_asked_and_the_answer_that_was_given() -> None:
    world = World()
    world.arrive(40)
    world.drain()
    world.predict("a", "b")
    world.tell(("b", 5.0), ("a", 6.0))
    b, a = world.read()
    assert (b["answer_version"], b["answer_prediction"], b["answer_lower"], b["answer_upper"]) == (2, 10.0, 9.0, None)
    assert (a["answer_version"], a["answer_prediction"]) == (1, 0.0)
    assert (b["prediction_offset"], a["prediction_offset"], b["of_offset"]) == (2, 1, None)
    batch = pa.RecordBatch.from_pylist([b, a]).select([*SCHEMA.normalized.names])
    fitting = pa.RecordBatch.from_arrays([batch[f.name].cast(f.type) for f in SCHEMA.normalized], schema=SCHEMA.normalized)
    numbers, texts = world.upstream.raw(fitting)
    assert numbers[0, 0] == pytest.approx(81.5)
    assert math.isnan(numbers[0, 1])
    assert math.isnan(numbers[1, 0])
    assert numbers[1, 1] == pytest.approx(3.0)
    assert texts.tolist() == [["k1"], ["other"]]
    assert b["scaler_version"] == world.rows["scaler_version"][39].as_py()
    assert b["delay_s"] == pytest.approx(5000.0 - 1001.0)


def test_each_effect_comes_of_what_the_table_says() -> None:
    world = World()
    world.arrive(8)
    world.drain()
    world.tell((open_id(3), 1.0), (open_id(3), 1.0), (open_id(3), 2.0), (open_id(3), 1.0))
    world.tell(("r3", world.rows["price"][3].as_py()), ("r3", 0.5), ("r20", 9.0), ("nobody", 3.0))
    world.tell((None, 1.0), ("", 1.0), (open_id(5), None), (open_id(5), math.nan), (open_id(5), math.inf), (open_id(5), 1e200))
    world.drain()
    assert [effect for _, effect in world.effects()] == [
        *("joined", "duplicate", "corrected", "corrected"),
        *("duplicate", "contradictory", "early", "early"),
        *["invalid"] * 6,
    ]
    assert [row["replaces"] for row in labelled(world.read_rows)[:4]] == [None, None, 1, 3]
    world.arrive(14)
    world.drain()
    world.tell((open_id(6), 1.0))
    world.drain()
    assert world.effects()[14:] == [("r20", "joined"), ("nobody", "unknown"), (open_id(6), "late")]
    effects = world.ledger.figures["effects"]
    assert effects["expired"] == sum(place % 3 != 1 for place in range(1, 22 - HORIZON + 1)) - 1
    still_open = [place for place in range(22 - HORIZON + 1, 23) if place % 3 != 1 and place != 21]
    assert world.ledger.figures["open"] == len(still_open)


def test_what_is_out_of_the_ordinary_is_an_event_of_the_stage() -> None:
    world = World(horizon=2 * HORIZON)
    world.arrive(8)
    world.drain()
    world.tell((open_id(3), 1.0), (open_id(3), 2.0), ("r3", 0.5), (None, 1.0), ("", 1.0), ("nobody", 1.0))
    part = world.ledger.read(world.position, 100)
    events = label_events(part.batch)
    assert [(e.kind, e.detail["rows"]) for e in events] == [
        ("outcomes_corrected", 1),
        ("outcomes_contradictory", 1),
        ("outcomes_invalid", 2),
    ]
    assert label_events(part.batch.slice(0, 1)) == ()


def test_an_outcome_before_its_prediction_is_stored_waits_for_it_on_a_silent_stream() -> None:
    world = World()
    world.arrive(5)
    world.drain()
    world.tell(("a", 4.0))
    assert [row["effect"] for row in world.read()] == ["early"]
    assert world.read() == []
    world.predict("a")
    assert [(row["effect"], row["label_offset"], row["answer_version"]) for row in world.read()] == [("joined", 1, 1)]


def test_a_forgotten_prediction_is_late_within_the_horizon_and_unheard_of_after_it() -> None:
    world = World(horizon=4)
    world.arrive(5)
    world.drain()
    world.predict("a", "p1")
    world.tell(("a", 1.0))
    world.drain()
    world.predict("p2", "p3", "p4", "p5")
    world.tell(("p5", 1.0), ("a", 1.0), ("a", 2.0))
    world.drain()
    world.arrive(5)
    world.drain()
    world.tell(("a", 2.0))
    world.drain()
    assert world.effects() == [
        *[("a", "joined"), ("p5", "joined"), ("a", "duplicate"), ("a", "late")],
        ("a", "early"),
    ]


def test_of_too_many_waiting_outcomes_the_oldest_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "EARLY_ROWS", 3)
    world = World()
    world.arrive(5)
    world.drain()
    world.tell(*((f"x{i}", 1.0) for i in range(5)))
    world.drain()
    assert world.effects()[5:] == [("x0", "unknown"), ("x1", "unknown")]
    assert world.ledger.figures["waiting"] == 3


def test_while_records_are_behind_no_outcome_is_given_up_for_want_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "EARLY_ROWS", 3)
    world = World(horizon=ROWS)
    world.tell(*((open_id(place), truth(place)) for place in range(1, ROWS + 1) if place % 3 != 1))
    world.arrive(ROWS)
    world.drain(limit=2)
    counts = Counter(effect for _, effect in world.effects())
    assert counts["joined"] == 40
    assert counts["unknown"] == 0
    assert world.ledger.figures["open"] == 0


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_with_any_limit_both_logs_get_their_turn(limit: int) -> None:
    world = World()
    world.arrive(ROWS)
    world.tell(*(("r3", float(i)) for i in range(ROWS)))
    rows = [row for _ in range(30) for row in world.read(limit)]
    share = len(labelled(rows)) / len(rows)
    assert 0.3 < share < 0.7


Action = tuple[str, Any]
keys = st.one_of(st.integers(0, 30).map(lambda i: f"r{i}"), st.sampled_from(["p0", "p1", "p2", "nobody", "no one"]))
actions = st.one_of(
    st.tuples(st.just("arrive"), st.integers(1, 6)),
    st.tuples(
        st.just("tell"),
        st.lists(st.tuples(keys, st.sampled_from([1.0, 2.0, None])), min_size=1, max_size=4),
    ),
    st.tuples(st.just("predict"), st.lists(keys, min_size=1, max_size=2)),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("pass"), st.floats(0.01, 20.0)),
)
histories = st.lists(actions, min_size=5, max_size=60)


def lived(history: list[Action], restarts: bool, world: World | None = None) -> World:
    """A world after a history; with restarts, the ledger is killed before every read, some times after one too."""
    world = world or World()
    for number, (kind, value) in enumerate(history):
        if kind == "arrive":
            world.arrive(value)
        elif kind == "tell":
            world.tell(*value)
        elif kind == "predict":
            world.predict(*value)
        elif kind == "pass":
            world.now_s += value
        else:
            if restarts:
                if number % 3 == 0:
                    world.ledger.read(world.position, value)  # and killed before the commit
                world.start()
            world.read(value)
    return world


@settings(deadline=None, max_examples=120)
@given(histories)
def test_restarts_at_any_batch_change_no_row_no_effect_and_no_cursor(history: list[Action]) -> None:
    with mock.patch.object(ledger_module, "DELAYS", 1):  # so that no label is read back for the sake of its delay
        whole, cut = lived(history, restarts=False), lived(history, restarts=True)
    assert cut.read_rows == whole.read_rows
    if cut.position is not None and whole.position is not None:
        assert json.loads(cut.position) | {"rows": 0, "outcomes": 0} == json.loads(whole.position) | {"rows": 0, "outcomes": 0}
    whole.start()
    whole.ledger.read(whole.position, 1)
    cut.ledger.read(cut.position, 1)
    delays = {"delay_median_s": 0, "delay_p95_s": 0}
    assert {**whole.ledger.figures, **delays} == {**cut.ledger.figures, **delays}


def test_who_catches_up_joins_what_one_that_kept_up_would_have_joined() -> None:
    """However long the backlog, and however many rows one read may bring."""
    world, delay = World(), HORIZON // 2
    ids = [str(key) for key in world.rows[ID].to_pylist()]
    world.arrive(delay)
    world.drain()
    world.arrive(ROWS)
    world.tell(*((key, truth(i)) for i, key in enumerate(ids[: ROWS - delay])))
    world.drain(10 * ROWS)
    labelled_before = sum(world.rows["price"].is_valid().to_pylist()[: ROWS - delay])
    assert Counter(effect for _, effect in world.effects()) == {
        "joined": ROWS - delay - labelled_before,
        "contradictory": labelled_before,
    }
    assert "expired" not in world.ledger.figures["effects"]


@settings(deadline=None, max_examples=120)
@given(histories)
def test_effects_are_those_of_a_bookkeeper_who_goes_through_all_rows(history: list[Action]) -> None:
    world = lived(history, restarts=False)
    rows = world.read_rows
    arrived: list[dict[str, Any]] = []
    last: dict[tuple[str, int], float] = {}  # the target that is known of a record or prediction
    told: dict[tuple[str, int], int] = {}  # after how many records it was
    for row in rows:
        if row["effect"] is None:
            arrived.append(row)
            continue
        n = len(arrived)
        same = [r for r in arrived[-2 * HORIZON :] if r[ID] == row[ID]]
        record = same[-1] if same else None
        if row["price"] is None:
            assert row["effect"] == "invalid"
        elif record is not None:
            own, key = record["price"], ("record", record[OFFSET])
            if record[OFFSET] <= n - HORIZON:
                expected = "late"
            elif own is not None:
                expected = "duplicate" if own == row["price"] else "contradictory"
            elif key in last:
                expected = "duplicate" if last[key] == row["price"] else "corrected"
            else:
                expected = "joined"
            assert row["effect"] == expected
            assert row["of_offset"] == record[OFFSET]
            if expected in LEARNED:
                last[key] = row["price"]
                assert row["size"] == record["size"] or row["size"] is record["size"]
        elif row["effect"] in LEARNED:
            key = ("prediction", row["prediction_offset"])
            known = key in last and told[key] > n - HORIZON  # an outcome further back is forgotten, the prediction not yet
            assert key in last if row["effect"] == "corrected" else not known
            assert not known or last[key] != row["price"]
            last[key], told[key] = row["price"], n
        else:
            assert row["effect"] in ("early", "unknown", "duplicate", "late")


@settings(deadline=None, max_examples=60)
@given(histories)
def test_every_outcome_is_taken_once_in_order_and_ends_in_one_effect(history: list[Action]) -> None:
    world = lived(history, restarts=False)
    world.drain(9)
    rows = labelled(world.read_rows)
    firsts = list(dict.fromkeys(row["label_offset"] for row in rows))
    assert sorted(firsts) == list(range(1, world.outcomes.bounds().next))
    taken = [
        row["label_offset"] for i, row in enumerate(rows) if row["label_offset"] not in {r["label_offset"] for r in rows[:i]}
    ]
    assert taken == sorted(taken)
    ends = Counter(row["label_offset"] for row in rows if row["effect"] != "early")
    assert all(count == 1 for count in ends.values())
    counts = world.ledger.figures["effects"]
    assert {k: v for k, v in counts.items() if k != "expired"} == Counter(row["effect"] for row in rows)
    replaced = sum(row["effect"] == "early" and row["replaces"] is not None for row in rows)
    assert len(firsts) == len(ends) + replaced + world.ledger.figures["waiting"]


@settings(deadline=None, max_examples=60)
@given(histories, st.integers(0, ROWS))
def test_the_past_is_read_again_as_it_was(history: list[Action], rows: int) -> None:
    world = lived(history, restarts=False)
    read = world.read_rows
    low = max(0, max((row[OFFSET] for row in read), default=0) - rows)
    world.start()
    past = [row for batch in world.ledger.past(world.position, rows) for row in batch.to_pylist()]
    assert past == [row for row in read if row[OFFSET] > low]


def test_a_failure_in_the_middle_of_a_read_changes_nothing() -> None:
    world = World(horizon=ROWS)
    world.arrive(10)
    world.drain()
    world.arrive(10)
    world.tell((open_id(9), 1.0), (open_id(15), 1.0), ("a", 1.0))
    bounds = world.predictions.bounds
    world.predictions.bounds = _unavailable  # type: ignore[method-assign]
    with pytest.raises(LogUnavailableError):
        world.read()
    world.predictions.bounds = bounds  # type: ignore[method-assign]
    rows = world.read()
    assert [row[OFFSET] for row in rows if row["effect"] is None] == list(range(11, 21))
    assert [row["effect"] for row in labelled(rows)] == ["joined", "joined", "early"]


def _unavailable() -> Any:
    raise LogUnavailableError("busy")


def test_after_a_gap_in_the_records_it_goes_on_and_takes_no_outcome_twice() -> None:
    world = World()
    world.arrive(6)
    world.tell((open_id(3), 1.0))
    world.drain()
    world.arrive(20)
    world.normalized.trim(Policy(rows=5), 0.0)
    with pytest.raises(OffsetRemovedError):
        world.read()
    world.position = None  # as the runner does
    rows = world.drain()
    assert [row[OFFSET] for row in rows] == list(range(22, 27))
    assert labelled(rows) == []


def test_outcomes_that_were_removed_unread_are_told() -> None:
    world = World()
    world.arrive(6)
    world.tell(("r1", 1.0))
    world.drain()
    world.tell(*((open_id(3), float(i)) for i in range(9)))
    world.outcomes.trim(Policy(rows=1), 0.0)
    rows = world.drain()
    assert [(row["label_offset"], row["effect"]) for row in rows] == [(10, "joined")]
    assert world.told.counts["gap"] == 1


def test_a_stage_that_does_not_commit_the_labels_is_found_out() -> None:
    world = World()
    world.arrive(6)
    world.tell((open_id(3), 1.0))
    part = world.ledger.read(None, 100)
    world.start()
    with pytest.raises(LogError, match="labels has 0 rows where its cursor says 1"):
        world.ledger.read(part.next, 100)


@pytest.mark.parametrize("cursor", ["latest", "x", "{}x", '{"a": 1}', "0123456789ab.5"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(CursorError, match="not one of its own"):
        World().ledger.read(cursor, 1)


@settings(deadline=None, max_examples=5)
@given(st.lists(actions, min_size=20, max_size=40))
def test_a_real_database_that_is_opened_again_goes_on_the_same(history: list[Action]) -> None:
    whole = lived(history, restarts=False)
    with tempfile.TemporaryDirectory() as folder:
        world = World(store=SqlStore(Path(folder) / "a.db"))
        for place in range(0, len(history), 7):
            lived(history[place : place + 7], restarts=False, world=world)
            world.store.close()
            world.store = SqlStore(Path(folder) / "a.db")
            world.predictions, world.labels = world.store.log("predictions", PREDICTIONS), world.store.log(LOG, LABELS)
            world.start()
        assert world.read_rows == whole.read_rows
        assert labelled_log(world) == [(row["label_offset"], row["effect"], row[OFFSET]) for row in labelled(whole.read_rows)]
        world.store.close()


def labelled_log(world: World) -> list[tuple[int, str, int]]:
    return [(row["label_offset"], row["effect"], row["read_offset"]) for row in read_all(world.labels)]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=12), st.integers(0, 40))
def test_recent_rows_are_found_and_taken_however_they_came(parts: list[list[str]], floor: int) -> None:
    recent, offset = Recent(ID, 16), 0
    rows: list[dict[str, Any]] = []
    for part in parts:
        mine = [{OFFSET: offset + 2 * i + 1, ID: key} for i, key in enumerate(part)]
        offset += 2 * len(part)
        recent.add(pa.RecordBatch.from_pylist(mine, schema=pa.schema([(OFFSET, pa.int64()), (ID, pa.string())])))
        rows += mine
    expected = {row[ID]: row[OFFSET] for row in rows if row[OFFSET] > floor}
    assert recent.find("abcdefg", floor) == expected
    assert recent.rows_above(floor) == sum(row[OFFSET] > floor for row in rows)
    assert recent.between(floor, floor + 7).tolist() == [row[OFFSET] for row in rows if floor < row[OFFSET] <= floor + 7]
    wanted = [row[OFFSET] for row in reversed(rows)]
    taken, places = recent.take([*wanted, 2])
    assert ([] if taken is None else taken[OFFSET].to_pylist()) == wanted
    assert places == list(range(len(wanted)))
    recent.forget(floor)
    assert recent.find("abcdefg", floor) == expected


def test_marks_are_few_and_rougher_the_older_they_are() -> None:
    marks, now_s, offset = Marks(), 0.0, 0
    times_s = {}
    for step in range(5_000):
        now_s += 0.2 if step % 100 < 50 else 0.6
        offset += 1 + step % 7
        times_s[offset] = now_s
        marks.add(offset, now_s)
    assert len(marks.plain()) <= MARKS
    assert len(json.dumps(marks.plain())) < MARKS * 25
    again = Marks(marks.plain())
    for one, time_s in times_s.items():
        seen_s = again.at(one)
        assert seen_s is not None
        assert abs(seen_s - time_s) <= 0.1 * (now_s - time_s) + 0.6
    assert marks.at(offset + 1) is None
