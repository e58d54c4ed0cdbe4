"""Laws of the settings: every mistake is one line that names the key, its value and what was expected."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from correnteza.config import SERVICES, Settings, load
from correnteza.errors import ConfigError

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CORRENTEZA_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Settings of a file's text, of environment variables and of overrides."""

    def made(toml: str = "", overrides: dict[str, Any] | None = None, **environment: str) -> Settings:
        path = tmp_path / "given.toml"
        path.write_text(toml, encoding="utf-8")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return load(path, overrides)

    return made


def mistake(settings: Load, toml: str = "", **environment: str) -> str:
    """The message that a mistake gets, without the places in the file; those are in `test_config_places`."""
    with pytest.raises(ConfigError) as caught:
        settings(toml, None, **environment)
    return re.sub(r"(?m)^/.*given\.toml:\d+: ", "", str(caught.value))


def key(text: str) -> str:
    """The key that a message begins with, as a test's id; nothing for the files that are at fault."""
    return "" if "\n" in text else text.split(" ", maxsplit=1)[0].rstrip(":")


OWN = '[schema]\ntarget = "y"\n'


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[traner]\nwindow_rows = 50", "traner: no such setting; did you mean 'trainer'?"),
        ("[trainer]\nwindow_row = 50", "trainer.window_row: no such setting; did you mean 'window_rows'?"),
        ("[[generator.drift]]\nat = 1\nfactr = 3", "generator.drift.0.factr: no such setting; did you mean 'factor'?"),
        (f"{OWN}fields = {{ x = {{ maxi = 3 }} }}", "schema.fields.x.maxi: no such setting; did you mean 'max'?"),
        (f"{OWN}feilds = {{ x = 'float' }}", "schema.feilds: no such setting; did you mean 'fields'?"),
        ("port = 1", "port: no such setting; known are pipeline, schema, generator"),
        ("schema_table = 1", "schema_table: no such setting; did you mean 'schema'?"),
    ],
    ids=["section", "key", "key-in-list", "key-of-field", "key-of-schema", "nothing-near", "name-inside"],
)
def test_a_misspelt_key_is_named_with_what_was_meant(settings: Load, toml: str, message: str) -> None:
    assert any(line.startswith(message) for line in mistake(settings, toml).splitlines())


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[trainer]\nwindow_rows = 'many'", "trainer.window_rows = 'many': expected to be a valid integer"),
        ("[trainer]\nwindow_rows = 50.5", "trainer.window_rows = 50.5: expected to be a valid integer"),
        ("[trainer]\nparams = 5", "trainer.params = 5: expected to be a valid dictionary"),
        ("trainer = 5", "trainer = 5: expected to be a valid dictionary"),
        ("[generator]\ndrift = [5]", "generator.drift.0 = 5: expected to be a valid dictionary"),
        ("[generator]\nsource = 'csv'", "generator.source = 'csv': expected to be 'people', 'replay' or 'none'"),
        ("[pipeline]\ndata_dir = 5", "pipeline.data_dir = 5: is not a valid path"),
        ("[consumer]\nmodes = 'random'", "consumer.modes = 'random': expected to be a valid tuple"),
        ("[consumer]\nmodes = ['x']", "consumer.modes.0 = 'x': expected to be 'random' or 'records'"),
        ("[services]\nlog_format = 3", "services.log_format = 3: expected to be 'auto', 'console' or 'json'"),
        (f"{OWN}fields = [1]", "schema.fields = [1]: expected to be a valid dictionary"),
        (f"{OWN}fields = {{ x = 5 }}", "schema.fields.x = 5: expected to be a valid dictionary"),
        (f"{OWN}fields = {{ x = 'flot' }}", "schema.fields.x.kind = 'flot': expected to be 'float', 'integer', 'category'"),
    ],
    ids=key,
)
def test_a_wrong_type_is_named_with_its_value_and_what_was_expected(settings: Load, toml: str, message: str) -> None:
    assert mistake(settings, toml).startswith(message)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[trainer]\nwindow_rows = 5", "trainer.window_rows = 5: expected to be greater than or equal to 10"),
        ("[trainer]\nlevel = 1", "trainer.level = 1: expected to be less than 1"),
        ("[trainer]\nretrain_every_s = nan", "trainer.retrain_every_s = nan: expected to be greater than or equal to 0"),
        ("[trainer]\nmin_rows = 200\nwindow_rows = 100", "trainer: min_rows 200 is above window_rows 100; lower it"),
        (
            "[generator]\nrecords_per_second = -1",
            "generator.records_per_second = -1: expected to be greater than or equal to 0",
        ),
        ("[generator]\nrecords_per_second = nan", "generator.records_per_second = nan: expected to be"),
        ("[generator]\ndelimiter = ', '", "generator.delimiter = ', ': expected to have at most 1 character"),
        ("[pipeline]\nname = 'a b'", "pipeline.name = 'a b': expected to match pattern"),
        ("[pipeline]\nname = ''", "pipeline.name = '': expected to match pattern"),
        ("[services]\nport_base = 70000", "services.port_base = 70000: expected to be less than or equal to 65000"),
        ("[retention]\nevery_s = 0", "retention.every_s = 0: expected to be greater than 0"),
        (
            f"{OWN}fields = {{ x = {{ kind = 'float', min = nan }} }}",
            "schema.fields.x.min = nan: expected to be a finite number",
        ),
        (
            f"{OWN}fields = {{ x = {{ kind = 'float', max = inf }} }}",
            "schema.fields.x.max = inf: expected to be a finite number",
        ),
    ],
    ids=key,
)
def test_a_value_out_of_range_is_named_with_the_bound(settings: Load, toml: str, message: str) -> None:
    assert mistake(settings, toml).startswith(message)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[generator]\nsource = 'replay'", "generator: source is 'replay' and path is not set; set path to the file"),
        (
            "[trainer]\nretrain_every_s = 1\nretrain_every_rows = 5",
            "trainer: set one of retrain_every_s and retrain_every_rows",
        ),
        ("[[generator.drift]]\nkind = 'abrupt'", "generator.drift.0.at: is not set; expected a value"),
        (OWN, "schema.fields: is not set; expected a value"),
        ("[schema]\nfields = { x = 'float' }", "schema.target: is not set; expected a value"),
        (f"{OWN}fields = {{ note = 'text' }}", "schema has no float, integer or category field; add one to learn from"),
        (f"{OWN}fields = {{ y = 'float' }}", "schema target 'y' is also a field; take it out of the fields"),
        (f"{OWN}fields = {{ offset = 'float' }}", "schema field 'offset': not a usable name"),
        (f"{OWN}fields = {{ x = {{ kind = 'text', min = 1 }} }}", "schema field 'x' is a text with minimum or maximum"),
        (
            f"{OWN}fields = {{ x = {{ kind = 'float', min = 3, max = 1 }} }}",
            "schema field 'x': minimum 3.0 is above maximum 1.0",
        ),
    ],
    ids=key,
)
def test_what_does_not_go_together_is_named_with_the_fix(settings: Load, toml: str, message: str) -> None:
    assert mistake(settings, toml).startswith(message)


