"""The learner process: reads `normalized`, evaluates, learns, and makes model versions.

    normalized, outcomes --> [Ledger] --> [LearnerStage] --> evaluations, labels    (Runner, one commit per batch)
                                               | committed rows
                                               v
                             [Learner] --> TrainingProcess --> Registry --> models, decisions, promotions

The server starts it as its child with the settings as its only argument, reads lines with its status
from its output, and ends with it. It may be killed at any instant.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from correnteza import children, events, lineages, output
from correnteza.config import Settings, loads
from correnteza.errors import CorrentezaError
from correnteza.events import Events
from correnteza.features import CATEGORIES, SCALERS
from correnteza.log.http import HttpLog
from correnteza.log.sql import SqlStore
from correnteza.stage import GROUP_S, Figures, Runner
from correnteza.tracing import Tracer, opened
from correnteza.trainer import handover, labels, lineage
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.learning import Learner
from correnteza.trainer.ledger import Ledger
from correnteza.trainer.leftout import LeftOut
from correnteza.trainer.process import Training, TrainingProcess
from correnteza.trainer.registry import of_lineage
from correnteza.trainer.upstream import Upstream

NAME = "learner"
STATUS_EVERY_S = 0.25
WAIT_S = 0.5
"""How long a read waits for rows; also how late a training that ended on a silent stream is noticed."""
STOP_S = 5.0
"""How long the step under way has to finish."""
FAILED = 3


def main(argument: str) -> int:
    """Run until the parent ends or asks to stop; returns the exit code."""
    settings = loads(argument)
    stopping = threading.Event()
    asked: list[int] = []  # a handler runs between any two instructions, where the lock of an Event may be held
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    children.stop_when_parent_dies()
    output.set_up(settings.services.log_format)
    store = SqlStore(lineages.current(settings).folder / "trainer.db")
    told = Events(NAME, store.log("events", events.SCHEMA))
    training = TrainingProcess(settings.trainer.nice, settings.trainer.train_memory_mb)
    training.prepare()
    tracer = None
    try:
        tracer = opened(settings.tracing.endpoint, settings.tracing.sample, NAME, settings.pipeline.name, told.emit)
        learner, runner, ledger = build(settings, store, told, training, stopping, tracer)
        left_out = LeftOut(told, settings.trainer.window_rows)
        return run(learner, runner, ledger, told, stopping, lambda: bool(asked), left_out)
    except CorrentezaError as error:
        told.emit("learner_failed", str(error), error=type(error).__name__)
        return FAILED
    finally:
        training.close()
        if tracer is not None:
            tracer.close()
        store.close()


def build(
    settings: Settings,
    store: SqlStore,
    told: Events,
    training: Training,
    stopping: threading.Event,
    tracer: Tracer | None = None,
) -> tuple[Learner, Runner[Any], Ledger]:
    """The parts of the process, not started."""
    schema, own = settings.schema_of_model, settings.trainer
    url = settings.services.url("normalizer")
    kept = max(lineage.WINDOWS * own.window_rows + own.label_horizon_rows, 2 * own.label_horizon_rows)
    upstream = Upstream(
        HttpLog(url, name="normalized", schema=schema.normalized, reader="trainer", keep_rows=kept),
        HttpLog(url, name="scalers", path="scalers", schema=SCALERS),
        HttpLog(url, name="categories", path="categories", schema=CATEGORIES),
        schema,
    )
    registry = of_lineage(lineages.current(settings), store)
    outcomes = HttpLog(
        settings.services.url("generator"), name="outcomes", path="outcomes", schema=labels.OUTCOMES, reader="trainer"
    )
    predictions, taken = store.log("predictions", PREDICTIONS), store.log(labels.LOG, labels.LABELS)
    ledger = Ledger(upstream, outcomes, predictions, taken, schema, told, own.label_horizon_rows)
    learner = Learner(own, schema, store, registry, upstream, training, told, stopping, past=ledger.past, tracer=tracer)
    runner = Runner(
        learner.stage,
        ledger,
        store,
        told,
        batch_rows=own.batch_rows,
        limit=learner.limit,
        between=learner.between,
        wait_s=WAIT_S,
        group_s=2 * GROUP_S,  # each step reads two logs, and nobody waits for its rows as for an answer
        tracer=tracer,
    )
    return learner, runner, ledger


def run(
    learner: Learner,
    runner: Runner[Any],
    ledger: Ledger,
    told: Events,
    stopping: threading.Event,
    asked_to_stop: Callable[[], bool],
    left_out: LeftOut,
) -> int:
    """Drive the stage until it is asked to stop, and say again and again how it stands."""
    failures: list[BaseException] = []

    def drive() -> None:
        try:
            learner.restore()
            runner.run()
        except BaseException as error:  # raised again by the thread that waits
            failures.append(error)
            stopping.set()

    thread = threading.Thread(target=drive, name="learner", daemon=True)
    thread.start()
    while not asked_to_stop() and not stopping.wait(STATUS_EVERY_S):
        tell(learner, left_out, runner.figures, ledger.figures, told)
    # In this order: a reader that no longer waits for a due training must not read on without it.
    runner.ask_to_stop()
    stopping.set()
    thread.join(STOP_S)
    if failures:
        raise failures[0]
    return 0


def tell(learner: Learner, left_out: LeftOut, figures: Figures, label_figures: Mapping[str, Any], told: Events) -> None:
    """Write the status line."""
    status = {
        "pid": os.getpid(),
        **figures.plain(),
        "learned_rows": learner.learned_rows,
        "labelled_rows": learner.labelled_rows,
        "window_rows": len(learner.window),
        "left_out_rows": left_out.look(learner.window, learner.labelled_rows),
        "training": learner.training,
        "request_wait_s": learner.request_wait_s,
        "failure": learner.failure,
        "challenger": learner.challenger,
        "drift": learner.drift,
        "total": learner.totals.told(),
        "labels": dict(label_figures),
        "trainings": {outcome: seconds.plain() for outcome, seconds in learner.trainings.items()},
        "flow": figures.flow.plain(),
        "events": dict(told.counts),
    }
    with suppress(OSError):
        sys.stdout.write(handover.status_line(status) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
