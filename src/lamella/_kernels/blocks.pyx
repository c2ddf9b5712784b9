"""Where two buffers differ, block by block, and where one is zero. See blocks.pxd."""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp
from lamella._kernels._status cimport OK, OUTPUT_FULL, Status

cdef extern from *:
    """
    static const unsigned char lamella_zeros[4096];
    """
    const uint8_t[4096] ZEROS "lamella_zeros"

cdef enum:
    PAGE = 4096    # as much as is compared with zeros at once: they stay in the first cache


cdef bint all_zero(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    while n > PAGE:
        if memcmp(p, ZEROS, PAGE) != 0:
            return False
        p += PAGE
        n -= PAGE
    return memcmp(p, ZEROS, n) == 0


cdef inline bint _wanted(const uint8_t* a, const uint8_t* b, Py_ssize_t n, bint zero) noexcept nogil:
    # memcmp ends at the first byte that differs, so does all_zero()
    return memcmp(a, b, n) != 0 if b != NULL else all_zero(a, n) == zero


cdef inline Status _runs(
        const uint8_t* a, const uint8_t* b, Py_ssize_t n, Py_ssize_t size, bint zero, int64_t* next, Runs* out) noexcept nogil:
    cdef int64_t block = next[0], n_blocks = n // size + (n % size != 0), run = -1
    cdef Py_ssize_t at, nbytes
    while True:
        at = block * size
        nbytes = size if n - at >= size else n - at
        if block < n_blocks and _wanted(a + at, b + at if b != NULL else NULL, nbytes, zero):
            if run < 0:
                if out.n == out.cap:
                    next[0] = block
                    return OUTPUT_FULL
                run = block
        elif run >= 0:
            out.begins[out.n] = run
            out.lengths[out.n] = block - run
            out.n += 1
            run = -1
        if block >= n_blocks:
            next[0] = n_blocks
            return OK
        block += 1


cdef Status differing_runs(
        const uint8_t* a, const uint8_t* b, Py_ssize_t n, Py_ssize_t size, int64_t* next, Runs* out) noexcept nogil:
    return _runs(a, b, n, size, False, next, out)


cdef Status zero_runs(const uint8_t* a, Py_ssize_t n, Py_ssize_t size, bint zero, int64_t* next, Runs* out) noexcept nogil:
    return _runs(a, NULL, n, size, zero, next, out)


cdef int _check(Py_ssize_t n, Py_ssize_t size, int64_t first, Runs* out, int64_t[::1] begins, int64_t[::1] lengths) except -1:
    if size < 1:
        raise ValueError(f"a block has at least one byte, not {size}")
    if not 0 <= first <= n // size + (n % size != 0):
        raise ValueError(f"no block {first} in {n} bytes")
    if begins.shape[0] != lengths.shape[0]:
        raise ValueError(f"columns of {begins.shape[0]} and {lengths.shape[0]} rows")
    out.cap = begins.shape[0]
    out.n = 0
    if out.cap:
        out.begins, out.lengths = &begins[0], &lengths[0]
    return 0


def compare(
        const uint8_t[::1] a not None, const uint8_t[::1] b not None, Py_ssize_t block_size, int64_t first,
        int64_t[::1] begins not None, int64_t[::1] lengths not None):
    """Write the runs of blocks that differ, from block ``first`` on, into two columns; return (status, next block, runs).

    When the columns are full, the status says so, and the next run begins at the next block. ValueError for buffers of
    two lengths.
    """
    cdef Runs out
    cdef Status status = OK
    cdef Py_ssize_t n = a.shape[0]
    if b.shape[0] != n:
        raise ValueError(f"buffers of {n} and {b.shape[0]} bytes")
    _check(n, block_size, first, &out, begins, lengths)
    if n:
        with nogil:
            status = differing_runs(&a[0], &b[0], n, block_size, &first, &out)
    return status, first, out.n


def zeros(
        const uint8_t[::1] a not None, Py_ssize_t block_size, bint zero, int64_t first,
        int64_t[::1] begins not None, int64_t[::1] lengths not None):
    """Write the runs of blocks that are all zero, or of those that are not, as compare() does."""
    cdef Runs out
    cdef Status status = OK
    cdef Py_ssize_t n = a.shape[0]
    _check(n, block_size, first, &out, begins, lengths)
    if n:
        with nogil:
            status = zero_runs(&a[0], n, block_size, zero, &first, &out)
    return status, first, out.n
