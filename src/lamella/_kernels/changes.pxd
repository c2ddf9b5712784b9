"""Two tables in path order -> what differs. A pure kernel; it knows rows, not files.

merge_rows() goes through both tables at a time and writes one output row for each path that differs: ``kind`` (Kind),
``lower`` (row, -1 for none), ``upper`` (row; for a DELETE -1 - j, where j is the first upper row behind it), ``why``
(bits of lamella.model.Why, and UNDECIDED). It also fills ``match``: for each upper row the lower row of the same path and
type, else -1. Output is in path order. Rules, by item of tests/contract:

- of a directory that is gone, or has become something else, the rows below are not mentioned; the root is never deleted;
- mode (not a symlink's), owner, link text, device numbers and extended attributes always count (51, 63); access time,
  change time, blocks and link count never do (50, 57); a directory's time only with DIR_MTIME, its size never (58);
- times are the same if seconds and nanoseconds are, or if the seconds are and either side has no nanoseconds, as a tar
  that was cut to seconds has (55);
- files of one size are UNDECIDED, their contents to be compared, where either side has no nanoseconds and nothing else
  differs (56), with ALWAYS in any case, with NEVER in none; not so a file that is one inode on both sides.

merge_links() finds the rows that must be in the layer for link sets to come out right (49); see there.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from lamella._kernels._rows cimport Rows

cdef enum Kind:
    ADD = 1
    MODIFY = 2
    DELETE = 3

cdef enum WhyBit:            # lamella.model.Why
    WHY_TYPE = 1
    WHY_MODE = 2
    WHY_OWNER = 4
    WHY_SIZE = 8
    WHY_MTIME = 16
    WHY_TARGET = 32
    WHY_RDEV = 64
    WHY_XATTR = 128
    WHY_CONTENT = 256
    WHY_LINKS = 512
    UNDECIDED = 32768        # a MODIFY only if the contents differ

cdef enum MergeOption:
    ALWAYS = 1               # compare the contents of all files of one size
    NEVER = 2                # ... of none
    DIR_MTIME = 4            # a directory's mtime counts
    NESTED = 8               # overlay's own attributes count too: the tables have those of a nested overlay only

cdef struct MergeState:      # int64 items only, so that an int64 array is one; zeros (and covered -1) begin a merge
    int64_t lower            # next rows
    int64_t upper
    int64_t n_out            # output rows since the beginning of the arrays
    int64_t covered          # lower directory that is gone: rows below it are passed over; -1 for none

cdef struct Merged:          # the output arrays
    uint8_t* kind
    int32_t* lower
    int32_t* upper
    uint16_t* why
    Py_ssize_t cap

# Go on with a merge: AT_END, OUTPUT_FULL (take the rows, or grow the arrays; n_out says where the next one goes), or
# BAD_FORMAT where a row points outside its arena. ``match`` has as many items as ``b`` has rows.
cdef int merge_rows(const Rows* a, const Rows* b, MergeState* s, int options, Merged* out,
                    int32_t* match) noexcept nogil

# Names of one inode must come out as names of one inode, and no others: an entry in a layer is a new inode. A link set
# of the upper table is its own class, and so is a file with one name. ``dirty[u]``: upper row u is in the layer anyway.
# A class stays as it is, outside the layer, only if all its names are in one lower class, none of them is dirty, and no
# class before it stays with that lower class. Sets ``flags[u] |= 4`` for rows with a counterpart below that are to be
# reported for their links: all of a class that has a new name or comes of several lower classes, and of one that parts
# from a lower class that another one keeps.
# ``cls`` and ``flags`` (zeroed) have as many items as b has rows, ``keep`` as a has.
cdef int merge_links(const Rows* a, const Rows* b, const int32_t* match, const uint8_t* dirty, int32_t* cls,
                     int32_t* keep, uint8_t* flags) noexcept nogil

# The row of the nearest directory above each row of a table in path order, -1 for none.
cdef int parent_rows(const Rows* r, int32_t* out) noexcept nogil

# Copy the names and extras of all rows into another arena and point the rows there; the bytes it takes. Runs that
# neighbours share stay shared. ``arena`` NULL: count only. -1 where a row points outside its arena, or arena_cap is short.
cdef int64_t compact_rows(Rows* r, uint8_t* arena, Py_ssize_t arena_cap) noexcept nogil
