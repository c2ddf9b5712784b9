"""Where a gzip member's header ends (RFC 1952, 2.3)."""

from __future__ import annotations

from lamella.errors import CodecError

__all__ = ["header_nbytes"]

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
_FIXED_NBYTES = 10
_NBYTES_MAX = 1 << 20  # two texts without a bound stand in it


def header_nbytes(head: bytes, offset: int) -> int:
    """Return the length of the header that ``head`` begins with, 0 while it is not complete.

    ``offset`` is where the member begins, for errors: CodecError for another magic or method, reserved flags (which
    "must give an error indication", 2.3.1.2), and a header above 1 MiB. FHCRC is left to the library.
    """
    if not (head.startswith(b"\x1f\x8b\x08") or b"\x1f\x8b\x08".startswith(head)):
        raise CodecError("not a gzip member", offset=offset)
    if len(head) < _FIXED_NBYTES:
        return 0
    flags = head[3]
    if flags & _RESERVED:
        raise CodecError("gzip header has reserved flags", offset=offset)
    end = _FIXED_NBYTES
    if flags & _FEXTRA:
        end += 2 + int.from_bytes(head[end : end + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            zero_off = head.find(b"\0", end)
            end = zero_off + 1 if zero_off >= 0 else len(head) + 1
    if flags & _FHCRC:
        end += 2
    if end > _NBYTES_MAX:
        raise CodecError("gzip header is too long", offset=offset)
    return end if end <= len(head) else 0
