"""Versions are whole or not there, verified before use, and one of them is in service."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import pytest

from correnteza.errors import ConfigError, ModelError, TamperedModelError, UnknownModelError
from correnteza.log.base import Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.testing import read_all
from correnteza.trainer import manifests
from correnteza.trainer import registry as registry_module
from correnteza.trainer.artefacts import Artefacts
from correnteza.trainer.manifests import MANIFESTS
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS, Current, decision_rows, promotion_rows
from correnteza.trainer.registry import Meta, ModelRow, Registry, load_key, model_rows
from correnteza.trainer.training import Trained

KEY = bytes(range(32))
AT = datetime(2024, 5, 1, 12, 30, 15, 123456, UTC)
FILES = ("model.onnx", "checkpoint.joblib", "model.json")


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def trained(text: str = "a") -> Trained:
    buffer = io.BytesIO()
    joblib.dump({"estimator": text}, buffer)
    return Trained(f"onnx {text}".encode(), buffer.getvalue(), 1.25, ("be careful",))


def meta(parent: int | None = None, **evaluation: float) -> Meta:
    return Meta(
        parent=parent,
        created_at=AT,
        reason="10 s have passed",
        decision="better",
        estimator="sklearn.linear_model.Ridge",
        params={"alpha": 2.0},
        seed=7,
        rows=100,
        first_offset=11,
        last_offset=110,
        scaler_version=3,
        schema_sha256="ab" * 32,
        evaluation=evaluation,
    )


@pytest.fixture(params=["memory", "sql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = MemoryStore() if request.param == "memory" else SqlStore(tmp_path / "trainer.db")
    yield store
    store.close()


@pytest.fixture
def registry(tmp_path: Path, store: Store) -> Registry:
    return Registry(tmp_path / "models", store, KEY)


def commit(store: Store, row: ModelRow, promote: bool = True) -> None:
    """What the learner does: version and promotion in one transaction."""
    outputs = {"models": model_rows(row)}
    if promote:
        outputs["promotions"] = promotion_rows(row.version, AT, "better")
    store.commit("learner", store.claim("learner").epoch, None, b"", outputs)


def learn(registry: Registry, store: Store, versions: int, promote: bool = True) -> None:
    """Make versions, each the child of the one in service."""
    for _ in range(versions):
        version, current = registry.next_version(), registry.current()
        parent = None if current is None else current.version
        commit(store, registry.write(version, trained(str(version)), meta(parent)), promote)


def test_a_version_is_in_the_registry_and_in_service_when_its_rows_are_committed_and_not_before(
    registry: Registry, store: Store
) -> None:
    assert (registry.next_version(), registry.current(), registry.versions()) == (1, None, [])
    row = registry.write(1, trained(), meta(mae=3.5))
    assert registry.versions() == []
    with pytest.raises(UnknownModelError, match="no model version 1; there is none yet"):
        registry.model_bytes(1)
    commit(store, row)
    assert registry.versions() == [row] == [registry.get(1)]
    assert registry.current() == Current(1, False, "better")
    assert registry.next_version() == 2
    assert registry.model_bytes(1) == b"onnx a"
    assert registry.checkpoint(1) == {"estimator": "a"}


def test_model_json_tells_what_a_version_is_and_where_it_comes_from(registry: Registry, store: Store, tmp_path: Path) -> None:
    commit(store, registry.write(1, trained(), meta(mae=3.5, rmse=float("nan"))))
    manifest = registry.manifest(1)
    expected: dict[str, Any] = {
        "version": 1,
        "parent": None,
        "created_at": AT.isoformat(),
        "reason": "10 s have passed",
        "decision": "better",
    }
    expected |= {"estimator": "sklearn.linear_model.Ridge", "params": {"alpha": 2.0}, "seed": 7, "rows": 100, "train_s": 1.25}
    expected |= {"first_offset": 11, "last_offset": 110, "scaler_version": 3, "schema_sha256": "ab" * 32}
    expected |= {"evaluation": {"mae": 3.5, "rmse": None}, "warnings": ["be careful"]}
    assert {name: manifest[name] for name in expected} == expected
    assert set(manifest["files"]) == {"model.onnx", "checkpoint.joblib"}
    assert "scikit-learn" in manifest["libraries"]
    assert sorted(os.listdir(tmp_path / "models" / "1")) == sorted(FILES)
    assert json.loads((tmp_path / "models" / "1" / "model.json").read_text())["hmac"]


def test_another_process_sees_the_same_versions_in_whatever_order_it_looks(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    early = Registry(tmp_path / "models", store, KEY)
    assert early.current() is None
    learn(registry, store, 5)
    late = Registry(tmp_path / "models", store, KEY)
    assert early.versions() == registry.versions() == late.versions()
    assert early.current() == registry.current() == late.current() == Current(5, False, "better")


def test_a_pinned_version_is_in_service_until_the_next_promotion(registry: Registry, store: Store) -> None:
    learn(registry, store, 3)
    assert registry.promote(2, "3 is worse at night", pinned=True) == Current(2, True, "3 is worse at night")
    assert registry.current() == Current(2, True, "3 is worse at night")
    learn(registry, store, 1, promote=False)
    assert registry.current() == Current(2, True, "3 is worse at night")
    registry.promote(4, "back to normal", pinned=False)
    assert registry.current() == Current(4, False, "back to normal")


def test_a_promotion_tells_how_it_came_about_and_what_was_in_service_before(registry: Registry, store: Store) -> None:
    learn(registry, store, 2)
    registry.promote(1, "by hand", pinned=True)
    registry.promote(2, "no longer", pinned=False)
    rows = read_all(store.log("promotions", PROMOTIONS))[2:]
    assert [(row["version"], row["previous"], row["kind"], row["pinned"]) for row in rows] == [
        (1, 2, "by_hand", 1),
        (2, 1, "unpinned", 0),
    ]
    assert [json.loads(row["evidence"]) for row in rows] == [{}, {}]


def test_the_last_decision_about_a_version_is_the_one_that_holds(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = store.log("decisions", DECISIONS)
    assert registry.decisions() == {}
    for version, decision in ((1, "promoted"), (2, "promoted"), (2, "rolled_back"), (3, "refused")):
        log.append(decision_rows(version, AT, decision, "why"))  # type: ignore[arg-type]
    assert registry.decisions() == {1: "promoted", 2: "rolled_back", 3: "refused"}
    monkeypatch.setattr(registry_module, "ROWS_IN_MEMORY", 2)
    assert registry.decisions() == {2: "rolled_back", 3: "refused"}


def test_only_versions_with_sound_files_are_promoted(registry: Registry, store: Store, tmp_path: Path) -> None:
    learn(registry, store, 2)
    with pytest.raises(UnknownModelError, match="no model version 9; there are 1 to 2"):
        registry.promote(9, "try", pinned=False)
    (tmp_path / "models" / "1" / "model.onnx").write_bytes(b"other")
    with pytest.raises(TamperedModelError):
        registry.promote(1, "try", pinned=False)
    assert registry.current() == Current(2, False, "better")


def _edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _edit_manifest(path: Path) -> None:
    if path.name == "model.json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 5}))
    else:
        path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(b"\xff{")


@pytest.mark.parametrize("change", [_edit, _edit_manifest, _garble, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(
    name: str, change: Callable[[Path], None], registry: Registry, store: Store, tmp_path: Path
) -> None:
    learn(registry, store, 1)
    change(tmp_path / "models" / "1" / name)
    read = registry.checkpoint if name == "checkpoint.joblib" else registry.model_bytes
    with pytest.raises(TamperedModelError, match=name):
        read(1)


@pytest.mark.parametrize("text", ["[]", "{}", '{"hmac": 5}', '{"hmac": "ab"}', '"text"', "[" * 100_000, ""])
def test_a_model_json_of_any_form_is_refused_without_another_error(
    text: str, registry: Registry, store: Store, tmp_path: Path
) -> None:
    learn(registry, store, 1)
    (tmp_path / "models" / "1" / "model.json").write_text(text)
    with pytest.raises(TamperedModelError, match=r"model.json: does not match its HMAC"):
        registry.manifest(1)


def test_a_checkpoint_is_not_unpickled_unless_it_is_the_registered_one(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    learn(registry, store, 1)
    (tmp_path / "models" / "1" / "checkpoint.joblib").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(TamperedModelError, match=r"checkpoint.joblib"):
        registry.checkpoint(1)
    assert not (tmp_path / "boom").exists()


def test_a_version_cannot_stand_in_for_another_nor_one_of_another_key_or_database(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    learn(registry, store, 2)
    models = tmp_path / "models"
    with pytest.raises(TamperedModelError, match="HMAC"):
        Registry(models, store, bytes(32)).model_bytes(1)
    shutil.rmtree(models / "2")
    shutil.copytree(models / "1", models / "2")
    with pytest.raises(TamperedModelError, match="HMAC"):
        registry.model_bytes(2)
    row = registry.get(1)
    Artefacts(models, KEY).write(1, {"model.onnx": b"of another database", "checkpoint.joblib": b""}, {"rows": row.rows})
    with pytest.raises(TamperedModelError, match="is not the version 1 that the database lists"):
        registry.model_bytes(1)


@pytest.mark.parametrize("moment", ["while writing", "before the commit"])
def test_a_crash_leaves_the_last_version_in_service_and_the_number_free(
    moment: str, registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(registry, store, 1)
    with monkeypatch.context() as patch:
        if moment == "while writing":
            patch.setattr(Path, "rename", _crash)
            with pytest.raises(InterruptedError):
                registry.write(2, trained("lost"), meta(1))
        else:
            registry.write(2, trained("lost"), meta(1))
    again = Registry(tmp_path / "models", store, KEY)
    left = again.recover()
    assert left == (("2",) if moment == "before the commit" else (".tmp-2",))
    assert os.listdir(tmp_path / "models") == ["1"]
    assert (again.current(), again.next_version()) == (Current(1, False, "better"), 2)
    learn(again, store, 1)
    assert again.model_bytes(2) == b"onnx 2"
    assert again.recover() == ()


def _crash(*_: Any) -> None:
    raise InterruptedError


def test_a_restarted_training_may_write_its_version_again_even_without_recovery(registry: Registry, store: Store) -> None:
    registry.write(1, trained("first"), meta())
    commit(store, registry.write(1, trained("again"), meta()))
    assert registry.model_bytes(1) == b"onnx again"


def test_a_registered_version_is_never_written_again(registry: Registry, store: Store) -> None:
    learn(registry, store, 2)
    with pytest.raises(ModelError, match="version 2 is registered already; expected 3"):
        registry.write(2, trained("x"), meta())
    assert registry.model_bytes(2) == b"onnx 2"


def test_pruning_keeps_the_newest_the_one_in_service_its_parent_the_one_before_it_and_every_row(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    learn(registry, store, 4)
    registry.promote(3, "pinned", pinned=True)
    learn(registry, store, 6, promote=False)
    assert registry.prune(2) == (1, 5, 6, 7, 8)
    assert sorted(map(int, os.listdir(tmp_path / "models"))) == [2, 3, 4, 9, 10]
    assert registry.prune(2) == ()
    assert [row.version for row in registry.versions()] == list(range(1, 11))
    with pytest.raises(UnknownModelError, match=r"version 7 has no files .* trainer.keep_versions"):
        registry.model_bytes(7)


def aged(registry: Registry, store: Store, ages_s: list[float], now_s: float) -> None:
    """Versions of some ages, each of which has come into service."""
    for age_s in ages_s:
        version, current = registry.next_version(), registry.current()
        about = replace(
            meta(None if current is None else current.version), created_at=datetime.fromtimestamp(now_s - age_s, UTC)
        )
        commit(store, registry.write(version, trained(str(version)), about))


def test_old_versions_are_thinned_out_by_age_and_what_is_needed_stays(registry: Registry, store: Store, tmp_path: Path) -> None:
    """Also those that are older than memory reaches, and by a registry that has just been opened."""
    now_s = AT.timestamp() // 3600 * 3600 + 3599.0  # the last second of an hour, and so of ten minutes
    ages_s = [float(age_s) for age_s in range(7000, 0, -100)]
    aged(registry, store, ages_s, now_s)
    registry.promote(5, "by hand", pinned=True)
    registry.prune(4, 50, now_s)
    left = sorted(map(int, os.listdir(tmp_path / "models")))
    assert {5, 70, 67, 68, 69}.issubset(left), "the one in service, the one before it, the newest"
    assert len([version for version in left if ages_s[version - 1] < 600]) == 5
    assert len([version for version in left if 600 <= ages_s[version - 1] < 3600]) == 5
    assert len([version for version in left if version not in (4, 5) and ages_s[version - 1] >= 3600]) == 1
    opened = Registry(tmp_path / "models", store, KEY)
    assert opened.prune(4, 50, now_s) == ()
    opened.prune(4, 0, now_s)
    assert sorted(map(int, os.listdir(tmp_path / "models"))) == [4, 5, 67, 68, 69, 70]


def test_pruning_leaves_a_version_alone_that_is_about_to_be_committed(registry: Registry, store: Store) -> None:
    learn(registry, store, 3)
    row = registry.write(4, trained("4"), meta(3))
    registry.prune(2)
    commit(store, row)
    assert registry.model_bytes(4) == b"onnx 4"


def test_model_json_of_a_bounded_number_of_pruned_versions_stays(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "KEPT", 3)
    learn(registry, store, 1)
    expected = registry.manifest(1)
    learn(registry, store, 3)
    registry.prune(2)
    assert registry.remembered(1) == expected
    learn(registry, store, 6)
    registry.prune(2)
    assert store.log("manifests", MANIFESTS).bounds().rows == 3
    assert [registry.remembered(version)["version"] for version in (6, 7, 8, 9, 10)] == [6, 7, 8, 9, 10]
    with pytest.raises(UnknownModelError, match="version 1 has no files"):
        registry.remembered(1)


def test_another_model_is_not_put_back(registry: Registry, store: Store, tmp_path: Path) -> None:
    learn(registry, store, 4)
    registry.prune(2)
    manifest = registry.remembered(1)
    with pytest.raises(ModelError, match="version 1 is not put back: what was made has sha256"):
        registry.put_back(1, trained("other"), manifest)
    assert not (tmp_path / "models" / "1").exists()
    assert registry.put_back(1, trained("1"), manifest) == tmp_path / "models" / "1"
    assert registry.model_bytes(1) == b"onnx 1"
    assert registry.prune(2) == ()


def test_memory_is_bounded_and_a_version_older_than_memory_is_known_by_its_files(
    registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(registry, store, 1)
    row = registry.get(1)
    registry.promote(1, "for ever", pinned=True)
    monkeypatch.setattr(registry_module, "ROWS_IN_MEMORY", 3)
    learn(registry, store, 8, promote=False)
    registry.prune(2)
    for seen in (registry, Registry(tmp_path / "models", store, KEY)):
        assert [r.version for r in seen.versions()] == [7, 8, 9]
        assert seen.get(1) == row
        assert seen.model_bytes(1) == b"onnx 1"
        assert seen.current() == Current(1, True, "for ever")
        with pytest.raises(UnknownModelError):
            seen.get(2)
        with pytest.raises(UnknownModelError):
            seen.get(0)


def test_a_key_is_made_once_readable_by_its_owner_only_whoever_comes_first(tmp_path: Path) -> None:
    keys: list[bytes] = []
    gate = threading.Barrier(8)

    def load() -> None:
        gate.wait()
        keys.append(load_key(tmp_path / "data"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert (tmp_path / "data" / "key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "data") == ["key"]
    assert load_key(tmp_path / "other") != keys[0]


def test_a_damaged_key_is_a_mistake_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="key: holds 5 bytes"):
        load_key(tmp_path)
