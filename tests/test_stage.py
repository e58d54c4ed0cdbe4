"""The one runner: reads, steps and commits through outages, gaps, takeovers and failures."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pyarrow as pa
import pytest
from tests.tools import PATIENCE_S

from correnteza import events
from correnteza.errors import DamagedLogError, FencedError, LogUnavailableError
from correnteza.events import Event, Events
from correnteza.log.base import Appended, Policy, Slice
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.records import OFFSET
from correnteza.stage import Runner, Step
from correnteza.testing import SCHEMA, check_stage, read_all, rows, wait_for

OUT = pa.schema([pa.field("offset_in", pa.int64()), pa.field("seen_before", pa.int64())])


class Counting:
    """Writes for each row how many came before it."""

    name = "counting"

    def initial(self) -> int:
        return 0

    def dump(self, state: int) -> bytes:
        return str(state).encode()

    def load(self, blob: bytes) -> int:
        return int(blob)

    def step(self, state: int, batch: pa.RecordBatch) -> Step[int]:
        n = batch.num_rows
        out = pa.RecordBatch.from_arrays([batch.column(OFFSET), pa.array(range(state, state + n), pa.int64())], schema=OUT)
        told = (Event("tenth", "ten rows more", {"rows": state + n}),) if (state + n) // 10 > state // 10 else ()
        return Step({"out": out}, state + n, told)


class World:
    """A runner between a log and a store, both in memory."""

    def __init__(self, store: MemoryStore | None = None, source: object = None, stage: Counting | None = None) -> None:
        self.upstream: MemoryLog = MemoryStore().log("raw", SCHEMA.raw)
        self.store = store or MemoryStore()
        self.out = self.store.log("out", OUT)
        self.told = self.store.log("events", events.SCHEMA)
        self.events = Events("test", self.told)
        self.source = source or self.upstream
        self.stage = stage or Counting()

    def runner(self, until_rows: int, batch_rows: int = 7) -> Runner[int]:
        """A runner that stops by itself once so many rows are out."""

        def look(_: int) -> None:
            if self.out.bounds().rows >= until_rows:
                made.ask_to_stop()

        made = Runner(self.stage, self.source, self.store, self.events, batch_rows=batch_rows, between=look, wait_s=0.01)  # type: ignore[arg-type]
        return made

    def kinds(self) -> list[str]:
        return [row["kind"] for row in read_all(self.told)]


def expected(count: int) -> list[tuple[int, int]]:
    return [(i + 1, i) for i in range(count)]


def found(log: MemoryLog) -> list[tuple[int, int]]:
    return [(row["offset_in"], row["seen_before"]) for row in read_all(log)]


def test_every_row_goes_through_once_and_in_order() -> None:
    world = World()
    world.upstream.append(rows(50))
    world.runner(50).run()
    assert found(world.out) == expected(50)


def test_rows_that_wait_are_taken_at_once_and_those_that_trickle_in_are_left_to_come_together() -> None:
    world = World()
    world.upstream.append(rows(50))
    runner = Runner(world.stage, world.upstream, world.store, world.events, batch_rows=7, group_s=3600.0)
    failures: list[BaseException] = []
    runner.start(failures.append)
    wait_for(lambda: world.out.bounds().rows == 50, "all rows that waited")
    world.upstream.append(rows(1, 50))
    runner.stop()
    assert (runner.figures.state, failures) == ("stopped", [])
    assert found(world.out) == expected(50)


def test_the_test_stage_itself_obeys_the_law_of_cuts() -> None:
    log = MemoryStore().log("raw", SCHEMA.raw)
    log.append(rows(30))
    check_stage(Counting(), log.read(None, 100).batch, [3, 4, 17])


def test_a_restart_goes_on_from_position_and_state() -> None:
    world = World()
    world.upstream.append(rows(20))
    world.runner(20).run()
    world.upstream.append(rows(15, 20))
    world.runner(35).run()
    assert found(world.out) == expected(35)


def test_events_of_a_step_are_committed_with_it() -> None:
    world = World()
    world.upstream.append(rows(30))
    world.runner(30, batch_rows=30).run()
    assert world.kinds() == ["tenth"]
    assert world.events.counts == {"tenth": 1}


class Failing:
    """A source or a store that does not answer some times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def fail(self) -> None:
        if self.left:
            self.left -= 1
            raise LogUnavailableError("away for a moment")


