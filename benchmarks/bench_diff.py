"""The road directory, twice -> tables -> changes, beside rsync's dry run."""

from __future__ import annotations

from lamella.bench import workloads
from tests import parts


def test_diff(measured, corpus, ground):
    parts.requires("rsync")
    measured(workloads.diff(corpus, ground))
