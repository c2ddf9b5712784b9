"""Options that several commands share, and values that are more than a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lamella.errors import FormatError
from lamella.layer.policy import POLICIES
from lamella.model import IdMap

__all__ = ["COMPRESSION", "PLATFORM", "id_map", "placing_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Compression(click.ParamType[tuple[str, int | None]]):
    """``C[:LEVEL]`` as a codec's name and a level."""

    name = "compression"

    def convert(
        self, value: str | tuple[str, int | None], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        """Return ``(codec, level)``; level None where none was given."""
        if isinstance(value, tuple):
            return value
        codec, colon, level = value.partition(":")
        if codec not in ("none", "gzip", "zstd") or (colon and not level.lstrip("-").isdigit()):
            self.fail(f"{value!r} is not none, gzip or zstd, with :LEVEL if any", param, ctx)
        return codec, int(level) if colon else None


COMPRESSION = _Compression()
PLATFORM = click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Of several images, the one for it; else this machine's."
)


def id_map(uid: str | None, gid: str | None, *, squash: bool = False) -> IdMap | None:
    """Return the map that --map-uid, --map-gid and --map-squash describe, None without them."""
    if uid is None:
        if gid is not None or squash:
            raise click.UsageError("--map-gid and --map-squash need --map-uid")
        return None
    try:
        return IdMap.parse(uid, gid, squash=squash)
    except FormatError as error:
        raise click.UsageError(str(error)) from error


def placing_options(command: Command) -> Command:
    """Add the options of a command that writes layers to a directory; the maps come as map_uid, map_gid, map_squash."""
    for option in reversed(_PLACING):
        command = option(command)
    return command


_PLACING: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--dialect",
        type=click.Choice(["plain", "overlay", "overlay:trusted", "overlay:user", "aufs"]),
        default="plain",
        show_default=True,
        help="How a whiteout is kept in ROOT.",
    ),
    click.option("--parent", "parents", multiple=True, metavar="DIR", help="A lower directory, nearest first; repeatable."),
    click.option(
        "--policy",
        type=click.Choice(list(POLICIES)),
        default="spec",
        show_default=True,
        help="Whose choice where engines differ.",
    ),
    click.option("--map-uid", metavar="C:H:N", help="Owner ids as container:host:count[,...]."),
    click.option("--map-gid", metavar="C:H:N", help="Group ids; as --map-uid unless given."),
    click.option("--map-squash", is_flag=True, help="Give the caller what no range of the map holds."),
    click.option("--xattrs", type=click.Choice(["all", "all+selinux", "none"]), default="all", show_default=True),
    click.option("--rootless", is_flag=True, help="Keep the caller's ids, warn of devices and trusted.* attributes."),
    click.option("--keep-dirlinks", is_flag=True, help="Follow a link where the layer has a directory."),
    click.option("--holes", is_flag=True, help="Turn runs of zeros into holes."),
    click.option(
        "--sync",
        type=click.Choice(["none", "fs", "file"]),
        default="none",
        show_default=True,
        help="Flush the file system, or each file and then the file system.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Threads that write; two unless given."),
)
