"""Find rows by path, in any order, and sort them: the only two questions a table answers by comparing names.

See _index.pxd for the index and _rows.pxd for the columns.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._index cimport index_find, index_put
from lamella._kernels._rows cimport Rows, path_cmp, row_path, rows_acquire, rows_release


cdef uint64_t _mask(const uint32_t[::1] slots) except? 0:
    cdef Py_ssize_t n = slots.shape[0]
    if n < 2 or n & (n - 1) or n > <Py_ssize_t>1 << 32:
        raise ValueError(f"an index has a power of two of slots, not {n}")
    return <uint64_t>(n - 1)


def find(const uint32_t[::1] slots not None, uint64_t seed, tuple columns not None, const uint8_t[::1] path not None):
    """Return the row number of ``path`` in an index built by insert(), or -1."""
    cdef Rows r
    cdef uint64_t mask = _mask(slots)
    cdef int64_t row
    cdef const uint8_t* p = &path[0] if path.shape[0] else <const uint8_t*>b""
    rows_acquire(&r, columns, False)
    with nogil:
        row = index_find(&slots[0], mask, seed, &r, p, path.shape[0])
    rows_release(&r)
    return row


def insert(uint32_t[::1] slots not None, uint64_t seed, tuple columns not None, Py_ssize_t begin, Py_ssize_t end):
    """Enter rows [begin, end); a later row takes over its path. Return the number of rows that took over another.

    ValueError when the slots cannot hold them or a row points outside the arena.
    """
    cdef Rows r
    cdef uint64_t mask = _mask(slots)
    cdef Py_ssize_t i, n_taken = 0
    cdef int64_t was = -1
    rows_acquire(&r, columns, False)
    try:
        if begin < 0 or end < begin or end > r.cap:
            raise ValueError(f"rows [{begin}, {end}) of {r.cap}")
        with nogil:
            for i in range(begin, end):
                was = index_put(&slots[0], mask, seed, &r, i)
                if was == -2:
                    break
                n_taken += was >= 0
        if was == -2:
            raise ValueError("index is full or a row points outside the arena")
    finally:
        rows_release(&r)
    return n_taken


def refill(uint32_t[::1] slots not None, uint64_t seed, tuple columns not None, const uint32_t[::1] old not None):
    """Enter every row of the index ``old`` (same seed and columns) into ``slots``, a larger one without those rows.

    ValueError when the slots cannot hold them or a row is outside the table.
    """
    cdef Rows r
    cdef uint64_t mask = _mask(slots)
    cdef Py_ssize_t i, n = old.shape[0]
    cdef bint fits = True
    rows_acquire(&r, columns, False)
    try:
        with nogil:
            for i in range(n):
                if old[i] and fits:
                    fits = old[i] <= r.cap and index_put(&slots[0], mask, seed, &r, <Py_ssize_t>old[i] - 1) != -2
        if not fits:
            raise ValueError("index is full or holds a row outside the table")
    finally:
        rows_release(&r)


cdef int _less(const Rows* r, int64_t a, int64_t b) noexcept nogil:
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef Py_ssize_t n, m
    if row_path(r, a, &p, &n) < 0 or row_path(r, b, &q, &m) < 0:
        return a < b
    return path_cmp(p, n, q, m) < 0


cdef void _merge_sort(const Rows* r, int64_t* rows, int64_t* scratch, Py_ssize_t n) noexcept nogil:
    # bottom-up and stable: equal paths stay in archive order, so the last of a run is the one that wins
    cdef Py_ssize_t width = 1, lo, mid, hi, i, j, k
    cdef int64_t* src = rows
    cdef int64_t* dst = scratch
    while width < n:
        lo = 0
        while lo < n:
            mid = lo + width if lo + width < n else n
            hi = mid + width if mid + width < n else n
            i, j = lo, mid
            if mid == hi or not _less(r, src[mid], src[mid - 1]):
                for k in range(lo, hi):
                    dst[k] = src[k]
            else:
                for k in range(lo, hi):
                    if i < mid and (j >= hi or not _less(r, src[j], src[i])):
                        dst[k] = src[i]
                        i += 1
                    else:
                        dst[k] = src[j]
                        j += 1
            lo = hi
        src, dst = dst, src
        width *= 2
    if src != rows:
        for k in range(n):
            rows[k] = src[k]


def sort(tuple columns not None, int64_t[::1] rows not None, int64_t[::1] scratch not None):
    """Sort ``rows`` (row numbers) by path, ``/`` lowest, keeping the last of equal paths; return how many are left.

    ``scratch`` is as long as ``rows``. ValueError for a row number outside the table.
    """
    cdef Rows r
    cdef Py_ssize_t n = rows.shape[0], i, kept = 0
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef Py_ssize_t np, nq
    if scratch.shape[0] != n:
        raise ValueError("scratch and rows differ in length")
    if n == 0:
        return 0
    rows_acquire(&r, columns, False)
    try:
        for i in range(n):
            if rows[i] < 0 or rows[i] >= r.cap:
                raise ValueError(f"row {rows[i]} of {r.cap}")
        with nogil:
            _merge_sort(&r, &rows[0], &scratch[0], n)
            for i in range(n):
                if (i + 1 < n and row_path(&r, rows[i], &p, &np) == 0 and row_path(&r, rows[i + 1], &q, &nq) == 0
                        and path_cmp(p, np, q, nq) == 0):
                    continue
                rows[kept] = rows[i]
                kept += 1
    finally:
        rows_release(&r)
    return kept
