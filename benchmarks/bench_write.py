"""The road directory -> table -> tar -> blob, beside tarfile and tar."""

from __future__ import annotations

from lamella.bench import workloads
from tests import parts


def test_plain(measured, corpus, tmpfs):
    measured(workloads.write_plain(corpus, tmpfs))


def test_gzip(measured, corpus, tmpfs):
    parts.requires("igzip")
    measured(workloads.write_gzip(corpus, tmpfs))