def test_every_mistake_has_a_line_of_its_own(settings: Load) -> None:
    lines = mistake(settings, "[trainer]\nwindow_rows = 'x'\nlevel = 2\n[services]\nprot_base = 1").splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in lines] == ["trainer.window_rows", "trainer.level", "services.prot_base"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[trainer\n", "Expected ']'"),
        (b"window = \n", "Invalid value"),
        (b"a = 1\na = 2\n", "Cannot overwrite"),
        (b"\xff\xfe", "can't decode byte"),
    ],
    ids=["bracket", "value", "twice", "no-utf8"],
)
def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not readable as TOML") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named_and_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none.toml: no such file; give the path"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=f"{tmp_path}: not readable"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "CORRENTEZA_TRANER__WINDOW_ROWS",
            "50",
            "CORRENTEZA_TRANER__WINDOW_ROWS: no section 'traner'; did you mean 'trainer'?",
        ),
        ("CORRENTEZA_ZZZ", "1", "CORRENTEZA_ZZZ: no section 'zzz'; known are pipeline"),
        ("CORRENTEZA_TRAINER__WINDOW_ROW", "50", "trainer.window_row: no such setting; did you mean 'window_rows'?"),
        ("CORRENTEZA_TRAINER__WINDOW_ROWS", "many", "trainer.window_rows = 'many': expected to be a valid integer"),
        ("CORRENTEZA_TRAINER", "{bad", "CORRENTEZA_TRAINER = '{bad': not readable as JSON"),
        ("CORRENTEZA_TRAINER__PARAMS", "{bad", "CORRENTEZA_TRAINER__PARAMS = '{bad': not readable as JSON"),
        ("CORRENTEZA_GENERATOR__DRIFT", "[", "CORRENTEZA_GENERATOR__DRIFT = '[': not readable as JSON"),
        ("CORRENTEZA_TRAINER", "5", "trainer = 5: expected to be a valid dictionary"),
    ],
    ids=key,
)
def test_a_mistake_in_the_environment_is_named(settings: Load, name: str, value: str, message: str) -> None:
    assert message in mistake(settings, **{name: value})


