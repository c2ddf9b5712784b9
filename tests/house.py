"""Read a source tree's imports, cimports and sizes, and say what breaks the plan of docs/architecture.md.

Pure functions over a folder that holds a package ``lamella``; each returns complaints, empty when all is well.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "lamella"
# room -> (floor, place on the floor): an import points to a smaller pair; equal pairs do not know each other
ROOMS = {
    "errors": (0, 0),
    "model": (0, 1),
    "_kernels": (1, 0),
    "columns": (2, 0),
    "table": (2, 1),
    "stream": (2, 2),
    "tar": (2, 3),
    "tree": (2, 3),
    "layer": (2, 4),
    "block": (2, 5),
    "fuse": (3, 0),
    "drivers": (3, 1),
    "image": (4, 0),
    "store": (4, 1),
    "__init__": (5, 0),
    "bench": (5, 1),
    "cli": (5, 2),
    "__main__": (5, 3),
    "testing": (6, 0),
}
KERNEL_FLOOR, TABLE_FLOOR = 1, 2
ENGINE = {"numpy", "xxhash", "zstandard", "isal", "zlib_ng"}
IMAGE = {"msgspec", "numpy"}
# floor -> distributions; benchmarks and test tools may use whatever their extras install
FOREIGN = {0: set(), 1: set(), 2: ENGINE, 3: {"numpy"}, 4: IMAGE, 5: {"click", "numpy", "rich"}}
EXTRA = {"fuse": {"mfusepy"}}  # room -> what its extra installs
PROCESSES = {"multiprocessing", "pty", "subprocess"}
C_LIBRARY = ("libc", "posix", "cpython.buffer", "cython", "lamella._kernels")
BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
LINES = {".pyx": 500, ".pxd": 500, ".py": 300}
FUNCTION_LINES = 40

CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+cimport\s+(.+)|cimport\s+([\w.]+))")
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+(.+)|import\s+([\w.]+))")
DEFINITION = re.compile(r"^(\s*)(?:async\s+def|def|cdef|cpdef)\b[^#=]*\(")
DOCSTRING = re.compile(r'^\s*[rRbB]?("""|\'\'\')')


@dataclass(frozen=True)
class Arrow:
    """One import: ``source`` and ``target`` are dotted names, at ``line`` of the source file, which ends in ``suffix``.

    A cimport reads the target's header (its ``.pxd``), an import the module itself.
    """

    source: str
    target: str
    line: int
    suffix: str
    cimport: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} -> {self.target}"


def modules(root: Path) -> dict[str, list[Path]]:
    """Map each dotted module name below ``root`` to its files (a kernel has several)."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / PACKAGE).rglob("*")):
        if path.suffix in LINES:
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found.setdefault(name, []).append(path)
    return found


def arrows(root: Path) -> list[Arrow]:
    """Return every import and cimport of the package, of its own modules and of foreign ones."""
    known = modules(root)
    found = []
    for name, paths in known.items():
        for path in paths:
            read = python_imports if path.suffix == ".py" else cython_imports
            for line, base, names, cimport in read(path.read_text(), name, is_package=path.stem == "__init__"):
                found += [Arrow(name, to, line, path.suffix, cimport) for to in targets(base, names, known)]
    return found


Statement = tuple[int, str, list[str], bool]


def python_imports(text: str, name: str, *, is_package: bool) -> Iterator[Statement]:
    """Yield (line, module, names, cimport?) of each import statement, wherever in the file it stands.

    What only a type checker reads may come from typing_extensions, which is not asked for at run time.
    """
    tree = ast.parse(text)
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    guarded = {node for guard in guards for statement in guard.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, [], False
        elif isinstance(node, ast.ImportFrom) and not (node in guarded and node.module == "typing_extensions"):
            base = absolute("." * node.level + (node.module or ""), name, is_package=is_package)
            yield node.lineno, base, [alias.name for alias in node.names], False


def cython_imports(text: str, name: str, *, is_package: bool) -> Iterator[Statement]:
    """Yield the same from Cython source, read line by line."""
    for number, line in enumerate(joined(text), 1):
        cimport = CIMPORT.match(line)
        match = cimport or IMPORT.match(line)
        if match is None:
            continue
        base, names, alone = match.groups()
        words = re.findall(r"[\w*]+", re.sub(r"\s+as\s+\w+", "", names.partition("#")[0])) if names else []
        yield number, absolute(alone or base, name, is_package=is_package), words, cimport is not None


def joined(text: str) -> Iterator[str]:
    """Yield logical lines: what is open in brackets or ends in a backslash goes on, and leaves empty lines behind."""
    pending, held = "", 0
    for line in text.splitlines():
        pending += line.removesuffix("\\") + " "
        held += 1
        if line.endswith("\\") or ("import" in pending and pending.count("(") > pending.count(")")):
            continue
        yield pending
        yield from [""] * (held - 1)
        pending, held = "", 0


def absolute(base: str, name: str, *, is_package: bool) -> str:
    """Resolve a relative module name against the module that says it."""
    dots = len(base) - len(base.lstrip("."))
    if not dots:
        return base
    parts = name.removesuffix(".__init__").split(".")
    kept = parts[: len(parts) - dots + is_package]
    return ".".join([*kept, base[dots:]]).rstrip(".")


def targets(base: str, names: list[str], known: dict[str, list[Path]]) -> set[str]:
    """Name the modules that ``from base import names`` reads."""
    found = set()
    for name in names or [""]:
        whole = f"{base}.{name}" if name else base
        found.add(next((x for x in (whole, f"{whole}.__init__", base, f"{base}.__init__") if x in known), base))
    return found


def room(name: str) -> str:
    """Return the room of a module of the package."""
    return name.split(".")[1]


def wrong_arrows(root: Path) -> list[str]:
    """Say which imports point up, sideways, past the kernels' door, or out of the house."""
    complaints = []
    for arrow in arrows(root):
        home = room(arrow.source)
        if home not in ROOMS:
            complaints.append(f"{arrow}: the room {home} is not on the plan")
        elif arrow.target.split(".")[0] == PACKAGE:
            complaints += inner_fault(arrow, home)
        else:
            complaints += outer_fault(arrow, home)
    return sorted(set(complaints))


