"""Compare two tables: see changes.pxd for the rules."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._rows cimport (EXT_XATTR, ExtItem, Rows, ext_next, path_cmp, row_ext, row_link, row_path,
                                     rows_acquire, rows_release)
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OUTPUT_FULL

cdef enum:
    FILE = 48
    LINK = 50
    DIR = 53
    CAP_V2 = 20              # bytes of security.capability, revision 2
    CAP_V3 = 24              # ... and 3: the same, then the root id of a user namespace
    FRESH = -1               # of a class: no lower class yet
    MIXED = -2               # ... more than one, or a name that has no counterpart
    FLAG_DIRTY = 1
    FLAG_LINKS = 2
    FLAG_OUT = 4


cdef inline bint _is_below(const uint8_t* p, Py_ssize_t n, const uint8_t* q, Py_ssize_t m) noexcept nogil:
    # q is a path below the directory p
    return m > 0 if n == 0 else m > n and q[n] == 47 and memcmp(p, q, n) == 0


cdef inline bint _starts(const ExtItem* x, const char* name, Py_ssize_t n) noexcept nogil:
    return x.name_len >= n and memcmp(x.name, name, n) == 0


cdef Py_ssize_t _next_xattr(const uint8_t* p, Py_ssize_t n, Py_ssize_t at, ExtItem* x, bint nested) noexcept nogil:
    # as ext_next, for extended attributes that can be in a layer: overlay's own never leave (65)
    while True:
        at = ext_next(p, n, at, x)
        if at <= 0 or x.tag != EXT_XATTR:
            return -1 if at < 0 else 0
        if nested or not _starts(x, b"trusted.overlay.", 16) and not _starts(x, b"user.overlay.", 13):
            return at


cdef inline bint _is_capability(const ExtItem* x) noexcept nogil:
    return (x.name_len == 19 and (x.value_len == CAP_V2 or x.value_len == CAP_V3)
            and memcmp(x.name, b"security.capability", 19) == 0)


cdef int _xattrs_differ(const uint8_t* p, Py_ssize_t n, const uint8_t* q, Py_ssize_t m, bint nested) noexcept nogil:
    # item by item: other extras are no attributes of an inode. A capability is the same with and without the root id
    # of the namespace it was read in, which does not leave it either (63).
    cdef ExtItem x, y
    cdef Py_ssize_t at = 0, by = 0
    while True:
        at = _next_xattr(p, n, at, &x, nested)
        by = _next_xattr(q, m, by, &y, nested)
        if at <= 0 or by <= 0:
            return -1 if at < 0 or by < 0 else at != by
        if x.name_len != y.name_len or memcmp(x.name, y.name, x.name_len) != 0:
            return 1
        if _is_capability(&x) and _is_capability(&y):
            if (x.value[0] ^ y.value[0]) & 1 or memcmp(x.value + 4, y.value + 4, CAP_V2 - 4) != 0:
                return 1
        elif x.value_len != y.value_len or memcmp(x.value, y.value, x.value_len) != 0:
            return 1


cdef inline int _bytes_differ(const Rows* a, Py_ssize_t i, const Rows* b, Py_ssize_t j, bint nested,
                              int* why) noexcept nogil:
    # link text and extended attributes: what stands in the arenas
    cdef const uint8_t* p = NULL
    cdef const uint8_t* q = NULL
    cdef Py_ssize_t n = 0, m = 0
    cdef int differ
    if a.type[i] == LINK:
        if row_link(a, i, &p, &n) < 0 or row_link(b, j, &q, &m) < 0:
            return -1
        if n != m or (n and memcmp(p, q, n) != 0):
            why[0] |= WHY_TARGET
    if a.ext_len[i] or b.ext_len[j]:
        if row_ext(a, i, &p, &n) < 0 or row_ext(b, j, &q, &m) < 0:
            return -1
        if n != m or (n and memcmp(p, q, n) != 0):
            differ = _xattrs_differ(p, n, q, m, nested)
            if differ < 0:
                return -1
            if differ:
                why[0] |= WHY_XATTR
    return 0


cdef inline int _file_differs(const Rows* a, Py_ssize_t i, const Rows* b, Py_ssize_t j, int why, bint whole,
                              int options) noexcept nogil:
    # a regular file's size and content; ``whole``: both sides have nanoseconds, and the same
    cdef bint one = a.ino != NULL and b.ino != NULL and a.ino[i] == b.ino[j] and a.dev[i] == b.dev[j]
    if a.size[i] != b.size[j]:
        return why | WHY_SIZE | WHY_CONTENT
    if a.size[i] == 0 or one or options & NEVER:
        return why
    if options & ALWAYS or (why == 0 and not whole):
        return why | UNDECIDED
    return why


cdef int _differ(const Rows* a, Py_ssize_t i, const Rows* b, Py_ssize_t j, int options) noexcept nogil:
    # why two rows of one path and type differ; 0 if they do not, -1 where one points outside its arena
    cdef int why = 0
    cdef uint8_t kind = a.type[i]
    cdef uint32_t x = a.mtime_nsec[i], y = b.mtime_nsec[j]
    cdef bint second = a.mtime[i] == b.mtime[j]
    if _bytes_differ(a, i, b, j, options & NESTED, &why) < 0:
        return -1
    if a.uid[i] != b.uid[j] or a.gid[i] != b.gid[j]:
        why |= WHY_OWNER
    if kind != LINK and a.mode[i] != b.mode[j]:
        why |= WHY_MODE
    if (kind == 51 or kind == 52) and (a.rdev_major[i] != b.rdev_major[j] or a.rdev_minor[i] != b.rdev_minor[j]):
        why |= WHY_RDEV
    if (kind != DIR or options & DIR_MTIME) and not (second and (x == y or x == 0 or y == 0)):
        why |= WHY_MTIME
    if kind == FILE:
        return _file_differs(a, i, b, j, why, second and x == y and x != 0, options)
    return why


cdef inline void _put(Merged* out, MergeState* s, int kind, int64_t lower, int64_t upper, int why) noexcept nogil:
    out.kind[s.n_out] = <uint8_t>kind
    out.lower[s.n_out] = <int32_t>lower
    out.upper[s.n_out] = <int32_t>upper
    out.why[s.n_out] = <uint16_t>why
    s.n_out += 1


cdef inline int _passed_over(const Rows* a, MergeState* s) noexcept nogil:
    # 1 if the next lower row is below a directory that is gone
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef Py_ssize_t n, m
    if row_path(a, s.covered, &p, &n) < 0 or row_path(a, s.lower, &q, &m) < 0:
        return -1
    if _is_below(p, n, q, m):
        return 1
    s.covered = -1
    return 0


cdef inline void _gone(const Rows* a, MergeState* s, Merged* out, bint implied, bint root) noexcept nogil:
    # a lower row that the upper table has not. ``implied``: but it has rows below it, as a tar may
    if not root and not (implied and a.type[s.lower] == DIR):
        _put(out, s, DELETE, s.lower, -1 - s.upper, 0)
        if a.type[s.lower] == DIR:
            s.covered = s.lower
    s.lower += 1


cdef inline int _both(const Rows* a, const Rows* b, MergeState* s, int options, Merged* out,
                      int32_t* match) noexcept nogil:
    cdef int why = WHY_TYPE
    match[s.upper] = -1
    if a.type[s.lower] == b.type[s.upper]:
        why = _differ(a, s.lower, b, s.upper, options)
        if why < 0:
            return BAD_FORMAT
        match[s.upper] = <int32_t>s.lower
    elif a.type[s.lower] == DIR:
        s.covered = s.lower
    if why:
        _put(out, s, MODIFY, s.lower, s.upper, why)
    s.lower += 1
    s.upper += 1
    return OK


cdef int merge_rows(const Rows* a, const Rows* b, MergeState* s, int options, Merged* out,
                    int32_t* match) noexcept nogil:
    cdef const uint8_t* p = NULL
    cdef const uint8_t* q = NULL
    cdef Py_ssize_t n = 0, m = 0
    cdef int order
    while s.lower < a.cap or s.upper < b.cap:
        if s.n_out >= out.cap:
            return OUTPUT_FULL
        if s.lower < a.cap and s.covered >= 0:
            order = _passed_over(a, s)
            if order < 0:
                return BAD_FORMAT
            if order:
                s.lower += 1
                continue
        if (s.lower < a.cap and row_path(a, s.lower, &p, &n) < 0
                or s.upper < b.cap and row_path(b, s.upper, &q, &m) < 0):
            return BAD_FORMAT
        order = -1 if s.upper >= b.cap else 1
        if s.lower < a.cap and s.upper < b.cap:
            order = path_cmp(p, n, q, m)
        if order < 0:
            _gone(a, s, out, s.upper < b.cap and _is_below(p, n, q, m), n == 0)
        elif order > 0:
            match[s.upper] = -1
            _put(out, s, ADD, -1, s.upper, 0)
            s.upper += 1
        elif _both(a, b, s, options, out, match) != OK:
            return BAD_FORMAT
    return AT_END


cdef inline int64_t _class(const Rows* r, int64_t i) noexcept nogil:
    return r.link_group[i] if r.link_group[i] >= 0 else i


cdef inline int64_t _linked(const Rows* a, const Rows* b, const int32_t* match, Py_ssize_t u) noexcept nogil:
    # the class of an upper row that a link set has to do with, -1 for another, -2 for one that names no row
    cdef int64_t m = match[u], c
    if b.link_group[u] < 0 and (m < 0 or m >= a.cap or a.link_group[m] < 0):
        return -1
    c = _class(b, u)
    return c if c < b.cap and m < a.cap and (m < 0 or _class(a, m) < a.cap) else -2


cdef void _claim(const int32_t* cls, int32_t* keep, Py_ssize_t n_lower, uint8_t* flags, int64_t c) noexcept nogil:
    # class c stays with its lower class unless another one does
    cdef int32_t lower = cls[c]
    if lower < 0 or lower >= n_lower:
        flags[c] |= FLAG_LINKS
    elif keep[lower] < 0:
        keep[lower] = <int32_t>c
    elif keep[lower] != c:
        flags[c] |= FLAG_LINKS


cdef int merge_links(const Rows* a, const Rows* b, const int32_t* match, const uint8_t* dirty, int32_t* cls,
                     int32_t* keep, uint8_t* flags) noexcept nogil:
    cdef Py_ssize_t u
    cdef int64_t c
    cdef int32_t lower
    cdef int turn
    for u in range(b.cap):
        cls[u] = FRESH
    for u in range(a.cap):
        keep[u] = -1
    for u in range(b.cap):
        c = _linked(a, b, match, u)
        if c == -1:
            continue
        if c < 0:
            return BAD_FORMAT
        lower = <int32_t>_class(a, match[u]) if match[u] >= 0 else MIXED
        cls[c] = lower if cls[c] == FRESH or cls[c] == lower else MIXED
        if dirty[u]:
            flags[c] |= FLAG_DIRTY
    for turn in range(2):                             # those that could stay choose first
        for u in range(b.cap):
            c = _linked(a, b, match, u)
            if c >= 0 and (flags[c] & FLAG_DIRTY) == turn:
                _claim(cls, keep, a.cap, flags, c)
    for u in range(b.cap):
        c = _linked(a, b, match, u)
        if c >= 0 and match[u] >= 0 and (flags[c] & FLAG_LINKS or (flags[c] & FLAG_DIRTY and not dirty[u])):
            flags[u] |= FLAG_OUT
    return OK


cdef int parent_rows(const Rows* r, int32_t* out) noexcept nogil:
    cdef Py_ssize_t i, n, m
    cdef int64_t c, above
    cdef const uint8_t* p
    cdef const uint8_t* q
    for i in range(r.cap):
        if row_path(r, i, &q, &m) < 0:
            return BAD_FORMAT
        c = i - 1                                     # the row before, or one of the directories it is in
        while c >= 0:
            if row_path(r, c, &p, &n) < 0:
                return BAD_FORMAT
            if _is_below(p, n, q, m):
                break
            above = out[c]
            c = above if above < c else -1
        out[i] = <int32_t>c
    return OK


cdef int64_t compact_rows(Rows* r, uint8_t* arena, Py_ssize_t arena_cap) noexcept nogil:
    cdef Py_ssize_t i, n, m
    cdef int64_t at = 0, was = -1, put = 0
    cdef uint32_t was_len = 0
    cdef const uint8_t* p
    cdef const uint8_t* q
    for i in range(r.cap):
        if row_path(r, i, &p, &n) < 0 or row_link(r, i, &q, &m) < 0:
            return -1
        if arena != NULL:
            if n + m > arena_cap - at:
                return -1
            memcpy(arena + at, p, n)
            memcpy(arena + at + n, q, m)
            r.name_off[i] = at
        at += n + m
        if r.ext_len[i] == 0:
            continue
        if r.ext_off[i] != was or r.ext_len[i] != was_len:
            if row_ext(r, i, &p, &n) < 0 or (arena != NULL and n > arena_cap - at):
                return -1
            was, was_len, put = r.ext_off[i], r.ext_len[i], at
            if arena != NULL:
                memcpy(arena + at, p, n)
            at += n
        if arena != NULL:
            r.ext_off[i] = put
    return at


def merge(tuple lower not None, tuple upper not None, int64_t[::1] state not None, int options,
          uint8_t[::1] kind not None, int32_t[::1] lower_rows not None, int32_t[::1] upper_rows not None,
          uint16_t[::1] why not None, int32_t[::1] match not None):
    """Go on with the merge of two tables (columns) in path order, as changes.pxd says: AT_END or OUTPUT_FULL.

    The output arrays are as long as each other, ``match`` as the upper table; ValueError otherwise, and for a row that
    points outside its arena.
    """
    cdef Rows a, b
    cdef Merged out
    cdef int status = BAD_FORMAT
    cdef MergeState s
    cdef int32_t* matched = &match[0] if match.shape[0] else NULL
    out.cap = kind.shape[0]
    if (lower_rows.shape[0] != out.cap or upper_rows.shape[0] != out.cap or why.shape[0] != out.cap or out.cap == 0
            or state.shape[0] * 8 != sizeof(MergeState)):
        raise ValueError(f"four output arrays of one length, not empty; a state of {sizeof(MergeState) // 8} items")
    out.kind, out.lower, out.upper, out.why = &kind[0], &lower_rows[0], &upper_rows[0], &why[0]
    s = (<MergeState*>&state[0])[0]
    rows_acquire(&a, lower, False)
    try:
        rows_acquire(&b, upper, False)
        try:
            if not (match.shape[0] == b.cap and 0 <= s.lower <= a.cap and 0 <= s.upper <= b.cap
                    and 0 <= s.n_out <= out.cap and -1 <= s.covered < a.cap):
                raise ValueError("state and arrays are not those of one merge")
            with nogil:
                status = merge_rows(&a, &b, &s, options, &out, matched)
        finally:
            rows_release(&b)
    finally:
        rows_release(&a)
    (<MergeState*>&state[0])[0] = s
    if status == BAD_FORMAT:
        raise ValueError(f"lower row {s.lower} or upper row {s.upper} points outside its arena")
    return status


def links(tuple lower not None, tuple upper not None, const int32_t[::1] match not None,
          const uint8_t[::1] dirty not None, int32_t[::1] cls not None, int32_t[::1] keep not None,
          uint8_t[::1] flags not None):
    """Set bit 4 of ``flags`` for the upper rows that a changed link set puts into the layer; see changes.pxd.

    ``keep`` is as long as the lower table, the others as the upper one, ``flags`` is zeroed; ValueError otherwise.
    """
    cdef Rows a, b
    cdef int status = BAD_FORMAT
    cdef Py_ssize_t n = match.shape[0]
    cdef const int32_t* to
    cdef const uint8_t* by
    cdef int32_t* cl
    cdef int32_t* kept
    cdef uint8_t* fl
    rows_acquire(&a, lower, False)
    try:
        rows_acquire(&b, upper, False)
        try:
            if (n != b.cap or dirty.shape[0] != n or cls.shape[0] != n or flags.shape[0] != n
                    or keep.shape[0] != a.cap):
                raise ValueError("arrays and tables differ in length")
            if n == 0 or a.cap == 0:                  # nothing was linked before
                return
            to, by, cl, kept, fl = &match[0], &dirty[0], &cls[0], &keep[0], &flags[0]
            with nogil:
                status = merge_links(&a, &b, to, by, cl, kept, fl)
        finally:
            rows_release(&b)
    finally:
        rows_release(&a)
    if status != OK:
        raise ValueError("a link group or a match names no row")


def parents(tuple columns not None, int32_t[::1] out not None):
    """Fill ``out`` with the row of the nearest directory above each row of a table in path order, -1 for none.

    ValueError where the lengths differ or a row points outside the arena.
    """
    cdef Rows r
    cdef int status = BAD_FORMAT
    cdef int32_t* rows = &out[0] if out.shape[0] else NULL
    rows_acquire(&r, columns, False)
    try:
        if out.shape[0] == r.cap:
            with nogil:
                status = parent_rows(&r, rows)
    finally:
        rows_release(&r)
    if status != OK:
        raise ValueError("out is not as long as the table, or a row points outside the arena")


def compact(tuple columns not None, uint8_t[::1] arena=None):
    """Move the names and extras of all rows to ``arena`` and return the bytes they take; without one, only count.

    The name_off and ext_off columns are changed. ValueError where the arena is short or a row points outside its own.
    """
    cdef Rows r
    cdef int64_t nbytes
    cdef uint8_t* to = &arena[0] if arena is not None and arena.shape[0] else NULL
    cdef Py_ssize_t cap = arena.shape[0] if arena is not None else 0
    rows_acquire(&r, columns, to != NULL)
    try:
        with nogil:
            nbytes = compact_rows(&r, to, cap)
    finally:
        rows_release(&r)
    if nbytes < 0:
        raise ValueError("the arena is short, or a row points outside its own")
    return nbytes
