"""Commands that write metadata of thin pools: as text, from text, and anew. Options are those of thin-provisioning-tools."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, TypeVar

import click

from lamella.block.building import output_device
from lamella.block.dumping import Overrides
from lamella.block.dumping import dump as dump_text
from lamella.block.metadata import Metadata
from lamella.block.repairing import repair as repair_metadata
from lamella.block.restoring import restore as restore_metadata
from lamella.cli.thin import VERSION, SnapshotCommand

__all__ = ["dump", "repair", "restore"]

Command = TypeVar("Command", bound=Callable[..., Any])
NATURAL = click.IntRange(0, 2**63 - 1)


def _overriding(command: Command) -> Command:
    """Add the options that name fields of the superblock."""
    for name, most in (("nr-data-blocks", 2**40), ("data-block-size", 2**32 - 1), ("transaction-id", 2**63 - 1)):
        help_text = f"Override the {name.replace('-', ' ')}."
        command = click.option(f"--{name}", type=click.IntRange(0, most), help=help_text)(command)
    return command


@click.command(cls=SnapshotCommand, short_help="Print metadata as text.")
@click.argument("metadata")
@click.option("-f", "--format", "form", type=click.Choice(["xml", "human_readable"]), default="xml", help="xml unless given.")
@click.option("-r", "--repair", is_flag=True, expose_value=False, help="Read no space map; none is read anyhow.")
@click.option("-m", "--metadata-snap", "snapshot", type=NATURAL, metavar="[BLOCK]", help="Print the metadata snapshot.")
@click.option("-o", "out", metavar="FILE", help="Write to FILE instead of stdout.")
@click.option("--dev-id", "dev_ids", type=NATURAL, multiple=True, help="Print this device only; repeatable.")
@click.option("--skip-mappings", is_flag=True, help="Print devices without their mappings.")
@_overriding
@VERSION
def dump(
    metadata: str,
    form: Literal["xml", "human_readable"],
    snapshot: int | None,
    out: str | None,
    dev_ids: tuple[int, ...],
    *,
    skip_mappings: bool,
    **overrides: int | None,
) -> None:
    """Print the metadata in METADATA, a file or a block device, as thin_dump does."""
    with Metadata.open(metadata, snapshot=snapshot or (None if snapshot is None else True)) as opened, _sink(out) as sink:
        dump_text(opened, sink.write, form=form, dev_ids=dev_ids, mappings=not skip_mappings, overrides=Overrides(**overrides))


@contextlib.contextmanager
def _sink(path: str | None) -> Iterator[BinaryIO]:
    """Give the file to write to, or stdout."""
    if path is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with open(path, "wb") as file:
            yield file


@click.command(short_help="Make metadata of XML.")
@click.option("-i", "--input", "source", required=True, metavar="XML", help="What thin_dump printed.")
@click.option("-o", "--output", "out", required=True, metavar="METADATA", help="A file that is large enough, or a device.")
@click.option("-q", "--quiet", is_flag=True, expose_value=False, help="Print nothing; nothing is printed anyhow.")
@_overriding
@VERSION
def restore(source: str, out: str, **overrides: int | None) -> None:
    """Write the pool that an XML describes over all that is in METADATA.

    Where that fails no pool is there.
    """
    with open(source, "rb", buffering=0) as file, output_device(out) as fd:
        restore_metadata(file, fd, overrides=Overrides(**overrides))


@click.command(short_help="Make metadata anew of its trees.")
@click.option("-i", "--input", "source", required=True, metavar="METADATA", help="A file or a block device.")
@click.option("-o", "--output", "out", required=True, metavar="METADATA", help="Another one, which is large enough.")
@_overriding
@VERSION
def repair(source: str, out: str, **overrides: int | None) -> None:
    """Write the pool of one file or device over all that is in another, with space maps that fit its trees.

    Trees must be whole: a block that is damaged is named, and nothing is written.
    """
    with Metadata.open(source) as opened, output_device(out) as fd:
        repair_metadata(opened, fd, overrides=Overrides(**overrides))
