"""The document, the text and the Markdown of a result."""

from __future__ import annotations

import json

import pytest

from lamella.bench import gate, report
from lamella.bench.__main__ import main
from tests.bench.conftest import run_of


@pytest.fixture
def found(result):
    return report.document(result)


def test_the_document_has_everything(found):
    assert set(found) == {
        "schema", "lamella", "build", "date", "mode", "rounds", "machine", "load", "peers", "libraries", "corpus", "image",
        "figures", "runs", "errors",
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found


def test_a_run_has_its_samples_and_medians(found):
    run = next(run for run in found["runs"] if run["contender"] == "lamella")
    assert (run["wall"], run["cpu"], run["rss"]) == (2.0, 2.5, 50_000_000)
    assert [sample["wall"] for sample in run["samples"]] == [1.0, 3.0]
    assert set(run["samples"][0]) == {"wall", "cpu", "rss", "floor", "others", "facts"}


def test_a_figure_has_its_target_and_verdict(found):
    by_peer = {figure["peer"]: figure for figure in found["figures"]}
    assert by_peer["tarfile"] | {"value": 3.0, "target": 3.5, "floor": 2.5, "verdict": "missed"} == by_peer["tarfile"]
    assert (by_peer["tarfile"]["cpu_ratio"], by_peer["tarfile"]["noisy"]) == (2.0, 2)
    assert (by_peer["GNU tar + igzip"]["value"], by_peer["GNU tar + igzip"]["verdict"]) == (1.2, "missed")
    assert {figure["label"] for figure in found["figures"]} == {"userspace"}


def test_the_table_marks_what_was_missed(found):
    lines = list(report.lines(found))
    row = next(line for line in lines if "3.00\u00d7" in line)
    assert row.split()[-3:] == ["≥", "3.50\u00d7", "missed"]
    assert any("2/2" in line and "tarfile" in line for line in lines)
    assert lines[-1].startswith("noisy")


def test_only_a_defect_or_a_hole_is_a_failure(result):
    assert result.failure is None
    result.errors.append("apply gzip/ext4: ext4 on a loop device needs root")
    assert "needs root" in result.failure
    assert "NOT MEASURED apply gzip/ext4: ext4" in list(report.lines(report.document(result)))[-1]


def test_a_defect_is_a_failure(result):
    figure = next(figure for figure in result.figures if figure.target.peer == "tarfile")
    result.figures = [type(figure)(figure.target, 2.0, figure.limit, "defect")]
    assert result.failure == "below the floor: apply gzip/tmpfs 2.00\u00d7 (wanted ≥ 3.50\u00d7)"


IMAGE = {
    "source": "/usr/lib", "layers": 16, "entries": 9_000, "bytes": 80_000_000, "visible": 6_000,
    "gzip": {"encoder": "zlib level 6", "bytes": 40_000_000},
}  # fmt: skip


def test_an_image_and_its_figures(result):
    result.image, result.corpus = IMAGE, {}
    result.runs = [run_of("lamella", 2.0, panel="unpack gzip"), run_of("umoci raw unpack", 9.0, panel="unpack gzip")]
    found = {(run.panel, run.fs, run.contender): run for run in result.runs}
    result.figures = gate.judge(gate.TARGETS, found, 0)
    text = report.markdown(report.document(result))
    assert "Image: /usr/lib, 16 layers, 9,000 entries (6,000 visible), 80 MB; gzip 40 MB (zlib level 6). Medians" in text
    assert "Layer:" not in text
    assert "| unpack gzip | tmpfs | umoci raw unpack | 2.00 : 9.00 | 4.50\u00d7 | ≥ 4.00\u00d7 |" in text
    lines = list(report.lines(report.document(result)))
    assert any(line.startswith("image: /usr/lib, 16 layers") for line in lines)
    assert not any(line.startswith("layer:") for line in lines)


def test_a_document_from_before_images_is_read(found):
    del found["image"]
    assert report.markdown(found).count("Layer: /usr/share") == 1


def test_markdown(result, tmp_path, capsys):
    report.save(result, tmp_path / "saved.json")
    assert main(["--markdown", str(tmp_path / "saved.json")]) == 0
    text = capsys.readouterr().out
    assert text == report.markdown(report.document(result))
    assert text.startswith("2026-01-02, lamella ")
    for word in ("A CPU", "Linux 6.1", "CPython 3.11", "GNU tar 1.34", "/usr/share", "zlib level 6"):
        assert word in text
    rows = [line for line in text.splitlines() if line.startswith("| apply gzip")]
    assert rows[0] == "| apply gzip | tmpfs | tarfile | 2.00 : 6.00 | 3.00\u00d7 | ≥ 3.50\u00d7, missed |"
    assert len(rows) == len(result.figures)
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
