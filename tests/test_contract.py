"""Every number of the contract has a test that bears it, or a line that says which room will hold it and why."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NUMBERS = range(1, 118)
BEARS = re.compile(r"test_(\d{3})_[a-z0-9_]+")
LINE = re.compile(r"(\d+) ([a-z]+(?:/[a-z]+)?): (\S.{15,})")
MOST_LINES = 25
BUILT = {"errors", "model", "table", "stream", "tar", "tree", "layer/apply", "layer/diff", "layer/whiteout", "cli"}


def numbered(folder: Path) -> dict[int, list[str]]:
    """Return the tests that bear a number: names of functions that pytest collects, by number."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match = BEARS.fullmatch(node.name) if isinstance(node, ast.FunctionDef) else None
            if match:
                found.setdefault(int(match[1]), []).append(f"{path.relative_to(folder)}::{node.name}")
    return found


def complaints(tested: dict[int, list[str]], lines: list[str]) -> list[str]:
    """Return what is wrong with the coverage of the contract; empty when all is well."""
    matches = [LINE.fullmatch(line) for line in lines]
    out = [f"not a line of NUMBER ROOM: REASON: {line!r}" for line, m in zip(lines, matches, strict=True) if not m]
    elsewhere = [int(m[1]) for m in matches if m]
    out += [f"{n} is said to be elsewhere and has a test: {tested[n][0]}" for n in elsewhere if n in tested]
    out += [f"{m[1]} is said to be in {m[2]}, which is built" for m in matches if m and m[2] in BUILT]
    out += [f"{n} has two lines" for n in set(elsewhere) if elsewhere.count(n) > 1]
    out += [f"{n} is no item of the contract" for n in sorted({*tested, *elsewhere} - set(NUMBERS))]
    out += [f"{n} has neither a test nor a line" for n in NUMBERS if n not in tested and n not in elsewhere]
    return out + ([f"{len(lines)} lines, {MOST_LINES} allowed"] if len(lines) > MOST_LINES else [])


def test_every_item_of_the_contract_has_a_test_or_a_place():
    lines = (TESTS / "contract_elsewhere.txt").read_text().splitlines()
    assert complaints(numbered(TESTS), lines) == []


REASON = "a reason that is long enough"
ALL = {n: ["test"] for n in NUMBERS}
LESS = {n: ["test"] for n in NUMBERS if n > 1}


@pytest.mark.parametrize(
    ("tested", "lines", "words"),
    [
        (ALL, [], []),
        (LESS, [f"1 drivers: {REASON}"], []),
        (LESS, [], ["1 has neither"]),
        (LESS, ["1 drivers"], ["not a line", "1 has neither"]),
        (LESS, ["1 drivers: short"], ["not a line", "1 has neither"]),
        (LESS, [f"1 drivers: {REASON}"] * 2, ["1 has two lines"]),
        (LESS, [f"1 tar: {REASON}"], ["1 is said to be in tar, which is built"]),
        (ALL, [f"7 drivers: {REASON}"], ["7 is said to be elsewhere and has a test"]),
        (ALL | {118: ["test"]}, [], ["118 is no item"]),
        (ALL, [f"0 drivers: {REASON}"], ["0 is no item"]),
        ({n: ["test"] for n in NUMBERS if n > 26}, [f"{n} drivers: {REASON}" for n in range(1, 27)], ["26 lines"]),
    ],
)
def test_a_gap_is_seen(tested, lines, words):
    found = complaints(tested, lines)
    assert len(found) == len(words)
    assert all(line.startswith(word) for line, word in zip(found, words, strict=True))


def test_numbers_are_read_from_names(tmp_path):
    (tmp_path / "sub").mkdir()
    text = "def test_005_x(): ...\nclass TestX:\n    def test_007_y(self): ...\ndef test_5_z(): ...\n# def test_009_c()\n"
    (tmp_path / "sub" / "test_a.py").write_text(text)
    (tmp_path / "other.py").write_text("def test_011_x(): ...\n")
    assert sorted(numbered(tmp_path)) == [5, 7]
