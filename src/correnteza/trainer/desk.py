"""What the trainer's routes answer and do, apart from `POST /predict`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from correnteza.config import Settings
from correnteza.errors import NoModelError, TamperedModelError, UnknownModelError
from correnteza.events import Events
from correnteza.log.base import Store
from correnteza.trainer import curve, evaluation, handover, history, prequential
from correnteza.trainer.count import Count
from correnteza.trainer.following import Following
from correnteza.trainer.keeper import Keeper
from correnteza.trainer.promotions import Current
from correnteza.trainer.registry import Registry

_STAGE = ("state", "reason", "rows", "batches", "lag_rows", "lag_s", "rows_per_s", "step_s", "commit_s", "retries")


class Desk:
    """What the routes ask, and the answers. Safe to use from several threads.

    Args:
        settings: of the pipeline.
        registry: the model versions.
        keeper: what is served.
        memory: what the features of questions are made from.
        count: the figures.
        store: the trainer's logs; the learner reads requests for a training from there.
        told: where events go.
        lineage: number of the lineage.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        keeper: Keeper,
        memory: Following,
        count: Count,
        store: Store,
        told: Events,
        lineage: int,
    ) -> None:
        self._lineage = lineage
        self._settings = settings.trainer
        self._registry = registry
        self._keeper = keeper
        self._memory = memory
        self._count = count
        self._store = store
        self._requests = store.log("requests", handover.REQUESTS)
        self._evaluations = store.log(prequential.LOG, evaluation.EVALUATIONS)
        self._told = told

    def not_ready(self) -> str | None:
        """Why nothing can be predicted yet, or None."""
        if self._keeper.serving is not None:
            return None if self._keeper.elder_serves else self._memory.not_ready()
        if self._keeper.follower.refused:
            return f"no model: {self._keeper.follower.refused}"
        told = self._count.total().told
        trouble = next((f"; {told[key]}" for key in ("failure", "reason") if told.get(key)), "")
        labelled, needed = told.get("labelled_rows", 0), self._settings.min_rows
        if labelled >= needed:
            return f"no model yet: the first training is under way{trouble}"
        return f"no model yet: {labelled} of {needed} labelled rows{trouble}"

    def status(self) -> dict[str, Any]:
        """What is particular to the trainer in `/status`."""
        keeper, figures = self._keeper, self._count.total()
        told = figures.told
        champion, rolling = keeper.follower.champion, keeper.report.overall
        stage = {name: told[name] for name in _STAGE} if told else {}
        return {
            "uptime_s": round(time.time() - figures.began, 3),
            "events": figures.events,
            **self._of_lineage(),
            "reason": self.not_ready()
            or keeper.elder_reason
            or keeper.follower.refused
            or told.get("failure")
            or told.get("reason")
            or "",
            "lag_rows": told.get("lag_rows", 0),
            "lag_s": told.get("lag_s", 0.0),
            "rows_per_s": told.get("rows_per_s", 0.0),
            "stages": {prequential.NAME: stage} if stage else {},
            "model_version": None if keeper.serving is None else keeper.serving.version,
            "model_since": None if champion is None else champion.since,
            "rolling": {} if rolling is None else asdict(rolling),
            "multiplier": keeper.report.multiplier,
            **({} if figures.memory is None else {"memory": figures.memory.plain(time.time())}),
            **_seen(told),
            "learned_rows": told.get("learned_rows", 0),
            "labelled_rows": told.get("labelled_rows", 0),
            "window_rows": told.get("window_rows", 0),
            "left_out_rows": told.get("left_out_rows", 0),
            "training": told.get("training", False),
            "served_rows": figures.served_rows,
            "dropped_rows": figures.dropped_rows,
            "learner": {**figures.learner, "events": told.get("events", {})},
        }

    def _of_lineage(self) -> dict[str, Any]:
        """The lineage, where it is not the only one."""
        if self._lineage == 1:
            return {}
        return {"lineage": {"number": self._lineage, "took_over": not self._keeper.elder_serves}}

    def evaluation(self, rows: int | None = None) -> dict[str, Any]:
        """The body of `GET /evaluation`, over the last so many rows with a target; over `trainer.metric_rows` if None."""
        rolling = self._keeper.rolling(rows or self._settings.metric_rows)
        last = rolling.look()
        report, told = evaluation.report(last), self._count.total().told
        champion = self._keeper.follower.champion
        return {
            "model_version": None if champion is None else champion.version,
            "metric_rows": rows or self._settings.metric_rows,
            "level": self._settings.level,
            "multiplier": rolling.multiplier,
            **_seen(told),
            "total": told.get("total"),
            "rolling": None if report.overall is None else asdict(report.overall),
            "windows": [asdict(metrics) for metrics in evaluation.windows(last)],
            "versions": [{"model_version": version, **asdict(metrics)} for version, metrics in report.versions.items()],
        }

    def curve(self, after: int, block_rows: int, blocks: int) -> list[dict[str, Any]]:
        """The blocks of `GET /evaluation/history`."""
        return [asdict(block) for block in curve.curve(self._evaluations, after, block_rows, blocks)]

    def models(self) -> list[dict[str, Any]]:
        """The body of `GET /models`."""
        current, decisions = self._registry.current(), self._registry.decisions()
        return [_listed(asdict(row), current, decisions) for row in self._registry.versions()]

    def history(self, last: int) -> list[str]:
        """The body of `GET /models/history`."""
        return history.story(self._store, self._registry, last)

    def model(self, version: int) -> dict[str, Any]:
        """The body of `GET /models/{version}`: its row, and `model.json` as long as its files are there."""
        row = _listed(asdict(self._registry.get(version)), self._registry.current(), self._registry.decisions())
        try:
            self._registry.model_bytes(version)
            return {**row, "manifest": self._registry.manifest(version), "files": "verified"}
        except UnknownModelError:
            return {**row, "manifest": None, "files": "removed"}
        except TamperedModelError as error:
            self._told.emit("model_refused", str(error), version=version)
            return {**row, "manifest": None, "files": str(error)}

    def promote(self, version: int) -> dict[str, Any]:
        """Put a version into service and pin it."""
        return asdict(self._registry.promote(version, "promoted by hand", pinned=True))

    def unpin(self) -> dict[str, Any]:
        """Put the newest version that can be used into service, and let newer ones replace it.

        Raises:
            NoModelError: there is none.
        """
        for row in reversed(self._registry.versions()):
            try:
                return asdict(self._registry.promote(row.version, "unpinned by hand", pinned=False))
            except UnknownModelError:
                continue  # its files were removed
            except TamperedModelError as error:
                self._told.emit("model_refused", str(error), version=row.version)
        raise NoModelError("there is no model version to put into service; wait for the first, or POST /train")

    def train(self) -> dict[str, Any]:
        """Ask the learner for a training; it comes after the cooldown and the one under way, with all that were asked for."""
        told = self._count.total().told
        row = pa.RecordBatch.from_pylist([{"at": datetime.now(UTC), "reason": "POST /train"}], schema=handover.REQUESTS)
        waits = {"earliest_in_s": round(told.get("request_wait_s", 0.0), 3), "training": told.get("training", False)}
        return {"accepted": True, "request": self._requests.append(row).first, **waits}


def _seen(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the learner says of challenger, drift and labels."""
    return {"challenger": told.get("challenger"), "drift": told.get("drift", {}), "labels": told.get("labels", {})}


def _listed(row: dict[str, Any], current: Current | None, decisions: Mapping[int, str]) -> dict[str, Any]:
    in_service = current is not None and current.version == row["version"]
    pinned = in_service and current is not None and current.pinned
    return {**row, "decision": decisions.get(row["version"]), "in_service": in_service, "pinned": pinned}
