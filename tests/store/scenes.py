"""What is done with stores in a sandbox: images made, snapshots edited, processes killed. Each scene gets a fresh folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import lamella
from lamella.drivers import _overlay_trial
from lamella.drivers._run import mounts_below
from lamella.image.documents import OCI_CONFIG
from lamella.image.writer import LayoutWriter, image_config
from lamella.store.store import Store
from lamella.testing.calls import Calls, Directory
from lamella.testing.editors import play, tree_of
from lamella.testing.listing import Found, compare, listing
from lamella.testing.trees import Dir, Edit, File, Hardlink, Remove, Script, Symlink, build

BASE: tuple[Edit, ...] = (
    Dir("etc"), File("etc/conf", b"one"), Dir("usr"), Dir("usr/lib"), File("usr/lib/a", b"a" * 5000),
    Hardlink("usr/lib/b", "usr/lib/a"), Symlink("lib", target="usr/lib"), File("gone", b"soon"),
)  # fmt: skip
UPPER: tuple[Edit, ...] = (File("etc/conf", b"two"), Remove("gone"), Dir("opt"), File("opt/new", b"n"))
EDIT: tuple[Edit, ...] = (File("opt/mine", b"m"), Remove("usr/lib/b"), File("etc/conf", b"three"))


def image(folder: Path, *, steps: tuple[tuple[Edit, ...], ...] = (BASE, UPPER), tag: str = "latest") -> str:
    """Write an image, a layer for each of ``steps``, into a layout in ``folder``; return its reference."""
    where, before = folder / f"tree-{tag}", None
    infos = []
    with LayoutWriter(folder / "layout") as layout:
        for number, edits in enumerate(steps):
            after = folder / f"tree-{tag}-{number}"
            if before is not None:
                lamella.apply(_all(before), after)
                Script(edits).apply(after)
            else:
                build(after, *edits)
            infos.append(layout.add_layer(lambda out, a=before, b=after: lamella.diff(a, b, out)))
            before = after
        config = image_config([info.diff_id for info in infos], history=[{"created_by": f"step {i}"} for i in range(len(infos))])
        layout.add_image(config, [info.descriptor() for info in infos], tag)
    assert before is not None
    os.rename(before, where)
    return f"oci:{folder / 'layout'}:{tag}"


def _all(tree: Path) -> bytes:
    out = io.BytesIO()
    lamella.diff(None, tree, out, compression="none")
    return out.getvalue()


@contextlib.contextmanager
def opened(store: Store, key: str) -> Iterator[Calls]:
    """Lend the calls on a snapshot: in its mount, or in the union of a driver that has none."""
    driver, graph = store._site.driver, store._site.graph
    if not tuple(driver.mount_refusals()):
        with store.mount(key) as path, Directory(path) as calls:
            yield calls
    else:
        with driver.union(graph.place(graph.get(key))) as union:
            yield union


def edit(store: Store, key: str, *edits: Edit) -> None:
    with opened(store, key) as calls:
        wrong = [answer for answer in play(calls, Script(edits)) if not answer.endswith(("done", "copied"))]
    assert wrong == []


def shown(store: Store, key: str) -> dict[bytes, Found]:
    with opened(store, key) as calls:
        return tree_of(calls)


def workday(folder: Path, driver: str) -> dict[str, Any]:
    """Import, look, edit, commit, diff, export; return what was wrong, by step."""
    reference = image(folder)
    with Store(folder / "store", driver=driver) as store:
        top = store.import_image(reference)
        wrong: dict[str, Any] = {"again": [] if store.import_image(reference) == top else ["another key"]}
        store.view("look", top)
        wrong["view"] = compare(listing(folder / "tree-latest"), shown(store, "look"), {"root", "dir_mtime"})
        store.prepare("work", top)
        edit(store, "work", *EDIT)
        edited = shown(store, "work")
        found = {(change.kind.value, change.path) for change in store.changes("work")}
        wanted = {("add", b"opt/mine"), ("delete", b"usr/lib/b"), ("modify", b"etc/conf")}
        wrong["changes"] = sorted(wanted - found)
        store.commit("mine", "work")
        wrong["committed"] = compare(edited, _viewed(store, "mine"), {"root"})
        info = store.diff("mine", folder / "layer.tar.gz")
        saved = store.export_image("mine", f"oci:{folder / 'out'}:x")
        with lamella.open_image(f"oci:{folder / 'out'}:x") as out:
            out.unpack(folder / "unpacked")
            wrong["exported"] = compare(edited, listing(folder / "unpacked"), {"root", "dir_mtime"})
            wrong["layer"] = [] if out.diff_ids[-1] == info.diff_id else ["another diff_id"]
            wrong["image"] = [str(p) for p in out.verify()]
            with lamella.open_image(reference) as came:
                wrong["blobs"] = [] if [x.digest for x in out.layers[:-1]] == [x.digest for x in came.layers] else ["others"]
            wrong["history"] = [] if len(out.history) == 3 else [str(out.history)]
        wrong["saved"] = [] if saved.n_layers == 3 else [str(saved)]
        wrong["check"] = [str(problem) for problem in store.check()]
    wrong["mounts"] = mounts_below(folder)
    return {step: lines for step, lines in wrong.items() if lines}


def _viewed(store: Store, name: str) -> dict[bytes, Found]:
    store.view("a look", name)
    found = shown(store, "a look")
    store.remove("a look")
    return found


def layers(folder: Path, driver: str) -> dict[str, Any]:
    """Apply layers one by one; return keys, and what the image of the same layers has."""
    reference = image(folder)
    with lamella.open_image(reference) as came, Store(folder / "store", driver=driver) as store:
        keys: list[str] = []
        for layer in came.layers:
            with layer.open() as blob:
                keys.append(store.apply_layer(blob.readall(), keys[-1] if keys else None))
        with came.layers[0].open() as blob:
            again = store.apply_layer(blob)
        store.export_image(keys[-1], f"docker-archive:{folder / 'out.tar'}")
        with lamella.open_image(f"docker-archive:{folder / 'out.tar'}") as out:
            same = out.diff_ids == came.diff_ids
        tree = compare(listing(folder / "tree-latest"), _viewed(store, keys[-1]), {"root", "dir_mtime"})
        return {"keys": keys == list(map(str, came.chain_ids)), "again": again == keys[0], "same": same, "tree": tree}


def refused(folder: Path, driver: str) -> dict[str, str]:
    """Ask for what cannot be; return the error of each."""
    reference = image(folder)
    said: dict[str, str] = {}

    def ask(what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001
            said[what] = f"{type(error).__name__}: {error}"
        else:
            said[what] = "nothing"

    with Store(folder / "store", driver=driver) as store:
        top = store.import_image(reference)
        store.prepare("work", top)
        ask("taken", lambda: store.prepare("work", top))
        ask("nowhere", lambda: store.prepare("other", "nothing"))
        ask("on active", lambda: store.prepare("other", "work"))
        ask("in use", lambda: store.remove(top))
        ask("commit view", lambda: [store.view("v", top), store.commit("x", "v")])
        ask("taken name", lambda: store.commit(top, "work"))
        ask("empty", lambda: store.prepare("", top))
        ask("other driver", lambda: Store(folder / "store", driver="nothing"))
        ask("other options", lambda: Store(folder / "store", options={"x": "y"}))
        ask("unknown driver", lambda: Store(folder / "second", driver="nothing"))
        ask("not a store", lambda: Store(folder / "layout"))
        with store.mount("work") as path:
            ask("mounted", lambda: store.remove("work"))
            ask("mounted commit", lambda: store.commit("x", "work"))
            if mounts_below(folder):
                with open(os.path.join(path, "open"), "wb"):
                    ask("busy", lambda: store.umount("work"))
        said["left"] = str(mounts_below(folder))
    return said


def damaged(folder: Path, driver: str) -> dict[str, Any]:
    """Damage a store; return what check says before and after a repair, and after an import of a damaged image."""
    reference = image(folder)
    with Store(folder / "store", driver=driver) as store:
        top = store.import_image(reference)
        kind = store.choice.driver
        stray = folder / "store" / kind / "4711"
        stray.mkdir()
        (stray / "x").write_bytes(b"x")
        first = sorted(problem.kind for problem in store.check())
        second = sorted(problem.kind for problem in store.check(repair=True))
        gone = not stray.exists()
        with lamella.open_image(reference) as came:
            blob = folder / "layout" / "blobs" / "sha256" / came.layers[1].digest.hex
            data = bytearray(blob.read_bytes())
            data[-1] ^= 1
            blob.write_bytes(data)
            ours = folder / "store" / "images" / "blobs" / "sha256" / came.layers[1].digest.hex
            ours.write_bytes(data)
        third = sorted(problem.kind for problem in store.check())
    with Store(folder / "other", driver=driver) as store:
        try:
            store.import_image(reference)
            error = "nothing"
        except Exception as caught:  # noqa: BLE001
            error = type(caught).__name__
        left = [snapshot.key for snapshot in store.list()], sorted(os.listdir(folder / "other" / kind)), store.check()
    return {"first": first, "second": second, "gone": gone, "third": third, "error": error, "left": left, "top": top}


def collected(folder: Path, driver: str) -> dict[str, Any]:
    """Remove an image's top and collect; what stays is what another image needs."""
    one = image(folder, tag="one")
    two = image(folder, tag="two", steps=(BASE, UPPER, EDIT))
    with Store(folder / "store", driver=driver) as store:
        first, second = store.import_image(one), store.import_image(two)
        nothing = store.gc()
        usage = store.usage(second)
        store.remove(second)
        after = store.gc()
        with_first = [snapshot.key for snapshot in store.list()]
        store.remove(first)
        last = store.gc()
        blobs = sum(len(files) for _, _, files in os.walk(folder / "store" / "images" / "blobs"))
        return {
            "nothing": (nothing.snapshots, nothing.nbytes), "after": len(after.snapshots), "freed": after.nbytes > 0,
            "left": len(with_first), "last": len(last.snapshots), "blobs": blobs,
            "usage": usage.exclusive.nbytes > 0 and usage.shared.nbytes > 0, "first": first in with_first,
            "rows": len(store.list()), "check": store.check(),
        }  # fmt: skip


