"""The road tar -> table, headers only, beside tar and tarfile."""

from __future__ import annotations

from lamella.bench import workloads


def test_list(measured, corpus, tmpfs):
    measured(workloads.listing(corpus, tmpfs))
