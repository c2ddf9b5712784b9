"""What the layers of a measured image hold: real files below, and above them what changes, hides and deletes some of them.

A plan is made from a list of files alone: the same list gives the same layers. Nothing in it turns a directory into
something else, puts a file where a symlink was, or links to a file of a lower layer, since peers that know nothing of
layers, or of these, could not follow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from lamella.bench.stacks import Member

__all__ = ["N_LAYERS", "Item", "Plan"]

N_LAYERS = 16
N_BASE = 6
FOLDER, FILE, HARDLINK, SYMLINK = "5", "0", "1", "2"
OPAQUE, WHITEOUT = ".wh..wh..opq", ".wh."
EDIT = b"edited %06d\n"
_FULL = 48_000  # entries of the base for which the numbers below are meant


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: ``kind`` is ustar's typeflag. The content is that of the file ``source``, or of ``member``.

    ``edit`` puts a line of that number before it; ``big`` is a number of bytes that are half noise, of seed ``edit``.
    """

    path: str
    kind: str
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: int = 1_700_000_000
    nbytes: int = 0
    link: str = ""
    source: str = ""
    member: Member | None = None
    edit: int = 0
    big: int = 0

    def edited(self, number: int) -> Item:
        """Return it with another line before its content."""
        more = 0 if self.edit else len(EDIT % number)
        return replace(self, nbytes=self.nbytes + more, mtime=self.mtime + 3600, edit=number)


