"""tarscan against the slow reference on thousands of broken archives: the same rows, or the same refusal."""

from __future__ import annotations

import os
import random

import pytest

from tests.kernels.scanning import outcome
from tests.kernels.tarcorpus import CORPUS, broken
from tests.reference.tar import Bad, parse

ROUNDS = {"quick": 20, "ci": 60, "fuzz": 2_000}[os.environ.get("HYPOTHESIS_PROFILE", "quick")]


def expected(data: bytes):
    """Return what the reference says, in the form of :func:`said`."""
    try:
        return [{k: v for k, v in e.items() if k != "content"} for e in parse(data)]
    except Bad as bad:
        return bad.kind


def said(data: bytes):
    """Return the kernel's rows, or the name of its refusal."""
    found = outcome(data)
    if isinstance(found, tuple):
        return found[2] if found[0] == "LimitExceededError" else found[0]
    return found


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("block", range(5))
def test_broken_archives(name, block):
    for i in range(ROUNDS):
        rng = random.Random(f"{name} {block} {i}")
        data = broken(CORPUS[name], rng)
        assert said(data) == expected(data), (name, block, i)
