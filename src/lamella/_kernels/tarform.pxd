"""Rows of a table -> tar headers, in the one spelling that this package writes. Pure: no system calls.

An entry is ustar (POSIX.1-1988) behind a pax header (POSIX.1-2001 pax(1), typeflag x) only where ustar cannot say it:

- path: name, else prefix and name split at the last slash that fits, else pax ``path``. A directory ends in a slash,
  the root is ``./``. Names are raw bytes in either place, whatever their encoding; no hdrcharset.
- uid, gid above 2,097,151 and size from 8 GiB: pax, and 0 in the field. Device numbers above: base-256, which every
  reader of the field knows, while no pax keyword is known to all.
- mtime: whole seconds from 0 to 077777777777 in the field (0 outside), the exact decimal in pax ``mtime`` where
  seconds do not fit or nanoseconds are not 0. atime: pax, where the row has one.
- xattrs: ``SCHILY.xattr.NAME``, raw bytes. An empty value, or ``=`` in the name, cannot be carried so: left out and
  counted, unless Form.libarchive_xattr asks for ``LIBARCHIVE.xattr.`` beside it, which can.
- sparse content: pax 1.0 (GNU tar manual, "PAX Format, Version 1.0"); the map is part of what form_core() writes.

Records are in the order of their keywords; keywords that no column holds follow, in the order of the table (tarscan
sorts them by name), those with an empty value left out, since that means absent. The pax header's own member is
``PaxHeaders/BASENAME``, mode 0644, everything else 0. So the bytes depend on the row alone.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t
from lamella._kernels._rows cimport Rows

cdef enum Fault:
    FAULT_ARENA = 1       # the row points outside the arena
    FAULT_NAME = 2        # an empty path, or a NUL in a name
    FAULT_TYPE = 3        # not one of '0' to '6'
    FAULT_NUMBER = 4      # a negative size, or a billion nanoseconds and more
    FAULT_EXTRAS = 5      # a malformed run of extras
    FAULT_KEYWORD = 6     # a pax keyword that is empty, holds = or NUL, or says what a column says
    FAULT_SPARSE = 7      # data regions out of order, or outside the file

cdef struct Form:
    # in
    int64_t link_row      # write the row as a hard link to this row's path; -1: as what it is
    bint has_clamp
    int64_t clamp_mtime   # seconds; a later mtime becomes this one
    bint libarchive_xattr
    bint sparse           # a row with F_SPARSE has its data regions only (else: all of its size)
    const uint8_t* regions  # int64 pairs (offset, nbytes) that replace those of the row; NULL: the row's own
    Py_ssize_t n_regions
    # out
    int64_t payload       # bytes of content that must follow, then zeros up to 512
    int64_t n_uncarried   # xattrs left out; added to what was there
    Fault fault           # with BAD_FORMAT

# Write the headers of ``row`` (caller: 0 <= row < cap): the bytes written (a multiple of 512), or OUTPUT_FULL, or
# BAD_FORMAT and Form.fault.
cdef Py_ssize_t form_core(const Rows* r, Py_ssize_t row, Form* f, uint8_t* out, Py_ssize_t cap) noexcept nogil

# Raise ValueError or FormatError for ``fault`` at ``row``.
cdef int form_raise(const Rows* r, Py_ssize_t row, Fault fault) except -1

cdef inline int64_t link_first(const Rows* r, Py_ssize_t row, const int32_t* links, Py_ssize_t n_links) noexcept nogil:
    """Return the row that ``row`` is written as a hard link to, -1 for none.

    ``links`` has an item for each link group (numbered by its first row): the member that was written first, or -1.
    """
    cdef int64_t group = r.link_group[row], first
    if group < 0 or group >= n_links or r.type[row] == 49:
        return -1
    first = links[group]
    return first if 0 <= first < r.cap else -1

cdef inline void link_note(const Rows* r, Py_ssize_t row, int32_t* links, Py_ssize_t n_links) noexcept nogil:
    """Say that ``row`` was written: later members of its group are links to it, unless it is one itself."""
    cdef int64_t group = r.link_group[row]
    if 0 <= group < n_links and r.type[row] != 49 and links[group] < 0:
        links[group] = <int32_t>row
