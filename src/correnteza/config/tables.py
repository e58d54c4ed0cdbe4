"""The settings table: every key, its default, its unit and its bounds stand here and nowhere else."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from correnteza import metrics, records
from correnteza.definition import HOWS, Feature

SERVICES = ("dashboard", "generator", "normalizer", "trainer", "consumer")
"""Ports are `port_base` plus the place in this tuple."""


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


class Pipeline(Section):
    """What the pipeline is called and where it keeps its data."""

    name: str = Field("people", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="Name of the pipeline.")
    data_dir: Path | None = Field(None, description="Folder of its databases and models; by default data/<name>.")
    log: Literal["sqlite"] = Field("sqlite", description="Where logs are kept.")

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.data_dir or Path("data") / self.name


class FieldTable(Section):
    """A field with bounds: `{ kind = "float", min = 0, max = 120, required = true }`."""

    kind: records.FieldKind = Field(
        description="float and integer are standardised, category is encoded, text and timestamp are carried along."
    )
    min: float | None = Field(None, allow_inf_nan=False, description="float, integer: smallest valid value.")
    max: float | None = Field(None, allow_inf_nan=False, description="float, integer: largest valid value.")
    required: bool = Field(False, description="Whether a record without a value is refused.")


class SchemaTable(Section):
    """What a record looks like; without this section it is the demo's people."""

    target: str = Field(description="The number to predict.")
    timestamp: str | None = Field(None, description="The field with the event time, if there is one.")
    fields: dict[str, FieldTable] = Field(
        description="Name to kind (float, integer, category, text, timestamp), or to a table with kind, min, max, required.",
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _kind_alone(cls, fields: Any) -> Any:
        """`temp = "float"` is short for `temp = { kind = "float" }`."""
        if not isinstance(fields, Mapping):
            return fields
        return {name: {"kind": value} if isinstance(value, str) else value for name, value in fields.items()}

    def build(self) -> records.Schema:
        """The schema itself; the timestamp stands first."""
        fields = dict(self.fields)
        if self.timestamp is not None:
            fields = {self.timestamp: FieldTable(kind="timestamp"), **{n: f for n, f in fields.items() if n != self.timestamp}}
        return records.Schema(
            tuple(records.Field(name, f.kind, f.min, f.max, f.required) for name, f in fields.items()),
            self.target,
            self.timestamp,
        )


class FeatureTable(Section):
    """A derived feature; `features = "auto"` at the top of the file stands for a set of them."""

    name: str = Field(description="Name of its column; a cyclic pair has NAME_sin and NAME_cos.")
    of: tuple[str, ...] = Field(description="A field, the target or the timestamp; two fields for ratio, difference, product.")
    how: str = Field(description=f"{', '.join(HOWS)}.")
    rows: int | None = Field(None, description="Length of the window, distance of the lag or span of the ewm, in values.")
    seconds: float | None = Field(None, description="The same in event time.")
    by: str | None = Field(None, description="A category, text or integer field: each of its values has a memory of its own.")
    country: str | None = Field(None, description="holiday: an ISO 3166 code such as BR or US-CA.")

    @field_validator("of", mode="before")
    @classmethod
    def _one_alone(cls, of: Any) -> Any:
        """`of = "temp"` is short for `of = ["temp"]`."""
        return (of,) if isinstance(of, str) else of

    def build(self) -> Feature:
        """The definition itself."""
        return Feature(self.name, self.of, self.how, self.rows, self.seconds, self.by, self.country)


Features = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[tuple[FeatureTable, ...], Tag("list")],
    Discriminator(lambda value: "auto" if isinstance(value, str) else "list"),
]


def demo_schema() -> SchemaTable:
    """People with an income to predict."""
    highest = {"age": 130, "education_years": 40, "experience_years": 100, "weekly_hours": 168}
    numbers = {name: {"kind": "float", "min": 0, "max": high} for name, high in highest.items()}
    fields = {"name": "text", "city": "text", "job": "category", **numbers}
    return SchemaTable.model_validate({"target": "income", "timestamp": "event_time", "fields": fields})


