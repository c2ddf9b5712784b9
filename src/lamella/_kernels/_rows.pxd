"""The columns of an EntryTable as C pointers: what every kernel reads rows from and writes rows to.

The caller owns all memory. A def wrapper fills a Rows from the tuple ``columns`` (lamella.table.COLUMNS has the order;
an optional column that the table does not keep is None and its pointer NULL), works on it without the GIL and
releases it. ``cap`` is the smallest column's length: no core touches a row at or beyond it.

A name lives in the arena at ``name_off``: ``path_len`` bytes of path, then ``link_len`` bytes of link target. Its
extras live at ``ext_off``, ``ext_len`` bytes: a run of items ``tag:u8 name_len:u16 value_len:u32 name value`` (little
endian), extended attributes first and sorted by name. Several rows may share one run of extras. Offsets read from a
table are checked against ``arena_cap`` by row_path() and its like before use, since another thread may write there.
"""
from cpython.buffer cimport (PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    N_COLUMNS = 20
    # tags of the items in a run of extras
    EXT_XATTR = 1         # name, value: an extended attribute
    EXT_UNAME = 2         # value: owner name
    EXT_GNAME = 3         # value: group name
    EXT_PAX = 4           # name, value: a pax keyword that no column holds
    EXT_SPARSE = 5        # value: int64 pairs (offset, nbytes), ascending
    EXT_ATIME = 6         # value: int64 seconds and uint32 nanoseconds of the access time (with F_ATIME)
    EXT_HEADER = 7        # bytes before an item's name
    # bits of the flags column
    F_ATIME = 1           # the entry has an access time
    F_SPARSE = 2          # the payload is the data regions of EXT_SPARSE only
    F_DOTDOT = 4          # the path, or a hard link's target, has a ".." component
    F_GHOST = 8           # a directory lists the name and denies it (tests/contract 107)
    F_IMPLIED = 16        # no entry of its own: some entry's missing parent
    F_EXISTED = 32        # while rows are placed: a directory that was there before
    F_HOST = 64           # while rows are placed: ids are the host's already
    F_SKIP = 128          # while rows are placed: nothing is made; with F_EXISTED, a directory that is there

cdef struct Rows:
    Py_ssize_t cap
    uint8_t* type         # tar's type flag: '0' file '1' hard link '2' symlink '3' char '4' block '5' dir '6' fifo
    uint8_t* flags
    uint16_t* mode        # permission and set-id bits: 07777
    uint32_t* uid
    uint32_t* gid
    int64_t* size         # bytes of content once expanded
    int64_t* mtime        # seconds since the epoch, may be negative
    uint32_t* mtime_nsec
    uint32_t* rdev_major
    uint32_t* rdev_minor
    int32_t* link_group   # first row of the hard-link set in this table, -1 for none
    int64_t* name_off
    uint16_t* path_len
    uint16_t* link_len
    int64_t* ext_off
    uint32_t* ext_len
    int64_t* data_off     # optional: offset of the payload in the uncompressed tar, -1 for none
    uint64_t* dev         # optional: of the inode, when it came from a directory
    uint64_t* ino         # optional
    uint8_t* arena
    Py_ssize_t arena_cap
    Py_buffer views[N_COLUMNS]
    int n_views           # entries of views that hold a buffer, from 0

cdef inline Py_ssize_t _itemsize(int i) noexcept nogil:
    # the order of the columns; lamella.table.COLUMNS is the same list
    if i <= 1 or i == 19:
        return 1
    if i == 2 or i == 12 or i == 13:
        return 2
    if i == 3 or i == 4 or i == 7 or i == 8 or i == 9 or i == 10 or i == 15:
        return 4
    return 8

cdef inline void rows_release(Rows* r) noexcept:
    """Give back every buffer that rows_acquire() took; harmless when it failed or was never called on a zeroed Rows."""
    while r.n_views > 0:
        r.n_views -= 1
        PyBuffer_Release(&r.views[r.n_views])     # no-op on a zeroed view

cdef inline int rows_acquire(Rows* r, tuple columns, bint writable) except -1:
    """Take the buffers of ``columns`` into ``r``. ValueError or TypeError where the tuple is no set of columns."""
    cdef int i, flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
    cdef void* p[N_COLUMNS]
    cdef Py_ssize_t n
    r.n_views, r.cap, r.arena_cap = 0, -1, 0
    if len(columns) != N_COLUMNS:
        raise ValueError(f"a table has {N_COLUMNS} columns, not {len(columns)}")
    for i in range(N_COLUMNS):
        column = columns[i]
        memset(&r.views[i], 0, sizeof(Py_buffer))
        p[i] = NULL
        r.n_views = i + 1
        if column is None:
            if i < 16 or i == 19:
                rows_release(r)
                raise ValueError(f"column {i} is not optional")
            continue
        try:
            PyObject_GetBuffer(column, &r.views[i], flags)
        except BaseException:
            memset(&r.views[i], 0, sizeof(Py_buffer))
            rows_release(r)
            raise
        if r.views[i].itemsize != _itemsize(i) or r.views[i].ndim != 1:
            rows_release(r)
            raise ValueError(f"column {i} wants one dimension of {_itemsize(i)}-byte items")
        p[i] = r.views[i].buf
        n = r.views[i].len // _itemsize(i)
        if i == 19:
            r.arena_cap = n
        elif r.cap < 0 or n < r.cap:
            r.cap = n
    r.type, r.flags, r.mode = <uint8_t*>p[0], <uint8_t*>p[1], <uint16_t*>p[2]
    r.uid, r.gid, r.size = <uint32_t*>p[3], <uint32_t*>p[4], <int64_t*>p[5]
    r.mtime, r.mtime_nsec = <int64_t*>p[6], <uint32_t*>p[7]
    r.rdev_major, r.rdev_minor, r.link_group = <uint32_t*>p[8], <uint32_t*>p[9], <int32_t*>p[10]
    r.name_off, r.path_len, r.link_len = <int64_t*>p[11], <uint16_t*>p[12], <uint16_t*>p[13]
    r.ext_off, r.ext_len = <int64_t*>p[14], <uint32_t*>p[15]
    r.data_off, r.dev, r.ino, r.arena = <int64_t*>p[16], <uint64_t*>p[17], <uint64_t*>p[18], <uint8_t*>p[19]
    return 0

cdef inline int row_path(const Rows* r, Py_ssize_t i, const uint8_t** p, Py_ssize_t* n) noexcept nogil:
    """Point at the path of row ``i`` (caller: 0 <= i < cap). -1 where the row points outside the arena."""
    cdef int64_t off = r.name_off[i]
    cdef Py_ssize_t length = r.path_len[i]
    if off < 0 or off > r.arena_cap - length:
        return -1
    p[0] = r.arena + off
    n[0] = length
    return 0

cdef inline int row_link(const Rows* r, Py_ssize_t i, const uint8_t** p, Py_ssize_t* n) noexcept nogil:
    """Point at the link target of row ``i``, length 0 for none. -1 where the row points outside the arena."""
    cdef int64_t off = r.name_off[i]
    cdef Py_ssize_t skip = r.path_len[i]
    cdef Py_ssize_t length = r.link_len[i]
    if off < 0 or off > r.arena_cap - skip - length:
        return -1
    p[0] = r.arena + off + skip
    n[0] = length
    return 0

cdef inline int row_ext(const Rows* r, Py_ssize_t i, const uint8_t** p, Py_ssize_t* n) noexcept nogil:
    """Point at the run of extras of row ``i``, length 0 for none. -1 where the row points outside the arena."""
    cdef int64_t off = r.ext_off[i]
    cdef Py_ssize_t length = r.ext_len[i]
    if length == 0:
        p[0] = r.arena
        n[0] = 0
        return 0
    if off < 0 or off > r.arena_cap - length:
        return -1
    p[0] = r.arena + off
    n[0] = length
    return 0

cdef struct ExtItem:
    int tag
    const uint8_t* name
    Py_ssize_t name_len
    const uint8_t* value
    Py_ssize_t value_len

cdef inline Py_ssize_t ext_next(const uint8_t* p, Py_ssize_t n, Py_ssize_t at, ExtItem* item) noexcept nogil:
    """Read the item at ``at`` of a run of ``n`` bytes; the offset after it, 0 at the end, -1 on a malformed run."""
    cdef uint16_t name_len
    cdef uint32_t value_len
    if at == n:
        return 0
    if n - at < EXT_HEADER:
        return -1
    item.tag = p[at]
    memcpy(&name_len, p + at + 1, 2)
    memcpy(&value_len, p + at + 3, 4)
    at += EXT_HEADER
    if n - at < <Py_ssize_t>name_len + <Py_ssize_t>value_len:
        return -1
    item.name = p + at
    item.name_len = name_len
    item.value = p + at + name_len
    item.value_len = value_len
    return at + name_len + value_len

cdef inline Py_ssize_t ext_put(uint8_t* p, Py_ssize_t cap, Py_ssize_t at, int tag, const uint8_t* name,
                               Py_ssize_t name_len, const uint8_t* value, Py_ssize_t value_len) noexcept nogil:
    """Write one item at ``at`` (name_len <= 65,535, value_len < 4 GiB); the offset after it, or -1 when it does not fit."""
    cdef uint16_t nl = <uint16_t>name_len
    cdef uint32_t vl = <uint32_t>value_len
    if name_len > 0xFFFF or value_len > <Py_ssize_t>0xFFFFFFFFLL or cap - at < EXT_HEADER + name_len + value_len:
        return -1
    p[at] = <uint8_t>tag
    memcpy(p + at + 1, &nl, 2)
    memcpy(p + at + 3, &vl, 4)
    at += EXT_HEADER
    if name_len:
        memcpy(p + at, name, name_len)
    if value_len:
        memcpy(p + at + name_len, value, value_len)
    return at + name_len + value_len

cdef inline int path_cmp(const uint8_t* a, Py_ssize_t na, const uint8_t* b, Py_ssize_t nb) noexcept nogil:
    """Compare two paths with ``/`` below every other byte, so that a subtree is one run: -1, 0 or 1."""
    cdef Py_ssize_t n = na if na < nb else nb
    cdef Py_ssize_t i = 0
    cdef uint64_t x, y
    while i + 8 <= n:
        memcpy(&x, a + i, 8)
        memcpy(&y, b + i, 8)
        if x != y:
            break
        i += 8
    while i < n and a[i] == b[i]:
        i += 1
    if i == n:
        return 0 if na == nb else (-1 if na < nb else 1)
    if a[i] == 47:
        return -1
    if b[i] == 47:
        return 1
    return -1 if a[i] < b[i] else 1
