"""The plan of docs/architecture.md holds: floors, order within a floor, no circles, sizes, names, a light import.

Each check is first shown a small tree that breaks the rule, so that it is known to be able to fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import house

SOURCE = Path(__file__).resolve().parent.parent / "src"
HEAVY = {
    "click", "rich", "sqlite3", "msgspec", "dask", "distributed", "fsspec", "matplotlib", "mfusepy", "pyarrow",
    "hypothesis", "pytest", "lamella.cli", "lamella.bench", "lamella.testing",
}  # fmt: skip


def tree(root: Path, files: dict[str, str]) -> Path:
    """Lay a package of a few files."""
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "lamella" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_point_down():
    assert house.wrong_arrows(SOURCE) == []


def test_no_circles():
    assert house.circles(SOURCE) == []


def test_budgets_and_names():
    assert house.over_budget(SOURCE) == []


def test_the_source_was_read():
    found = house.modules(SOURCE)
    assert {"lamella.errors", "lamella.model", "lamella._kernels.tarscan"} <= set(found)
    assert any(arrow.target == "lamella.errors" for arrow in house.arrows(SOURCE))
    assert any(arrow.source.startswith("lamella._kernels.") for arrow in house.arrows(SOURCE))


UP = {
    "model.py": "from lamella import table",
    "errors.py": "import numpy",
    "table.py": "import lamella.stream.ring",
    "stream/ring.py": "def late():\n    from lamella.layer.apply import apply",
    "tar/reader.py": "from lamella.tree import scan",
    "tree/scan.py": "from ..tar.reader import x",
    "tree/root.py": "import subprocess",
    "layer/apply.py": "from lamella import apply",
    "image/layout.py": "import lamella._kernels.tarscan",
    "cli/__init__.py": "from lamella._kernels import tarscan",
    "bench/report.py": "from lamella.cli import main",
    "_kernels/tarscan.pyx": "cimport numpy as cnp",
    "_kernels/walk.pyx": "from lamella.model import Limits",
    "_kernels/place.pyx": "import os",
    "_kernels/index.pyx": "from cpython.bytes cimport (\n    PyBytes_AS_STRING,\n)",
    "extras/x.py": "import os",
    "tar/writer.py": "import msgspec",
    "tar/gone.py": "from lamella.nowhere import x",
    "tar/typed.py": "from typing_extensions import Buffer",
}


@pytest.mark.parametrize("name", UP)
def test_a_wrong_arrow_is_seen(tmp_path, name):
    others = ["table.py", "errors.py", "model.py", "stream/ring.py", "layer/apply.py", "tree/scan.py", "tar/reader.py"]
    others += ["cli/__init__.py", "_kernels/tarscan.pyx"]
    complaints = house.wrong_arrows(tree(tmp_path, {**dict.fromkeys(others, ""), name: UP[name]}))
    assert len(complaints) == 1
    assert complaints[0].startswith(f"lamella.{name.partition('.')[0].replace('/', '.')}:")


def test_right_arrows_are_not_blamed(tmp_path):
    files = {
        "errors.py": "",
        "model.py": "import enum\nfrom lamella.errors import FormatError",
        "_kernels/_status.pxd": "from libc.stdint cimport uint8_t",
        "_kernels/tarscan.pyx": "cimport cython\nfrom cpython.buffer cimport Py_buffer\n"
        "from lamella._kernels._status cimport (  # all of it\n    OK, MORE as _MORE,\n)\n"
        "from lamella.errors import TarFormatError",
        "columns.py": "if TYPE_CHECKING:\n    from typing_extensions import Buffer\nimport numpy as np",
        "table.py": "from lamella import columns, model\nfrom lamella._kernels import tarscan",
        "stream/ring.py": "from lamella import errors\nimport zstandard",
        "stream/codec.py": "from .ring import x\nfrom . import ring",
        "tar/reader.py": "from lamella.stream import ring, codec\nfrom lamella.table import EntryTable",
        "tree/scan.py": "from lamella.table import EntryTable",
        "layer/apply.py": "from lamella.tar import reader\nfrom lamella.tree.scan import scan",
        "image/layout.py": "import msgspec\nimport lamella.layer.apply",
        "cli/__init__.py": "import click\nimport lamella\nfrom lamella import apply, model",
        "bench/peers.py": "import fastar\nimport subprocess",
        "__main__.py": "from lamella.cli import main",
    }
    root = tree(tmp_path, files)
    assert house.wrong_arrows(root) == []
    assert house.circles(root) == []
    assert house.over_budget(root) == []


def test_a_cimport_over_lines_names_all_its_modules(tmp_path):
    text = "from lamella._kernels cimport (\n    a,\n    c as d)\n"
    root = tree(tmp_path, {"_kernels/a.pxd": "", "_kernels/b.pyx": text, "_kernels/c.pxd": ""})
    assert {arrow.target for arrow in house.arrows(root)} == {"lamella._kernels.a", "lamella._kernels.c"}


def test_a_circle_is_seen(tmp_path):
    late = "def f():\n    from .diff import g"
    root = tree(tmp_path, {"layer/diff.py": "from lamella.layer import apply", "layer/apply.py": late})
    assert house.circles(root) == ["lamella.layer.apply.py -> lamella.layer.diff.py -> lamella.layer.apply.py"]


def test_a_header_may_read_what_its_kernel_s_header_says(tmp_path):
    header = "from lamella._kernels.place cimport State"
    kernel = "from lamella._kernels._meta cimport f"
    files = {"_kernels/_meta.pxd": header, "_kernels/place.pyx": kernel, "_kernels/place.pxd": ""}
    assert house.circles(tree(tmp_path, files)) == []
    assert house.circles(tree(tmp_path, {"_kernels/place.pxd": kernel})) != []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("tar/reader.py", "x = 1\n" * 301, "lamella.tar.reader.py: 301 lines, 300 allowed"),
        ("_kernels/walk.pyx", "x = 1\n" * 501, "lamella._kernels.walk.pyx: 501 lines, 500 allowed"),
        ("layer/helpers.py", "", "lamella.layer.helpers: a name that says nothing"),
        ("common/tar.py", "", "lamella.common.tar: a name that says nothing"),
        (
            "tar/w.py",
            "x = 1\ndef f():\n" + "    x = 1\n" * 40,
            "lamella.tar.w.py:2: a function of 41 lines, 40 allowed",
        ),
        (
            "_kernels/w.pyx",
            "cdef int f(\n    int a,\n) except -1 nogil:\n" + "    x = 1\n\n" * 20,
            "lamella._kernels.w.pyx:1: a function of 42 lines, 40 allowed",
        ),
        (
            "_kernels/v.pyx",
            "cdef int g() noexcept nogil:\n    return 1\n\ndef f(a):  # wrapper\n" + "    x = 1\n" * 40,
            "lamella._kernels.v.pyx:4: a function of 41 lines, 40 allowed",
        ),
    ],
    ids=["module", "kernel", "name", "folder", "function", "core", "wrapper"],
)
def test_a_broken_budget_is_seen(tmp_path, name, text, complaint):
    assert house.over_budget(tree(tmp_path, {name: text})) == [complaint]


@pytest.mark.parametrize("name", ["tar/w.py", "_kernels/w.pyx"])
def test_a_docstring_is_not_counted(tmp_path, name):
    text = "def f():\n" + '    """Say.\n' + "    more\n" * 50 + '    """\n' + "    x = 1\n" * 39
    root = tree(tmp_path, {name: text})
    assert house.over_budget(root) == []


def loaded(code: str, path: Path) -> set[str]:
    """Run ``code`` in a fresh interpreter and return the modules it loaded."""
    argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}\nprint(*sys.modules)"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}  # it would load SQLite
    return set(subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.split())


def test_the_facade_loads_nothing_heavy():
    modules = loaded("import lamella", SOURCE)
    assert "lamella" in modules
    assert modules & HEAVY == set()


def test_a_heavy_import_would_be_seen(tmp_path):
    assert loaded("import lamella", tree(tmp_path, {"__init__.py": "import sqlite3"})) & HEAVY == {"sqlite3"}
