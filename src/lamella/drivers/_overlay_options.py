"""What overlayfs is asked for, and why (kernel document overlayfs.rst)."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

__all__ = ["MAX_LAYERS", "OPTIONS", "check_options", "mount_words", "writable_namespace"]

MAX_LAYERS = 500  # OVL_MAX_STACK
OPTIONS: dict[str, tuple[str, ...]] = {
    "redirect_dir": ("on", "off"),
    "metacopy": ("off", "on"),
    "index": ("off", "on"),
    "xino": ("auto", "on", "off"),
    "volatile": ("off", "on"),
    "userxattr": ("auto", "on", "off"),
}


def check_options(options: Mapping[str, str]) -> None:
    """Check the values of options that are known. ValueError."""
    for name, value in options.items():
        known = OPTIONS[name]
        if value not in known:
            raise ValueError(f"option {name} is {value!r}; one of {', '.join(sorted(known))}")
    if options.get("metacopy") == "on" and options.get("redirect_dir") == "off":
        raise ValueError("option metacopy is 'on', which takes redirect_dir 'on'")
    if options.get("userxattr") == "on":
        for name in ("metacopy", "redirect_dir"):
            if options.get(name) == "on":
                raise ValueError(f"option {name} is 'on', which takes userxattr 'off'")


def mount_words(options: Mapping[str, str], namespace: str, *, upper: bool) -> list[str]:
    """Return the options of a mount but its layers; ``namespace`` of attributes is "trusted" or "user".

    All are said, since a kernel's own defaults are whatever it was built with.
    """
    words = []
    if namespace == "user":
        # whoever may write user attributes could make a directory lead anywhere: the kernel follows none of them
        words += ["userxattr", "redirect_dir=nofollow", "metacopy=off"]
    else:
        # A directory of a lower layer can be renamed, as anywhere, and not with EXDEV after which mv copies it. No layer
        # that is applied can bring a redirect: what a tar has of overlay's own attributes is escaped (tests/contract 27).
        words.append(f"redirect_dir={options.get('redirect_dir', 'on')}")
        # A chmod would copy no content; but then it is the whole chain of layers that has a file's content, which an
        # upper directory alone, copied or looked at, has not. For who asks.
        words.append(f"metacopy={options.get('metacopy', 'off')}")
    if "xino" in options:  # a store's layers are on one file system, where inode numbers are what they are
        words.append(f"xino={options['xino']}")
    if upper:
        # With an index a file keeps its names when one of them is written, but it is not in the upper directory what the
        # others show then: all of what is below has to be looked through for them (_overlay_index.py), and an active
        # snapshot is tied to the inodes below, ESTALE in a copy of the store. A user namespace has no index at all. So a
        # name that is written parts from the others, here as there, unless it is asked for.
        words.append(f"index={options.get('index', 'off')}")
        if options.get("volatile") == "on":
            words.append("volatile")
    return words


def writable_namespace(folder: str | os.PathLike[str]) -> str | None:
    """Return whose attributes can be written on the directory ``folder``, "trusted" or "user"; None for neither.

    Trusted ones need CAP_SYS_ADMIN in the initial user namespace, and some file systems have only one kind.
    """
    for namespace in ("trusted", "user"):
        name = f"{namespace}.overlay.lamella"
        try:
            os.setxattr(folder, name, b"y")
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP):
                raise
        else:
            os.removexattr(folder, name)
            return namespace
    return None