class Drift(Section):
    """A planted change of the demo's world, for `[[generator.drift]]`."""

    kind: Literal["abrupt", "gradual", "recurring"] = Field(description="How it comes.")
    at: int = Field(ge=1, description="Row (from 1) at which it begins.")
    rows: int = Field(1000, ge=1, description="gradual: rows until it is complete; recurring: rows of a half period.")
    factor: float = Field(1.5, gt=0, le=100, description="What the income is multiplied by where it is complete.")


class Generator(Section):
    """Where records come from."""

    source: Literal["people", "replay", "none"] = Field("people", description="people, replay, or none: only POST /records.")
    records_per_second: float = Field(100.0, ge=0, description="Rate of the source; 0 pauses, inf is as fast as possible.")
    batch_rows: int = Field(10_000, ge=1, le=100_000, description="Most records in one commit.")
    limit: int | None = Field(
        None, ge=0, description="Records after which the source ends; unset: never (people), the file's end (replay)."
    )
    seed: int = Field(1, ge=0, lt=2**63, description="people: same seed, same records.")
    locale: str = Field("pt_BR", description="people: Faker's locale.")
    start_time: str | None = Field(
        None, description="people: event time of the first record (ISO 8601); unset: the time of the first start."
    )
    interval_s: float = Field(0.01, gt=0, description="people: event time from one record to the next, in seconds.")
    noise: float = Field(0.05, ge=0, le=10, description="people: standard deviation of the income's noise, as a share of it.")
    drift: tuple[Drift, ...] = Field((), description="people: planted changes.")
    path: Path | None = Field(None, description="replay: a .csv, .csv.gz, .parquet or .ndjson[.gz] file.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="replay: what parts the cells of a CSV.")
    null_values: tuple[str, ...] = Field(("",), description="replay: CSV cells that stand for a missing value.")
    order_by_time: bool = Field(False, description="replay: in event-time order (reads the whole file into memory).")
    label_delay_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Records come without their target, which follows in `outcomes` so much later (counted in rows); 0: with it.",
    )
    idempotency_keys: int = Field(100_000, ge=1, description="Idempotency keys that are remembered.")

    @model_validator(mode="after")
    def _path_for_replay(self) -> Generator:
        if self.source == "replay" and self.path is None:
            raise ValueError("source is 'replay' and path is not set; set path to the file")
        return self


class Normalizer(Section):
    """How records are checked, encoded and standardised."""

    batch_rows: int = Field(10_000, ge=1, le=100_000, description="Most records in one step.")
    block_rows: int = Field(1024, ge=1, le=100_000, description="Records per update of the statistics.")
    tolerance: float = Field(
        0.02,
        gt=0,
        le=10,
        description="A new scaler version when a mean moved by this many deviations, or a deviation by this share.",
    )
    max_categories: int = Field(1000, ge=1, le=100_000, description="Codes per category field; later values are `other`.")
    memory_keys: int = Field(
        1_000_000, ge=1, le=100_000_000, description="Keys that features remember, per `by`; the least recently seen go."
    )
    memory_rows: int = Field(
        10_000, ge=1, le=1_000_000, description="Values of a key that a window in seconds reaches back to, at most."
    )
    lateness_s: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="Seconds of event time by which a record may come late and still find its place: all wait so long; 0: off.",
    )
    late: Literal["accept", "reject"] = Field(
        "accept", description="Later records: accept them in the order of arrival, or refuse them into `rejected`."
    )
    idle_s: float = Field(
        10.0, gt=0, description="When nothing came for so many seconds, what is held back is let go; inf: it waits on."
    )
    reorder_rows: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Records held back at most; of more the earliest are let go before their time.",
    )
    future_s: float = Field(
        86_400.0,
        gt=0,
        le=1e9,
        description="A time that is further than this from the newest one is not believed, unless 100 records in a row say so.",
    )

    @model_validator(mode="after")
    def _far_is_further_than_late(self) -> Normalizer:
        if self.future_s < self.lateness_s:
            raise ValueError(f"future_s {self.future_s:g} is below lateness_s {self.lateness_s:g}; raise it")
        return self


