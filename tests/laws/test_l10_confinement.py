"""L10: nothing outside the root is created, changed or read, whatever the layer says. Run in a sandbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import LamellaError
from lamella.testing import strategies, tars
from lamella.testing.tars import Member, layer_tar
from lamella.testing.trees import Edit, File, Script, Symlink
from tests.laws.ground import AS_ROOT
from tests.sandbox import Outcome, Sandbox, apply_members, in_moat

# links of the lower tree that lead out, under the names that layers use
TRAPS: tuple[Edit, ...] = (
    Symlink("a-b", "MOAT/treasure"),
    Symlink("d.x", "../.."),
    Symlink(b"\xff", "/proc/self/cwd"),
    Symlink(b" \n", "MOAT"),
)
OPTIONS = st.fixed_dictionaries({
    "keep_dirlinks": st.booleans(),
    "policy": st.sampled_from(["spec", "moby", "containerd", "podman", "umoci"]),
    "holes": st.booleans(),
})  # fmt: skip
HOSTILE = strategies.layers(max_size=16, hostile=True, privileged=AS_ROOT)


def confined(box: Sandbox, tree: Script, layer: list[Member], **options) -> Outcome:
    outcome = box.call(in_moat, (*tree.edits, *TRAPS), apply_members, layer, **{"rootless": not AS_ROOT, **options})
    assert outcome.escaped == []
    assert outcome.leaked == []
    expected = {LamellaError.__name__, "OSError"}
    assert not outcome.kind or expected & set(outcome.kind), outcome.trace
    return outcome


@given(strategies.trees(max_size=6), HOSTILE, OPTIONS)
def test_l10_plain_trees(box, tree, layer, options):
    confined(box, tree, layer, **options)


@pytest.mark.parametrize("dialect", ["overlay:user", "aufs"])
@given(strategies.trees(max_size=6), HOSTILE)
def test_l10_upper_directories(box, dialect, tree, layer):
    confined(box, tree, layer, dialect=dialect)


def with_parents(root, members: list[Member], dialect: str) -> object:
    """Apply to an empty upper directory below the root, above the rest of it as the parent."""
    upper = root / "upper-of-this"
    upper.mkdir()
    return apply_members(upper, members, dialect=dialect, parents=[root], rootless=not AS_ROOT)


@pytest.mark.parametrize("dialect", ["overlay:user", "aufs"])
@given(strategies.trees(max_size=6), HOSTILE)
def test_l10_parents_are_read_inside_their_roots(box, dialect, tree, layer):
    outcome = box.call(in_moat, (*tree.edits, *TRAPS), with_parents, layer, dialect)
    assert outcome.escaped == []
    assert outcome.leaked == []
    assert not outcome.kind or {LamellaError.__name__, "OSError"} & set(outcome.kind), outcome.trace


@pytest.mark.requires("root")
@given(strategies.trees(max_size=6), strategies.layers(max_size=16, hostile=True))
def test_l10_as_an_ordinary_user(nobody_box, tree, layer):
    confined(nobody_box, tree, layer, rootless=True)


@given(HOSTILE, st.binary(min_size=1, max_size=40), st.integers(0, 20_000))
def test_l10_bytes_that_are_nearly_a_layer(box, layer, noise, at):
    data = layer_tar(layer)
    at %= max(1, len(data))
    broken = data[:at] + noise + data[at + len(noise) :]
    outcome = box.call(in_moat, TRAPS, apply_bytes, broken)
    assert outcome.escaped == []
    assert outcome.leaked == []
    assert not outcome.kind or {LamellaError.__name__, "OSError"} & set(outcome.kind), outcome.trace


def apply_bytes(root, data: bytes) -> None:
    """Apply raw bytes, those of the moat's path in them put right."""
    import lamella

    lamella.apply(data, root, rootless=not AS_ROOT)


def test_l10_the_law_can_fail(box):
    outcome = box.call(in_moat, (File("f"),), escape)
    assert outcome.escaped


def escape(root) -> None:
    """Do what no layer may."""
    (root.parent / "treasure" / "new").write_text(tars.__name__)
