"""Each kernel's hand-written stub says what the compiled module is: the same functions, the same signatures."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parent.parent / "src" / "lamella" / "_kernels"
NAMES = sorted(path.stem for path in KERNELS.glob("*.pyx"))
Shape = list[tuple[str, str, str | None]]
NO_DEFAULT = None


def stub_functions(text: str) -> dict[str, Shape]:
    """Read a stub: each function's arguments as (name, kind, default)."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node.args)
    return found


def arguments(args: ast.arguments) -> Shape:
    """Spell a parsed signature as inspect does."""
    plain = [(a.arg, "POSITIONAL_ONLY") for a in args.posonlyargs]
    plain += [(a.arg, "POSITIONAL_OR_KEYWORD") for a in args.args]
    defaults = [NO_DEFAULT] * (len(plain) - len(args.defaults)) + [ast.unparse(d) for d in args.defaults]
    shape = [(name, kind, default) for (name, kind), default in zip(plain, defaults, strict=True)]
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        shape.append((arg.arg, "KEYWORD_ONLY", NO_DEFAULT if default is None else ast.unparse(default)))
    return shape


def runtime_functions(module: object) -> dict[str, Shape]:
    """Ask a compiled module for the same."""
    return {
        name: [
            (p.name, p.kind.name, NO_DEFAULT if p.default is p.empty else repr(p.default))
            for p in inspect.signature(value).parameters.values()
        ]
        for name, value in vars(module).items()
        if type(value).__name__ == "cython_function_or_method" and not name.startswith("_")
    }


def stub_names(text: str) -> set[str]:
    """Return the public constants and classes that a stub declares at its top."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("name", NAMES)
def test_stub_is_the_module(name):
    module = importlib.import_module(f"lamella._kernels.{name}")
    text = (KERNELS / f"{name}.pyi").read_text()
    assert stub_functions(text) == runtime_functions(module)
    assert {n for n in stub_names(text) if not hasattr(module, n)} == set()


def test_every_kernel_was_looked_at():
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse((KERNELS.parents[2] / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "KERNELS"
    )
    assert sorted(listed) == NAMES


@pytest.mark.parametrize(
    "stub",
    ["def find(slots, seed): ...", "def find(slots, seed, columns, path=b''): ...", "def other(slots): ...", ""],
)
def test_a_wrong_stub_is_seen(stub):
    module = importlib.import_module("lamella._kernels.index")
    assert stub_functions(stub) != runtime_functions(module)