class FailingSource(Failing):
    def __init__(self, log: MemoryLog, times: int) -> None:
        super().__init__(times)
        self.log = log

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        self.fail()
        return self.log.read(after, limit, wait_s, back)


class FailingStore(MemoryStore):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.failing = Failing(times)

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        self.failing.fail()
        return super().commit(stage, epoch, position, state, outputs)


def test_an_upstream_that_does_not_answer_is_waited_for() -> None:
    world = World()
    world.upstream.append(rows(20))
    world.source = FailingSource(world.upstream, times=3)
    runner = world.runner(20)
    runner.run()
    assert found(world.out) == expected(20)
    assert runner.figures.retries == 3


def test_a_commit_that_fails_is_tried_again_and_stored_once() -> None:
    world = World(store=FailingStore(3))
    world.upstream.append(rows(20))
    runner = world.runner(20)
    runner.run()
    assert found(world.out) == expected(20)
    assert runner.figures.retries == 3


def test_a_gap_is_an_event_and_the_stage_goes_on_behind_it() -> None:
    """Rows that retention removed before they were read are told, never skipped in silence."""
    world = World()
    world.upstream.append(rows(10))
    world.runner(10).run()
    world.upstream.append(rows(20, 10))
    world.upstream.trim(Policy(rows=5), 0.0)
    world.runner(15).run()
    assert [offset for offset, _ in found(world.out)] == [*range(1, 11), *range(26, 31)]
    assert "gap" in world.kinds()


def test_a_second_process_fences_the_first_off() -> None:
    """The one that lost its claim commits nothing and ends with FencedError."""
    world = World()
    world.upstream.append(rows(7))
    runner = world.runner(10**9)
    ended: list[BaseException] = []
    over = threading.Event()

    def failed(error: BaseException) -> None:
        ended.append(error)
        over.set()

    runner.start(failed)
    wait_for(lambda: world.out.bounds().rows == 7)
    world.store.claim("counting")
    world.upstream.append(rows(5, 7))
    assert over.wait(PATIENCE_S)
    assert isinstance(ended[0], FencedError)
    assert world.out.bounds().rows == 7
    assert runner.figures.state == "failed"


def test_damage_ends_the_stage_with_an_event_that_names_it() -> None:
    class Damaged:
        def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
            raise DamagedLogError("log raw: the row at offset 4 is missing", 4)

    world = World(source=Damaged())
    runner = world.runner(1)
    with pytest.raises(DamagedLogError, match="offset 4"):
        runner.run()
    assert world.kinds() == ["stage_failed"]
    assert (runner.figures.state, "offset 4" in runner.figures.reason) == ("failed", True)


def test_stopping_does_not_wait_for_an_upstream_that_is_away() -> None:
    world = World()
    world.source = FailingSource(world.upstream, times=10**9)
    runner = world.runner(1)
    ended: list[BaseException] = []
    runner.start(ended.append)
    wait_for(lambda: runner.figures.state == "waiting")
    runner.stop(20)
    assert runner.figures.state == "stopped"
    assert not ended


def test_the_limit_of_a_stage_ends_batches_where_it_says() -> None:
    """A stage that must stop at every fifth row gets batches that end there."""
    world = World()
    world.upstream.append(rows(23))
    sizes: list[int] = []
    step = world.stage.step
    world.stage.step = lambda state, batch: (sizes.append(batch.num_rows), step(state, batch))[1]  # type: ignore[method-assign,func-returns-value]
    runner = world.runner(23, batch_rows=8)
    runner._limit = lambda state: 5 - state % 5
    runner.run()
    assert sizes == [5, 5, 5, 5, 3]
