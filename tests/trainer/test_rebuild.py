"""The log, `model.json` and the seed give the same version again, or it is said why not."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import cli, config
from correnteza.errors import (
    ConfigError,
    ModelError,
    OffsetRemovedError,
    TamperedModelError,
    TrainingFailedError,
    UnknownModelError,
)
from correnteza.log.base import Policy
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.normalizer.ordering import InOrder
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import OFFSET, TIMESTAMP, Field, Schema, empty
from correnteza.testing import read_all
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.labels import LABELS, LOG
from correnteza.trainer.manifests import MANIFESTS
from correnteza.trainer.past import Past
from correnteza.trainer.rebuild import Rebuilt, cursor_behind, rebuild
from correnteza.trainer.recipe import Recipe
from correnteza.trainer.training import Job, Trained, fit
from correnteza.trainer.upstream import Upstream

from .worlds import KEY, SCHEMA, Trainings, World, normalized, raw, upstream_of

TOML = """
[schema]
target = "price"
fields = { size = "float", rooms = "integer", kind = "category", note = "text" }
"""


class Forgetful(Trainings):
    """Trains every version in a process that remembers nothing."""

    fresh = True


def past_of(world: World, upstream: Upstream) -> Past:
    return Past(upstream, world.store.log("predictions", PREDICTIONS), world.store.log(LOG, LABELS), SCHEMA)


def from_others(world: World, version: int, source: MemoryStore) -> Rebuilt:
    """The same from the logs of another normalizer."""
    upstream = upstream_of(source)
    return rebuild(version, world.registry, upstream, past_of(world, upstream), SCHEMA, fit)


def again(world: World, version: int, keep: bool = False, train: Any = fit, schema: Schema = SCHEMA) -> Rebuilt:
    upstream = upstream_of(world.source)
    return rebuild(version, world.registry, upstream, past_of(world, upstream), schema, train, keep)


@pytest.fixture(scope="module")
def ran(upstream_store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run whose oldest versions have no files any more."""
    world = World(tmp_path_factory.mktemp("ran"), upstream_store)
    world.run()
    return world


def test_every_version_can_be_made_again_whether_its_files_are_there_or_not(ran: World) -> None:
    """Over windows that slide, rows without label, several scaler versions and growing categories."""
    assert len({m["scaler_version"] for m in ran.models()}) > 2
    assert not (ran.folder / "models" / "1").exists()
    for row in ran.models():
        rebuilt = again(ran, row["version"])
        assert (rebuilt.found, rebuilt.rows, rebuilt.notes) == (row["sha256"], row["rows"], ())
        assert rebuilt.equal
        assert str(rebuilt).endswith(f"is the registered model, byte by byte (sha256 {row['sha256']})")


def test_versions_over_records_that_came_late_are_those_of_the_ordered_stream_and_can_be_made_again(tmp_path: Path) -> None:
    """Raw offsets then do not grow in `normalized`, and new categories come late: what a version knows goes by its rows."""
    ordered, late = World(tmp_path / "ordered", timed(0)), World(tmp_path / "late", timed(40))
    for world in (ordered, late):
        world.run()
    offsets = read_all(late.source.log("normalized", SCHEMA.normalized))
    assert [row["raw_offset"] for row in offsets] != sorted(row["raw_offset"] for row in offsets)
    assert len(late.models()) > 3
    assert [row["sha256"] for row in late.models()] == [row["sha256"] for row in ordered.models()]
    for row in late.models():
        assert again(late, row["version"]).equal


def timed(late_s: int) -> MemoryStore:
    """What the normalizer makes of records a second apart, each up to so many seconds late."""
    schema = Schema((Field("at", "timestamp"), *SCHEMA.fields), SCHEMA.target, "at")
    records = raw(700)
    delays = np.random.default_rng(3).integers(0, late_s + 1, 700)
    arrival = np.argsort(np.arange(700) + delays, kind="stable")
    seconds = pa.array(np.arange(700) * 1_000_000).cast(TIMESTAMP)
    records = records.add_column(1, "at", seconds).take(pa.array(arrival))
    settings = config.Normalizer(block_rows=32, max_categories=5, lateness_s=late_s, idle_s=1e-9)
    source, store = MemoryStore().log("raw", schema.raw), MemoryStore()
    source.append(records)
    ordered, stage = InOrder(source, schema, settings), NormalizerStage(schema, settings)
    part = ordered.read(None, 1000)
    rest = ordered.read(part.next, 1000)
    step = stage.step(stage.initial(), pa.concat_batches([one.batch for one in (part, rest) if one.batch.num_rows]))
    for name in stage.outputs:
        rows = step.outputs.get(name, empty(stage.outputs[name]))
        rows = rows.drop_columns(["at"]) if "at" in rows.schema.names else rows
        store.log(name, rows.schema).append(rows)
    return store


