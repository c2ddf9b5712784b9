"""Extended attributes, in layers and on file systems: items 63 to 68."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from urllib.parse import quote

import pytest

import lamella
from lamella.model import IdMap, Why
from lamella.testing.listing import compare
from lamella.testing.tars import directory, fifo, file, layer_tar
from lamella.testing.trees import Dir, File, Symlink, Xattr
from tests.contract.workbench import AS_ROOT, apply, attempt, changed, diff, diffed, entries, found, redone, shape, tree

pytestmark = pytest.mark.requires("user_xattr")

VERSION_2 = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep
VERSION_3 = bytes.fromhex("0100000300200000000000000000000000000000") + (100_000).to_bytes(4, "little")
SCHILY = "SCHILY.xattr."


def xattrs_of(member) -> dict[str, bytes]:
    pax = member.pax_headers.items()
    return {k.removeprefix(SCHILY): v.encode("utf-8", "surrogateescape") for k, v in pax if k.startswith(SCHILY)}


@pytest.mark.requires("root")
def test_063_a_capability_leaves_its_user_namespace_as_version_2(scratch):
    upper = tree(scratch / "u", File("f", uid=100000, gid=100000))
    os.setxattr(upper / "f", "security.capability", VERSION_3)
    members = diffed(None, upper, idmap=IdMap.parse("0:100000:1000,1000:0:1"))
    assert xattrs_of(members["f"]) == {"security.capability": VERSION_2}


@pytest.mark.requires("root")
def test_063_a_capability_is_a_change(scratch):
    lower, upper = tree(scratch / "l", File("f"), File("g")), tree(scratch / "u", File("f"), File("g"))
    os.setxattr(upper / "f", "security.capability", VERSION_2)
    assert {p: c.why for p, c in changed(lower, upper).items()} == {b"f": Why.XATTR}
    again = redone(scratch, (File("f"), File("g")), diff(lower, upper)[1])
    assert found(again, "f").xattrs == ((b"security.capability", VERSION_2),)


def test_064_user_attributes_are_kept_both_ways(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", xattrs={"user.a": b"1"}), directory("d", xattrs={"user.b": b"2"}))
    assert (found(root, "f").xattrs, found(root, "d").xattrs) == (((b"user.a", b"1"),), ((b"user.b", b"2"),))
    again = redone(scratch, (), diff(None, root)[1])
    assert compare(again, root) == []


def test_064_none_on_request(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", xattrs={"user.a": b"1"}), xattrs="none")
    assert found(root, "f").xattrs == ()
    tree(root, Xattr("f", "user.b", b"2"))
    assert xattrs_of(diffed(None, root, xattrs="none")["f"]) == {}
    assert changed(None, root, xattrs="none")[b"f"].after.xattrs == {}


@pytest.mark.requires("root")
def test_065_trusted_attributes_are_kept_for_root(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", xattrs={"trusted.a": b"1"}))
    assert found(root, "f").xattrs == ((b"trusted.a", b"1"),)
    assert xattrs_of(diffed(None, root)["f"]) == {"trusted.a": b"1"}


@pytest.mark.requires("root")
def test_065_an_ordinary_user_gets_a_warning(nobody_box):
    outcome = attempt(nobody_box, (), file("f", b"1", xattrs={"trusted.a": b"1", "user.b": b"2"}), rootless=True)
    assert outcome.kind == (), outcome.trace
    assert [re.search(r"trusted|xattr", warning) is not None for warning in outcome.result["warnings"]] == [True]
    assert outcome.tree[b"f"].xattrs == ((b"user.b", b"2"),)


@pytest.mark.requires("root")
def test_065_overlays_own_attributes_are_dropped_from_a_plain_tree(scratch):
    root = tree(scratch / "r")
    own = {"trusted.overlay.opaque": b"y", "user.overlay.origin": b"1", "user.overlaid": b"2"}
    result = apply(root, directory("d", xattrs=own))
    assert found(root, "d").xattrs == ((b"user.overlaid", b"2"),)
    assert result.warnings
    assert "overlay" in str(result.warnings[0])


@pytest.mark.requires("root")
def test_065_and_never_leave_a_driver(scratch):
    own = {"trusted.overlay.opaque": b"y", "user.overlay.origin": b"1", "user.overlaid": b"2"}
    upper = tree(scratch / "u", Dir("d", xattrs=own))
    assert xattrs_of(diffed(None, upper)["d"]) == {"user.overlaid": b"2"}
    assert changed(tree(scratch / "l", Dir("d", xattrs={"user.overlaid": b"2"})), upper) == {}


@pytest.mark.requires("root")
def test_065_selinux_labels_are_set_on_request_only(scratch):
    label = {"security.selinux": b"system_u:object_r:etc_t:s0\0"}
    root = tree(scratch / "r")
    apply(root, file("f", xattrs=label))
    assert "security.selinux" not in os.listxattr(root / "f")
    apply(root, file("g", xattrs=label), xattrs="all+selinux")
    assert os.getxattr(root / "g", "security.selinux") == label["security.selinux"]
    assert xattrs_of(diffed(None, root)["g"]) == {}
    assert xattrs_of(diffed(None, root, xattrs="all+selinux")["g"]) == label


@pytest.mark.requires("root", "mount")
def test_066_a_file_system_without_attributes_is_warned_of_once(scratch):
    mount = tree(scratch / "m")
    subprocess.run(["mount", "-t", "ramfs", "none", mount], check=True)
    try:
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(mount, "user.a", b"1")
        root = tree(mount / "r")
        own = {"user.a": b"1"}
        members = [file("f", b"1", xattrs=own), file("g", b"2", xattrs=own), directory("d", xattrs=own)]
        result = lamella.apply(layer_tar(members), root)
        assert shape(root) == {"f": b"1", "g": b"2", "d": "dir"}
        assert len(result.warnings) == 1
    finally:
        subprocess.run(["umount", mount], check=True)


def test_067_an_empty_value_is_left_out_of_the_layer_with_one_warning(scratch):
    upper = tree(scratch / "u", *(File(f"f{i}", xattrs={"user.empty": b"", "user.full": b"1"}) for i in range(3)))
    info, data = diff(None, upper)
    assert [xattrs_of(m) for n, m in entries(data).items() if n.startswith("f")] == [{"user.full": b"1"}] * 3
    assert len(info.warnings) == 1
    assert "empty" in str(info.warnings[0])


def test_067_the_other_spelling_carries_it(scratch):
    upper = tree(scratch / "u", File("f", xattrs={"user.empty": b"", "user.full": b"1"}))
    info, data = diff(None, upper, libarchive_xattr=True)
    assert not info.warnings
    again = redone(scratch, (), data)
    assert compare(again, upper) == []
    assert found(again, "f").xattrs == ((b"user.empty", b""), (b"user.full", b"1"))


PLAIN = {b"user.\xff": b"\0\n\xff", b"user.new\nline": b"1\n2", b"user.%3D": b"=", b"user.big": bytes(range(256)) * 8}
ODD = {**PLAIN, b"user.a=b": b"=", b"user.=": b"1"}


def test_068_names_and_values_are_bytes(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", xattrs=PLAIN), directory("d", xattrs=PLAIN))
    assert dict(found(root, "f").xattrs) == dict(found(root, "d").xattrs) == PLAIN
    again = redone(scratch, (), diff(None, root)[1])
    assert compare(again, root) == []
    with lamella.read_layer(diff(None, root)[1]) as reader:
        assert {entry.path: entry.xattrs for entry in reader if entry.path} == {b"d": PLAIN, b"f": PLAIN}


def test_068_a_name_with_an_equals_sign_is_not_mangled(scratch):
    upper = tree(scratch / "u", File("f", xattrs=ODD))
    info, data = diff(None, upper)
    lost = {} if not info.warnings else {n: v for n, v in ODD.items() if b"=" in n}
    assert {**dict(found(redone(scratch, (), data), "f").xattrs), **lost} == ODD
    again = redone(scratch, (), diff(None, upper, libarchive_xattr=True)[1])
    assert compare(again, upper) == []


def test_068_libarchives_spelling_is_read(scratch):
    root = tree(scratch / "r")
    records = [("LIBARCHIVE.xattr." + quote(n), base64.b64encode(v).rstrip(b"=")) for n, v in ODD.items()]
    lamella.apply(layer_tar([file("f", pax=records)]), root, rootless=not AS_ROOT)
    assert dict(found(root, "f").xattrs) == ODD


@pytest.mark.requires("bsdtar")
def test_068_and_written_as_libarchive_reads_it(scratch):
    upper = tree(scratch / "u", File("f", xattrs=ODD))
    (scratch / "l.tar").write_bytes(diff(None, upper, libarchive_xattr=True)[1])
    out = tree(scratch / "out")
    subprocess.run(["bsdtar", "-xpf", scratch / "l.tar", "-C", out, "--xattrs"], check=True)
    assert dict(found(out, "f").xattrs) == ODD


def test_068_an_attribute_is_a_change(scratch):
    edits = (File("f", xattrs={"user.a": b"1"}), Dir("d"), Symlink("s"), File("g", xattrs={"user.a": b"1"}))
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, Xattr("f", "user.a", b"2"), Xattr("d", "user.b", b"1"), Xattr("g", "user.a"))
    assert {p: c.why for p, c in changed(lower, upper).items()} == dict.fromkeys([b"f", b"d", b"g"], Why.XATTR)
    assert compare(redone(scratch, edits, diff(lower, upper)[1]), upper) == []


@pytest.mark.requires("root")
def test_066_what_a_pipe_cannot_have_is_a_warning(scratch):
    root = tree(scratch / "r")
    result = apply(root, fifo("p", xattrs={"user.a": b"1", "trusted.b": b"2"}))
    assert found(root, "p").xattrs == ((b"trusted.b", b"2"),)
    assert len(result.warnings) == 1
