"""The benchmark programs: cheap checks of what does not measure."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
PROGRAMS = (
    "compare/run.py",
    "delay.py",
    "freshness.py",
    "growth.py",
    "learning.py",
    "logs.py",
    "pipeline.py",
    "predict.py",
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_tells_what_it_does_and_has_a_quick_form(program: str) -> None:
    done = subprocess.run([sys.executable, str(BENCH / program), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def test_a_report_goes_to_the_results_and_ends_with_one_line_of_json(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = bench("system")
    monkeypatch.setattr(system, "RESULTS", tmp_path / "RESULTS.md")
    system.report("bench/some.py", {"rows_per_s": 12}, ["a **line**"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows_per_s": 12}
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("## bench/some.py, ")
    assert "- a **line**\n" in text


def test_the_plot_has_a_panel_for_each_figure_and_a_mark_for_each_point(bench: Any) -> None:
    growth = bench("growth")
    points = [growth.Point(10**e, 5.0 + e, 300.0, 40.0 * e) for e in (5, 6, 7)]
    root = ET.fromstring(growth.svg(points))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == len(growth.CURVES)
    assert len(root.findall(f"{space}circle")) == len(growth.CURVES) * len(points)
    assert {"100k", "1M", "10M", *growth.CURVES.values()} <= {text.text for text in root.iter(f"{space}text")}


def test_marks_of_the_plot_stand_at_heights_in_proportion_to_their_values(bench: Any) -> None:
    growth = bench("growth")
    points = [growth.Point(10**5, 2.0, 1.0, 1.0), growth.Point(10**6, 4.0, 1.0, 1.0)]
    marks = ET.fromstring(growth.svg(points)).findall("{http://www.w3.org/2000/svg}circle")
    base = growth.PANEL[1] - growth.MARGIN
    low, high = (base - float(mark.get("cy", "nan")) for mark in marks[:2])
    assert high == pytest.approx(2 * low, abs=0.2)


def test_every_answer_is_read_at_its_own_offset(bench: Any) -> None:
    delay = bench("delay")
    assert delay.offset_of(b'{"accepted":1,"first_offset":41,"last_offset":41}') == 41


@pytest.mark.parametrize("split", [1, 20, 60])
def test_an_answer_may_come_in_parts(bench: Any, split: int) -> None:
    """The client of `delay.py` answers when the body is complete, wherever the network cuts it."""
    import asyncio

    answer = b"HTTP/1.1 201 Created\r\nContent-Length: 18\r\nNext-Cursor: c\r\n\r\n" + b'{"first_offset":7}'

    async def ask() -> tuple[dict[str, str], bytes]:
        client = bench("delay").Client()
        client.connection_made(_Nowhere())
        asking = asyncio.create_task(client.ask(b""))
        await asyncio.sleep(0)
        client.data_received(answer[:split])
        assert not asking.done()
        client.data_received(answer[split:])
        return await asking  # type: ignore[no-any-return]

    headers, body = asyncio.run(ask())
    assert headers["next-cursor"] == "c"
    assert body == b'{"first_offset":7}'


class _Nowhere:
    def write(self, data: bytes) -> None:
        """Takes it and does nothing."""


def test_peers_have_names_of_their_own_and_programs_that_exist(bench: Any) -> None:
    peers = bench("compare.contestants")
    assert len(set(peers.NAMES)) == len(peers.NAMES)
    for name in ("literal_server", "mlflow_model", "bento_server", "ray_server", "literal_hop", "river_loop", "quix_loop"):
        compile((peers.PROGRAMS / f"{name}.py").read_text(), name, "exec")


def test_what_a_peer_is_asked_holds_all_features_in_their_order(bench: Any) -> None:
    forest, peers = bench("compare.forest"), bench("compare.contestants")
    record = forest.records(1, seed=1)[0]
    values = [record[name] for name in forest.FIELDS]
    bodies = {peer.name: json.dumps(peer.body(record)) for peer in peers.SERVERS}
    for name, body in bodies.items():
        places = [body.index(json.dumps(value)) for value in values]
        assert places == sorted(places), name


def test_a_peer_that_answers_otherwise_than_scikit_learn_is_skipped(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench("compare.run")
    run, environments = bench("compare.run"), bench("compare.environments")
    monkeypatch.setattr(run, "expected", lambda records: [5.0] * len(records))
    monkeypatch.setattr(run, "ask_json", lambda *_: {"prediction": 5.0})
    run.check("same", 1, "/", dict, lambda answer: answer["prediction"])
    monkeypatch.setattr(run, "ask_json", lambda *_: {"prediction": 5.1})
    with pytest.raises(environments.Skipped, match="not the same model"):
        run.check("other", 1, "/", dict, lambda answer: answer["prediction"])


def test_a_command_that_fails_skips_its_peer_with_what_it_said_last(bench: Any) -> None:
    environments = bench("compare.environments")
    program = "import sys; sys.exit('no such wheel')"
    with pytest.raises(environments.Skipped, match="no such wheel"):
        environments.run("peer", [sys.executable, "-c", program], 30)


def test_ratios_are_ours_divided_by_the_peers(bench: Any) -> None:
    run = bench("compare.run")

    def found(name: str, rate: float) -> Any:
        load = {"requests_per_s": rate, "p50_ms": 1.0, "p99_ms": 2.0}
        return run.Found(name, {1: load, 16: load}, "", "")

    figures = run.figures_of([found("correnteza", 6000.0), found("peer", 60.0)], {"correnteza": (90.0,), "loop": (30.0,)})
    assert figures["ratio_peer"] == 100.0
    assert figures["ratio_stream_loop"] == 3.0