def in_child(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked child; return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


class Killer:
    """An audit hook that kills the process at the ``at``-th event of the store, or counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, event: str, _args: Any) -> None:
        if event != "lamella.store":
            return
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def busy(root: Path, driver: str, reference: str) -> None:
    """Do everything that changes a store, once."""
    with Store(root, driver=driver) as store:
        top = store.import_image(reference)
        store.prepare("work", top)
        edit(store, "work", *EDIT)
        store.commit("mine", "work")
        store.view("look", "mine")
        store.export_image("mine", f"oci:{root.parent / 'out'}:x")
        store.remove("look")
        store.remove("mine")
        store.remove(top)
        store.gc()


def killed(folder: Path, driver: str, first: int = 0, step: int = 1) -> dict[str, Any]:
    """Kill a process at every ``step``-th recorded step of a busy day; return how often, and what was wrong after which."""
    reference = image(folder)
    wrong: list[str] = []
    at = first
    while True:
        root = folder / f"store{at}"

        def work(root: Path = root, at: int = at) -> None:
            sys.addaudithook(Killer(at))
            busy(root, driver, reference)

        status = in_child(work)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                wrong.append(f"{at}: exit {os.WEXITSTATUS(status)}")
            break
        before = _promised(root)
        with Store(root) as store:
            wrong += [f"{at}: {problem}" for problem in store.check()]
            keys = {snapshot.key for snapshot in store.list()}
            wrong += [f"{at}: lost {key}" for key in before - keys if key not in ("work", "look", "mine")]
            wrong += [f"{at}: owner {name}" for name in os.listdir(root / "owners") if not name.startswith(f"{os.getpid()}-")]
        wrong += [f"{at}: mounted {path}" for path in mounts_below(root)]
        status = in_child(lambda root=root: _goes_on(root, driver, reference))
        if status != 0:
            wrong.append(f"{at}: the next day fails")
        at += step
    return {"steps": at, "wrong": wrong}


def _promised(root: Path) -> set[str]:
    if not (root / "store.db").exists():
        return set()
    with sqlite3.connect(root / "store.db") as db:
        if not db.execute("SELECT * FROM sqlite_master WHERE name = 'snapshot'").fetchall():
            return set()  # its first process died before it was a store
        return {key for (key,) in db.execute("SELECT key FROM snapshot WHERE state = 'ready'")}


def _goes_on(root: Path, driver: str, reference: str) -> None:
    with Store(root, driver=driver) as store:
        for key in ("look", "work", "mine"):
            if key in {snapshot.key for snapshot in store.list()}:
                store.remove(key)
    busy(root, driver, reference)


def together(folder: Path, driver: str, n: int) -> dict[str, Any]:
    """Let ``n`` processes work in one store; return how they ended, and what is left."""
    reference = image(folder)
    root = folder / "store"

    def work(number: int) -> None:
        with Store(root, driver=driver) as store:
            top = store.import_image(reference)
            for turn in range(3):
                key = f"work-{number}-{turn}"
                store.prepare(key, top)
                edit(store, key, File(f"mine-{number}", key.encode()))
                store.commit(f"done-{number}-{turn}", key)
                store.view(f"look-{number}", f"done-{number}-{turn}")
                found = shown(store, f"look-{number}")[b"mine-%d" % number]
                assert found.sha256 == hashlib.sha256(key.encode()).hexdigest()
                store.remove(f"look-{number}")
                store.list()

    children = []
    for number in range(n):
        child = os.fork()
        if child == 0:
            try:
                work(number)
                os._exit(0)
            except BaseException:  # noqa: BLE001
                (folder / f"error{number}").write_text(traceback.format_exc())
                os._exit(1)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    errors = [path.read_text() for path in sorted(folder.glob("error*"))]
    with Store(root) as store:
        return {
            "errors": errors, "done": sum(s.key.startswith("done-") for s in store.list()), "check": store.check(),
            "mounts": mounts_below(folder),
        }  # fmt: skip


def shared(folder: Path, driver: str) -> dict[str, Any]:
    """Mount one snapshot twice, in one process and in another, and keep one mount for later."""
    reference = image(folder)
    root = folder / "store"
    with Store(root, driver=driver) as store:
        store.prepare("work", store.import_image(reference))
        with store.mount("work") as one, store.mount("work") as two:
            same = one == two
            Path(one, "x").write_text("x")

        def other() -> None:
            with Store(root) as second, second.mount("work") as path:
                assert Path(path, "x").read_text() == "x"
                Path(path, "y").write_text("y")

        with store.mount("work") as path:
            status = in_child(other)
            still = Path(path, "y").read_text() == "y"

        def keeps() -> None:
            with Store(root) as second, second.mount("work", keep=True):
                pass

        kept_status = in_child(keeps)
        kept = mounts_below(root)
    with Store(root) as store:
        after = mounts_below(root)
        store.umount("work")
        return {"same": same, "status": status, "still": still, "kept": (kept_status, kept == after), "left": mounts_below(root)}


def config_of(folder: Path, driver: str) -> str:
    """Export what was made of nothing; return the media type of its configuration."""
    with Store(folder / "store", driver=driver) as store:
        store.prepare("empty")
        edit(store, "empty", File("a", b"a"))
        store.commit("base", "empty")
        store.export_image("base", f"oci:{folder / 'out'}:x")
    with lamella.open_image(f"oci:{folder / 'out'}:x") as out:
        out.unpack(folder / "root")
        assert (folder / "root" / "a").read_bytes() == b"a"
        return out.manifest["config"]["mediaType"] if out.manifest["config"]["mediaType"] == OCI_CONFIG else "other"


def killed_in_a_trial(folder: Path) -> dict[str, Any]:
    """Kill a process that tries the overlay for its new store, with the trial mounted; open the store; return what is left."""
    root = folder / "store"

    def work() -> None:
        _overlay_trial._change = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        Store(root, driver="overlay")

    died = os.WIFSIGNALED(in_child(work))
    before = len(mounts_below(root))
    with Store(root, driver="overlay") as store:
        wrong = store.check()
    return {"died": died, "before": before, "wrong": wrong, "mounted": mounts_below(root), "trial": (root / "trial").exists()}


def killed_any_time(folder: Path, driver: str, n: int, seed: int) -> dict[str, Any]:
    """Kill a process ``n`` times at a random moment of its busy day, in one store; return what was wrong after which."""
    random = Random(seed)
    reference, root = image(folder), folder / "store"
    begin = time.monotonic()
    if in_child(lambda: busy(folder / "first", driver, reference)) != 0:
        return {"wrong": ["the day fails"], "died": 0}
    length = time.monotonic() - begin
    wrong: list[str] = []
    died = 0
    for turn in range(n):
        shutil.rmtree(folder / "out", ignore_errors=True)
        child = os.fork()
        if child == 0:
            try:
                _goes_on(root, driver, reference)
                os._exit(0)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
                os._exit(1)
        time.sleep(random.random() * length)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        died += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            wrong.append(f"{turn}: the day fails")
        before = _promised(root)
        with Store(root, driver=driver) as store:
            wrong += [f"{turn}: {problem}" for problem in store.check()]
            wrong += [f"{turn}: lost {key}" for key in before - {s.key for s in store.list()} - {"work", "look", "mine"}]
        wrong += [f"{turn}: mounted {path}" for path in mounts_below(root)]
    return {"wrong": wrong, "died": died}


def read_only(folder: Path, driver: str) -> dict[str, str]:
    """Write into a committed snapshot, and into a view of one layer; return what it says, and what a later view shows."""
    reference = image(folder, steps=(BASE,))
    said = {}
    with Store(folder / "store", driver=driver) as store:
        top = store.import_image(reference)
        store.view("look", top)
        for key in (top, "look"):
            with store.mount(key) as path:
                try:
                    Path(path, "etc", "conf").write_text("changed")
                    said["look" if key == "look" else "committed"] = "written"
                except OSError as error:
                    said["look" if key == "look" else "committed"] = os.strerror(error.errno or 0)
        store.view("later", top)
        with store.mount("later") as path:
            said["later"] = Path(path, "etc", "conf").read_text()
    return said


def left_busy(folder: Path, driver: str) -> dict[str, Any]:
    """Kill a process that has a snapshot mounted while another one is in there; return what the next one finds."""
    root = folder / "store"
    with Store(root, driver=driver) as store:
        store.prepare("work", store.import_image(image(folder)))

    def work() -> None:
        with Store(root) as store, store.mount("work") as path:
            Path(path, "mine").write_text("mine")
            os.kill(os.getpid(), signal.SIGKILL)

    def hold(path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    status = in_child(work)
    where = mounts_below(root)
    held = [hold(path) for path in where]
    with Store(root) as store:
        still = mounts_below(root) == where
        with store.mount("work") as path:
            again = Path(path, "mine").read_text()
            for fd in held:
                os.close(fd)
        return {"killed": os.WIFSIGNALED(status), "still": still, "again": again, "left": mounts_below(root)}
