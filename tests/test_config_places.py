"""Every fault of a setting names the line of the file that it stands in, and no line when it is not from the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from correnteza import evaluate
from correnteza.config import load
from correnteza.config.places import line_of
from correnteza.errors import ConfigError

SCHEMA = """\
# line 1
[schema]
target = "y"
timestamp = "at"
fields = { shop = "category", x = "float" }

"""
FEATURE = """\
[[features]]
name = "fine"
of = "x"
how = "lag"
rows = 1

"""
FIRST = 1 + len((SCHEMA + FEATURE).splitlines())


def faults_of(path: Path, text: str) -> list[str]:
    """What is said of a file, without its folder."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [line.removeprefix(f"{path.parent}/") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("lines", "at", "words"),
    [
        (['name = "f"', 'of = "z"', 'how = "lag"', "rows = 1"], 2, "of = 'z': no such field"),
        (['name = "f"', 'of = "x"', "# why", 'how = "lagg"', "rows = 1"], 4, "how = 'lagg': there is no such way"),
        (['name = "f"', 'of = "fine"', 'how = "lag"', "rows = 1"], 2, "of = 'fine': is a feature"),
        (['name = "fine"', 'of = "x"', 'how = "lag"', "rows = 1"], 1, "name 'fine' is that of feature 'fine'"),
        (["rows = 0", 'name = "f"', 'of = "x"', 'how = "mean"'], 1, "rows = 0: expected 1 to 100000"),
        (['name = "f"', 'of = "x"', 'how = "mean"', "seconds = 0"], 4, "seconds = 0.0: expected 0.000001"),
        (['name = "f"', 'of = "x"', 'how = "mean"'], 3, "rows and seconds are not set"),
        (['name = "f"', 'of = "x"', 'how = "mean"', 'by = "town"', "rows = 1"], 4, "by = 'town': no such field"),
        (['name = "f"', "of = [", '  "x",', '  "q",', "]", 'how = "ratio"'], 2, "of = 'q': no such field"),
        (['name = "f"', 'of = "at"', 'how = "holiday"', 'country = "XX"'], 4, "country = 'XX': not known"),
        (['name = "f"', 'of = "at"', 'how = "holiday"'], 0, "country is not set"),
        (['name = "f"', 'of = "x"', 'how = "lag"', "row = 1"], 4, "features.1.row: no such setting; did you mean 'rows'?"),
        (['name = "f"', 'of = "x"', 'how = "lag"', 'rows = "1x"'], 4, "features.1.rows = '1x': expected to be"),
        (['name = "f"', 'of = "x"', "rows = 1"], 0, "features.1.how: is not set"),
    ],
)
def test_a_fault_of_a_feature_names_the_line_of_its_key_or_else_of_its_heading(
    tmp_path: Path, lines: list[str], at: int, words: str
) -> None:
    text = SCHEMA + FEATURE + "\n".join(["[[features]]", *lines, "", FEATURE.replace("fine", "last")])
    (told,) = faults_of(tmp_path / "f.toml", text)
    assert told.startswith(f"f.toml:{FIRST + at}: ")
    assert words in told


def test_each_of_several_faults_names_its_own_line_also_within_an_array(tmp_path: Path) -> None:
    text = 'features = [\n  { name = "a", of = "x", how = "lag", rows = 0 },\n\n  { name = "b", of = "q", how = "log" },\n]\n'
    told = faults_of(tmp_path / "f.toml", text + SCHEMA + "[trainer]\n")
    assert [line.split(" ")[0] for line in told] == ["f.toml:2:", "f.toml:4:"]


def test_what_is_not_from_the_file_names_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRENTEZA_TRAINER__WINDOW_ROWS", "few")
    assert faults_of(tmp_path / "f.toml", "[trainer]\nwindow_rows = 500\n")[0].startswith("trainer.window_rows = 'few'")
    monkeypatch.delenv("CORRENTEZA_TRAINER__WINDOW_ROWS")
    monkeypatch.setenv("CORRENTEZA_FEATURES", '[{"name": "g", "of": "z", "how": "lag", "rows": 1}]')
    assert faults_of(tmp_path / "f.toml", SCHEMA + FEATURE)[0].startswith("feature 'g': of = 'z'")


def test_evaluate_names_the_line_too_where_the_schema_is_that_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("x,y\n" + "1,2\n" * 30, encoding="utf-8")
    (tmp_path / "f.toml").write_text(FEATURE.replace('"x"', '"z"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"f\.toml:3: feature 'fine': of = 'z': no such field"):
        evaluate.settings_of(evaluate.Request(tmp_path / "data.csv", "y", config=tmp_path / "f.toml"))


def test_the_line_is_that_of_the_key_whatever_stands_before_it() -> None:
    text = '''a = """
b = 1
"""
b = [ # ]
  [1,
   [2]],
  "]"]
[t.u]
"k v" = { w = 5 }
[[t.list]]
[[t.list]]
  deep.er = 6
'''
    wanted = {("a",): 3, ("b",): 4, ("b", 1): 7, ("t",): 8, ("t", "u", "k v", "w"): 9, ("t", "list", 1, "deep", "er"): 12}
    assert {path: line_of(text, path) for path in wanted} == wanted
