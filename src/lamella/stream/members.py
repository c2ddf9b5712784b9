"""Decoders of formats whose streams are members one after another: gzip, xz, bzip2."""

from __future__ import annotations

import bz2
import lzma
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from lamella.errors import CodecError, TruncatedError
from lamella.stream.decoder import MAX_OUT, Decoder
from lamella.stream.deflate import BACKEND, BACKEND_ERROR
from lamella.stream.gzip_header import header_nbytes

__all__ = ["Bzip2Decoder", "GzipDecoder", "XzDecoder"]

_FEED = 1 << 17  # isal copies what it could not consume on every call
_FIRST_FEED = 1 << 12  # a member's end copies what follows: small steps until it proves to be long
_XZ_MEMLIMIT = 1 << 28  # level 9 needs 65 MiB; a header may ask for 4 GiB


class _MemberDecoder(Decoder):
    """Members one after another are one stream; what may stand between and behind them is the codec's rule."""

    magic: int  # first byte of a member
    errors: tuple[type[Exception], ...]
    padding = 0  # zero bytes behind a member come in multiples of this; 0: there are none
    resumes = False  # whether a member may follow padding

    def __init__(self, max_out: int = MAX_OUT) -> None:
        super().__init__(max_out)
        self._member: Any = self.new()
        self._step = _FIRST_FEED
        self._n_padding = 0

    @abstractmethod
    def new(self) -> Any:
        """Return the library's object for one member."""

    @abstractmethod
    def run(self, piece: memoryview) -> Iterator[bytes]:
        """Decode ``piece`` with the open member until it is consumed or the member ends."""

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        view = memoryview(data)
        while view:
            if self._member is None:
                n_skipped = self._between(view)
                self.offset += n_skipped
                view = view[n_skipped:]
                continue
            piece = view[: self._step]
            try:
                for out in self.run(piece):
                    if out:
                        yield memoryview(out)
            except self.errors as error:
                raise CodecError(f"corrupt {self.codec} data: {error}", offset=self.offset) from error
            consumed = len(piece)
            if self._member.eof:
                consumed -= len(self._member.unused_data)
                self._member = None
            self._step = min(self._step * 2, _FEED)
            self.offset += consumed
            view = view[consumed:]

    def _between(self, view: memoryview) -> int:
        """Skip padding, or open the next member; returns how many bytes were skipped."""
        if view[0] == 0 and self.padding:
            window = bytes(view[:_FIRST_FEED])
            n_zeros = len(window) - len(window.lstrip(b"\0"))
            self._n_padding += n_zeros
            return n_zeros
        if view[0] != self.magic or (self._n_padding and not self.resumes) or self._misaligned():
            raise CodecError(f"data after the last {self.codec} member", offset=self.offset)
        self._n_padding = 0
        self._step = _FIRST_FEED
        self._member = self.new()
        return 0

    def _misaligned(self) -> bool:
        return self.padding > 1 and self._n_padding % self.padding != 0

    def finish(self) -> None:
        if self._member is not None:
            raise TruncatedError(f"{self.codec} stream is cut short", offset=self.offset)
        if self._misaligned():
            raise TruncatedError(f"padding of the {self.codec} stream is cut short", offset=self.offset)


class GzipDecoder(_MemberDecoder):
    """RFC 1952. Several members are one stream; zero bytes after the last are tolerated (tests/contract 86)."""

    codec = "gzip"
    magic = 0x1F
    errors = (BACKEND_ERROR,)
    padding = 1

    def new(self) -> Any:
        """One object a member; it checks FHCRC, CRC32 and ISIZE."""
        self._header: bytes | None = b""
        self._header_off = self.offset
        return BACKEND.decompressobj(wbits=31)

    def run(self, piece: memoryview) -> Iterator[bytes]:
        """Give back to the object what it could not consume."""
        member = self._member
        data: bytes | memoryview = piece
        if self._header is not None:
            # isal 1.9 cannot resume a header that has several optional fields, or FHCRC: it gets headers whole
            head = self._header + piece
            n_header = header_nbytes(head, self._header_off)
            if not n_header:
                self._header = head
                return
            self._header = None
            yield member.decompress(head[:n_header], self._max_out)
            data = head[n_header:]
        while True:
            out = member.decompress(data, self._max_out)
            yield out
            data = member.unconsumed_tail
            # a full buffer may leave output inside the library although all input is consumed
            if member.eof or (not data and len(out) < self._max_out):
                return


class _BlockDecoder(_MemberDecoder):
    """The interface that lzma and bz2 share: unconsumed input stays inside the object."""

    def run(self, piece: memoryview) -> Iterator[bytes]:
        """Ask the object again until it needs input."""
        member = self._member
        yield member.decompress(piece, self._max_out)
        while not (member.eof or member.needs_input):
            yield member.decompress(b"", self._max_out)


class XzDecoder(_BlockDecoder):
    """The .xz file format: several streams, each padded with zeros to a multiple of four (2.2, "Stream Padding")."""

    codec = "xz"
    magic = 0xFD
    errors = (lzma.LZMAError,)
    padding = 4
    resumes = True

    def new(self) -> Any:
        """One object a stream, with a bound on its dictionary."""
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMLIMIT)


class Bzip2Decoder(_BlockDecoder):
    """bzip2: several streams, nothing between them."""

    codec = "bzip2"
    magic = ord("B")
    errors = (OSError, ValueError)

    def new(self) -> Any:
        """One object a stream."""
        return bz2.BZ2Decompressor()
