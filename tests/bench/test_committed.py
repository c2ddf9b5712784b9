"""README.md's table is what the committed result gives: date, machine, peers, every figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamella.bench import report

ROOT = Path(__file__).resolve().parent.parent.parent
COMMITTED = ROOT / "benchmarks" / "results" / "one-layer.json"


@pytest.fixture
def committed():
    return json.loads(COMMITTED.read_text())


def test_the_readme_s_table_is_of_the_committed_result(committed):
    begin, end = report.MARKERS
    _, _, rest = (ROOT / "README.md").read_text().partition(begin)
    table, found, _ = rest.partition(end)
    assert found
    assert table.strip() == report.markdown(committed).strip()


def test_the_committed_result_is_a_whole_run_without_a_defect(committed):
    assert (committed["schema"], committed["mode"], committed["errors"]) == (report.SCHEMA, "full", [])
    assert committed["rounds"] >= 5
    assert committed["build"] == "wheel"
    assert {figure["verdict"] for figure in committed["figures"]} <= {"met", "missed"}
    assert {figure["fs"] for figure in committed["figures"]} == {"tmpfs", "ext4"}
