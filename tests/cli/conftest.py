"""Run the program inside the test's process, and see its exit status and both of its streams."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from lamella.cli import main
from lamella.testing.trees import Dir, File, Hardlink, Symlink, build


@dataclass(frozen=True)
class Ran:
    """One run of the program."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Lamella = Callable[..., Ran]


@pytest.fixture
def lamella(capsys, monkeypatch) -> Lamella:
    """Give ``lamella(*words)``, which runs the command line."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in words])
        out, err = capsys.readouterr()
        return Ran(int(caught.value.code or 0), out, err)

    return run


@pytest.fixture
def failed(lamella) -> Lamella:
    """Give the same for a run that must fail: status 1, nothing on stdout, one line on stderr."""

    def run(*words: object) -> Ran:
        ran = lamella(*words)
        assert ran.status == 1
        assert ran.out == ""
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("lamella: error: ")
        assert ran.err.rstrip("\n").isprintable()
        return ran

    return run


@pytest.fixture
def trees(scratch):
    """Give two directories, ``lower`` and ``upper``, that differ in every way."""
    owner = {"uid": os.geteuid(), "gid": os.getegid()}
    same = [Dir("etc", **owner), File("etc/same", b"same\n", **owner)]
    build(scratch / "lower", *same, File("etc/old", b"old\n", **owner), File("swap", b"a file\n", **owner))
    build(
        scratch / "upper",
        *same,
        File("etc/new", b"new content\n", **owner),
        Hardlink("etc/link", "etc/new"),
        Dir("swap", **owner),
        Symlink("ln", "etc/new", **owner),
        File(b"latin1-\xe9", b"", **owner),
        File(b"esc\x1b[31m\n", b"", **owner),
    )
    return scratch / "lower", scratch / "upper"
