"""Zstandard decoding with the frame structure followed here (RFC 8878, 3.1).

libzstd's streaming interface neither says that input ended inside a frame nor bounds what one call gives back: four
bytes can stand for 128 KiB. Following the frames costs three bytes a block and gives exact offsets, a bound on every
chunk, and skippable frames anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import zstandard

from lamella.errors import CodecError, TruncatedError
from lamella.stream.decoder import MAX_OUT, Decoder

__all__ = ["ZstdDecoder"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
_BLOCK_NBYTES = 1 << 17  # Block_Maximum_Size, 3.1.1.2.4
_MAX_WINDOW = 1 << 27  # what the zstd command accepts unless told otherwise
_RLE, _RESERVED = 1, 3  # Block_Type, 3.1.1.2.2
_DICTIONARY_NBYTES = (0, 1, 2, 4)  # by Dictionary_ID_flag, 3.1.1.1.1.6
_CONTENT_NBYTES = (0, 2, 4, 8)  # by Frame_Content_Size_flag, 3.1.1.1.1.1

# what the end of a span means to the bytes that were followed, but not yet decoded
_NOTHING, _FRAME_BEGINS, _BLOCK_ENDS, _FRAME_ENDS, _SKIPPED = range(5)


class ZstdDecoder(Decoder):
    """RFC 8878: several frames are one stream, skippable frames anywhere, also first (tests/contract 87).

    A frame that asks for a window above 128 MiB or for a dictionary, or of a format before 1.0, is a CodecError.
    Chunks may hold 128 KiB where ``max_out`` asks for less.
    """

    codec = "zstd"

    def __init__(self, max_out: int = MAX_OUT) -> None:
        super().__init__(max(max_out, _BLOCK_NBYTES))
        self._n_blocks_max = self._max_out // _BLOCK_NBYTES
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._frame: Any = None  # the library's object inside a frame, from the end of its header on
        self._head = bytearray()  # a header as far as it has come in
        self._n_frames = 0
        self._left = 0  # bytes of the current span still to come
        self._keep = False  # whether they are a header's
        self._complete: Callable[[], int] = self._magic  # what to do when it is complete
        self._last = self._checksum = False
        self._span(4, self._magic, keep=True)

    def _span(self, nbytes: int, complete: Callable[[], int], *, keep: bool = False) -> None:
        self._left, self._complete, self._keep = nbytes, complete, keep

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Decode ``data``."""
        view = memoryview(data)
        pos = begin = n_blocks = 0  # view[begin:pos] is followed, but not yet decoded
        while pos < len(view):
            step = min(self._left, len(view) - pos)
            if self._keep:
                self._head += view[pos : pos + step]
            pos += step
            self._left -= step
            self.offset += step
            while not self._left:
                event = self._complete()
                n_blocks += event == _BLOCK_ENDS
                if event == _FRAME_ENDS or n_blocks == self._n_blocks_max:
                    yield from self._decode(view[begin:pos])
                    n_blocks = 0
                elif event in {_NOTHING, _BLOCK_ENDS}:
                    continue
                begin = pos
                if event == _FRAME_ENDS:
                    self._end_frame()
        if self._frame is not None:
            yield from self._decode(view[begin:pos])

    def _decode(self, piece: bytes | memoryview) -> Iterator[memoryview]:
        try:
            out = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise CodecError(f"corrupt zstd data: {error}", offset=self.offset - len(piece)) from error
        if out:
            yield memoryview(out)

    def _magic(self) -> int:
        if self._head == _MAGIC:
            self._span(1, self._descriptor, keep=True)
        elif 0x50 <= self._head[0] <= 0x5F and self._head[1:] == _SKIPPABLE:
            self._span(4, self._skip_size, keep=True)
        else:
            what = "data after the last zstd frame" if self._n_frames else "not a zstd frame"
            raise CodecError(what, offset=self.offset - 4)
        return _NOTHING

    def _descriptor(self) -> int:
        flags = self._head[4]
        single_segment = flags >> 5 & 1
        nbytes = (1 - single_segment) + _DICTIONARY_NBYTES[flags & 3] + (_CONTENT_NBYTES[flags >> 6] or single_segment)
        self._checksum = bool(flags >> 2 & 1)
        self._span(nbytes, self._frame_header, keep=True)
        return _NOTHING

    def _frame_header(self) -> int:
        self._frame = self._zstd.decompressobj()
        for _ in self._decode(bytes(self._head)):
            raise CodecError("corrupt zstd data: a frame header gave output", offset=self.offset)
        self._begin_block()
        return _FRAME_BEGINS

    def _begin_block(self) -> None:
        self._head.clear()
        self._span(3, self._block_header, keep=True)

    def _block_header(self) -> int:
        header = int.from_bytes(self._head, "little")
        self._last, kind, nbytes = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == _RESERVED or nbytes > _BLOCK_NBYTES:
            raise CodecError("corrupt zstd data: impossible block", offset=self.offset - 3)
        self._span(1 if kind == _RLE else nbytes, self._block)
        return _NOTHING

    def _block(self) -> int:
        if not self._last:
            self._begin_block()
            return _BLOCK_ENDS
        if self._checksum:
            self._span(4, self._frame_end)
            return _BLOCK_ENDS
        return self._frame_end()

    def _frame_end(self) -> int:
        self._head.clear()
        self._span(4, self._magic, keep=True)
        return _FRAME_ENDS

    def _end_frame(self) -> None:
        if not self._frame.eof:
            raise CodecError("corrupt zstd data: a frame ends without its end", offset=self.offset)
        self._frame = None
        self._n_frames += 1

    def _skip_size(self) -> int:
        nbytes = int.from_bytes(self._head[4:], "little")
        self._head.clear()
        self._span(nbytes, self._skipped)
        return _NOTHING

    def _skipped(self) -> int:
        self._span(4, self._magic, keep=True)
        self._n_frames += 1
        return _SKIPPED

    def finish(self) -> None:
        """TruncatedError inside a frame or a magic, and where there was no frame at all."""
        if self._head or self._frame is not None or self._complete != self._magic or not self._n_frames:
            raise TruncatedError("zstd stream is cut short", offset=self.offset)