def inner_fault(arrow: Arrow, home: str) -> list[str]:
    """Judge an import of one of our own modules."""
    there = room(arrow.target) if "." in arrow.target else "__init__"
    if there not in ROOMS:
        return [f"{arrow}: no such module"]
    floor = ROOMS[home][0]
    if home != there and ROOMS[there] >= ROOMS[home]:
        return [f"{arrow}: points {'up' if ROOMS[there][0] > floor else 'sideways'}"]
    if there == "_kernels" and floor not in {KERNEL_FLOOR, TABLE_FLOOR, 6}:
        return [f"{arrow}: only floor 2 knows kernels"]
    if floor == KERNEL_FLOOR and there == "model":
        return [f"{arrow}: a kernel knows errors and the C library"]
    return []


def outer_fault(arrow: Arrow, home: str) -> list[str]:
    """Judge an import of somebody else's module."""
    floor, top = ROOMS[home][0], arrow.target.split(".")[0]
    if floor == KERNEL_FLOOR:
        fits = any(arrow.target == x or arrow.target.startswith(f"{x}.") for x in C_LIBRARY)
        return [] if fits or top == "__future__" else [f"{arrow}: a kernel knows errors and the C library"]
    if floor <= TABLE_FLOOR and top in PROCESSES:
        return [f"{arrow}: the engine never starts a process"]
    if top in sys.stdlib_module_names or home in {"bench", "testing"} or top in FOREIGN[floor] | EXTRA.get(home, set()):
        return []
    return [f"{arrow}: floor {floor} does not lean on {top}"]


def circles(root: Path) -> list[str]:
    """Return each circle of imports among our own files, once. A kernel and its header are two files."""
    files = {(name, path.suffix) for name, paths in modules(root).items() for path in paths}
    graph: dict[str, set[str]] = {name + suffix: set() for name, suffix in files}
    for name, suffix in files:
        if suffix == ".pyx" and (name, ".pxd") in files:
            graph[name + suffix].add(f"{name}.pxd")
    for arrow in arrows(root):
        wanted = (".pxd",) if arrow.cimport else (".py", ".pyx")
        ends = {arrow.target + suffix for suffix in wanted if (arrow.target, suffix) in files}
        graph[arrow.source + arrow.suffix] |= ends - {arrow.source + arrow.suffix}
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, road: list[str]) -> None:
        if name in road:
            found.append(" -> ".join([*road[road.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, [*road, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def over_budget(root: Path) -> list[str]:
    """Say which modules and functions are longer than they may be, and which carry a name that says nothing."""
    complaints = []
    for name, paths in modules(root).items():
        if BANNED_NAMES & set(name.split(".")):
            complaints.append(f"{name}: a name that says nothing")
        for path in paths:
            text = path.read_text()
            count = len(text.splitlines())
            if count > LINES[path.suffix]:
                complaints.append(f"{name}{path.suffix}: {count} lines, {LINES[path.suffix]} allowed")
            sizes = python_functions(text) if path.suffix == ".py" else cython_functions(text)
            complaints += [
                f"{name}{path.suffix}:{line}: a function of {length} lines, {FUNCTION_LINES} allowed"
                for line, length in sizes
                if length > FUNCTION_LINES
            ]
    return complaints


def python_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yield (line, length) of each function; its docstring is not counted, its signature is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.lineno, length


def cython_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yield the same for Cython source, told by indentation."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        match = DEFINITION.match(line)
        if match is None:
            continue
        head = at
        while not re.sub(r"#.*", "", lines[head]).rstrip().endswith(":") and goes_on(lines, head, len(match[1])):
            head += 1
        last = head
        for below in range(head + 1, len(lines)):
            if lines[below].strip():
                if indent(lines[below]) <= len(match[1]):
                    break
                last = below
        yield at + 1, last - at + 1 - docstring_lines(lines[head + 1 : last + 1])


def goes_on(lines: list[str], at: int, margin: int) -> bool:
    """Tell whether the signature at line ``at`` has a further line: a deeper one, or one that closes it."""
    if at + 1 == len(lines):
        return False
    following = lines[at + 1]
    return not following.strip() or indent(following) > margin or following.lstrip().startswith(")")


def docstring_lines(body: list[str]) -> int:
    """Count the lines of the docstring that opens a body."""
    match = DOCSTRING.match(body[0]) if body else None
    if match is None:
        return 0
    if body[0].count(match[1]) > 1:
        return 1
    return next((n + 1 for n, line in enumerate(body[1:], 1) if match[1] in line), len(body))


def indent(line: str) -> int:
    """Count the spaces that a line begins with."""
    return len(line) - len(line.lstrip())
