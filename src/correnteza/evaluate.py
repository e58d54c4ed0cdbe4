"""`correnteza evaluate`: the whole loop over a file, offline, and what it says about the file.

Invariant: standard output has the result alone; progress, notes and what is refused go to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from correnteza import config, curves, offline
from correnteza.curves import Part
from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.generator.replay import ReplaySource
from correnteza.generator.stage import GeneratorStage
from correnteza.groups import Worth, worths
from correnteza.guess import guess, opened, rows_of
from correnteza.offline import Result
from correnteza.table import figure
from correnteza.trainer import evaluation
from correnteza.trainer.artefacts import plain

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

IMPORTANCE_ROWS = 1000
"""Last records that tell which columns the model leans on."""
LINES = 10
"""Lines of progress where there is no terminal."""
LACKING = (
    *("key_missing", "keys_forgotten", "times_ran_back", "late_records", "records_ahead", "order_anew", "held_back_full"),
    "targets_left_out",
)
"""Kinds of events that say what features that remember did not see, or not in order, and what was not learned from."""
PLOT_EXTRA = 'no plots: matplotlib is not installed; pip install "correnteza[plot]"'


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for; see its help."""

    file: Path
    target: str | None = None
    timestamp: str | None = None
    ignored: tuple[str, ...] = ()
    config: Path | None = None
    rows: int | None = None
    out: Path = Path()
    as_json: bool = False
    groups: bool = False


class Records:
    """The file as the generator would append it to `raw`, in batches.

    Attributes:
        rejected: rows that the generator refused so far.
        reason: of the first one that was refused.
    """

    def __init__(self, settings: config.Settings) -> None:
        self.rejected = 0
        self.reason = ""
        self._source = ReplaySource(settings.generator, settings.schema_of_records)
        self._stage = GeneratorStage(settings.schema_of_records)
        self._batch_rows = settings.generator.batch_rows

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        part = self._source.read(None, self._batch_rows)
        while part.batch.num_rows:
            step = self._stage.step(None, part.batch)
            if "rejected" in step.outputs:
                self.rejected += step.outputs["rejected"].num_rows
                self.reason = self.reason or step.events[0].reason
            if "raw" in step.outputs:
                yield step.outputs["raw"]
            part = self._source.read(part.next, self._batch_rows)


def run(request: Request) -> int:
    """Evaluate a file and print the result; returns the exit code.

    Raises:
        ConfigError: the file, a column or a setting is not as it has to be.
        DamagedLogError: the file changed while it was read.
        TrainingFailedError: no version could be trained.
    """
    settings, notes = settings_of(request)
    schema = settings.schema_of_records
    rows = rows_of(request.file, settings.generator, schema)
    if rows < settings.trainer.min_rows:
        raise ConfigError(_too_few(request.file, f"has {rows:,} records", settings))
    for note in notes:
        _say(f"note: {note}")
    records = Records(settings)
    with _Progress(rows) as progress:
        leaned_rows = IMPORTANCE_ROWS if request.groups else 0
        result = offline.run(records, settings, progress.on_rows, progress.on_scored, leaned_rows)
    if not result.evaluations.num_rows:
        raise _nothing(request.file, result, settings)
    plots, missing = _plots(request, result, settings)
    worth = worths(settings, Records) if request.groups and settings.schema_of_model.derived else []
    found = [*_troubles(records, result), *missing]
    if request.as_json:
        told = plain(_plain(request, settings, records, result, plots, [*notes, *found]))
        if request.groups:
            told |= {"without_groups": [asdict(one) for one in worth], "importances": dict(result.importances)}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _print(request, settings, result, plots)
        _print_groups(worth, result)
    for note in found:
        _say(f"note: {note}")
    return 0


def settings_of(request: Request) -> tuple[config.Settings, tuple[str, ...]]:
    """The settings with the file as their source, and what is to be said about the schema."""
    opened(request.file, config.Generator())
    source: dict[str, Any] = {"source": "replay", "path": str(request.file)}
    if request.rows is not None:
        source["limit"] = request.rows
    settings = config.load(request.config, {"generator": source}, schema_follows=True)
    described = settings.schema_table if "schema_table" in settings.model_fields_set else None
    if described is not None and request.target in (None, described.target):
        return _with(settings, _described(described, request), request), ()
    if request.target is None:
        raise ConfigError(f"{request.file}: which column is to be predicted? say it with --target")
    found = guess(request.file, settings.generator, request.target, request.timestamp, request.ignored)
    other = () if described is None else (f"[schema] is for the target {described.target!r}, so it is not used",)
    return _with(settings, found.table, request), (*other, *found.notes)