def test_lists_and_tables_in_the_environment_are_json(settings: Load) -> None:
    made = settings(
        CORRENTEZA_TRAINER__PARAMS='{"n_estimators": 3}',
        CORRENTEZA_GENERATOR__DRIFT='[{"kind": "abrupt", "at": 5}]',
        CORRENTEZA_CONSUMER__MODES='["records"]',
    )
    assert made.trainer.params == {"n_estimators": 3}
    assert [(drift.kind, drift.at) for drift in made.generator.drift] == [("abrupt", 5)]
    assert made.consumer.modes == ("records",)


def test_overrides_win_over_the_environment_which_wins_over_the_file(settings: Load) -> None:
    """Key by key: what a stronger source does not set stays what the weaker one says."""
    toml = "[trainer]\nwindow_rows = 1000\nmetric_rows = 100\nlevel = 0.5\nseed = 7"
    environment = {"CORRENTEZA_TRAINER__WINDOW_ROWS": "2000", "CORRENTEZA_TRAINER__METRIC_ROWS": "200"}
    made = settings(toml, {"trainer": {"window_rows": 3000}}, **environment).trainer
    assert (made.window_rows, made.metric_rows, made.level, made.seed) == (3000, 200, 0.5, 7)


def test_the_file_in_the_folder_is_taken_when_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "correnteza.toml").write_text("[pipeline]\nname = 'here'\n", encoding="utf-8")
    assert load().pipeline.name == "here"


def test_without_a_file_it_is_the_demo() -> None:
    """People with an income to predict, at their own places."""
    made = load()
    schema = made.schema_of_records
    assert (made.generator.source, made.pipeline.name, made.pipeline.folder) == ("people", "people", Path("data/people"))
    assert (schema.target, schema.timestamp) == ("income", "event_time")
    assert schema.features == ("age", "education_years", "experience_years", "weekly_hours", "job")
    assert made.trainer.estimator == "sklearn.ensemble.RandomForestRegressor"
    assert [made.services.url(name) for name in SERVICES] == [f"http://127.0.0.1:{8000 + i}" for i in range(5)]


def test_an_own_schema_needs_no_timestamp_and_takes_nothing_from_the_demo(settings: Load) -> None:
    made = settings(f"{OWN}fields = {{ x = 'float', n = {{ kind = 'integer', min = 0, required = true }} }}").schema_of_records
    assert (made.raw.names, made.timestamp) == (["id", "x", "n", "y"], None)
    assert [(f.minimum, f.required) for f in made.fields] == [(None, False), (0.0, True)]


def test_the_timestamp_of_an_own_schema_is_a_field_without_being_listed(settings: Load) -> None:
    made = settings(f"{OWN}timestamp = 'at'\nfields = {{ x = 'float' }}").schema_of_records
    assert (made.raw.names, made.kind_of("at")) == (["id", "at", "x", "y"], "timestamp")


@pytest.mark.parametrize("text", ["inf", "'inf'"])
def test_a_rate_may_be_infinite(settings: Load, text: str) -> None:
    assert settings(f"[generator]\nrecords_per_second = {text}").generator.records_per_second == math.inf


def test_rows_between_trainings_replace_the_seconds(settings: Load) -> None:
    """Setting the one trigger is enough; the default of the other gives way."""
    made = settings("[trainer]\nretrain_every_rows = 100").trainer
    assert (made.retrain_every_s, made.retrain_every_rows) == (None, 100)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load().trainer, "window_rows", 5)  # noqa: B010 - the type checker refuses the plain way already


def test_all_ports_move_together(settings: Load) -> None:
    services = settings(CORRENTEZA_SERVICES__PORT_BASE="9000").services
    assert [services.port(name) for name in SERVICES] == [9000, 9001, 9002, 9003, 9004]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"schema": {"target": "y", "fields": {"x": "float"}}, "normalizer": {"lateness_s": 5}},
            "normalizer.lateness_s = 5: [schema] has no timestamp to put records in order by",
        ),
        ({"normalizer": {"lateness_s": 5, "future_s": 4}}, "normalizer: future_s 4 is below lateness_s 5; raise it"),
        ({"normalizer": {"lateness_s": "inf"}}, "normalizer.lateness_s = 'inf'"),
        ({"normalizer": {"late": "drop"}}, "normalizer.late = 'drop'"),
    ],
)
def test_an_order_that_cannot_be_kept_is_refused(overrides: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(overrides=overrides)
    assert str(error.value).startswith(reason)