def test_another_model_is_not_taken_for_the_registered_one_nor_kept(ran: World) -> None:
    def other(job: Job) -> Trained:
        job.targets[-1] += 1000.0
        return fit(job)

    rebuilt = again(ran, 1, keep=True, train=other)
    assert not rebuilt.equal
    assert rebuilt.folder is None
    assert rebuilt.found in str(rebuilt)
    assert rebuilt.registered in str(rebuilt)
    with pytest.raises(UnknownModelError):
        ran.registry.manifest(1)


def test_kept_files_are_sound_can_be_promoted_and_stay(upstream_store: MemoryStore, tmp_path: Path) -> None:
    world = World(tmp_path, upstream_store)
    world.run()
    with pytest.raises(UnknownModelError, match="`correnteza models rebuild 2 --keep` makes them again"):
        world.registry.promote(2, "by hand", pinned=True)
    before = world.registry.remembered(2)
    assert again(world, 2, keep=True).folder == tmp_path / "models" / "2"
    assert world.registry.manifest(2).items() >= {k: v for k, v in before.items() if k != "files"}.items()
    assert world.registry.checkpoint(2)["schema"] == SCHEMA
    assert world.registry.prune(2) == ()
    assert again(world, 2, keep=True).folder is None, "they are there already"
    assert world.registry.promote(2, "by hand", pinned=True).version == 2


def test_a_damaged_model_is_put_back(upstream_store: MemoryStore, tmp_path: Path) -> None:
    world = World(tmp_path, upstream_store)
    world.run()
    file = tmp_path / "models" / "7" / "model.onnx"
    good = file.read_bytes()
    file.write_bytes(b"?")
    assert again(world, 7, keep=True).folder is not None
    assert file.read_bytes() == good


def test_rows_that_retention_removed_are_named(ran: World) -> None:
    store = normalized(raw(700))
    store.log("normalized", SCHEMA.normalized).trim(Policy(rows=300), 0.0)
    begins = store.log("normalized", SCHEMA.normalized).bounds().first
    outcomes = set()
    for row in ran.models():
        first, last = row["first_offset"], row["last_offset"]
        where = "all" if first >= begins else "some" if last >= begins else "none"
        outcomes.add(where)
        if where == "all":
            assert from_others(ran, row["version"], store).equal
            continue
        part = f"the rows {first} to {begins - 1} of {first} to {last}" if where == "some" else f"all rows up to {begins - 1}"
        with pytest.raises(OffsetRemovedError, match=f"{part} were removed by retention"):
            from_others(ran, row["version"], store)
    assert outcomes == {"all", "some", "none"}


def test_a_log_without_the_rows_is_another_log(ran: World) -> None:
    last = ran.models()[-1]["version"]
    with pytest.raises(ModelError, match="ends at offset 100; expected"):
        from_others(ran, last, normalized(raw(100)))
    otherwise = normalized(raw(700, labelled=lambda i: i % 2 == 0))
    with pytest.raises(ModelError, match=r"was trained on 150 labelled rows .* here these begin at \d+"):
        from_others(ran, last, otherwise)
    fewer = normalized(raw(700, labelled=lambda i: i % 9 == 4))
    with pytest.raises(
        ModelError, match=r"version \d+ needs 150 labelled rows up to \d+, \d+ are there; is it the data folder"
    ):
        from_others(ran, last, fewer)


def test_the_cursor_behind_any_row_is_found(upstream_store: MemoryStore) -> None:
    log = upstream_store.log("normalized", SCHEMA.normalized)
    for offset in (1, 2, 350, log.bounds().next - 1):
        assert cursor_behind(upstream_of(upstream_store), offset) == log.cursor(offset)


