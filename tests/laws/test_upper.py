"""An upper directory says what its two merged views do (L8's first half), for random scripts in the kernel's own mounts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.model import Why
from lamella.testing import strategies
from lamella.testing.trees import Hardlink, Script
from tests.overlays import OPTIONS, Step, grow

pytestmark = pytest.mark.requires("overlay")


@st.composite
def histories(draw: st.DrawFn, *, privileged: bool) -> tuple[Script, list[Script]]:
    """A tree and up to three scripts, each for the tree that those before it leave."""
    tree = draw(strategies.trees(privileged=privileged))
    known = strategies.known_paths(tree)
    scripts = []
    for _ in range(draw(st.integers(1, 3))):
        script = draw(strategies.edits_of(known, privileged=privileged))
        known = _after(known, script)
        scripts.append(script)
    return tree, scripts


def _after(known: dict[bytes, str], script: Script) -> dict[bytes, str]:
    """What edits leave: a rename and a removal take names away; what the mount refuses is refused to both views."""
    known = dict(known)
    for edit in script.edits:
        known.update(strategies.known_paths(Script((edit,))) if type(edit).__name__ in MAKERS else {})
    return known


MAKERS = {"File", "Dir", "Symlink", "Fifo", "Device"}


def check(steps: list[Step], tree: Script, scripts: list[Script]) -> None:
    linked = any(isinstance(edit, Hardlink) for script in (tree, *scripts) for edit in script.edits)
    for step in steps:
        assert step.wrong == [], step.upper
        if linked:  # where names of a file were not touched, another of its names may be told of
            assert unlinked(step.ours) == unlinked(step.theirs), step.upper
            assert step.applied == [] or step.warnings, step.upper
        else:
            assert step.ours == step.theirs, step.upper
            assert step.applied == [], step.upper
            assert step.layers_equal, step.upper


def unlinked(found: list[tuple[str, bytes, int]]) -> list[tuple[str, bytes, int]]:
    links = Why.LINKS.value
    return [(kind, path, why & ~links) for kind, path, why in found if why != links]


@pytest.mark.parametrize("options", OPTIONS)
@given(st.data())
def test_an_upper_directory_is_the_difference_of_its_views(box: Any, options: str, data: st.DataObject) -> None:
    tree, scripts = data.draw(histories(privileged=True))
    check(box.call(grow, tree, scripts, options), tree, scripts)


@given(st.data())
def test_so_it_is_in_a_user_namespace(user_box: Any, data: st.DataObject) -> None:
    tree, scripts = data.draw(histories(privileged=False))
    check(user_box.call(grow, tree, scripts, "userxattr"), tree, scripts)
