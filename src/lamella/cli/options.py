"""Values of options that are more than a word."""

from __future__ import annotations

import click

from lamella.errors import FormatError
from lamella.model import IdMap

__all__ = ["COMPRESSION", "id_map"]


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
