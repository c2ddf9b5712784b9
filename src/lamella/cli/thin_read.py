"""Commands that read metadata of thin pools: checked, compared, listed."""

from __future__ import annotations

import sys

import click

from lamella.block.checking import Checker, Depth, Problem
from lamella.block.delta import delta_xml
from lamella.block.listing import DEFAULT_FIELDS, FIELDS, listing
from lamella.block.metadata import Metadata
from lamella.block.needs_check import clear_needs_check
from lamella.cli.thin import VERSION, SnapshotCommand
from lamella.errors import LamellaError, MetadataError

__all__ = ["check", "delta", "ls"]

NATURAL = click.IntRange(min=0)


@click.command(short_help="Check metadata: read every used block, count all references.")
@click.argument("metadata")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@click.option("-m", "--metadata-snap", "snapshot", is_flag=True, help="Check the metadata snapshot; it has no space maps.")
@click.option("--super-block-only", is_flag=True, help="Check the superblock only.")
@click.option("--skip-mappings", is_flag=True, help="Do not check the mappings of devices.")
@click.option("--override-mapping-root", "mapping_root", type=NATURAL, metavar="BLOCK", help="Use this root of mappings.")
@click.option("--ignore-non-fatal-errors", "lenient", is_flag=True, help="Lost blocks are no failure.")
@click.option("--clear-needs-check-flag", "clear", is_flag=True, help="Clear the superblock's flag if all is well.")
@VERSION
@click.pass_context
def check(
    ctx: click.Context, metadata: str, *, quiet: bool, snapshot: bool, super_block_only: bool, skip_mappings: bool,
    mapping_root: int | None, lenient: bool, clear: bool,
) -> None:  # fmt: skip
    """Check the metadata of a thin pool. Exit 1 if anything is wrong; what is goes to stderr."""
    against = {
        "within a metadata snapshot": snapshot,
        "without a full examination": super_block_only or skip_mappings,
        "with another root of mappings": mapping_root is not None,
        "with errors ignored": lenient,
    }
    if clear and any(against.values()):
        raise click.UsageError(f"the flag is not cleared {next(why for why, given in against.items() if given)}")
    depth = Depth.DEVICES if skip_mappings else Depth.SUPERBLOCK if super_block_only else Depth.ALL
    say = _nothing if quiet else _complain
    say("examining superblock")
    try:
        with Metadata.open(metadata, snapshot=snapshot or None) as opened:
            problems = _examine(opened, depth, mapping_root, quiet=quiet)
    except MetadataError as error:
        say(f"  superblock is corrupt\n    {error}")
        ctx.exit(1)
    if any(problem.fatal or not lenient for problem in problems):
        ctx.exit(1)
    if clear and clear_needs_check(metadata):
        say("cleared needs_check flag")


def _examine(opened: Metadata, depth: Depth, mapping_root: int | None, *, quiet: bool) -> list[Problem]:
    say = _nothing if quiet else _complain
    if not quiet:
        free = opened.live.metadata_sm.nblocks - opened.live.metadata_sm.nallocated
        print(f"TRANSACTION_ID={opened.superblock.transaction_id}\nMETADATA_FREE_BLOCKS={free}", flush=True)
    problems = []
    for name, step in Checker(opened, depth=depth, mapping_root=mapping_root).steps():
        say(name)
        for problem in step():
            problems.append(problem)
            say(f"  {problem.what}" + (f"\n    {problem.why}" if problem.why else ""))
    return problems


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


def _nothing(_line: str) -> None:
    """Say nothing."""


@click.command(cls=SnapshotCommand, short_help="Print what differs between two devices.")
@click.argument("metadata")
@click.option("--thin1", "--snap1", "left", type=NATURAL, required=True, metavar="DEV", help="The first device.")
@click.option("--thin2", "--snap2", "right", type=NATURAL, required=True, metavar="DEV", help="The second device.")
@click.option("-m", "--metadata-snap", "snapshot", type=NATURAL, metavar="[BLOCK]", help="In the metadata snapshot.")
@click.option("--verbose", is_flag=True, help="Say where the data lies.")
@VERSION
def delta(metadata: str, left: int, right: int, snapshot: int | None, *, verbose: bool) -> None:
    """Print, as XML, which blocks only one of two thin devices has, which both have at other places, and which are the same."""
    with Metadata.open(metadata, snapshot=None if snapshot is None else True) as opened:
        if snapshot and snapshot != opened.live.held_root:
            raise LamellaError(f"metadata snapshot {snapshot} is not the one that is held, {opened.live.held_root}")
        sys.stdout.writelines(delta_xml(opened, left, right, verbose=verbose))


@click.command(short_help="List devices.", epilog=f"Fields: {', '.join(FIELDS)}.")
@click.argument("metadata")
@click.option("-o", "--format", "fields", metavar="FIELDS", default=",".join(DEFAULT_FIELDS), help="Names, with commas.")
@click.option("--no-headers", is_flag=True, help="Print no names of fields.")
@click.option("-m", "--metadata-snap", "snapshot", is_flag=True, help="In the metadata snapshot.")
@VERSION
def ls(metadata: str, fields: str, *, no_headers: bool, snapshot: bool) -> None:
    """List the thin devices of a pool."""
    with Metadata.open(metadata, snapshot=snapshot or None) as opened:
        sys.stdout.writelines(listing(opened, fields.split(","), headers=not no_headers))


