"""Content of regular files below a directory descriptor: into a tar stream, or against another tree's. System calls.

Confinement is that of _below.pxd, and only what fstat calls a regular file is read: four calls a small file (openat,
fstat, read, close), and two a directory.

A name that is gone, or is something else by now, is no error: pack() skips the row and says so, same() marks the pair
(tests/contract 101). So is a file that changed its size: the tar has what its header says, cut or filled with zeros.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t
from lamella._kernels._below cimport Below
from lamella._kernels._rows cimport Rows
from lamella._kernels._status cimport Status
from lamella._kernels.tarform cimport Fault, Form

cdef enum Event:
    EV_FULL = 0           # out is full
    EV_DONE = 1           # the archive is complete, end marker included
    EV_VANISHED = 2       # the row's file is gone: nothing of it was written, the next row follows
    EV_SHRANK = 3         # the file ended early: zeros take the place of the rest
    EV_GREW = 4           # the file is longer than its row says: it will be cut
    EV_HEAD = 5           # the row's headers need a larger ``head``
    EV_REGIONS = 6        # the row's data regions need larger ``regions``

cdef enum Sameness:
    DIFFERENT = 0
    SAME = 1
    UNREADABLE = 2        # one of the two is gone, is no regular file, or may not be read

cdef struct Pack:
    # a tar stream in progress, resumable at any byte; zeroed at first
    int64_t next_idx      # item of the emission order that comes next
    int64_t row           # the row that the last event speaks of
    int64_t head_off      # headers still to be copied: head[head_off:head_end]
    int64_t head_end
    int64_t left          # bytes of content still to come, all regions
    int64_t file_off      # where the next of them is in the file
    int64_t region_left   # bytes still to come of the current region
    int64_t region_idx    # the region after it
    int64_t n_regions     # 0: the content is one piece
    int64_t pad           # zeros still to come behind the content
    int64_t n_entries     # written so far, vanished ones not counted
    int64_t n_uncarried   # xattrs left out so far
    Below dir
    int32_t file          # descriptor of the current file plus one, 0 for none (then ``left`` is filled with zeros)
    int32_t ended         # the end marker has been begun
    int32_t event         # Event, with SPECIAL
    int32_t err           # errno, with OS_ERROR
    int32_t fault         # Fault, with BAD_FORMAT

cdef struct Work:
    # buffers of the caller that live as long as the stream
    uint8_t* head         # headers of one row
    Py_ssize_t head_cap
    int64_t* regions      # data regions of one file, pairs (offset, nbytes); NULL: files are written dense
    Py_ssize_t regions_cap   # in pairs
    int32_t* links        # see tarform.link_first
    Py_ssize_t n_links

# Fill out[used:cap]; ``used`` moves on. OUTPUT_FULL, AT_END, SPECIAL (s.event, s.row), OS_ERROR (s.err, s.row) or
# BAD_FORMAT (s.fault, s.row). ``f`` holds the options; its link_row, regions and results are the core's.
cdef Status pack_core(int root, const Rows* r, const int64_t* rows, Py_ssize_t n_rows, Pack* s, Form* f, const Work* w,
                      uint8_t* out, Py_ssize_t cap, Py_ssize_t* used) noexcept nogil

# Compare the content of two rows that are regular files, through two buffers of ``n`` bytes each: a Sameness, or
# -errno; ``second`` tells that the error is b's. One inode (dev and ino columns, ino not 0) is the same unread.
cdef int same_core(int root_a, Below* dir_a, const Rows* a, Py_ssize_t row_a, int root_b, Below* dir_b, const Rows* b,
                   Py_ssize_t row_b, uint8_t* buf_a, uint8_t* buf_b, Py_ssize_t n, bint* second) noexcept nogil
