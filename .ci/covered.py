#!/usr/bin/env python3
"""Print which lines of the kernels have run, from gcov's reports (--json-format --stdout) of a build with LAMELLA_TRACE=1.

gcc has counted the lines of the C. Cython has noted above each piece of C which line it is made of; what it adds to a
function (its arguments, its end) is noted as the function's first line, so that one says nothing and is left out.
A line has run when C made of it has run, in whichever kernel: a .pxd is compiled into several. Fails below the per cent
given, and when nothing was measured.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

KERNELS = Path("src/lamella/_kernels")
NOTE = re.compile(r'\s*/\* "([^"]+)":(\d+)$')
SECTION = re.compile(r"/\* #+ Code section|/\* -+ ")  # from here on, Cython's own
EMPTY = re.compile(r"\s*(\}|\w+:;|$)")  # the end of a block, a label: they belong to no line
FUNCTION = re.compile(r"\s*(cdef|cpdef|def)\b[^=]*\(")

Lines = dict[int, bool]


def origins(c_file: Path) -> dict[int, tuple[str, int]]:
    """Return the line of a kernel (file name, number) that each line of ``c_file`` is made of."""
    found: dict[int, tuple[str, int]] = {}
    origin = None
    for number, text in enumerate(c_file.read_text().splitlines(), 1):
        if note := NOTE.match(text):
            origin = (Path(note[1]).name, int(note[2]))
        elif SECTION.match(text):
            origin = None
        elif origin and not EMPTY.match(text):
            found[number] = origin
    return found


def measured(reports: Iterable[str]) -> dict[str, Lines]:
    """Return for each file of the kernels the lines that are code, and whether they have run."""
    texts = {path.name: path.read_text().splitlines() for path in KERNELS.glob("*.p[yx][xd]")}
    files: dict[str, Lines] = defaultdict(dict)
    for report in map(json.loads, reports):
        for source in report["files"]:
            if not source["file"].endswith(".c"):
                continue  # an inline function of Python's headers
            made_of = origins(Path(source["file"]))
            for line in source["lines"]:
                name, number = made_of.get(line["line_number"], ("", 0))
                if name in texts and not FUNCTION.match(texts[name][number - 1]):
                    files[name][number] = files[name].get(number, False) or line["count"] > 0
    return files


def ranges(lines: Lines) -> str:
    """Return the lines that have not run; code is joined to a range over what is no code."""
    spans: list[list[int]] = []
    joined = False
    for number in sorted(lines):
        if lines[number]:
            joined = False
        elif joined:
            spans[-1][1] = number
        else:
            spans.append([number, number])
            joined = True
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def main(floor: float) -> None:
    """Print a line a file and the sum."""
    row = "{:<14}{:>7}{:>8}{:>7}  {}".format
    table = [row("Kernels", "Lines", "Missed", "Cover", "Missing")]
    n_lines = n_run = 0
    for name, lines in sorted(measured(sys.stdin).items()):
        run = sum(lines.values())
        table.append(row(name, len(lines), len(lines) - run, f"{run / len(lines):.1%}", ranges(lines)))
        n_lines, n_run = n_lines + len(lines), n_run + run
    if n_run == 0:
        sys.exit("no line of a kernel has run: nothing was measured")
    table.append(row("total", n_lines, n_lines - n_run, f"{n_run / n_lines:.1%}", ""))
    print("\n".join(table))  # noqa: T201
    if n_run < n_lines * floor / 100:
        sys.exit(f"kernels: below {floor:g} %")


if __name__ == "__main__":
    main(float(sys.argv[1]))
