"""README.md's tables are what the committed results give: date, machine, peers, every figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamella.bench import report

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


@pytest.fixture(params=sorted(path.stem for path in RESULTS.glob("*.json")))
def name(request):
    return request.param


@pytest.fixture
def committed(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_every_result_has_its_table_and_every_table_its_result():
    tables = {name for name, (begin, _) in report.MARKERS.items() if begin in README}
    assert tables == {path.stem for path in RESULTS.glob("*.json")}
    assert "one-layer" in tables


def test_the_readme_s_table_is_of_the_committed_result(name, committed):
    begin, end = report.MARKERS[name]
    _, _, rest = README.partition(begin)
    table, found, _ = rest.partition(end)
    assert found
    assert table.strip() == report.markdown(committed).strip()


def test_the_committed_result_is_a_whole_run_without_a_defect(committed):
    assert (committed["schema"], committed["mode"], committed["errors"]) == (report.SCHEMA, "full", [])
    assert committed["rounds"] >= 5
    assert committed["build"] == "wheel"
    assert {figure["verdict"] for figure in committed["figures"]} <= {"met", "missed"}
    assert {figure["fs"] for figure in committed["figures"]} == {"tmpfs", "ext4"}


def test_what_it_is_of(name, committed):
    panels = {run["panel"] for run in committed["runs"]}
    wanted = {"one-layer": {"apply gzip", "diff", "list"}, "images": {"unpack gzip", "unpack zstd", "squash", "upper diff"}}
    assert wanted[name] <= panels
