"""``lamella demo``: an image of three layers from a real tree of this machine, made, verified, applied, compared."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import lamella
from lamella.cli.output import Output, Report, command_options
from lamella.cli.sample import copy_part, edit_first, edit_second, roomy_folder, sources
from lamella.cli.text import human, shown
from lamella.drivers.registry import driver_class
from lamella.image.writer import LayoutWriter, image_config

if TYPE_CHECKING:
    from lamella.drivers.base import Driver
    from lamella.image.image import Image
    from lamella.tar.layerinfo import LayerInfo

__all__ = ["demo"]


@dataclass
class _Demo:
    """One run: the tree that is edited, the root that layers are applied to, and what was found."""

    output: Output
    home: Path
    nbytes: int
    rootless: bool = field(default_factory=lambda: os.geteuid() != 0)
    layers: list[dict[str, Any]] = field(default_factory=list)
    infos: list[LayerInfo] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    @property
    def root(self) -> Path:
        return self.home / "root"

    def run(self) -> None:
        """Make the layers, the image, and every check."""
        self.tree.mkdir()
        with self.timed(f"copied a part of {', '.join(map(str, sources()))}") as done:
            n_entries, nbytes = copy_part(self.tree, self.nbytes)
            done(f"{n_entries:,} entries, {human(nbytes)}")
        with LayoutWriter(self.home / "image") as layout:
            self.add_layer(layout, "the tree as it was found", lambda _: ["all of it, against nothing"])
            self.add_layer(layout, "a day's work", edit_first)
            self.add_layer(layout, "edits that are easy to miss", edit_second)
            history = [{"created_by": f"lamella demo: {layer['step']}"} for layer in self.layers]
            config = image_config([info.diff_id for info in self.infos], history=history, Cmd=["/bin/sh"])
            layout.add_image(config, [info.descriptor() for info in self.infos], "demo")
        self.output.say("")
        self.read_back()

    def add_layer(self, layout: LayoutWriter, step: str, edit: Callable[[Path], list[str]]) -> None:
        """Edit the tree, write what that changed as a layer, apply the layer to the root, and compare the two."""
        number = len(self.layers) + 1
        self.output.say(f"\nlayer {number}: {step}")
        edits = edit(self.tree)
        for words in edits:
            self.output.say(f"  - {words}")
        lower = str(self.root) if self.layers else None
        with self.timed("diff") as done:
            info = layout.add_layer(lambda out: lamella.diff(lower, str(self.tree), out))
            done(f"{info.entries:,} entries, {human(info.uncompressed_size)} -> {human(info.size)} {info.codec}")
        self.output.say(f"    digest   {info.digest}\n    diff_id  {info.diff_id}")
        blob = self.home / "image" / "blobs" / "sha256" / info.digest.partition(":")[2]
        with self.timed("apply") as done:
            result = lamella.apply(
                str(blob), str(self.root), rootless=self.rootless, expected_digest=info.digest,
                expected_diff_id=info.diff_id,
            )  # fmt: skip
            done(f"{result.files:,} files, {result.whiteouts:,} whiteouts")
        self.infos.append(info)
        self.layers.append({"step": step, "edits": edits, **_facts(info)})
        self.compare(f"layer {number} applied gives the edited tree", self.root)

    def read_back(self) -> None:
        """Open the image that was written, verify, unpack, squash, append to and explain it."""
        with lamella.open_image(f"oci:{self.home}/image:demo") as image:
            with self.timed("verify") as done:
                problems = image.verify()
                done(f"{len(image.layers)} layers, {human(sum(layer.size for layer in image.layers))}")
            self.check("every digest and diff_id of the image is right", [problem.message for problem in problems])
            fresh = self.unpack(image, "fresh")
            self.compare("the image unpacks to the edited tree", fresh)
            with self.timed("diff once more") as done:
                again = lamella.diff(str(self.root), str(fresh), io.BytesIO(), compression="none")
                done(f"{again.entries} entries")
            self.check("the difference of two equal trees is empty", [] if again.entries == 0 else ["it has entries"])
            self.squash(image)
            self.explain(image)
            self.append(image)
        self.drivers()

    def unpack(self, image: Image, name: str) -> Path:
        """Unpack ``image`` to a directory of its own."""
        root = self.home / name
        with self.timed("unpack") as done:
            result = image.unpack(str(root), rootless=self.rootless)
            done(f"{result.files:,} files made of {result.entries:,} entries")
        return root

    def squash(self, image: Image) -> None:
        """Save the image as one layer in a docker-archive, and see that it says the same."""
        with self.timed("squash into a docker-archive") as done:
            reference = f"docker-archive:{self.home}/squashed.tar:demo"
            image.squash().save(reference)
            done(human(os.path.getsize(self.home / "squashed.tar")))
        with lamella.open_image(reference) as squashed:
            root = self.unpack(squashed, "squashed")
        self.compare("squashed to one layer, it unpacks to the same tree", root)

    def explain(self, image: Image) -> None:
        """Ask where a path comes from that one layer changed and another one deleted."""
        gone = next(change.path for change in lamella.changes(None, str(self.tree)) if change.path.endswith(b".link"))
        found = image.explain(gone)
        top = len(image.layers) - 1
        for what in found.layers:
            self.output.say(f"  explain {shown(found.path)}: {what}")
        wrong = [] if [what.number for what in found.layers] == [top] else ["it should be layer 3 that makes it"]
        self.check("a hard link is explained by the layer that made it", wrong)

    def append(self, image: Image) -> None:
        """Edit what was unpacked, append the difference, and see that the longer image unpacks to it."""
        (self.tree / "appended").write_bytes(b"one more layer\n")
        with self.timed("diff, append and save") as done:
            layer = io.BytesIO()
            lamella.diff(str(self.root), str(self.tree), layer)
            reference = f"oci:{self.home}/image:longer"
            image.append(layer.getvalue(), created_by="lamella demo: one more layer").save(reference)
            done(human(len(layer.getvalue())))
        with lamella.open_image(reference) as longer:
            root = self.unpack(longer, "longer")
        self.compare("with a layer appended, it unpacks to the tree edited once more", root)

    def _reasons(self, kind: type[Driver]) -> Iterator[str]:
        """Yield why a driver that works cannot show this image."""
        yield from kind.mount_refusals()
        longest = max(len(os.fsencode(name)) for _, folders, files in os.walk(self.tree) for name in folders + files)
        if longest > kind.name_max:
            yield f"has no names of {longest} bytes, {kind.name_max} at most"

    def drivers(self) -> None:
        """Import the longer image into a store of every driver that can work here, and edit a snapshot of it there."""
        wrong = []
        for probe in lamella.probe_drivers(self.home):
            name = f"{probe.name}/{probe.backend}"
            reasons = probe.reasons or tuple(self._reasons(driver_class(probe.name, probe.backend)))
            if reasons:
                self.output.say(f"  {name}: {'; '.join(reasons)}")
                continue
            with (
                self.timed(f"{name}: import, edit, commit, look") as done,
                lamella.Store(self.home / name.replace("/", "-"), driver=probe.name, backend=probe.backend) as store,
            ):
                store.prepare("work", store.import_image(f"oci:{self.home}/image:longer", rootless=self.rootless))
                with store.mount("work") as path:
                    (Path(path) / "appended").unlink()
                changed = store.changes("work")
                store.commit("edited", "work")
                store.view("look", "edited")
                with store.mount("look") as path:
                    found = lamella.changes(path, str(self.tree), content="always")
                done(f"{len(changed)} changes")
            wrong += [f"{name}: {each.kind.value} {shown(each.path)}" for each in found if each.path != b"appended"]
        self.check("a snapshot of every driver shows the edited tree", wrong)

    def compare(self, name: str, root: Path) -> None:
        """Compare ``root`` with the edited tree, every byte of it."""
        with self.timed("compare every byte") as done:
            found = lamella.changes(str(root), str(self.tree), content="always")
            done(f"{len(found)} changes")
        self.check(name, [f"{change.kind.value} {shown(change.path)}" for change in found])

    def check(self, name: str, wrong: list[str]) -> None:
        """Note the outcome of one check; ``wrong`` is empty where all is well."""
        self.checks.append({"check": name, "ok": not wrong, "wrong": wrong})
        verdict = self.output.style("FAILED", fg="red") if wrong else self.output.style("ok", fg="green")
        self.output.say(f"  {verdict}: {name}")
        for words in wrong[:10]:
            self.output.say(f"      {shown(words)}")

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[Callable[[str], None]]:
        """Say what was done, with its result (the callback's argument) and the seconds it took."""
        begin = time.perf_counter()
        said: list[str] = []
        yield said.append
        seconds = time.perf_counter() - begin
        self.output.say(f"  {what}: {', '.join(said)}, {seconds:.2f} s")


def _facts(info: LayerInfo) -> dict[str, Any]:
    return {
        "digest": info.digest,
        "diff_id": info.diff_id,
        "size": info.size,
        "uncompressed_size": info.uncompressed_size,
        "entries": info.entries,
        "codec": info.codec,
    }


@click.command(short_help="Make, verify, unpack, edit, store and compare an image of three layers.")
@click.option("--size", type=click.IntRange(min=2, max=1000), default=40, show_default=True, metavar="MB",
              help="How much of the machine's files to take.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the temporary folder there.")
@command_options
def demo(output: Output, *, size: int, keep: bool) -> Report:
    """Build an image of three layers from files of this machine; unpack, squash, explain, append to and store it.

    Everything is compared with the tree that was edited. Exit 1 if anything disagrees.
    """
    begin = time.perf_counter()
    nbytes = size * 10**6
    home = Path(tempfile.mkdtemp(prefix="lamella-demo-", dir=roomy_folder(5 * nbytes)))
    run = _Demo(output, home, nbytes)
    output.say(f"working in {home}")
    try:
        run.run()
    finally:
        if keep:
            output.say(f"\nkept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    seconds = time.perf_counter() - begin
    failed = [check["check"] for check in run.checks if not check["ok"]]
    summary = f"\n{len(run.checks) - len(failed)} of {len(run.checks)} checks passed in {seconds:.1f} s"
    return Report(
        lambda: {
            "folder": str(home) if keep else None,
            "layers": run.layers,
            "checks": run.checks,
            "ok": not failed,
            "seconds": round(seconds, 3),
        },
        lambda: [summary],
        f"{len(failed)} of {len(run.checks)} checks failed: {'; '.join(failed)}" if failed else None,
    )
