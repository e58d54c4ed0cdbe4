"""The settings table: every key, its default, its unit and its bounds stand here and nowhere else.

Invariant: this module is the only reader of the environment and of `correnteza.toml`.
Order of strength: command line, environment (`CORRENTEZA_TRAINER__WINDOW_ROWS=5000`), file, default.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from correnteza import records
from correnteza.errors import ConfigError

DEFAULT_FILE = "correnteza.toml"
SERVICES = ("dashboard", "generator", "normalizer", "trainer", "consumer")
"""Ports are `port_base` plus the place in this tuple."""


_SCHEMA_KEY = "CORRENTEZA_SCHEMA"
"""`schema` is taken in pydantic's models, so inside them the section goes by the name of its variable."""


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


class Trainer(Section):
    """How the model learns and is served."""

    estimator: str = Field("sklearn.ensemble.RandomForestRegressor", description="Import path of a scikit-learn regressor.")
    params: dict[str, Any] = Field(
        default_factory=lambda: {"n_estimators": 30, "min_samples_leaf": 5}, description="Its parameters."
    )
    seed: int = Field(1, ge=0, lt=2**31, description="Seed of its random_state.")
    policy: Literal["auto", "adaptive", "plain"] = Field(
        "auto",
        description="adaptive: grow a few trees at a time, and follow drift; plain: fit the estimator anew; auto: as it can.",
    )
    window_rows: int = Field(20_000, ge=10, le=10_000_000, description="Labelled rows that the model is trained on.")
    min_rows: int = Field(20, ge=2, description="Labelled rows before the first training.")
    retrain_every_s: float | None = Field(
        1.0, ge=0, description="Seconds from the start of one training to the next; 0: without pause; unset with rows."
    )
    retrain_every_rows: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="Labelled rows between trainings, or auto: as many as it is worth. The reader waits for the training, "
        "so the same log gives the same versions.",
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
    metric_rows: int = Field(5000, ge=10, description="Rows of the rolling metrics.")
    level: float = Field(0.9, gt=0, lt=1, description="Level of the prediction intervals.")
    keep_versions: int = Field(20, ge=2, description="Model versions whose files are kept.")
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


class Settings(BaseSettings):
    """All settings of one pipeline; made by `load`."""

    model_config = SettingsConfigDict(env_prefix="CORRENTEZA_", env_nested_delimiter="__", extra="forbid", frozen=True)

    pipeline: Pipeline = Pipeline()
    schema_table: SchemaTable = Field(default_factory=demo_schema, validation_alias=_SCHEMA_KEY)
    generator: Generator = Generator()
    normalizer: Normalizer = Normalizer()
    trainer: Trainer = Trainer()
    consumer: Consumer = Consumer()
    services: Services = Services()
    retention: Retention = Retention()

    @property
    def schema_of_records(self) -> records.Schema:
        """The schema that `[schema]` describes."""
        return self.schema_table.build()


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from file, environment and overrides.

    Args:
        path: a TOML file; None means `correnteza.toml` in the current folder if it is there.
        overrides: nested values that win over all else, as from command line flags.

    Raises:
        ConfigError: one line per fault, each with key, value, what was expected.
    """
    table = _read_file(path)
    _check_environment()

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_inside(table))

    try:
        settings = Loaded(**_inside(overrides or {}))
        settings.schema_of_records  # noqa: B018 - building it is the check
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(_not_json(error.__cause__ or error)) from None
    return settings


def dumps(settings: Settings) -> str:
    """Settings as one text, to hand to a child process; `loads` reads it back."""
    return json.dumps(settings.model_dump(mode="python"), default=str)


def loads(text: str) -> Settings:
    """The settings that `dumps` wrote; file and environment are not looked at again.

    >>> loads(dumps(Settings())) == Settings()
    True
    """
    values = json.loads(text)
    return Settings(**{_SCHEMA_KEY if name == "schema_table" else name: value for name, value in values.items()})


def _inside(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_SCHEMA_KEY if key == "schema" else key: value for key, value in table.items()}


def _read_file(path: Path | None) -> dict[str, Any]:
    chosen = path or Path(DEFAULT_FILE)
    if not chosen.exists():
        if path is None:
            return {}
        raise ConfigError(f"{chosen}: no such file; give the path of a TOML file, or none for the demo")
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{chosen}: not readable as TOML: {error}") from None


def _check_environment() -> None:
    """Refuse misspelt sections, which would otherwise be ignored in silence."""
    sections = _sections()
    for name in os.environ:
        if not name.startswith("CORRENTEZA_"):
            continue
        section = name.removeprefix("CORRENTEZA_").split("__")[0].lower()
        if section not in sections:
            raise ConfigError(f"environment variable {name}: no section {section!r}{_meant(section, sections)}")


def _sections() -> list[str]:
    return ["schema" if name == "schema_table" else name for name in Settings.model_fields]


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one was found."""
    table: type[BaseModel] = Settings
    for part in location[:-1]:
        name = "schema_table" if part == "schema" and table is Settings else str(part)
        field = table.model_fields.get(name)  # none for a place in a list, or for the name of a record's field
        table = (_table_in(field.annotation) if field else None) or table
    return _sections() if table is Settings else list(table.model_fields)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a setting is, or that it is a list or a table of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := _table_in(part))), None)


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _explain(fault: Any) -> str:
    location = tuple("schema" if part == _SCHEMA_KEY else part for part in fault["loc"])
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such setting{_meant(str(location[-1]), _keys_at(location))}"
    if fault["type"] == "missing":
        return f"{key}: is not set; expected a value"
    message = str(fault["msg"])
    if fault["type"] == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}"
    _, should, expected = message.partition(" should ")  # "Input should be ...", "String should have ..."
    return f"{key} = {fault['input']!r}: {f'expected to {expected}' if should else message.removeprefix('Input ')}"


def _not_json(error: BaseException) -> str:
    text = getattr(error, "doc", "")  # the value, which tells the variable
    name = next((name for name, value in os.environ.items() if name.startswith("CORRENTEZA_") and value == text), "environment")
    return f"{name} = {text!r}: not readable as JSON: {error}; write lists and tables as JSON"
