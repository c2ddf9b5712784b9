"""``lamella thin``: metadata of thin pools. Options and output are those of thin-provisioning-tools 0.9.0."""

from __future__ import annotations

import click

import lamella
from lamella.cli.lazy import LazyGroup

__all__ = ["VERSION", "SnapshotCommand", "thin"]

# command -> module of lamella.cli
COMMANDS = {
    "check": "thin_read",
    "delta": "thin_read",
    "dump": "thin_text",
    "ls": "thin_read",
    "repair": "thin_text",
    "restore": "thin_text",
}
VERSION = click.version_option(lamella.__version__, "-V", "--version", message="%(version)s")


class SnapshotCommand(click.Command):
    """A command whose option --metadata-snap takes a value only where it is attached: ``-m``, ``-m76``, ``--metadata-snap=76``.

    Without a value it is 0.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give an option that stands alone its value."""
        end = args.index("--") if "--" in args else len(args)
        bare = {"-m", "--metadata-snap"}
        return super().parse_args(ctx, ["-m0" if i < end and arg in bare else arg for i, arg in enumerate(args)])


class _Thin(LazyGroup):
    modules = COMMANDS


@click.group(cls=_Thin, short_help="Read, check, compare and write metadata of thin pools.")
def thin() -> None:
    """Metadata of dm-thin pools, in files or on block devices, as thin-provisioning-tools 0.9.0 handle it.

    Options and output are theirs; there is no --json here. Errors are one line, with exit status 1.
    """