def _with(settings: config.Settings, table: config.SchemaTable, request: Request) -> config.Settings:
    changed = settings.model_copy(update={"schema_table": table})
    config.check_features(changed, request.config)
    return changed


def _described(table: config.SchemaTable, request: Request) -> config.SchemaTable:
    """The section `[schema]` without the fields to ignore."""
    if request.timestamp not in (None, table.timestamp):
        raise ConfigError(
            f"--timestamp {request.timestamp}: [schema] has {table.timestamp!r}; leave it out, or change one of them"
        )
    for name in request.ignored:
        if name not in table.fields:
            raise ConfigError(f"--ignore {name}: no field of [schema]; its fields are {', '.join(table.fields)}")
    kept = {name: kind for name, kind in table.fields.items() if name not in request.ignored}
    return table.model_copy(update={"fields": kept})


def _too_few(file: Path, found: str, settings: config.Settings) -> str:
    return (
        f"{file}: {found}, but trainer.min_rows = {settings.trainer.min_rows} labelled ones come before the first training; "
        "give a longer file, or lower it in --config"
    )


def _nothing(file: Path, result: Result, settings: config.Settings) -> Exception:
    """Why no record was predicted."""
    failures = [event["reason"] for event in result.events.to_pylist() if event["kind"] == "training_failed"]
    if failures:
        return TrainingFailedError(f"{file}: no version could be trained: {failures[-1]}")
    found = f"only {result.records - result.rejected:,} of its records could be used"
    return ConfigError(_too_few(file, f"no record was predicted; {found}", settings))


def _troubles(records: Records, result: Result) -> list[str]:
    """What the user should know about the run, in a few sentences."""
    events = result.events.to_pylist()
    found = []
    if records.rejected:
        found.append(f"{records.rejected:,} rows could not be read: {records.reason}")
    if result.rejected:
        reason = next(event["reason"] for event in events if event["kind"] == "records_rejected")
        found.append(f"{result.rejected:,} records are not valid: {reason}")
    failed = [event["reason"] for event in events if event["kind"] == "training_failed"]
    if failed:
        found.append(f"{len(failed):,} trainings failed, the last one: {failed[-1]}")
    for kind in LACKING:
        told = [event["reason"] for event in events if event["kind"] == kind]
        found += [told[0] + (f" (the first of {len(told):,} such events)" if len(told) > 1 else "")] if told else []
    return found


def _plots(request: Request, result: Result, settings: config.Settings) -> tuple[list[Path], list[str]]:
    """Write the plots; where they are, or why there are none."""
    target, level = settings.schema_of_records.target, settings.trainer.level
    title = f"{target} in {request.file.name}, predicted before it was learned from"
    found = curves.parts(result)
    try:
        shown = curves.curves(result)
        drawn = [curves.draw(shown, target, level, title, _summary(found[-1])), curves.draw(shown, target, level)]
    except ImportError:
        return [], [PLOT_EXTRA]
    stem = request.file.name.split(".")[0] or "file"
    paths = [request.out / f"{stem}-evaluation.{ending}" for ending in ("png", "html")]
    headings, rows = _cells(found)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        paths[0].write_bytes(curves.png(drawn[0]))
        paths[1].write_text(
            curves.page(drawn[1], title, [_summary(found[-1]), *_facts(result)], headings, rows), encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"--out {request.out}: cannot be written to: {error.strerror}; give another folder") from None
    return paths, []


def _summary(overall: Part) -> str:
    """The most important figures in one line."""
    of = overall.metrics
    if of is None:
        return ""
    naive = ", ".join(f"{what} {figure(getattr(of, name))}" for name, what in curves.BASELINES.items())
    skill, coverage = _share(of.skill, "{:.1%}"), _share(of.coverage, "{:.1%}")
    return f"MAE {figure(of.mae)} ({naive}); skill {skill}; {coverage} of the targets within their interval"


def _facts(result: Result) -> list[str]:
    """The run in a few lines."""
    in_service = len(set(result.promotions["version"].to_pylist()))
    counts = [
        f"{curves.counted(result.records, 'record')}, {result.evaluations.num_rows:,} of them predicted",
        f"{curves.counted(result.versions.num_rows, 'model version')}, {in_service:,} of them in service",
        curves.counted(len(curves.drifts(result, [curves.ERROR_DRIFT])), "error drift"),
        curves.counted(len(curves.drifts(result, curves.INPUT_DRIFTS)), "input drift"),
    ]
    memory = f"{result.peak_memory_bytes / 2**20:,.0f} MiB at most"
    return ["; ".join(counts), f"{result.seconds:,.1f} s; {result.records_per_s:,.0f} records/s; {memory}"]


