"""One union, or the layers of an image, served at one place, as the words of a mount say."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from lamella.fuse.binding import load
from lamella.fuse.layers import LayersTree
from lamella.fuse.reading import Reading
from lamella.fuse.session import Session
from lamella.fuse.spool import Spool
from lamella.fuse.stored import StoredLayer
from lamella.fuse.union import UnionTree
from lamella.fuse.writing import Writing
from lamella.layer.own import BranchDialect

__all__ = ["Server"]

_READAHEAD = "1024"  # KiB
_OPTIONS = ("upperdir", "workdir", "dialect", "redirect_dir", "source", "ro", "escaped", "spool", "spool_size")
_SPOOL_NBYTES = 16 << 30
_SWITCH = 0.0005  # seconds until a thread that computes lets another answer


class Server:
    """``words``: the target, then options as __main__.py has them. OSError, ValueError, DriverUnavailable."""

    def __init__(self, words: Sequence[bytes]) -> None:
        target, *options = map(os.fsdecode, words)
        self.target = os.path.realpath(target)
        self.lowers: list[str] = []
        self.layers: list[str] = []
        given: dict[str, str] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key == "lowerdir+":
                self.lowers.append(value)
            elif key == "layer+":
                self.layers.append(value)
            elif key in _OPTIONS:
                given[key] = value
            else:
                raise ValueError(f"a mount of type fuse.lamella has no option {key!r}")
        self.given = given
        self.read_only = "ro" in given or "upperdir" not in given
        os.umask(0)  # that of who asks is what counts
        self.library = load()

    def mount(self) -> None:
        """Open the branches, or the layers, and mount; OSError."""
        gc.disable()  # a tree of layers is made of many small objects, none of which is garbage
        tree = self._layers() if self.layers else self._union()
        gc.freeze()
        gc.enable()
        try:
            if self.read_only or isinstance(tree, LayersTree):
                handler = Reading(self.library, tree)
            else:
                handler = Writing(self.library, tree)
            self.session = Session(self.library, handler, os.fsencode(self.target), self._options())
            self.session.mount()
        except BaseException:
            tree.close()
            raise
        self._tune()

    def _union(self) -> UnionTree:
        upper = [self.given["upperdir"]] if "upperdir" in self.given else []
        if not upper and not self.lowers:
            raise ValueError("a mount of type fuse.lamella has no branch")
        dialect: BranchDialect = self.given.get("dialect", "overlay")  # type: ignore[assignment]
        return UnionTree(
            [*upper, *self.lowers], dialect=dialect, writable=not self.read_only,
            redirect_dir=self.given.get("redirect_dir") == "on", work=self.given.get("workdir") if not self.read_only else None,
        )  # fmt: skip

    def _layers(self) -> LayersTree:
        if self.lowers or not self.read_only:
            raise ValueError("layers are not mounted together with directories")
        namespace = self.given.get("escaped")
        escaped = [] if namespace is None else [os.fsencode(namespace) + b".overlay."]
        spool = Spool(Path(self.given.get("spool", _cache())), int(self.given.get("spool_size", _SPOOL_NBYTES)))
        return LayersTree([StoredLayer.of(word) for word in self.layers], spool, escaped=escaped)

    def _options(self) -> list[str]:
        source = self.given.get("source", "lamella")
        options = [f"fsname={source}:{os.getpid()}", "subtype=lamella", "default_permissions"]
        if os.geteuid() == 0:
            options += ["allow_other", "suid", "dev"]
        return options + (["ro"] if self.read_only else [])

    def _tune(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each open file is one
        sys.setswitchinterval(_SWITCH)
        with contextlib.suppress(OSError):  # only root may, and only for the whole machine
            device = self._device()
            Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text(_READAHEAD)

    def _device(self) -> int:
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                fields = line.split(b" ")
                if fields[-2].endswith(b":%d" % os.getpid()) and b"fuse.lamella" in fields:
                    major, minor = fields[2].split(b":")
                    return os.makedev(int(major), int(minor))
        raise FileNotFoundError(self.target)

    def serve(self) -> None:
        """Answer until it is unmounted."""
        self.session.serve()


def _cache() -> Path:
    """Return where a user's programs keep what they can make again (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lamella", "layers")
