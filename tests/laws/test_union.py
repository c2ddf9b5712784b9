"""A union in user space is the kernel's overlayfs (L8's first half), for random scripts and random single calls."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.testing import strategies
from lamella.testing.trees import Script
from tests.laws.test_upper import histories
from tests.unions import Call, Outcome, both, goes_on

pytestmark = pytest.mark.requires("overlay")

NAMES = [b"a", b"b", b"a-b"]
KINDS = [stat.S_IFIFO | 0o600, stat.S_IFREG | 0o640]


def check(outcome: Outcome) -> None:
    assert outcome.wrong == [], "\n".join(outcome.answers)


def calls() -> st.SearchStrategy[list[Call]]:
    """Calls that are often refused: over few paths, whatever is there."""
    path = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
    key = st.sampled_from([b"user.a", b"user.b"])
    call = st.one_of(
        st.tuples(st.sampled_from(["mkdir", "rmdir", "unlink", "create", "mkdir", "unlink", "readlink", "readdir"]), path),
        st.tuples(st.sampled_from(["rename", "rename", "link"]), path, path),
        st.tuples(st.just("symlink"), st.just(b"a"), path),
        st.tuples(st.just("mknod"), path, st.sampled_from(KINDS)),
        st.tuples(st.just("truncate"), path, st.sampled_from([0, 3, 5000])),
        st.tuples(st.just("write"), path, st.just(b"new"), st.sampled_from([None, 2])),
        st.tuples(st.just("chmod"), path, st.sampled_from([0o700, 0o777])),
        st.tuples(st.just("setxattr"), path, key, st.sampled_from([b"1", b"2"])),
        st.tuples(st.just("removexattr"), path, key),
    )
    return st.lists(call, max_size=14)


@pytest.mark.parametrize("redirect_dir", [False, True])
@given(st.data())
def test_edits_leave_what_they_leave_in_a_mount(box: Any, redirect_dir: bool, data: st.DataObject) -> None:
    tree, scripts = data.draw(histories(privileged=True))
    dialects = ["overlay"] if redirect_dir else ["overlay", "aufs"]  # AUFS redirects nothing
    check(box.call(both, tree, scripts, dialects=dialects, redirect_dir=redirect_dir))


@given(st.data())
def test_so_it_is_in_a_user_namespace(user_box: Any, data: st.DataObject) -> None:
    tree, scripts = data.draw(histories(privileged=False))
    check(user_box.call(both, tree, scripts, dialects=["overlay", "aufs"], userxattr=True))


@pytest.mark.parametrize("redirect_dir", [False, True])
@given(tree=strategies.trees(privileged=True), scripts=st.lists(calls(), min_size=1, max_size=3))
def test_calls_answer_what_they_answer_in_a_mount(
    box: Any, redirect_dir: bool, tree: Script, scripts: list[list[Call]]
) -> None:
    dialects = ["overlay"] if redirect_dir else ["overlay", "aufs"]
    check(box.call(both, tree, scripts, dialects=dialects, redirect_dir=redirect_dir))


@pytest.mark.requires("root")
@given(st.data())
def test_a_union_goes_on_where_a_mount_with_metacopy_ended(box: Any, data: st.DataObject) -> None:
    tree, scripts = data.draw(histories(privileged=True))
    assert box.call(goes_on, tree, [scripts[0], scripts[-1]], "metacopy=on,redirect_dir=on") == []
