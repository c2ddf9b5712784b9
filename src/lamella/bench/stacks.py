"""Synthetic layers: as many entries and bytes as a measurement wants, the same bytes for the same seed.

The tar is made here, header by header, so that neither the engine nor a peer made what both are measured with.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["Member", "Pool", "Synthetic", "write_tar"]

_MTIME = 1_700_000_000
_BLOCK = 512
_WORDS = 1024
_POOL_NBYTES = 1 << 20
_N_ALPHABETS = 256
_USTAR = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_FOLDER, _FILE, _HARDLINK, _SYMLINK = b"5", b"0", b"1", b"2"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: ``kind`` is ustar's typeflag, ``content`` where in the pool, and in which alphabet."""

    path: bytes
    kind: bytes
    mode: int
    nbytes: int = 0
    link: bytes = b""
    content: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A layer of ``n_entries``: directories of a dozen, files of ``mean_nbytes`` (exponential), some links.

    With ``files_only``, regular files in ``n_folders`` directories and nothing else: for counts that are per file.
    """

    n_entries: int
    mean_nbytes: int
    seed: int = 1
    files_only: bool = False
    n_folders: int = 8

    def members(self) -> Iterator[Member]:
        """Yield the entries, parents and targets first."""
        dice = random.Random(self.seed)  # noqa: S311  (the same layer for everybody)
        return self._plain(dice) if self.files_only else self._mixed(dice)

    def _plain(self, dice: random.Random) -> Iterator[Member]:
        for folder in range(self.n_folders):
            yield Member(b"d%02d" % folder, _FOLDER, 0o755)
        for at in range(self.n_entries - self.n_folders):
            path = b"d%02d/f%06d" % (at * self.n_folders // self.n_entries, at)
            yield Member(path, _FILE, 0o644, self.mean_nbytes, content=_content(dice))

    def _mixed(self, dice: random.Random) -> Iterator[Member]:
        folders, folder, last = [b""], b"", b""
        for at in range(self.n_entries):
            chance = dice.random()
            if at == 0 or chance < 0.08:
                above = dice.choice(folders[-64:]) if len(folders) % 16 else b""
                folder = _join(above if above.count(b"/") < 5 else b"", b"lib%05d" % at)
                folders.append(folder)
                yield Member(folder, _FOLDER, 0o755)
            elif chance < 0.11:
                yield Member(_join(folder, b"link-%06d.so" % at), _SYMLINK, 0o777, link=b"../share/target-%d" % (at % 97))
            elif chance < 0.12 and last:
                yield Member(_join(folder, b"again-%06d" % at), _HARDLINK, 0o644, link=last)
            else:
                last = _join(folder, b"module_%06d_of_it.py" % at)
                nbytes = min(int(dice.expovariate(1 / self.mean_nbytes)), 64 * self.mean_nbytes)
                mode = 0o755 if chance > 0.95 else 0o644
                yield Member(last, _FILE, mode, nbytes, content=_content(dice))


def write_tar(layer: Synthetic, out: BinaryIO) -> int:
    """Write ``layer`` as a ustar archive to ``out``; return its bytes."""
    pool = Pool(layer.seed)
    buffer = io.BufferedWriter(out, 1 << 20) if isinstance(out, io.RawIOBase) else out
    nbytes = 0
    for member in layer.members():
        buffer.write(header(member))
        nbytes += _BLOCK
        for piece in pool.pieces(member):
            buffer.write(piece)
        padding = -member.nbytes % _BLOCK
        buffer.write(bytes(padding))
        nbytes += member.nbytes + padding
    buffer.write(bytes(2 * _BLOCK))
    buffer.flush()
    return nbytes + 2 * _BLOCK


def header(member: Member) -> bytes:
    """Return the ustar header of ``member`` (POSIX.1-1988), owned by root."""
    name = member.path + b"/" * (member.kind == _FOLDER)
    if len(name) > 100 or len(member.link) > 100:
        raise ValueError(f"too long for a plain header: {name!r}")
    fields = (
        name, b"%07o" % member.mode, b"%07o" % 0, b"%07o" % 0, b"%011o" % member.nbytes, b"%011o" % _MTIME, b" " * 8,
        member.kind, member.link, b"ustar", b"00", b"root", b"root", b"%07o" % 0, b"%07o" % 0, b"",
    )  # fmt: skip
    block = bytearray(_USTAR.pack(*fields))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _content(dice: random.Random) -> tuple[int, int]:
    return dice.randrange(_POOL_NBYTES), dice.randrange(_N_ALPHABETS)


class Pool:
    """Bytes that pack about as well as program files do, and alphabets to spell them in.

    A piece that is taken twice is spelled differently: what one file repeats of itself can be packed, what it shares with
    another file cannot.
    """

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311
        words = [bytes(dice.choices(range(32, 256), k=dice.randint(3, 11))) for _ in range(_WORDS)]
        weights = [1 / (rank + 8) for rank in range(_WORDS)]
        self._text = b" ".join(dice.choices(words, weights, k=_POOL_NBYTES // 6))[:_POOL_NBYTES]
        self._alphabets = [bytes(dice.sample(range(256), 256)) for _ in range(_N_ALPHABETS)]

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the content of ``member``."""
        left, (at, alphabet) = member.nbytes, member.content
        while left:
            piece = self._text[at : at + left]
            yield piece.translate(self._alphabets[alphabet])
            left -= len(piece)
            at = 0
