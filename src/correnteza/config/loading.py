"""Reading the settings, and saying what is wrong with them.

Invariant: this module is the only reader of the environment and of `correnteza.toml`.
Order of strength: command line, environment (`CORRENTEZA_TRAINER__WINDOW_ROWS=5000`), file, default.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from correnteza import records
from correnteza.config.automatic import automatic
from correnteza.config.places import File
from correnteza.config.tables import (
    Alerts,
    Consumer,
    Features,
    Generator,
    Normalizer,
    Pipeline,
    Retention,
    SchemaTable,
    Services,
    Tracing,
    Trainer,
    demo_schema,
)
from correnteza.errors import ConfigError, DefinitionError, Problem

DEFAULT_FILE = "correnteza.toml"
_SCHEMA_KEY = "CORRENTEZA_SCHEMA"
"""`schema` is taken in pydantic's models, so inside them the section goes by the name of its variable."""


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
    features: Features = ()
    tracing: Tracing = Tracing()
    alerts: Alerts = Alerts()

    @property
    def schema_of_records(self) -> records.Schema:
        """The schema that `[schema]` describes."""
        return self.schema_table.build()

    @property
    def schema_of_model(self) -> records.Schema:
        """The schema of what is learned from: the fields of the records and the derived features."""
        schema = self.schema_of_records
        derived = automatic(schema) if self.features == "auto" else tuple(table.build() for table in self.features)
        return schema.with_derived(derived)


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, schema_follows: bool = False) -> Settings:
    """Read the settings from file, environment and overrides.

    Args:
        path: a TOML file; None means `correnteza.toml` in the current folder if it is there.
        overrides: nested values that win over all else, as from command line flags.
        schema_follows: whether the caller may put another schema in the place of that of the file; it then has to
            call `check_features` itself.

    Raises:
        ConfigError: one line per fault, each with its place in the file, key, value, what was expected.
    """
    file = _read_file(path)
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
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_inside(file.table))

    try:
        settings = Loaded(**_inside(overrides or {}))
        _ = settings.schema_of_records  # building it is the check
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault, file) for fault in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(_not_json(error.__cause__ or error)) from None
    if not schema_follows:
        _check_features(settings, file)
    _check_order(settings)
    return settings


def check_features(settings: Settings, path: Path | None = None) -> None:
    """Check the definitions of features against the schema.

    Args:
        settings: as `load` returned them, whose schema may have been put in another's place since.
        path: of the file that they were read from.

    Raises:
        ConfigError: one line per fault, each with its place in the file.
    """
    _check_features(settings, _read_file(path))


def _check_features(settings: Settings, file: File) -> None:
    try:
        _ = settings.schema_of_model  # building it is the check
    except DefinitionError as error:
        raise ConfigError("\n".join(_placed(fault, settings, file) for fault in error.faults)) from None


def _check_order(settings: Settings) -> None:
    """Refuse to put records in the order of a time that they do not have."""
    lateness_s = settings.normalizer.lateness_s
    if lateness_s and settings.schema_of_records.timestamp is None:
        raise ConfigError(
            f"normalizer.lateness_s = {lateness_s:g}: [schema] has no timestamp to put records in order by; "
            "set schema.timestamp, or lateness_s to 0"
        )


def dumps(settings: Settings) -> str:
    """Settings as one text, to hand to a child process; `loads` reads it back.

    Without `[alerts]`: a child sends none, and an address can be a secret, which a command line would show to others.
    """
    return json.dumps(settings.model_dump(mode="python", exclude={"alerts"}), default=str)


def loads(text: str) -> Settings:
    """The settings that `dumps` wrote; file and environment are not looked at again.

    >>> loads(dumps(Settings())) == Settings()
    True
    """
    values = json.loads(text)
    return Settings(**{_SCHEMA_KEY if name == "schema_table" else name: value for name, value in values.items()})


def _inside(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_SCHEMA_KEY if key == "schema" else key: value for key, value in table.items()}


def _read_file(path: Path | None) -> File:
    chosen = path or Path(DEFAULT_FILE)
    if not chosen.exists():
        if path is None:
            return File()
        raise ConfigError(f"{chosen}: no such file; give the path of a TOML file, or none for the demo")
    try:
        text = chosen.read_text(encoding="utf-8")
        return File(str(chosen), text, tomllib.loads(text))
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


def _explain(fault: Any, file: File) -> str:
    location = tuple("schema" if part == _SCHEMA_KEY else part for part in fault["loc"])
    if location[:2] in (("features", "auto"), ("features", "list")):  # which of the two forms it has is no part of the key
        location = location[:1] + location[2:]
    return (file.place(location) if file.says(location, fault["input"]) else "") + _reason(fault, location)


def _reason(fault: Any, location: tuple[int | str, ...]) -> str:
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


def _placed(fault: Problem, settings: Settings, file: File) -> str:
    """A fault of a definition, with its place when the definition is the file's."""
    if settings.features == "auto":
        return (file.place(("features",)) if file.says(("features",), "auto") else "") + fault.reason
    where = ("features", fault.index)
    from_file = file.says((*where, "name"), settings.features[fault.index].name)
    return (file.place((*where, fault.field)) if from_file else "") + fault.reason


def _not_json(error: BaseException) -> str:
    text = getattr(error, "doc", "")  # the value, which tells the variable
    name = next((name for name, value in os.environ.items() if name.startswith("CORRENTEZA_") and value == text), "environment")
    return f"{name} = {text!r}: not readable as JSON: {error}; write lists and tables as JSON"