class Trainer(Section):
    """How the model learns and is served."""

    estimator: str = Field("sklearn.ensemble.RandomForestRegressor", description="Import path of a scikit-learn regressor.")
    params: dict[str, Any] = Field(
        default_factory=lambda: {"n_estimators": 15, "min_samples_leaf": 3},
        description="Its parameters; with policy adaptive, n_estimators is the most trees that an expert has.",
    )
    seed: int = Field(1, ge=0, lt=2**31, description="Seed of its random_state.")
    policy: Literal["auto", "adaptive", "plain"] = Field(
        "auto",
        description="adaptive: grow a few trees at a time, and follow drift; plain: fit the estimator anew; auto: as it can.",
    )
    window_rows: int = Field(20_000, ge=10, le=10_000_000, description="Labelled rows that the model is trained on.")
    min_rows: int = Field(10, ge=2, description="Labelled rows before the first training.")
    retrain_every_s: float | None = Field(
        1.0, ge=0, description="Seconds from the start of one training to the next; 0: without pause; unset with rows."
    )
    retrain_every_rows: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="Labelled rows between trainings, or auto: as many as it is worth. The reader waits for the training, "
        "so the same log gives the same versions.",
    )
    request_cooldown_s: float = Field(
        1.0, ge=0, description="Seconds from a training that was asked for to the next; requests meanwhile are merged into it."
    )
    drift_cooldown_rows: int = Field(
        50, ge=0, description="Labelled rows from a training that answered a rise of the error to the next such training."
    )
    promotion: Literal["tested", "newest"] = Field(
        "tested",
        description="tested: a new version must prove itself beside the one in service; newest: it replaces it at once.",
    )
    label_horizon_rows: int = Field(
        100_000, ge=100, description="Records for which a record waits for its outcome, and an outcome for its record."
    )
    margin: float = Field(0.05, ge=0, le=1, description="By how much a new version's error may be larger, as a share.")
    alpha: float = Field(0.05, gt=0, lt=1, description="How often a test of versions may err.")
    threads: int = Field(1, ge=1, le=256, description="Threads of a large training; more are faster, and delay answers.")
    checkpoints: bool = Field(True, description="Whether a version keeps its trees for scikit-learn and for restarts.")
    train_memory_mb: int = Field(
        4096, ge=256, description="Megabytes that the training process may take; a training that needs more fails (Linux)."
    )
    train_timeout_s: float = Field(600.0, gt=0, description="A training that takes longer is killed.")
    batch_rows: int = Field(10_000, ge=1, le=100_000, description="Most rows in one step.")
    evaluate_every: int = Field(
        1, ge=1, description="Of every so many labelled rows one is predicted before it is learned from."
    )
    metric_rows: int = Field(5000, ge=10, description="Rows of the rolling metrics: the last ones with a known target.")
    level: float = Field(0.9, gt=0, lt=1, description="Level of the prediction intervals.")
    keep_versions: int = Field(20, ge=2, description="Newest model versions whose files are kept.")
    keep_older: int = Field(
        50, ge=0, description="Older versions whose files are kept at most: the older, the farther apart in time."
    )
    nice: int = Field(19, ge=0, le=19, description="Niceness of the training process, so that it does not delay answers.")
    servers: int = Field(1, ge=1, le=64, description="Processes that answer requests on the trainer's port.")

    @model_validator(mode="before")
    @classmethod
    def _one_trigger(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("retrain_every_rows") is not None and "retrain_every_s" not in values:
            return {**values, "retrain_every_s": None}
        return values

    @model_validator(mode="after")
    def _check(self) -> Trainer:
        if (self.retrain_every_s is None) == (self.retrain_every_rows is None):
            raise ValueError("set one of retrain_every_s and retrain_every_rows")
        if self.min_rows > self.window_rows:
            raise ValueError(f"min_rows {self.min_rows} is above window_rows {self.window_rows}; lower it")
        return self


class Consumer(Section):
    """How predictions are asked for."""

    modes: tuple[Literal["random", "records"], ...] = Field(
        ("random", "records"),
        description="random: a random value of one field; records: the next raw records without their target.",
    )
    requests_per_second: float = Field(5.0, ge=0, description="Requests per mode; 0 pauses, inf is as fast as possible.")
    records_per_request: int = Field(1000, ge=1, le=10_000, description="Most records in one request of mode `records`.")
    random_field: str | None = Field(
        None, description="random: the field that is drawn; unset: age, or the first numeric field."
    )
    random_min: float = Field(18.0, description="random: smallest value.")
    random_max: float = Field(80.0, description="random: largest value.")
    seed: int = Field(1, ge=0, lt=2**63, description="random: seed.")
    metric_rows: int = Field(1000, ge=10, description="Answers in the rolling error.")


class Services(Section):
    """Addresses and limits of all services."""

    host: str = Field("127.0.0.1", description="Address to bind to.")
    port_base: int = Field(8000, ge=1, le=65_000, description="Port of the dashboard; the others follow it.")
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request body.")
    max_in_flight: int = Field(1000, ge=1, description="Requests in work at a time; more are answered with 503 at once.")
    receive_timeout_s: float = Field(30.0, gt=0, description="Seconds for a request's head to arrive, and for its body.")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else JSON.")

    def port(self, service: str) -> int:
        """The port of a service."""
        return self.port_base + SERVICES.index(service)

    def url(self, service: str) -> str:
        """The base address of a service."""
        return f"http://{self.host}:{self.port(service)}"


class Retention(Section):
    """How long rows are kept, in every log; `inf` is without a bound."""

    rows: int | None = Field(1_000_000, ge=1, description="Rows kept per log; inf: all.")
    age_s: float | None = Field(None, gt=0, description="Seconds a row is kept; unset or inf: for ever.")
    hard_rows: int | None = Field(
        10_000_000,
        ge=1,
        description="Rows that are kept at most, even when a reader has not read them; inf: readers are always waited for.",
    )
    every_s: float = Field(2.0, gt=0, description="Seconds between two clean-ups.")

    @field_validator("rows", "age_s", "hard_rows", mode="before")
    @classmethod
    def _unbounded(cls, value: Any) -> Any:
        return None if value in (math.inf, "inf") else value


class Condition(Section):
    """When to alert, for `[[alerts.conditions]]`. One with the name of a built-in condition replaces it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="What the alert is called.")
    metric: str = Field(
        description="A number that `GET /metrics` has, or `up`; of a name ending in `_total` its growth per second."
    )
    comparison: Literal[">", ">=", "<", "<=", "==", "!="] = Field(description="How the metric stands to the threshold.")
    threshold: float = Field(allow_inf_nan=False, description="In the metric's unit.")
    labels: dict[str, str] = Field({}, description="Only values with these labels; `service` is one, too.")
    for_s: float = Field(60.0, ge=0, description="Seconds that it must hold without a break.")
    meaning: str = Field("", max_length=500, description="What to tell with it.")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        known = metrics.numbers()
        if metric not in known:
            close = difflib.get_close_matches(metric, known, 1)
            raise ValueError(f"there is no metric {metric!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return metric


class Tracing(Section):
    """Spans by OpenTelemetry, for the extra `otel`; none where no endpoint is set."""

    endpoint: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Base address of an OTLP receiver over HTTP, as in http://127.0.0.1:4318."
    )
    sample: float = Field(1.0, ge=0, le=1, description="Share of the traces that are recorded, unless the client has decided.")


class Alerts(Section):
    """What is watched without Prometheus, and who is told."""

    enabled: bool = Field(True, description="Whether `correnteza run` watches.")
    defaults: bool = Field(True, description="Whether the built-in conditions hold.")
    conditions: tuple[Condition, ...] = Field((), description="Your own conditions.")
    every_s: float = Field(5.0, ge=0.1, description="Seconds from one look to the next.")
    group_s: float = Field(
        30.0, ge=0, description="Least seconds between two messages; what happens in between is told in one."
    )
    cooldown_s: float = Field(600.0, ge=0, description="Least seconds until the same alert is told again.")
    webhook: str | None = Field(None, pattern=r"^https?://\S+$", description="Address that messages are posted to, signed.")
    webhook_key_file: Path | None = Field(
        None, description="File with the key that signs; unset: alerts.key in the data folder, made once."
    )
    command: tuple[str, ...] = Field(
        (), description="Program and arguments that are run for a message, which it reads from its standard input."
    )

    @field_validator("conditions")
    @classmethod
    def _each_once(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        names = [condition.name for condition in conditions]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two conditions are called {twice!r}; give one another name")
        return conditions
