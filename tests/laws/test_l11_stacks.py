"""L11: unpacking a stack equals applying its layers one after another, from the top or from the bottom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings

import lamella
from lamella.layer import stack
from lamella.layer.options import Options
from lamella.layer.stack import StackLayer, apply_stack
from lamella.testing.listing import compare
from lamella.testing.stacks import stacks
from lamella.testing.tars import Member, layer_tar
from tests.laws.ground import AS_ROOT, fresh

ROOT_NS = 1_700_000_000_000_000_007


def options(**changed: Any) -> Options:
    return Options(**({"rootless": not AS_ROOT} | changed))


def unpacked(root: Path, layers: list[list[Member]], roads: list[str], **changed: Any) -> Any:
    """Unpack a stack, noting in ``roads`` when it was applied from the bottom."""
    bottom_up = stack._bottom_up

    def noted(*args: Any) -> Any:
        roads.append("from the bottom")
        return bottom_up(*args)

    blobs = [layer_tar(layer) for layer in layers]
    stack._bottom_up = noted
    try:
        return apply_stack([StackLayer(lambda blob=blob: blob) for blob in blobs], root, options(**changed))
    finally:
        stack._bottom_up = bottom_up


def one_by_one(root: Path, layers: list[list[Member]]) -> list[Any]:
    return [lamella.apply(layer_tar(layer), root, rootless=not AS_ROOT) for layer in layers]


def agree(folder: Path, layers: list[list[Member]]) -> str:
    """Apply a stack in both ways and compare trees, results and errors; tell which road was taken."""
    roads: list[str] = []
    for name in "ab":
        (folder / name).mkdir()
        os.utime(folder / name, ns=(ROOT_NS, ROOT_NS))
    error: Exception | None = None
    try:
        want = one_by_one(folder / "a", layers)
    except (lamella.errors.LamellaError, OSError) as caught:
        error = caught
    if error is not None:
        with pytest.raises(type(error)):
            unpacked(folder / "b", layers, roads)
        assert not list((folder / "b").iterdir())
        return "an error"
    got = unpacked(folder / "b", layers, roads)
    assert compare(folder / "a", folder / "b") == []
    for left, right in zip(want, got, strict=True):
        assert (left.digest, left.diff_id, left.entries, left.whiteouts, left.opaques) == (
            right.digest, right.diff_id, right.entries, right.whiteouts, right.opaques,
        )  # fmt: skip
    return roads[0] if roads else "from the top"


@given(layers=stacks())
@settings(max_examples=500)
def test_l11_a_stack_is_its_layers_one_after_another(home, layers):
    with fresh(home) as folder:
        event(agree(folder, layers))
