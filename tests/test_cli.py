"""Laws of the command line: a mistake is one line, and what is shown can be used again."""

import gzip
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza import cli, config, models_cli, supervisor
from correnteza.config import Settings, load
from correnteza.log.sql import SqlStore
from correnteza.show import as_toml, differences, toml

BIKES = """
[pipeline]
name = "bikes"
data_dir = "./data/bi kes"

[schema]
target = "cnt"
timestamp = "dteday"
fields = { temp = "float", hum = { kind = "float", min = 0, max = 1, required = true }, season = "category", "a note" = "text" }

[generator]
source = "replay"
path = "hour.csv.gz"
delimiter = ";"
null_values = ["", "NA", "say \\"no\\""]
records_per_second = inf
drift = [{ kind = "gradual", at = 10, rows = 5, factor = 2.0 }]

[trainer]
params = { n_estimators = 100, max_features = 0.5, bootstrap = true }
retrain_every_rows = 1000

[retention]
age_s = 1e100
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a folder of its own, without the caller's settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one line that a command answers a mistake with."""
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["config", "check", "nope.toml"], ["run", "-c", "nope.toml"], ["generator", "--config", "nope.toml"]):
        assert "nope.toml: no such file" in mistake(capsys, *command)


def test_broken_toml_is_named_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.toml").write_text("[trainer]\nwindow_rows = \n")
    line = mistake(capsys, "config", "check", "broken.toml")
    assert "broken.toml" in line
    assert "line 2" in line


def test_a_misspelt_key_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file.toml").write_text("[trainer]\nwindow_row = 5000\n")
    assert mistake(capsys, "config", "check", "file.toml").endswith("did you mean 'window_rows'?")


def test_a_value_of_the_wrong_kind_is_named_with_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file.toml").write_text('[trainer]\nwindow_rows = "many"\n')
    line = mistake(capsys, "config", "check", "file.toml")
    assert "trainer.window_rows = 'many'" in line
    assert "integer" in line


