"""Laws of lineages: definitions have one place each, which they keep, and a change is known by all processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from correnteza import config, lineages
from correnteza.errors import DamagedLogError


def settings(folder: Path, *rows: int) -> config.Settings:
    """Settings with a lag for each number."""
    features = [{"name": f"lag_{n}", "of": "y", "how": "lag", "rows": n} for n in rows]
    table: dict[str, Any] = {"pipeline": {"data_dir": str(folder)}, "schema": {"target": "y", "fields": {"x": "float"}}}
    return config.load(overrides={**table, "features": features})


def test_the_first_definitions_have_the_data_folder_and_others_one_of_their_own(tmp_path: Path) -> None:
    first, second = lineages.current(settings(tmp_path)), lineages.current(settings(tmp_path, 1))
    assert (first.number, first.folder, first.before) == (1, tmp_path, None)
    assert (second.number, second.folder) == (2, tmp_path / "lineages" / "2")
    assert second.before == first
    assert lineages.current(settings(tmp_path, 1)) == second


def test_definitions_that_come_back_find_theirs_again_and_begin_nothing(tmp_path: Path) -> None:
    first = lineages.current(settings(tmp_path))
    lineages.current(settings(tmp_path, 1))
    assert lineages.current(settings(tmp_path)) == first
    assert len(lineages.read(tmp_path)) == 2
    third = lineages.current(settings(tmp_path, 2))
    assert third.before == first, "what was in force last"


def test_what_never_took_over_is_not_what_a_third_one_follows(tmp_path: Path) -> None:
    first = lineages.current(settings(tmp_path))
    lineages.current(settings(tmp_path, 1))
    assert lineages.current(settings(tmp_path, 2)).before == first


def test_after_taking_over_a_lineage_stands_alone_and_is_what_the_next_one_follows(tmp_path: Path) -> None:
    lineages.current(settings(tmp_path))
    lineages.current(settings(tmp_path, 1))
    lineages.take_over(settings(tmp_path, 1), "it is not worse")
    second = lineages.current(settings(tmp_path, 1))
    assert second.before is None
    assert lineages.current(settings(tmp_path, 2)).before == second


def test_only_looking_begins_nothing(tmp_path: Path) -> None:
    lineages.current(settings(tmp_path))
    looked = lineages.current(settings(tmp_path, 1), begin=False)
    assert (looked.number, len(lineages.read(tmp_path))) == (2, 1)


def test_a_pipeline_from_before_there_were_features_is_the_lineage_without_any(tmp_path: Path) -> None:
    (tmp_path / "normalizer.db").touch()
    assert lineages.current(settings(tmp_path, 1)).number == 2
    assert lineages.current(settings(tmp_path)).folder == tmp_path


def test_a_changed_schema_is_no_other_lineage(tmp_path: Path) -> None:
    """The generator's log belongs to the schema; the normalizer refuses it as before."""
    before = lineages.current(settings(tmp_path, 1))
    other = {"pipeline": {"data_dir": str(tmp_path)}, "schema": {"target": "y", "fields": {"z": "float"}}}
    features = [{"name": "lag_1", "of": "y", "how": "lag", "rows": 1}]
    assert lineages.current(config.load(overrides={**other, "features": features})) == before


@pytest.mark.parametrize("content", ["", "{}x", "[1]", '[{"definitions": []}]', json.dumps({"a": 1})])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / lineages.FILE).write_text(content)
    with pytest.raises(DamagedLogError, match=r"lineages\.json: cannot be read"):
        lineages.current(settings(tmp_path))
