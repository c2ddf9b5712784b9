"""Buffers as rows of blocks, into runs: where two differ, where one is zero. No allocation, no system calls.

A buffer of ``n`` bytes has ceil(n / size) blocks; the last one may be short. A run is [begin, begin + length) in blocks, and
no run begins where the one before it ends. What is compared is only read, each byte once, and a byte that another thread
changes meanwhile is seen as it was or as it is.
"""
from libc.stdint cimport int64_t, uint8_t
from lamella._kernels._status cimport Status

cdef struct Runs:
    # the caller's columns, and how far they are filled
    int64_t* begins
    int64_t* lengths
    Py_ssize_t cap
    Py_ssize_t n

# Nonzero if all of p[0:n] is zero; n may be 0.
cdef bint all_zero(const uint8_t* p, Py_ssize_t n) noexcept nogil

# Append the runs of blocks from block ``next[0]`` on in which a[0:n] and b[0:n] differ. OK at the end of the buffer;
# OUTPUT_FULL when a run found no room: it begins at ``next[0]``, call again with empty columns. ``size`` is at least 1.
cdef Status differing_runs(
    const uint8_t* a, const uint8_t* b, Py_ssize_t n, Py_ssize_t size, int64_t* next, Runs* out) noexcept nogil

# The same for blocks that are all zero (``zero``), or that are not.
cdef Status zero_runs(
    const uint8_t* a, Py_ssize_t n, Py_ssize_t size, bint zero, int64_t* next, Runs* out) noexcept nogil
