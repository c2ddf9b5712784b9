"""Hypothesis strategies for stacks of layers that hide, replace and link what is in each other."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import strategies as st

from lamella.testing import tars
from lamella.testing.strategies import layers, member_of, mtimes, paths
from lamella.testing.tars import Member

__all__ = ["stacks"]


@st.composite
def _orderly(draw: st.DrawFn, lower: list[Member]) -> list[Member]:
    # what an engine would write, nearly: each path once, a directory before what is in it
    n = draw(st.integers(1, 7))
    wanted = draw(st.lists(paths() | st.sampled_from([os.fsencode(m.path) for m in lower] or [b"a"]), max_size=n, unique=True))
    members: dict[bytes, Member] = {}
    for path in sorted(wanted):
        above = [path[:i] for i, byte in enumerate(path) if byte == ord("/")]
        if any(p in members and members[p].type != "5" for p in above) and draw(st.integers(0, 9)) > 0:
            continue
        for p in above:
            if draw(st.integers(0, 9)) > 1:
                members.setdefault(p, tars.directory(p, mode=0o755, mtime_ns=draw(mtimes())))
        kind = draw(st.sampled_from(["member", "member", "member", "link", "whiteout", "opaque"]))
        files = [m for m in members.values() if m.type == "0"]
        if kind == "link" and (files or lower):
            pool = files if files and draw(st.integers(0, 9)) > 0 else [*files, *lower]
            member = tars.hardlink(path, draw(st.sampled_from(pool)).path)
        elif kind == "whiteout":
            member = tars.whiteout(path)
        elif kind == "opaque":
            member = tars.opaque(path)
        else:
            member = member_of(draw, [], hostile=False, privileged=False)
            member = member if b".wh." in os.fsencode(member.path) else replace(member, path=path)
        members.setdefault(os.fsencode(member.path), member)
    return list(members.values())


@st.composite
def stacks(draw: st.DrawFn, *, max_layers: int = 5) -> list[list[Member]]:
    """Layers, the lowest first: most of them orderly, over few names, so that they hide, replace and link each other's."""
    out: list[list[Member]] = []
    for _ in range(draw(st.integers(2, max_layers))):
        lower = [m for layer in out for m in layer if b".wh." not in os.fsencode(m.path)]
        out.append(draw(_orderly(lower) if draw(st.integers(0, 9)) > 0 else layers(max_size=6)))
    return out
