"""L4 by our own reader: a layer written into an upper directory and taken out of it again does what the layer does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import lamella
from lamella.errors import LamellaError
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member
from lamella.testing.trees import Script
from tests.laws.ground import apply, fresh, hidden, laid, without_links
from tests.reference import apply as reference

pytestmark = pytest.mark.requires("root", "user_xattr", "devices")
DIALECTS = ["overlay:trusted", "overlay:user", "aufs"]


def taken(upper: Path, stack: list[Path], dialect: str, whiteouts: str) -> bytes:
    """Return the layer that an upper directory is."""
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, stack, dialect=dialect, compression="none", whiteouts=whiteouts)
    return out.getvalue()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("whiteouts", ["explicit", "opaque"])
@given(
    tree=strategies.trees(privileged=True).map(without_links),
    layers=st.lists(strategies.layers(privileged=True), min_size=1, max_size=3),
)
def test_l4_what_is_taken_out_of_a_branch_is_what_was_put_in(
    home: Path, dialect: str, whiteouts: str, tree: Script, layers: list[list[Member]]
) -> None:
    with fresh(home) as folder:
        stack, plain = [laid(folder / "lower", tree)], laid(folder / "plain", tree)
        model = reference.read_tree(plain)
        for i, layer in enumerate(layers):
            before = model.listing()
            try:
                reference.apply(model, layer)
            except (LamellaError, reference.Unspecified):
                assume(False)
            assume(not hidden(before, model.listing()))
            upper = laid(folder / f"upper{i}")
            apply(layer, upper, dialect=dialect, parents=stack)
            apply(taken(upper, stack, dialect, whiteouts), plain)
            stack.insert(0, upper)
            ignored = {"root", "mtime_ns"} | ({"links"} if i else set())
            assert compare(model.listing(), listing(plain), ignored) == []
