"""Hypothesis strategies for what is done in a chain of snapshots: one script for each, over what those before it left."""

from __future__ import annotations

from hypothesis import strategies as st

from lamella.testing.edits import Edit, Move, Rename
from lamella.testing.strategies import SECOND, edit_of, made_of
from lamella.testing.trees import MTIME_NS, Dir, Fifo, Script, Socket

__all__ = ["histories"]


@st.composite
def histories(
    draw: st.DrawFn, *, max_snapshots: int = 3, max_made: int = 12, max_edits: int = 7, privileged: bool = False,
    sockets: bool = True,
) -> tuple[Script, ...]:  # fmt: skip
    """Scripts for two snapshots or more, each upon the one before; the first builds a tree in an empty directory.

    Edits are all that trees.py has: creations, writes, appends, truncations, holes, removals, moves as mv does them, hard
    links, symlinks, modes, owners and devices (``privileged``), attributes, times, pipes and ``sockets``.
    """
    known: dict[bytes, str] = {}
    n = draw(st.integers(1, max_made))
    made = [made_of(draw, known, privileged=privileged) for _ in range(n)]
    scripts = [Script((Dir(b"", mode=0o755), *(_varied(draw, edit, sockets) for edit in made)))]
    for number in range(1, draw(st.sampled_from([*range(2, max_snapshots + 1), max_snapshots]))):
        n = draw(st.integers(0, max_edits))
        edits = [_varied(draw, edit_of(draw, known, privileged=privileged), sockets) for _ in range(n)]
        scripts.append(Script(tuple(edits), dir_mtime_ns=MTIME_NS + (3 + number) * SECOND + 3))
    return tuple(scripts)


def _varied(draw: st.DrawFn, edit: Edit, sockets: bool) -> Edit:
    if isinstance(edit, Rename):
        return Move(edit.path, edit.to)
    if sockets and isinstance(edit, Fifo) and draw(st.booleans()):
        return Socket(edit.path, mode=edit.mode, uid=edit.uid, gid=edit.gid, mtime_ns=edit.mtime_ns)
    return edit
