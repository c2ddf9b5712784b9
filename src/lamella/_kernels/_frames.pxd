"""The stack of directories that a walk stands in, in the caller's scratch: a frame, its names, the next frame.

Scratch is the caller's, who may write to it: what comes out of it is checked before it is used.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._status cimport BAD_FORMAT, OK

cdef enum Phase:
    READING = 0              # getdents64 has more names
    UNSORTED = 1
    READY = 2

cdef struct Frame:           # one directory; stands at a multiple of 8 bytes
    int64_t below            # offset of its parent's frame, -1 for the root
    int64_t above            # offset of its child's frame, where it has one
    int64_t names_off        # records ``d_type name NUL``
    int64_t list_off         # end of the names; READY: n_names uint32 offsets into them, sorted
    int64_t path_off         # in the arena
    uint64_t dev
    uint64_t ino
    uint32_t path_len
    uint32_t n_names
    uint32_t next            # index of the name whose turn it is
    int32_t fd               # -1 while it is closed
    int32_t phase
    int32_t unused

cdef inline int frame_load(const uint8_t* scratch, int64_t top, int64_t arena, int64_t at, Frame* f) noexcept nogil:
    """Read the frame at ``at`` of ``top`` bytes in use; BAD_FORMAT where it points beyond them or beyond the arena."""
    if at < 0 or at > top - <int64_t>sizeof(Frame):
        return BAD_FORMAT
    memcpy(f, scratch + at, sizeof(Frame))
    if (f.below >= at or f.below < -1 or f.names_off < at + <int64_t>sizeof(Frame) or f.list_off < f.names_off
            or f.list_off > top or f.n_names > (top - f.list_off) // 4 or f.next > f.n_names
            or f.path_off < 0 or f.path_off > arena - <int64_t>f.path_len):
        return BAD_FORMAT
    return OK

cdef inline void frame_store(uint8_t* scratch, int64_t at, const Frame* f) noexcept nogil:
    memcpy(scratch + at, f, sizeof(Frame))
