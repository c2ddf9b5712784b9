"""What the laws of the algebra share: layers as members, as bytes and as the algebra's values; what a stack means."""

from __future__ import annotations

import io
from collections.abc import Iterable

from hypothesis import assume

from lamella.errors import ConflictError, LamellaError
from lamella.layer.composed import AnyLayer, TarLayer
from lamella.testing import tars
from lamella.testing.tars import Member, layer_tar
from tests.reference import apply as reference

Layers = list[list[Member]]


def values(layers: Layers) -> list[TarLayer]:
    """Return layers as the algebra takes them."""
    return [TarLayer.of(layer_tar(layer)) for layer in layers]


def members_of(layer: AnyLayer) -> list[Member]:
    """Return a layer's rows as members, for the model."""
    table = layer.table
    files = [row for row, entry in enumerate(table) if entry.type.value == "0" and entry.size]
    pieces = zip(files, layer.contents(files), strict=True)
    content = {row: b"".join(bytes(piece) for piece in chunks) for row, chunks in pieces}
    return [
        Member(
            e.path or b"./", e.type.value, content.get(row, b""), mode=e.mode, uid=e.uid, gid=e.gid,
            mtime_ns=e.mtime_ns, link=e.link_target, major=e.rdev_major, minor=e.rdev_minor, xattrs=e.xattrs,
        )
        for row, e in enumerate(table)
    ]  # fmt: skip


def written(layer: AnyLayer, **options) -> bytes:
    """Return a composed layer as tar bytes."""
    out = io.BytesIO()
    layer.write(out, **{"compression": "none", **options})
    return out.getvalue()


def nothing() -> reference.Tree:
    """Return an empty tree of the model."""
    return reference.Tree(reference.Inode("dir"))


def stacked(tree: reference.Tree, layers: Iterable[list[Member]]) -> reference.Tree:
    """Return what the model makes of ``layers`` upon ``tree``; AssertionError where one is refused or open."""
    tree = tree.copy()
    for layer in layers:
        try:
            reference.apply(tree, layer)
        except (LamellaError, reference.Unspecified) as error:
            raise AssertionError(f"refused: {layer}") from error
    return tree


def fitting(tree: reference.Tree, layers: Layers) -> Layers:
    """Leave out the hard links that ``layers`` have to nothing; give the example up where one is still refused or open."""
    tree, out = tree.copy(), []
    for layer in layers:
        while True:
            again = tree.copy()
            try:
                reference.apply(again, layer)
            except ConflictError as error:
                fewer = [m for m in layer if m.type != "1" or bytes(m.path) != error.path]
                assume(len(fewer) < len(layer))
                layer = fewer  # noqa: PLW2901 - what is left of it
                continue
            except (LamellaError, reference.Unspecified):
                assume(False)
            break
        tree = again
        out.append(layer)
    return out


def with_parents(layer: list[Member]) -> list[Member]:
    """Give every parent an entry before its first child, as a diff does (117)."""
    out: list[Member] = []
    known: set[bytes] = set()
    for member in layer:
        path = b"/".join(part for part in bytes(member.path).split(b"/") if part)
        for end in [i for i, byte in enumerate(path) if byte == ord("/")]:
            if path[:end] not in known:
                known.add(path[:end])
                out.append(tars.directory(path[:end]))
        known.add(path)
        out.append(member)
    return out


def unique(layer: AnyLayer) -> bool:
    """Tell whether no path comes twice, and every parent with an entry before its children (what producers must do)."""
    seen: set[bytes] = set()
    paths = list(layer.table.paths)
    for path in paths:
        seen.add(path)
        ancestors = {path[:i] for i, byte in enumerate(path) if byte == ord("/")}
        if ancestors & (set(paths) - seen):
            return False
    return len(seen) == len(paths)