def test_a_forest_that_grew_over_several_versions_can_be_made_again(upstream_store: MemoryStore, tmp_path: Path) -> None:
    """Versions inherit trees of the ones before, and a rival's; a rebuild grows all of them from the log."""
    forest = config.Trainer(
        estimator="sklearn.ensemble.RandomForestRegressor",
        params={"n_estimators": 6, "min_samples_leaf": 3},
        window_rows=300,
        min_rows=60,
        retrain_every_rows=30,
        batch_rows=64,
        policy="adaptive",
        promotion="newest",
    )
    world = World(tmp_path, upstream_store, settings=forest, trainings=Forgetful())
    world.run()
    recipes = {m["version"]: Recipe.of(world.registry.manifest(m["version"])["recipe"]) for m in world.models()}
    inherited = [v for v, recipe in recipes.items() if recipe.first < recipe.at + 1 - world.registry.get(v).rows]
    several = [v for v, recipe in recipes.items() if len(recipe.experts) > 1]
    for version in {inherited[0], inherited[-1], several[0], max(recipes)}:
        assert again(world, version).equal


def test_another_schema_is_refused(ran: World) -> None:
    with pytest.raises(ConfigError, match=r"version 3 was trained for another \[schema\]"):
        again(ran, 3, schema=Schema((Field("size", "float"),), "price"))


def test_a_version_that_never_was_is_said_with_those_there_are(ran: World) -> None:
    with pytest.raises(UnknownModelError, match="no model version 99; there are 1 to 7"):
        again(ran, 99)


def archived(world: World, version: int) -> str:
    rows = read_all(world.store.log("manifests", MANIFESTS))
    return str(next(row["manifest"] for row in rows if row["version"] == version))


@pytest.mark.parametrize("version", [2, 7], ids=["from the log", "from the folder"])
def test_a_manifest_that_was_changed_is_refused(version: int, upstream_store: MemoryStore, tmp_path: Path) -> None:
    world = World(tmp_path, upstream_store)
    world.run()
    file = tmp_path / "models" / str(version) / "model.json"
    forged = json.dumps({**json.loads(file.read_text() if version == 7 else archived(world, version)), "seed": 99})
    if version == 7:
        file.write_text(forged)
    else:
        rows = [{"version": version, "manifest": forged}]
        world.store.log("manifests", MANIFESTS).append(pa.RecordBatch.from_pylist(rows, MANIFESTS))
    with pytest.raises(TamperedModelError, match="does not match its HMAC"):
        again(world, version)


def test_a_library_of_another_version_is_named(ran: World, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "scikit-learn" else installed(name))
    rebuilt = again(ran, 3)
    assert rebuilt.equal
    (note,) = rebuilt.notes
    assert note.startswith("version 3 was trained with scikit-learn ")
    assert note.endswith(", here it is 0.0.1")

    def failing(job: Job) -> Trained:
        raise TrainingFailedError("it knows no such parameter")

    with pytest.raises(TrainingFailedError, match="it knows no such parameter; version 3 was trained with scikit-learn"):
        again(ran, 3, train=failing)


def on_disk(world: World, folder: Path) -> None:
    """The databases, key and settings of a data folder; no files of versions."""
    (folder / "models").mkdir()
    (folder / "key").write_bytes(KEY)
    (folder / "c.toml").write_text(TOML)
    for name, memory in (("trainer", world.store), ("normalizer", world.source)):
        store = SqlStore(folder / f"{name}.db")
        for log in memory.logs().values():
            rows = log.read(None, 10_000).batch.drop_columns([OFFSET])
            store.log(log.name, log.schema).append(rows)
        store.close()


def test_the_command_says_it_in_a_sentence_and_its_exit_code(
    ran: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over databases, in a training process."""
    on_disk(ran, tmp_path)
    command = ["models", "rebuild", "2", "-c", str(tmp_path / "c.toml"), "--data-dir", str(tmp_path)]
    assert cli.main([*command, "--keep"]) == 0
    assert f"byte by byte (sha256 {ran.models()[1]['sha256']}); its files are in {tmp_path}" in capsys.readouterr().out
    store = SqlStore(tmp_path / "normalizer.db")
    with store.connections.write() as connection:
        connection.run("update normalized set price = price + 1 where price is not null")
    store.close()
    assert cli.main(command) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "is another model: sha256 " in told.err
    assert f"registered is {ran.models()[1]['sha256']}" in told.err


def test_a_folder_without_data_is_named_and_stays_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "rebuild", "1", "--data-dir", str(tmp_path)]) == 1
    assert f"{tmp_path / 'trainer.db'}: is not there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
