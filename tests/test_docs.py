"""What the documentation shows is what happens: its commands, its outputs, its settings, its names.

In all pages a `sh` or `python` block is run here against a running system, with the ports moved; a
`json` or `text` block right behind it is its output. `console` blocks are for reading only.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from tests.tools import PATIENCE_S, absent

from correnteza.config import Settings, load
from correnteza.generator.replay import ReplaySource
from correnteza.generator.stage import GeneratorStage
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import with_offsets
from correnteza.trainer.estimators import check

from .docs_system import (
    BIKES,
    ENGLISH,
    FENCE,
    PAGES,
    PORTUGUESE,
    ROOT,
    Block,
    World,
    blocks,
    data_file,
    runnable,
    without_comments,
)

REFERENCE = ROOT / "docs" / "reference.md"
EXAMPLES = {
    "bikes": ("bike_sharing_hour.csv.gz", 0),
    "metro": ("metro_interstate_traffic_volume.csv.gz", 11),
    "approval": ("trump_approval.csv.gz", 0),
}
"""For each example that replays: its file, and how many of its records are rejected."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One system at a time."""
    if shutil.which("curl") is None:
        absent("curl", "on Debian: apt install curl")
    made = World(tmp_path_factory.mktemp("docs"))
    yield made
    made.end()


# Commands and outputs


@pytest.mark.parametrize("block", runnable())
def test_a_command_works_and_prints_what_is_shown(world: World, block: Block) -> None:
    assert_shown(block, world.of("demo").run(block))


def assert_shown(block: Block, printed: str) -> None:
    """What was printed has the form of what is shown: the keys of JSON, the first line of a text."""
    shown = block.output
    if shown is not None and shown.language == "json":
        assert alike(json.loads(shown.text), json.loads(printed)), f"{shown.where} differs in form from: {printed}"
    elif shown is not None:
        assert first_line(printed) == first_line(shown.text), f"{shown.where} differs from: {printed}"


def alike(shown: Any, printed: Any) -> bool:
    """Whether two JSON values have the same keys and kinds; null may stand for any value.

    >>> alike({"a": [1, 2]}, {"a": [3.5]}), alike({"a": 1}, {"b": 1}), alike({"a": None}, {"a": 1}), alike([1], ["x"])
    (True, False, True, False)
    """
    if shown is None or printed is None:
        return True
    if isinstance(shown, dict) and isinstance(printed, dict):
        return shown.keys() == printed.keys() and all(alike(shown[key], printed[key]) for key in shown)
    if isinstance(shown, list) and isinstance(printed, list):
        return bool(shown) == bool(printed) and all(alike(shown[0], entry) for entry in printed)
    number = isinstance(shown, int | float) and isinstance(printed, int | float)
    return type(shown) is type(printed) or number


def first_line(text: str) -> str:
    """The first line that is not blank, with any number as 0 and any gap as one blank."""
    return re.sub(r"\d[\d,.]*", "0", " ".join(text.strip().splitlines()[0].split()))


def test_a_version_put_back_into_service_gives_the_same_number(world: World) -> None:
    """A promise of the README."""
    system, answers = world.of("demo"), []
    for version in (1, 2, 1):
        requests.post(system.url(3, f"/models/{version}/promote"), timeout=PATIENCE_S).raise_for_status()
        system.wait(lambda: system.predict({"age": 37})["model_version"] == version, f"version {version}")  # noqa: B023 - at once
        answers.append(system.predict({"age": 37, "job": "Enfermeiro"})["prediction"])
    requests.post(system.url(3, "/models/unpin"), timeout=PATIENCE_S).raise_for_status()
    assert answers[0] == answers[2] != answers[1]