def _cells(parts: Sequence[Part]) -> tuple[list[str], list[list[str]]]:
    """The table of parts, as texts."""
    headings = ["records", "MAE", *(f"MAE of {name}" for name in curves.BASELINES.values()), "skill"]
    headings += ["RMSE", "R2", "bias", "coverage"]
    return headings, [[f"{part.first:,} to {part.last:,}", *_figures(part.metrics, len(headings) - 1)] for part in parts]


def _figures(of: evaluation.Metrics | None, cells: int) -> list[str]:
    if of is None:
        return [figure(None)] * cells
    errors = [figure(getattr(of, name)) for name in ("mae", *curves.BASELINES)]
    rest = [figure(of.rmse), _share(of.r2, "{:.3f}"), figure(of.bias), _share(of.coverage, "{:.1%}")]
    return [*errors, _share(of.skill, "{:.1%}"), *rest]


def _share(value: float | None, form: str) -> str:
    return figure(None) if value is None else form.format(value)


def _print(request: Request, settings: config.Settings, result: Result, plots: Sequence[Path]) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    print(f"{settings.schema_of_records.target} in {request.file}: predicted before it was learned from\n")
    console.print(_table(curves.parts(result)))
    print()
    for fact in _facts(result):
        print(fact)
    for path in plots:
        print(path)


def _print_groups(worth: Sequence[Worth], result: Result) -> None:
    """What was asked for with --groups; nothing where it was not."""
    for one in worth:
        print(f"MAE without {one.group} ({', '.join(one.columns)}): {figure(one.mae)}")
    leans = [f"{name} {figure(rise)}" for name, rise in result.importances.items() if rise > 0]
    if leans:
        print(f"MAE of the last {IMPORTANCE_ROWS:,} records rises when a column is shuffled, by: {', '.join(leans)}")


def _table(parts: Sequence[Part]) -> Table:
    from rich.table import Table

    headings, rows = _cells(parts)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=place == 0)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1], style="bold")
    return table


def _plain(
    request: Request,
    settings: config.Settings,
    records: Records,
    result: Result,
    plots: Sequence[Path],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The result as one JSON object."""
    schema = settings.schema_of_model
    *tenths, overall = [_plain_part(part) for part in curves.parts(result)]
    return {
        "file": str(request.file),
        "target": schema.target,
        "features": list(schema.features),
        "records": result.records,
        "rejected": records.rejected + result.rejected,
        "predicted": result.evaluations.num_rows,
        "seconds": round(result.seconds, 3),
        "records_per_s": round(result.records_per_s, 1),
        "peak_memory_bytes": result.peak_memory_bytes,
        "versions": result.versions.num_rows,
        "promotions": result.promotions.num_rows,
        "error_drifts": curves.drifts(result, [curves.ERROR_DRIFT]).tolist(),
        "input_drifts": curves.drifts(result, curves.INPUT_DRIFTS).tolist(),
        "overall": overall,
        "tenths": tenths,
        "plots": [str(path) for path in plots],
        "notes": list(notes),
    }


def _plain_part(part: Part) -> dict[str, Any]:
    return {"first": part.first, "last": part.last, **({} if part.metrics is None else asdict(part.metrics))}


class _Progress:
    """A bar on a terminal, a line per tenth elsewhere; on standard error.

    Args:
        rows: that the file has.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._began = time.perf_counter()
        self._error_sum = 0.0
        self._scored = 0
        self._lines = 0
        self._bar = _bar() if sys.stderr.isatty() else None

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._rows, rate="", mae="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_scored(self, rows: pa.RecordBatch) -> None:
        """See `offline.run`."""
        of = evaluation.metrics(rows)
        if of is not None:
            self._error_sum += of.mae * of.rows
            self._scored += of.rows

    def on_rows(self, rows: int) -> None:
        """See `offline.run`."""
        rate = f"{rows / (time.perf_counter() - self._began):,.0f} records/s"
        mae = f"MAE {figure(self._error_sum / self._scored)}" if self._scored else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, rate=rate, mae=mae)
        elif rows * LINES // self._rows > self._lines:
            self._lines = rows * LINES // self._rows
            _say(", ".join(text for text in (f"{rows:,} of {self._rows:,} records", rate, mae) if text))


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[mae]}"))
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
