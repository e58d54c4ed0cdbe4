"""Every family of metrics: its name, kind, labels and meaning stand here and nowhere else.

Invariants:
- Names begin with `correnteza_`, end in their unit (base units: seconds, bytes, rows, ratio) and, where they only
  grow, in `_total`.
- No label is an id or a version, or anything else whose values have no bound.

Counters count since the process began, except where the meaning says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]
STATES = ("starting", "running", "waiting", "stopped", "failed")
"""What a stage can be."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of metrics.

    Args:
        name: as Prometheus shows it; a counter's ends in `_total`.
        kind: what it is.
        unit: of its values.
        help: its meaning, in one sentence.
        labels: names of its labels.
        service: which service has it; empty for all of them.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    service: str = ""


def exposed(family: Family) -> tuple[str, ...]:
    """The names of its series.

    >>> exposed(FAMILIES["correnteza_stage_commit_seconds"])[0]
    'correnteza_stage_commit_seconds_bucket'
    """
    endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    return tuple(family.name + ending for ending in endings)


_SHARED = (
    Family("correnteza_build_info", "info", "1", "What runs here.", ("version", "python")),
    Family("correnteza_uptime_seconds", "gauge", "seconds", "Time since the service was started."),
    Family("correnteza_ready", "gauge", "0 or 1", "Whether the service is ready."),
    Family("correnteza_stage_state", "gauge", "0 or 1", "Whether the stage is in this state.", ("stage", "state")),
    Family("correnteza_stage_input_rows_total", "counter", "rows", "Rows that a stage has read and committed.", ("stage",)),
    Family("correnteza_stage_input_bytes_total", "counter", "bytes", "Bytes of their columns, about.", ("stage",)),
    Family("correnteza_stage_output_rows_total", "counter", "rows", "Rows that a stage has appended.", ("stage", "log")),
    Family("correnteza_stage_output_bytes_total", "counter", "bytes", "Bytes of their columns, about.", ("stage", "log")),
    Family("correnteza_stage_batch_rows", "histogram", "rows", "Rows in each step.", ("stage",)),
    Family("correnteza_stage_step_seconds", "histogram", "seconds", "Time of each step, without its commit.", ("stage",)),
    Family("correnteza_stage_commit_seconds", "histogram", "seconds", "Time that each commit took.", ("stage",)),
    Family("correnteza_stage_retries_total", "counter", "times", "Times that upstream or database did not answer.", ("stage",)),
    Family("correnteza_stage_lag_rows", "gauge", "rows", "Rows upstream behind the stage's position.", ("stage",)),
    Family("correnteza_stage_lag_seconds", "gauge", "seconds", "Time since the stage was level with its upstream.", ("stage",)),
    Family("correnteza_rejected_rows_total", "counter", "rows", "Records that were refused, by class of reason.", ("reason",)),
    Family("correnteza_log_rows", "gauge", "rows", "Rows in a log.", ("log",)),
    Family("correnteza_log_first_offset", "gauge", "rows", "First offset that is still there.", ("log",)),
    Family("correnteza_log_next_offset", "gauge", "rows", "Offset that the next row will have.", ("log",)),
    Family("correnteza_events_total", "counter", "events", "Events, by who told them and kind.", ("source", "kind")),
    Family(
        "correnteza_http_request_duration_seconds",
        "histogram",
        "seconds",
        "From the arrival of a request's head to the beginning of its answer; a long poll waits in between.",
        ("method", "route", "code"),
    ),
    Family("correnteza_process_cpu_seconds_total", "counter", "seconds", "Processor time of a process.", ("process",)),
    Family("correnteza_process_resident_memory_bytes", "gauge", "bytes", "Memory of a process.", ("process",)),
    Family("correnteza_process_open_fds", "gauge", "descriptors", "Open files and sockets of a process.", ("process",)),
    Family("correnteza_process_threads", "gauge", "threads", "Threads of a process.", ("process",)),
    Family("correnteza_process_uptime_seconds", "gauge", "seconds", "Time since a process began.", ("process",)),
    Family("correnteza_database_size_bytes", "gauge", "bytes", "Size of the service's database, its write-ahead log included."),
    Family("correnteza_disk_free_bytes", "gauge", "bytes", "Free space where the data folder is."),
    Family("correnteza_disk_size_bytes", "gauge", "bytes", "Size of the file system where the data folder is."),
)

_GENERATOR = (
    Family("correnteza_source_rate_rows_per_second", "gauge", "rows per second", "Rate that the source is set to; 0: paused."),
    Family("correnteza_source_ended", "gauge", "0 or 1", "Whether the source has nothing more."),
)

_NORMALIZER = (
    Family("correnteza_scaler_version", "gauge", "number", "Newest version of the statistics."),
    Family("correnteza_category_codes", "gauge", "codes", "Codes that a category field has.", ("field",)),
)