def test_several_faults_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file.toml").write_text('[trainer]\nwindow_rows = "many"\n[normalizer]\ntolerance = -1\n')
    assert cli.main(["config", "check", "file.toml"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'? See `correnteza --help`"),
        (["models", "promote"], "Missing argument 'VERSION'; see `correnteza models promote --help`"),
        (["models", "show", "newest"], "'newest' is no integer"),
        (["run", "--prot-base", "9000"], "--prot-base"),
        (["run", "--rate", "fast"], "Invalid value for '--rate': 'fast' is no number; see `correnteza run --help`"),
        (["sql"], "QUERY"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_code_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in mistake(capsys, *arguments, code=2)


def test_a_flag_is_checked_like_any_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert "services.port_base = 70000" in mistake(capsys, "run", "--port-base", "70000")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[trainer]\nestimator = "sklearn.ensemble.RandomForrest"', "RandomForrest"),
        ("[trainer]\nparams = { n_trees = 3 }", "n_trees"),
        ('[generator]\nsource = "replay"\npath = "not-there.csv"', "not-there.csv"),
        ('[generator]\nlocale = "xx_YY"', "xx_YY"),
        ('[consumer]\nrandom_field = "job"', "job"),
    ],
)
def test_config_check_tries_what_the_services_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    """What is well formed and still cannot work is found before anything is started."""
    (tmp_path / "c.toml").write_text(text)
    assert cli.main(["config", "check", str(tmp_path / "c.toml")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


def test_sql_without_data_names_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data folder data/people: no database" in mistake(capsys, "sql", "select 1")


def test_sql_with_a_syntax_error_is_one_line_with_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    schema = pa.schema([("id", pa.string())])
    Path("here").mkdir()
    store = SqlStore(Path("here/generator.db"))
    store.log("raw", schema).append(pa.RecordBatch.from_pydict({"id": ["a"]}, schema))
    store.close()
    line = mistake(capsys, "sql", "select * frm raw", "--data-dir", "here")
    assert "syntax error" in line
    assert line.endswith("tables: generator.raw")
    assert cli.main(["sql", "select * from raw", "--data-dir", "here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"offset": 1, "id": "a"}


@pytest.mark.parametrize(
    "command", ["status", "models list", "models show 1", "models history", "models promote 1", "predict --record {}"]
)
def test_services_that_do_not_run_are_said_in_one_line(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "http://127.0.0.1:1" in mistake(
        capsys, *command.split(), "--port-base", "12"
    )  # ports 13 to 16: nobody listens there


def test_an_unexpected_error_is_one_line_that_names_the_file_with_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> Settings:
        raise RuntimeError("never\nthought of")

    monkeypatch.setattr(config, "load", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = mistake(capsys, "config", "show")
    assert "unexpected RuntimeError: never thought of; traceback: " in line
    assert "RuntimeError: never\nthought of" in Path(line.rpartition(" ")[2]).read_text()


def test_an_interrupt_ends_a_command_without_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Settings:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupted)
    assert cli.main(["config", "show"]) == cli.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_help_and_version_load_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from correnteza.cli import main\n"
        "assert main(['--help']) == main(['--version']) == main(['config']) == 0\n"
        "heavy = {'pyarrow', 'correnteza.config', 'requests', 'structlog', 'psutil', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ["run", *cli.SERVICE_COMMANDS, "status", "predict", "sql", "config check", "config show"]
    for command in [*commands, *(f"models {name}" for name in models_cli.COMMANDS)]:
        assert cli.main([*command.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert f"correnteza {command}" in text
        assert cli.SUPERVISED not in text


def test_flags_of_run_reach_the_services_as_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Settings, Path | None, Mapping[str, str]]] = []

    def stand_in(settings: Settings, path: Path | None, environment: Mapping[str, str]) -> int:
        seen.append((settings, path, environment))
        return 0

    monkeypatch.setattr(supervisor, "run", stand_in)
    Path("bikes.toml").write_text(BIKES)
    assert cli.main(["run", "-c", "bikes.toml", "--port-base", "9000", "--data-dir", "else where", "--rate", "inf"]) == 0
    ((settings, path, environment),) = seen
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load(path).model_dump() == settings.model_dump()
    assert settings.services.port_base == 9000
    assert settings.generator.records_per_second == float("inf")
    assert settings.pipeline.folder == Path("else where")


def test_run_ends_with_the_supervisors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "run", lambda *_: supervisor.INTERRUPTED)
    assert cli.main(["run"]) == supervisor.INTERRUPTED


@pytest.mark.parametrize("text", ["", BIKES, "[services]\nport_base = 9000\n"])
def test_what_config_show_prints_passes_config_check_and_means_the_same(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("file.toml").write_text(text)
    Path("hour.csv.gz").write_bytes(gzip.compress(b"dteday;temp;hum;season;a note;cnt\n"))
    assert cli.main(["config", "show", "-c", "file.toml", "--rate", "7"]) == 0
    Path("shown.toml").write_text(capsys.readouterr().out)
    assert cli.main(["config", "check", "shown.toml"]) == 0
    assert capsys.readouterr().out.startswith("ok: shown.toml: ")
    expected = load(Path("file.toml"), {"generator": {"records_per_second": 7.0}})
    assert load(Path("shown.toml")).model_dump() == expected.model_dump()


def test_the_environment_is_part_of_what_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRENTEZA_TRAINER__WINDOW_ROWS", "5000")
    assert cli.main(["config", "show"]) == 0
    assert f"window_rows = 5000  # default: {config.Trainer().window_rows}\n" in capsys.readouterr().out


def test_exactly_what_differs_from_its_default_is_marked() -> None:
    settings = load(None, {"services": {"port_base": 9000}, "retention": {"age_s": 60.0}})
    marked = [line for line in as_toml(settings).splitlines() if "default: " in line]
    assert marked == ["port_base = 9000  # default: 8000", "age_s = 60.0  # default: unset"]
    assert differences(settings) == ["services.port_base", "retention.age_s"]
    assert differences(load(None)) == []


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_every_value_reads_back_from_toml_as_it_was(value: Any) -> None:
    assert tomllib.loads(f"value = {toml(value)}") == {"value": value}