def test_every_shared_metric_is_in_the_reference(world: World) -> None:
    system = world.of("demo")
    families: list[set[str]] = []
    for place in range(1, 5):
        text = requests.get(system.url(place, "/metrics"), timeout=PATIENCE_S).text
        families.append(set(re.findall(r"# TYPE (\S+)", text)))
    page = REFERENCE.read_text(encoding="utf-8")
    assert [name for name in sorted(set.intersection(*families)) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("block", runnable(BIKES))
def test_a_command_on_the_bike_data_works_and_prints_what_is_shown(world: World, block: Block) -> None:
    assert_shown(block, world.of("bikes").run(block))


# Settings


def tables() -> list[Any]:
    """Every TOML text of pages and examples, by its place."""
    shown = [pytest.param(b.text, id=b.where) for page in PAGES for b in blocks(page) if b.language == "toml"]
    files = [pytest.param(path.read_text(encoding="utf-8"), id=path.name) for path in sorted((ROOT / "examples").iterdir())]
    return shown + files


@pytest.mark.parametrize("text", tables())
def test_settings_that_are_shown_are_valid_and_can_be_trained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(text, encoding="utf-8")
    settings = load(path)
    check(settings.trainer.estimator, settings.trainer.params)


@pytest.mark.parametrize("page", [ENGLISH, PORTUGUESE], ids=lambda page: page.name)
def test_an_example_that_is_shown_is_the_file(page: Path) -> None:
    shown = {re.findall(r'^name = "(\w+)"', b.text, re.MULTILINE)[0]: b for b in blocks(page) if b.language == "toml"}
    for name in ("bikes", "drift"):
        path = ROOT / "examples" / f"{name}.toml"
        file = Block(path, 1, "toml", path.read_text(encoding="utf-8"), "")
        assert without_comments(shown[name]) == without_comments(file)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_replays_its_file_whole_and_rejects_what_it_says(name: str) -> None:
    file, expected = EXAMPLES[name]
    path = data_file(file)
    settings = load(ROOT / "examples" / f"{name}.toml", {"generator": {"path": str(path)}})
    rows = gzip.decompress(path.read_bytes()).count(b"\n") - 1
    logs = replayed(settings)
    assert (logs["raw"].num_rows, logs["generator rejected"].num_rows) == (rows, 0)
    assert logs["normalizer rejected"].num_rows == expected


def replayed(settings: Settings) -> dict[str, pa.Table]:
    """What generator and normalizer make of a file."""
    schema = settings.schema_of_records
    source, normalizer = ReplaySource(settings.generator, schema), NormalizerStage(schema, settings.normalizer)
    made: dict[str, list[pa.RecordBatch]] = {"raw": [], "generator rejected": [], "normalizer rejected": []}
    state, position, offset = normalizer.initial(), None, 1
    while (part := source.read(position, 10_000)).batch.num_rows:
        position = part.next
        step = GeneratorStage(schema).step(None, part.batch)
        made["generator rejected"] += [step.outputs["rejected"]] if "rejected" in step.outputs else []
        if "raw" in step.outputs:
            made["raw"].append(step.outputs["raw"])
            done = normalizer.step(state, with_offsets(step.outputs["raw"], offset))
            state, offset = done.state, offset + step.outputs["raw"].num_rows
            made["normalizer rejected"] += [done.outputs["rejected"]] if "rejected" in done.outputs else []
    return {name: pa.Table.from_batches(parts) if parts else pa.table({}) for name, parts in made.items()}


def test_the_guide_to_an_own_csv_shows_what_becomes_of_its_rows(tmp_path: Path) -> None:
    shown = {block.language: block.text for block in blocks(ROOT / "docs" / "how-to" / "own-csv.md")}
    (tmp_path / "houses.csv").write_text(shown["csv"], encoding="utf-8")
    (tmp_path / "houses.toml").write_text(shown["toml"], encoding="utf-8")
    logs = replayed(load(tmp_path / "houses.toml", {"generator": {"path": str(tmp_path / "houses.csv")}}))
    page = (ROOT / "docs" / "how-to" / "own-csv.md").read_text(encoding="utf-8")
    for row in logs["raw"].to_pylist():
        assert re.search(rf"{row['id']} +\S+ \S+ +{row['district']}", page)
    for service in ("generator", "normalizer"):
        for row in logs[f"{service} rejected"].to_pylist():
            assert re.search(rf"{service} .* {re.escape(row['reason'])}", page)


# Names


def test_the_portuguese_page_is_the_english_one() -> None:
    """The same commands, outputs and settings in the same order, and headings and tables of the same form."""
    one, other = ([(b.language, without_comments(b)) for b in blocks(page) if b.language] for page in (ENGLISH, PORTUGUESE))
    assert one == other
    assert outline(ENGLISH) == outline(PORTUGUESE)


def outline(page: Path) -> list[str]:
    """Levels of the headings, and columns of the tables' rows, in order."""
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    return [line.split()[0] if line.startswith("#") else str(line.count("|")) for line in lines if line[:1] in ("#", "|")]


def test_the_reference_is_up_to_date() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    assert page == builder().updated(page), "docs/reference.md is out of date; run: make docs"


def builder() -> Any:
    """The module `docs/build_reference.py`."""
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_test_that_is_named_is_there(page: Path) -> None:
    """What looks like a path of the repository, or like a module of the package, exists; a test is in its file."""
    for token in re.findall(r"`([\w./-]+(?:::\w+)?)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, test = token.partition("::")
        ours = re.match(r"(src|tests|docs|bench|examples)/", name)
        if not ours and not name.endswith(".py"):
            continue
        places = [ROOT / name, *(ROOT / "src" / "correnteza").rglob(name)]
        path = next((place for place in places if place.exists()), None)
        assert path is not None, f"{page.name}: {token}"
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{page.name}: {token}"