class Plan:
    """The layers, one after another, and what they show in the end.

    ``visible`` is the tree so far; ``base`` is listed parents first. ``big_nbytes`` is the size of one large file.
    """

    def __init__(self, base: list[Item], *, big_nbytes: int, seed: int = 1) -> None:
        self._base, self._big = base, big_nbytes
        self._dice = random.Random(seed)  # noqa: S311
        self.visible: dict[str, Item] = {}
        self._gone: list[Item] = []

    def layers(self) -> Iterator[list[Item]]:
        """Yield the entries of each layer, the lowest first."""
        steps: list[Callable[[], Iterable[Item]]] = [
            *(lambda at=at: self._part(at) for at in range(N_BASE)),
            self._purge, self._replace, self._chmod, lambda: self._blob(0), lambda: self._blob(1), self._opaque,
            self._again, self._links, self._touch, self._fix,
        ]  # fmt: skip
        for step in steps:
            yield self._laid(step())

    def _laid(self, items: Iterable[Item]) -> list[Item]:
        """Put ``items`` into the tree; return them with the directories that lead to them, in a reader's order."""
        listed: dict[str, Item] = {}
        for item in items:
            self._above(item.path, listed)
            listed[item.path] = item
            folder, _, name = item.path.rpartition("/")
            if name == OPAQUE:
                self._cut(folder)
            elif name.startswith(WHITEOUT):
                self._cut(f"{folder}/{name.removeprefix(WHITEOUT)}", itself=True)
            else:
                self.visible[item.path] = item
        return list(listed.values())

    def _above(self, path: str, listed: dict[str, Item]) -> None:
        at = path.find("/")
        while at > 0:
            folder = path[:at]
            if folder not in listed:
                listed[folder] = self.visible.setdefault(folder, Item(folder, FOLDER, 0o755))
            at = path.find("/", at + 1)

    def _cut(self, path: str, *, itself: bool = False) -> list[Item]:
        """Take what is below ``path`` out of the tree and return it."""
        inside = self._below(path)
        for item in inside:
            del self.visible[item.path]
        if itself and path in self.visible:
            inside.insert(0, self.visible.pop(path))
        return inside

    def _below(self, path: str) -> list[Item]:
        begin = f"{path}/"
        return [item for name, item in self.visible.items() if name.startswith(begin)]

    def _n(self, number: int) -> int:
        """Scale ``number`` to the size of the base."""
        return max(2, number * len(self._base) // _FULL)

    def _files(self, number: int) -> list[Item]:
        """Choose files of the base that are still there."""
        files = [item for path, item in self.visible.items() if item.kind == FILE and not path.startswith("opt/bench")]
        return self._dice.sample(files, min(self._n(number), len(files)))

    def _folders(self, number: int, least: int, most: int) -> list[Item]:
        """Choose directories that hold so many names, none inside another."""
        sizes: dict[str, int] = dict.fromkeys((p for p, item in self.visible.items() if item.kind == FOLDER), 0)
        for path in self.visible:
            at = path.rfind("/")
            while at > 0:
                sizes[path[:at]] += 1
                at = path.rfind("/", 0, at)
        fit = [path for path, size in sizes.items() if least <= size <= most and not path.startswith("opt")]
        self._dice.shuffle(fit)
        chosen: list[str] = []
        for path in fit:
            if len(chosen) == self._n(number):
                break
            if not any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in chosen):
                chosen.append(path)
        return [self.visible[path] for path in sorted(chosen)]

    def _part(self, number: int) -> Iterable[Item]:
        begin, end = (len(self._base) * k // N_BASE for k in (number, number + 1))
        return self._base[begin:end]

    def _purge(self) -> Iterable[Item]:
        """Delete files and whole directories, a whiteout each."""
        folders = self._folders(40, 3, 60)
        inside = [item for folder in folders for item in (folder, *self._below(folder.path))]
        hidden = {item.path for item in inside}
        files = [item for item in self._files(260) if item.path not in hidden]
        self._gone = [*inside[: len(inside) // 2], *files[::2]]
        return [_whiteout(item.path) for item in (*folders, *files)]

    def _replace(self) -> Iterable[Item]:
        return [item.edited(number) for number, item in enumerate(self._files(2_900), 1)]

    def _chmod(self) -> Iterable[Item]:
        """Ship a quarter of the base once more, for its modes."""
        there = [item for item in self.visible.values() if item.kind != SYMLINK]
        begin, end = len(there) // 3, len(there) // 3 + min(self._n(14_000), len(there) // 3)
        return [replace(item, mode=item.mode ^ 0o001) for item in there[begin:end]]

    def _blob(self, edit: int) -> Iterable[Item]:
        """Put a large file, and once more with four KiB of it changed."""
        return [Item("opt/bench/data.bin", FILE, nbytes=self._big, big=self._big, edit=edit)]

    def _opaque(self) -> Iterable[Item]:
        for folder in self._folders(30, 8, 200):
            yield Item(f"{folder.path}/{OPAQUE}", FILE)
            for number in range(3):
                yield Item(f"{folder.path}/new-{number}", FILE).edited(number + 1)

    def _again(self) -> Iterable[Item]:
        """Bring back some of what was deleted, and give symlinks other targets."""
        back = [item for item in self._gone if item.path not in self.visible and self._can_be(item.path)]
        yield from (item.edited(7) if item.kind == FILE else item for item in back)
        links = [item for item in self.visible.values() if item.kind == SYMLINK][:: max(1, len(self._base) // 500)]
        yield from (replace(item, link=f"{item.link}.1") for item in links)

    def _can_be(self, path: str) -> bool:
        above = self.visible.get(path.rpartition("/")[0])
        return above is None or above.kind == FOLDER

    def _links(self) -> Iterable[Item]:
        """Ship files with further names."""
        for number, item in enumerate(self._files(20)):
            yield item.edited(8)
            for name in range(30):
                yield replace(item.edited(8), path=f"opt/bench/{number:03}/{name:02}", kind=HARDLINK, nbytes=0, link=item.path)

    def _touch(self) -> Iterable[Item]:
        return [replace(item, mtime=item.mtime + 60) for item in self._files(1_000)]

    def _fix(self) -> Iterable[Item]:
        """Edit a few files, and delete half of the further names."""
        names = [path for path, item in self.visible.items() if item.kind == HARDLINK][::2]
        return [*(item.edited(9) for item in self._files(95)), *(_whiteout(path) for path in names)]


def _whiteout(path: str) -> Item:
    folder, _, name = path.rpartition("/")
    return Item(f"{folder}/{WHITEOUT}{name}", FILE)
