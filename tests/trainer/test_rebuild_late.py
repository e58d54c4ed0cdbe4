"""Versions that have learned from late labels can be made again: the logs say in which order they were taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from correnteza import cli, config
from correnteza.errors import OffsetRemovedError
from correnteza.log.base import Policy
from correnteza.log.memory import MemoryStore
from correnteza.trainer.recipe import Recipe

from .late import Late, played
from .test_rebuild import again, on_disk
from .worlds import BY_ROWS, TESTED, WAYS

pytestmark = pytest.mark.usefixtures("tested_early")

BY_SECONDS = TESTED.model_copy(update={"retrain_every_rows": None, "retrain_every_s": 0.0})


@pytest.mark.parametrize("settings", [*WAYS.values(), BY_SECONDS], ids=[*WAYS, "seconds"])
def test_every_version_over_late_and_corrected_labels_can_be_made_again(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], settings: config.Trainer
) -> None:
    """With its files and without them, over labels of records and of predictions."""
    world = played(Late(tmp_path, open_store, settings), truths)
    effects = world.ledger.figures["effects"]
    assert min(effects[effect] for effect in ("joined", "corrected", "early")) > 0
    assert any(row["prediction_offset"] is not None for row in world.taken("joined"))
    versions = [row["version"] for row in world.models()]
    with_files = [version for version in versions if (tmp_path / "models" / str(version)).exists()]
    assert 0 < len(with_files) < len(versions)
    for version in versions[-12:]:
        assert again(world, version).equal


@pytest.mark.parametrize("when", ["kill_before", "kill_after"])
def test_a_version_that_was_made_after_a_kill_can_be_made_again(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], when: str
) -> None:
    world = Late(tmp_path, open_store, TESTED)
    setattr(world.store, when, 33)
    played(world, truths)
    inherited = [row["version"] for row in world.models() if inherits(world, row["version"])]
    assert inherited
    for row in world.models():
        assert again(world, row["version"]).equal


def inherits(world: Late, version: int) -> bool:
    """Whether a version has trees of an older one."""
    recipe = Recipe.of(world.registry.remembered(version)["recipe"])
    return recipe.first < recipe.first_renewed


def test_outcomes_alone_are_put_together_too(tmp_path: Path, open_store: MemoryStore, truths: list[float]) -> None:
    """No record comes any more, so all of them were taken behind the same row, and only their number tells them apart."""
    world = Late(tmp_path, open_store, BY_ROWS)
    world.arrive(300)
    for last in range(25, 301, 25):
        world.tell_and_go_on(truths, last - 24, last)
    assert len(world.models()) >= 3
    assert {world.registry.remembered(row["version"])["read_offset"] for row in world.models()} == {300}
    assert all(again(world, row["version"]).equal for row in world.models())


@pytest.mark.parametrize("log", ["labels", "predictions", "normalized"])
def test_what_retention_has_taken_of_the_outcomes_is_said_and_no_other_model_is_made(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], log: str
) -> None:
    world = played(Late(tmp_path, open_store, BY_ROWS), truths)
    owner = {"labels": world.labels, "predictions": world.predictions, "normalized": world.normalized}[log]
    owner.trim(Policy(rows=2 * owner.bounds().rows // 3), 0.0)
    made, refused = [], []
    for row in world.models():
        try:
            made.append(again(world, row["version"]).equal)
        except OffsetRemovedError as error:
            refused.append(str(error))
    assert made
    assert all(made)
    assert refused
    assert all("removed" in reason and "raise retention.rows" in reason for reason in refused)


def test_the_command_reads_the_outcomes_in_the_data_folder(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    world = played(Late(tmp_path / "ran", open_store, BY_ROWS), truths)
    on_disk(world, tmp_path)
    first = world.models()[0]
    command = ["models", "rebuild", "1", "-c", str(tmp_path / "c.toml"), "--data-dir", str(tmp_path), "--keep"]
    assert cli.main(command) == 0
    assert f"byte by byte (sha256 {first['sha256']}); its files are in {tmp_path}" in capsys.readouterr().out