_TRAINER = (
    Family("correnteza_predictions_total", "counter", "rows", "Records that predictions were answered for."),
    Family("correnteza_predictions_dropped_total", "counter", "rows", "Answered predictions that could not be stored."),
    Family("correnteza_learned_rows", "gauge", "rows", "Offset of the last row that was evaluated and learned from."),
    Family("correnteza_labelled_rows_total", "counter", "rows", "Labelled rows since the pipeline began."),
    Family("correnteza_window_rows", "gauge", "rows", "Labelled rows at hand for a training."),
    Family("correnteza_left_out_rows", "gauge", "rows", "Rows of the window that are not learned from: absurd targets."),
    Family("correnteza_training_in_progress", "gauge", "0 or 1", "Whether a training is under way."),
    Family("correnteza_training_duration_seconds", "histogram", "seconds", "From a training's start to its end.", ("outcome",)),
    Family("correnteza_model_version", "gauge", "number", "Version in service."),
    Family("correnteza_model_challenger_version", "gauge", "number", "Version that answers in shadow; absent without one."),
    Family("correnteza_model_versions_total", "counter", "versions", "Versions since the pipeline began."),
    Family("correnteza_model_newest_age_seconds", "gauge", "seconds", "Time since the rows of the newest version were taken."),
    Family("correnteza_model_promoted_timestamp_seconds", "gauge", "seconds", "Unix time since which it is in service."),
    Family(
        "correnteza_model_freshness_seconds",
        "gauge",
        "seconds",
        "How old what the version in service knows is: the time since its rows were taken.",
    ),
    Family("correnteza_model_unlearned_rows", "gauge", "rows", "Rows that came after the last one of the version in service."),
    Family("correnteza_model_decisions_total", "counter", "decisions", "What the trainer decided on versions.", ("decision",)),
    Family("correnteza_model_promotions_total", "counter", "promotions", "Promotions of versions, by why.", ("kind",)),
    Family("correnteza_evaluation_rows", "gauge", "rows", "Evaluated rows in the rolling figures (`trainer.metric_rows`)."),
    Family("correnteza_evaluation_mae", "gauge", "of the target", "Rolling mean absolute error."),
    Family("correnteza_evaluation_rmse", "gauge", "of the target", "Rolling root of the mean squared error."),
    Family("correnteza_evaluation_bias", "gauge", "of the target", "Rolling mean of prediction minus target."),
    Family("correnteza_evaluation_r2", "gauge", "1", "Rolling coefficient of determination."),
    Family(
        "correnteza_evaluation_baseline_mae",
        "gauge",
        "of the target",
        "Rolling mean absolute error of a naive prediction: the mean so far, or the last value.",
        ("baseline",),
    ),
    Family(
        "correnteza_evaluation_skill_ratio",
        "gauge",
        "ratio",
        "Share of the naive error that it saves; below 0: worse.",
    ),
    Family("correnteza_interval_coverage_ratio", "gauge", "ratio", "Share of targets within their interval, rolling."),
    Family("correnteza_interval_level_ratio", "gauge", "ratio", "The share that should be (`trainer.level`)."),
    Family("correnteza_interval_width", "gauge", "of the target", "Mean width of the intervals, rolling."),
    Family(
        "correnteza_drift_score",
        "gauge",
        "deviations",
        "How far the last blocks are from the reference, in deviations of a block's mean; `of`: field, target, error.",
        ("of", "field"),
    ),
    Family("correnteza_labels_total", "counter", "outcomes", "Outcomes since the pipeline began, by effect.", ("effect",)),
    Family("correnteza_labels_open_rows", "gauge", "rows", "Records within the horizon that still wait for their outcome."),
    Family("correnteza_labels_waiting_rows", "gauge", "rows", "Outcomes that wait for their record."),
    Family("correnteza_label_delay_seconds", "gauge", "seconds", "Delay of the last labels, by quantile.", ("quantile",)),
    Family("correnteza_memory_rows_behind", "gauge", "rows", "Rows by which the server's memory of the stream is behind."),
    Family("correnteza_memory_behind_seconds", "gauge", "seconds", "Time since that memory was known to be level."),
)

_CONSUMER = (
    Family("correnteza_answers_total", "counter", "rows", "Answers filed since the pipeline began.", ("mode",)),
    Family(
        "correnteza_answers_refused_total",
        "counter",
        "rows",
        "Records that the trainer refused, likewise.",
        ("mode",),
    ),
    Family(
        "correnteza_answers_labelled_total",
        "counter",
        "rows",
        "Answers whose truth was known, likewise.",
        ("mode",),
    ),
    Family("correnteza_answers_mae", "gauge", "of the target", "Rolling mean absolute error of the answers.", ("mode",)),
    Family("correnteza_ask_duration_seconds", "histogram", "seconds", "From asking the trainer to its answer.", ("mode",)),
    Family(
        "correnteza_ask_waiting_seconds",
        "gauge",
        "seconds",
        "How long no answer came; 0: they come.",
        ("mode",),
    ),
    Family("correnteza_ask_retries_total", "counter", "times", "Times that trainer or generator did not answer.", ("mode",)),
)


UP = "up"
"""As Prometheus has it: whether a service answers `/metrics`; made by whoever asks."""


def numbers() -> frozenset[str]:
    """The names of all series that are one number each: all but the buckets of histograms."""
    names = {name for family in FAMILIES.values() for name in exposed(family) if not name.endswith("_bucket")}
    return frozenset(names | {UP})


def _of(service: str, families: tuple[Family, ...]) -> dict[str, Family]:
    return {f.name: Family(f.name, f.kind, f.unit, f.help, f.labels, service) for f in families}


FAMILIES: Mapping[str, Family] = {
    **_of("", _SHARED),
    **_of("generator", _GENERATOR),
    **_of("normalizer", _NORMALIZER),
    **_of("trainer", _TRAINER),
    **_of("consumer", _CONSUMER),
}
"""All families by name."""
