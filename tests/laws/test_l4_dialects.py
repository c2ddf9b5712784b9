"""L4: decode(encode(change)) == change in every dialect.

A layer written into an upper directory (overlay, AUFS) and read back by what is on the disk does to the lower tree what
the layer does; a layer written as a tar and read back is the same row of entries.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import lamella
from lamella.errors import LamellaError
from lamella.testing import strategies, tars
from lamella.testing.listing import Found, compare, listing
from lamella.testing.tars import Member, layer_tar
from tests.laws.ground import apply, diff, fresh, laid, without_links
from tests.reference import apply as reference

pytestmark = pytest.mark.requires("root", "user_xattr", "devices")
TYPES = {"file": "0", "symlink": "2", "char": "3", "block": "4", "dir": "5", "fifo": "6"}
WHITEOUT = ("char", (0, 0))


def own(space: str) -> bytes:
    return f"{space}.overlay.".encode()


def member_of(path: bytes, found: Found, upper: Path, xattrs: dict[bytes, bytes]) -> Member:
    """Return the entry that makes what ``upper`` has at ``path``."""
    content = (upper / os.fsdecode(path)).read_bytes() if found.type == "file" else b""
    return Member(
        path or b"./", TYPES[found.type], content, mode=found.mode, uid=found.uid, gid=found.gid,
        mtime_ns=found.mtime_ns,
        link=found.target, major=found.rdev[0], minor=found.rdev[1], xattrs=xattrs,
    )  # fmt: skip


def decoded(upper: Path, dialect: str) -> list[Member]:
    """Read an upper directory as a layer, by the rules of the kernel's document or of AUFS."""
    markers, entries = [], []
    prefix = own(dialect.partition(":")[2])
    for path, found in listing(upper).items():
        xattrs = dict(found.xattrs)
        if dialect == "aufs" and os.path.basename(path).startswith(b".wh."):
            markers.append(Member(path, "0"))
        elif dialect != "aufs" and (found.type, found.rdev) == WHITEOUT:
            markers.append(tars.whiteout(path))
        elif found.links and path != found.links[0]:
            entries.append(tars.hardlink(path, found.links[0]))
        else:
            if dialect != "aufs" and xattrs.pop(prefix + b"opaque", None) == b"y":
                markers.append(tars.opaque(path))
            assert not [name for name in xattrs if name.startswith(prefix)]
            entries.append(member_of(path, found, upper, xattrs))
    return markers + sorted(entries, key=lambda m: m.type == "1")


def meant(tree: Path, layer: list[Member]) -> reference.Tree:
    """Return what the model makes of ``layer`` on ``tree``; give the example up where it is refused or open."""
    model = reference.read_tree(tree)
    try:
        reference.apply(model, layer)
    except (LamellaError, reference.Unspecified):
        assume(False)
    return model


@pytest.mark.parametrize("dialect", ["overlay:trusted", "overlay:user", "aufs"])
@given(tree=strategies.trees(privileged=True).map(without_links), layer=strategies.layers(privileged=True))
def test_l4_an_upper_directory_says_what_the_layer_says(home, dialect, tree, layer):
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper")
        model = meant(lower, layer)
        before = listing(lower)
        apply(layer, upper, dialect=dialect, parents=[lower])
        assert listing(lower) == before
        again = reference.read_tree(lower)
        reference.apply(again, decoded(upper, dialect))
        assert compare(model.listing(), again.listing(), {"root"}) == []


@pytest.mark.parametrize("dialect", ["overlay:trusted", "overlay:user", "aufs"])
@given(
    tree=strategies.trees(privileged=True).map(without_links),
    layers=st.lists(strategies.layers(), min_size=2, max_size=3),
)
def test_l4_with_several_parents(home, dialect, tree, layers):
    with fresh(home) as folder:
        stack, model = [laid(folder / "lower", tree)], reference.read_tree(laid(folder / "plain", tree))
        for i, layer in enumerate(layers):
            try:
                reference.apply(model, layer)
            except (LamellaError, reference.Unspecified):
                assume(False)
            upper = laid(folder / f"upper{i}")
            apply(layer, upper, dialect=dialect, parents=stack)
            stack.insert(0, upper)
        again = reference.read_tree(stack[-1])
        for upper in stack[-2::-1]:
            reference.apply(again, decoded(upper, dialect))
        assert compare(model.listing(), again.listing(), {"root", "links"}) == []


@pytest.mark.requires("overlay")
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(tree=strategies.trees(privileged=True).map(without_links), layer=strategies.layers(privileged=True))
def test_l4_the_kernel_reads_it_as_we_do(home, tree, layer):
    with fresh(home) as folder:
        lower, upper, work, merged = (laid(folder / n) for n in ("lower", "upper", "work", "merged"))
        tree.apply(lower)
        model = meant(lower, layer)
        apply(layer, upper, dialect="overlay", parents=[lower])
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
        try:
            # two names of a file on one side only are two inodes for the kernel, unless it keeps an index
            assert compare(model.listing(), merged, {"root", "links"}) == []
        finally:
            subprocess.run(["umount", merged], check=True)


FIELDS = ("path", "type", "mode", "uid", "gid", "size", "mtime_ns", "link_target", "rdev_major", "rdev_minor", "xattrs")


@given(st.data())
def test_l4_a_tar_is_read_as_it_was_written(home, data):
    tree = data.draw(strategies.trees(privileged=True))
    edits = data.draw(strategies.edit_scripts(tree, privileged=True))
    options = {"libarchive_xattr": data.draw(st.booleans())}
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        _, layer = diff(lower, upper, **options)
        changes = {c.path: c for c in lamella.changes(lower, upper)}
        with lamella.read_layer(layer) as reader:
            table = reader.table()
        found = listing(upper)
        for entry in table:
            folder_, _, name = entry.path.rpartition(b"/")
            if name.startswith(b".wh."):
                path = (folder_ + b"/" if folder_ else b"") + name.removeprefix(b".wh.")
                assert changes.pop(path).after is None or found[path].type != "dir"
                continue
            there = found[entry.path]
            if entry.type is not lamella.EntryType.HARDLINK:
                assert (entry.mode, entry.uid, entry.gid) == (there.mode, there.uid, there.gid)
                assert (entry.mtime_ns, entry.size) == (there.mtime_ns, there.size if there.type == "file" else 0)
                assert (entry.link_target, entry.xattrs) == (there.target, dict(there.xattrs))
                assert (entry.rdev_major, entry.rdev_minor) == there.rdev
            changes.pop(entry.path, None)
        assert changes == {}


@given(strategies.layers(privileged=True))
def test_l4_members_are_read_as_they_were_meant(layer):
    with lamella.read_layer(layer_tar(layer)) as reader:
        entries = list(reader.table())
    for member, entry in zip(layer, entries, strict=True):
        assert entry.path == b"/".join(p for p in bytes(member.path).split(b"/") if p)
        assert entry.type.value == member.type
        assert (entry.uid, entry.gid, entry.mtime_ns) == (member.uid, member.gid, member.mtime_ns)
        assert entry.xattrs == {os.fsencode(n): v for n, v in member.xattrs.items()}
        assert entry.link_target == os.fsencode(member.link)
        assert entry.size == len(member.content)
        assert (entry.rdev_major, entry.rdev_minor) == (member.major, member.minor)
