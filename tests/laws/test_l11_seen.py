"""L11 once more: what is seen of a stack's layers, with nothing unpacked, is what applying them one after another makes."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import event, given, settings

import lamella
from lamella.fuse.layers import LayersTree
from lamella.fuse.spool import Spool
from lamella.fuse.stored import StoredLayer
from lamella.testing.listing import KINDS, Found, compare
from lamella.testing.stacks import stacks
from lamella.testing.tars import Member, layer_tar
from lamella.tree.root import join
from tests.laws.ground import AS_ROOT, fresh


def seen(tree: LayersTree) -> dict[bytes, Found]:
    """List a tree as lamella.testing.listing does a directory."""
    rows: dict[bytes, Found] = {}
    inodes: dict[int, list[bytes]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        one = tree.look(path)
        assert one is not None
        status, digest = one.status, ""
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        if kind == "file":
            handle = tree.open(path)
            digest = hashlib.sha256(tree.read(handle, status.st_size + 9, 0)).hexdigest()
            tree.release(handle)
        if kind == "dir":
            listed = list(tree.listing(path).after(0))
            assert not tree.flips.any()
            assert [entry[3] for entry in listed] == [tree.look(join(path, entry[1])).number for entry in listed]
            todo += [join(path, entry[1]) for entry in listed]
        else:
            inodes.setdefault(one.number, []).append(path)
        rows[path] = Found(
            type=kind, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid,
            size=0 if kind == "dir" else status.st_size, mtime_ns=status.st_mtime_ns,
            rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)), links=(),
            target=tree.readlink(path) if kind == "symlink" else b"",
            xattrs=tuple(sorted((key, tree.getxattr(path, key)) for key in tree.listxattr(path))), sha256=digest,
        )  # fmt: skip
    for names in inodes.values():
        for path in names if len(names) > 1 else ():
            rows[path] = rows[path]._replace(links=tuple(sorted(names)))
        assert all(tree.look(path).nlink == len(names) for path in names)
    return dict(sorted(rows.items()))


def tree_of_layers(folder: Path, layers: list[list[Member]]) -> LayersTree:
    words = []
    for number, layer in enumerate(layers):
        (folder / f"{number}.tar").write_bytes(layer_tar(layer))
        words.append(str(folder / f"{number}.tar"))
    return LayersTree([StoredLayer.of(word) for word in reversed(words)], Spool(folder / "spool", 1 << 30))


def agree(folder: Path, layers: list[list[Member]]) -> str:
    (folder / "root").mkdir(mode=0o755)
    try:
        for layer in layers:
            lamella.apply(layer_tar(layer), folder / "root", rootless=not AS_ROOT)
    except (lamella.errors.LamellaError, OSError):
        return "an error"
    try:
        tree = tree_of_layers(folder, layers)
    except lamella.errors.ConflictError:
        return "a conflict"
    # the root's time, where no layer has one, is nobody's
    assert compare(folder / "root", seen(tree), ignore=("root", "dir_mtime")) == []
    tree.close()
    return "the same"


@pytest.mark.requires("root")
@given(layers=stacks())
@settings(max_examples=300)
def test_l11_a_stack_shows_what_its_layers_make(home, layers):
    with fresh(home) as folder:
        event(agree(folder, layers))
