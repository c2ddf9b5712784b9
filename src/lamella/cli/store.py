"""Commands on stores: images in and out, snapshots, mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

import lamella
from lamella.cli.options import COMPRESSION
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import columns, human, path_fields, shown

if TYPE_CHECKING:
    from lamella.model import Probe, Usage
    from lamella.store.store import Snapshot, Store

__all__ = ["drivers", "store"]


@click.command(short_help="Say which storage drivers can work.")
@click.argument("root", required=False)
@command_options
def drivers(_output: Output, root: str | None) -> Report:
    """Try every driver in the directory ROOT, or a temporary one, and say which can work there, and why others cannot."""
    probes = lamella.probe_drivers(root)

    def document() -> dict[str, Any]:
        return {"drivers": [_driver_document(probe, root) for probe in probes]}

    def lines() -> Iterator[str]:
        for probe in probes:
            yield f"{probe.name}/{probe.backend}: {'available' if probe.available else 'no'}"
            yield from (f"  {reason}" for reason in probe.reasons)

    return Report(document, lines)


def _driver_document(probe: Probe, root: str | None) -> dict[str, Any]:
    """Return what is known of a driver, with the features of one that can work."""
    from lamella.drivers.registry import driver_features  # noqa: PLC0415  (for this command alone)

    features: dict[str, Any] = {}
    reasons = list(probe.reasons)
    if probe.available:
        try:
            features = driver_features(probe.name, probe.backend, root)
        except OSError as error:
            reasons.append(f"its features could not be tried: {error}")
    known = {"name": probe.name, "backend": probe.backend, "available": probe.available, "reasons": reasons}
    return {**known, "features": features}


@click.group(short_help="Keep layers and snapshots in a directory.")
@click.argument("root")
@click.option("--driver", default="auto", show_default=True, metavar="D", help="The driver of a new store.")
@click.option("--backend", default="auto", show_default=True, metavar="B", help="kernel or userspace.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the driver, for a new store.")
@click.pass_context
def store(ctx: click.Context, root: str, driver: str, backend: str, options: tuple[str, ...]) -> None:
    """Use the store in the directory ROOT, made if there is none: images in, snapshots of them to work in, images out."""
    pairs = [option.partition("=") for option in options]
    if any(not equals for _, equals, _ in pairs):
        raise click.UsageError("an --option is KEY=VALUE")
    chosen = {key: value for key, _, value in pairs} or None
    ctx.meta["lamella.store"] = lambda: lamella.Store(root, driver=driver, backend=backend, options=chosen)


def _open() -> Store:
    made: Callable[[], Store] = click.get_current_context().meta["lamella.store"]
    return made()


def _said(line: str, **document: Any) -> Report:
    return Report(lambda: document, lambda: [line])


@store.command("import")
@click.argument("ref")
@click.option("--rootless", is_flag=True, help="Owners stay the caller's; devices become warnings.")
@command_options
def import_(output: Output, ref: str, *, rootless: bool) -> Report:
    """Import the image REF; print the name of its top layer."""
    with _open() as opened, output.progress() as progress:
        name = opened.import_image(ref, rootless=rootless, progress=progress)
    return _said(name, name=name)


@store.command()
@click.argument("name")
@click.argument("dest")
@click.option("--compression", type=COMPRESSION, metavar="C[:LEVEL]", help="none, gzip or zstd. Else blobs stay as they are.")
@command_options
def export(output: Output, name: str, dest: str, *, compression: tuple[str, int | None] | None) -> Report:
    """Save the committed snapshot NAME as the image DEST, oci:DIR[:TAG] or docker-archive:FILE[:TAG]."""
    from lamella.cli.edit import saved_report  # noqa: PLC0415  (for this command alone)

    with _open() as opened, output.progress() as progress:
        codec = compression[0] if compression else None
        saved = opened.export_image(name, dest, compression=codec, progress=progress)
    return saved_report(name, saved)


@store.command()
@click.argument("key")
@click.argument("parent", required=False)
@command_options
def prepare(_output: Output, key: str, parent: str | None) -> Report:
    """Make an active snapshot KEY of the committed snapshot PARENT, or an empty one."""
    with _open() as opened:
        opened.prepare(key, parent)
    return _said(key, key=key)


@store.command()
@click.argument("key")
@click.argument("parent")
@command_options
def view(_output: Output, key: str, parent: str) -> Report:
    """Make a view KEY of the committed snapshot PARENT."""
    with _open() as opened:
        opened.view(key, parent)
    return _said(key, key=key)


@store.command()
@click.argument("key")
@command_options
def mount(_output: Output, key: str) -> Report:
    """Mount a snapshot, until it is unmounted; print where."""
    with _open() as opened, opened.mount(key, keep=True) as path:
        return _said(shown(os.fsencode(path)), key=key, **path_fields(path))


@store.command()
@click.argument("key")
@command_options
def umount(_output: Output, key: str) -> Report:
    """Unmount a snapshot that `mount` mounted."""
    with _open() as opened:
        opened.umount(key)
    return _said(f"unmounted {key}", key=key)


@store.command()
@click.argument("name")
@click.argument("key")
@command_options
def commit(_output: Output, name: str, key: str) -> Report:
    """Make the active snapshot KEY a committed one, NAME."""
    with _open() as opened:
        opened.commit(name, key)
    return _said(name, name=name)


@store.command()
@click.argument("key")
@click.option("-o", "--output", "out", required=True, metavar="FILE", help="Where the layer goes.")
@click.option("--compression", type=COMPRESSION, default=("gzip", None), metavar="C[:LEVEL]", help="gzip unless given.")
@command_options
def diff(output: Output, key: str, out: str, *, compression: tuple[str, int | None]) -> Report:
    """Write what the snapshot KEY changes of its parent as a layer."""
    with _open() as opened, output.progress() as progress:
        info = opened.diff(key, out, compression=compression[0], level=compression[1], progress=progress)
    facts = {"digest": info.digest, "diff_id": info.diff_id, "size": info.size, "entries": info.entries}
    return Report(
        lambda: {**path_fields(out), **facts},
        lambda: [f"wrote {shown(os.fsencode(out))}: {info.entries} entries, {human(info.size)}", f"  {info.digest}"],
    )


@store.command()
@click.argument("key")
@command_options
def changes(_output: Output, key: str) -> Report:
    """List what the snapshot KEY changes of its parent."""
    with _open() as opened:
        found = opened.changes(key)
    marks = {"add": "A", "modify": "M", "delete": "D"}
    return Report(
        lambda: {"changes": [{**path_fields(change.path), "kind": change.kind.value} for change in found]},
        lambda: [f"{marks[change.kind.value]} {shown(change.path)}" for change in found],
    )


@store.command()
@click.argument("key")
@command_options
def rm(_output: Output, key: str) -> Report:
    """Remove a snapshot that nothing stands upon."""
    with _open() as opened:
        opened.remove(key)
    return _said(f"removed {key}", key=key)


@store.command()
@click.option("--tree", is_flag=True, help="Below what it stands upon.")
@command_options
def ls(_output: Output, *, tree: bool) -> Report:
    """List the snapshots."""
    with _open() as opened:
        found, choice = opened.list(tree=tree), opened.choice

    def document() -> dict[str, Any]:
        chosen = {"driver": choice.driver, "backend": choice.backend, "reasons": list(choice.reasons)}
        return {**chosen, "snapshots": [_described(snapshot, tree=tree) for snapshot in found]}

    def lines(snapshots: list[Snapshot], depth: int = 0) -> Iterator[str]:
        for snapshot in snapshots:
            yield f"{'  ' * depth}{snapshot.kind.value:<10}{snapshot.key}{'  (mounted)' if snapshot.mounted else ''}"
            yield from lines(list(snapshot.children), depth + 1)

    return Report(document, lambda: lines(found))


def _described(snapshot: Snapshot, *, tree: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "key": snapshot.key, "kind": snapshot.kind.value, "parent": snapshot.parent, "created": snapshot.created,
        "mounted": snapshot.mounted,
    }  # fmt: skip
    return {**facts, "children": [_described(each, tree=True) for each in snapshot.children]} if tree else facts


@store.command()
@click.argument("key")
@command_options
def usage(_output: Output, key: str) -> Report:
    """Say what room a snapshot takes, by itself and with what it stands upon."""

    def facts(found: Usage) -> dict[str, int]:
        return {"bytes": found.nbytes, "inodes": found.n_inodes}

    with _open() as opened:
        found = opened.usage(key)
    rows = [(name, f"{human(each.nbytes)}, {each.n_inodes} inodes") for name, each in
            (("exclusive", found.exclusive), ("shared", found.shared))]  # fmt: skip
    return Report(lambda: {"exclusive": facts(found.exclusive), "shared": facts(found.shared)}, lambda: columns(rows))


@store.command()
@command_options
def gc(_output: Output) -> Report:
    """Remove layers that no image or snapshot needs, and their blobs."""
    with _open() as opened:
        gone = opened.gc()
    return Report(
        lambda: {"snapshots": list(gone.snapshots), "bytes": gone.nbytes},
        lambda: [f"removed {len(gone.snapshots)} layers and {human(gone.nbytes)} of blobs"],
    )


@store.command()
@click.option("--repair", is_flag=True, help="Remove what belongs to no snapshot.")
@command_options
def check(_output: Output, *, repair: bool) -> Report:
    """Say what is wrong with the store; every blob is read."""
    with _open() as opened:
        problems = opened.check(repair=repair)
    return Report(
        lambda: {"problems": [{"kind": p.kind, "subject": p.subject, "message": p.message} for p in problems]},
        lambda: [f"{p.subject}: {p.message}" for p in problems] or ["whole"],
        f"{len(problems)} problems" if problems else None,
    )
