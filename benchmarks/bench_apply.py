"""The road blob -> tar -> table -> directory, beside tar, bsdtar, tarfile and umoci."""

from __future__ import annotations

from lamella.bench import workloads
from tests import parts


def test_gzip(measured, corpus, ground, entries):
    parts.requires("root", "igzip", "bsdtar", "umoci")
    measured(workloads.apply_gzip(corpus, ground, entries))


def test_plain(measured, corpus, ground, entries):
    parts.requires("root")
    measured(workloads.apply_plain(corpus, ground, entries))


def test_zstd(measured, corpus, tmpfs, entries):
    parts.requires("root", "zstd")
    measured(workloads.apply_zstd(corpus, tmpfs, entries))


def test_decode(measured, corpus, tmpfs):
    measured(workloads.decode(corpus, tmpfs))
