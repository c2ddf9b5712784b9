"""Rows of a table -> tar headers. See tarform.pxd for the spelling and the bounds."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from lamella._kernels._records cimport (
    NSEC_PER_SEC, Out, line_number, n_digits, record, record_libarchive, record_number, record_put, record_time, room,
)
from lamella._kernels._rows cimport (
    EXT_ATIME, EXT_GNAME, EXT_PAX, EXT_SPARSE, EXT_UNAME, EXT_XATTR, F_ATIME, F_SPARSE, ExtItem, Rows, ext_next,
    row_ext, row_link, row_path, rows_acquire, rows_release,
)
from lamella._kernels._status cimport BAD_FORMAT, OUTPUT_FULL
from lamella.errors import FormatError

cdef enum:
    BLOCK = 512
    MAX_ID = 0o7777777           # seven octal digits
    NAME_CAP = 100
    PREFIX_CAP = 155
    OWNER_CAP = 31               # the 32nd byte is the NUL that the field must have
    SPLIT_PAX = -1               # the path does not fit the header

cdef int64_t MAX_OCTAL = 0o77777777777   # eleven octal digits: sizes and times

cdef struct Text:
    const uint8_t* p
    Py_ssize_t n

# one row, copied: what is checked is what is used
cdef struct Item:
    int type
    bint slash                   # the path is written with a slash behind it
    bint sparse
    uint32_t mode, uid, gid, nsec, major, minor
    int64_t mtime
    int64_t size                 # of the content once expanded
    int64_t stored               # what the size field says: content and map that follow
    int64_t map_nbytes           # of the map's text
    Py_ssize_t n_mapped
    Py_ssize_t split             # bytes of prefix, 0: none, or SPLIT_PAX
    Text path, link, ext, uname, gname, atime
    const uint8_t* regions
    Py_ssize_t n_regions


cdef void _put_path(Out* o, const char* key, const Item* e) noexcept nogil:
    cdef uint8_t* name
    cdef uint8_t* value
    if record(o, key, 0, e.path.n + e.slash, &name, &value) == 0:
        memcpy(value, e.path.p, e.path.n)
        if e.slash:
            value[e.path.n] = 47


cdef inline bint _has(const uint8_t* p, Py_ssize_t n, int c) noexcept nogil:
    return n > 0 and memchr(p, c, n) != NULL


cdef inline bint _is(const ExtItem* x, const char* word) noexcept nogil:
    return x.name_len == <Py_ssize_t>strlen(word) and memcmp(x.name, word, x.name_len) == 0


cdef inline bint _under(const ExtItem* x, const char* prefix) noexcept nogil:
    return x.name_len >= <Py_ssize_t>strlen(prefix) and memcmp(x.name, prefix, strlen(prefix)) == 0


cdef bint _keyword_taken(const ExtItem* x) noexcept nogil:
    """Tell a pax keyword that would be no keyword, or would contradict what the columns say."""
    if x.name_len == 0 or _has(x.name, x.name_len, 61) or _has(x.name, x.name_len, 0):
        return True
    if _under(x, b"GNU.sparse.") or _under(x, b"SCHILY.xattr.") or _under(x, b"LIBARCHIVE.xattr."):
        return True
    return (_is(x, b"path") or _is(x, b"linkpath") or _is(x, b"size") or _is(x, b"uid") or _is(x, b"gid")
            or _is(x, b"mtime") or _is(x, b"atime") or _is(x, b"uname") or _is(x, b"gname")
            or _is(x, b"SCHILY.realsize"))


cdef int _read_ext(Item* e, Form* f, int flags) noexcept nogil:
    """Find the single extras of the row and check all of them: 0 or a Fault."""
    cdef ExtItem x
    cdef Py_ssize_t at = 0
    cdef uint32_t nsec
    while True:
        at = ext_next(e.ext.p, e.ext.n, at, &x)
        if at == 0:
            break
        if at < 0:
            return FAULT_EXTRAS
        if x.tag == EXT_UNAME:
            e.uname = Text(x.value, x.value_len)
        elif x.tag == EXT_GNAME:
            e.gname = Text(x.value, x.value_len)
        elif x.tag == EXT_ATIME and flags & F_ATIME:
            e.atime = Text(x.value, x.value_len)
        elif x.tag == EXT_SPARSE and e.sparse and e.regions == NULL:
            e.regions = x.value
            e.n_regions = x.value_len // 16
            if x.value_len & 15:
                return FAULT_EXTRAS
        elif x.tag == EXT_PAX and _keyword_taken(&x):
            return FAULT_KEYWORD
        elif x.tag == EXT_XATTR and (x.name_len == 0 or _has(x.name, x.name_len, 0)):
            return FAULT_NAME
    if _has(e.uname.p, e.uname.n, 0) or _has(e.gname.p, e.gname.n, 0):
        return FAULT_NAME
    if e.atime.p != NULL:
        if e.atime.n != 12:
            return FAULT_EXTRAS
        memcpy(&nsec, e.atime.p + 8, 4)
        if nsec >= NSEC_PER_SEC:
            return FAULT_NUMBER
    return 0


cdef int _read_row(const Rows* r, Py_ssize_t row, Form* f, Item* e) noexcept nogil:
    """Copy a row and decide how it is spelled: 0 or a Fault."""
    cdef int flags = r.flags[row], fault
    memset(e, 0, sizeof(Item))
    e.type = 49 if f.link_row >= 0 else r.type[row]
    e.mode = r.mode[row] & 0o7777
    e.uid, e.gid, e.mtime, e.nsec = r.uid[row], r.gid[row], r.mtime[row], r.mtime_nsec[row]
    if e.type < 48 or e.type > 54:
        return FAULT_TYPE
    if (row_path(r, row, &e.path.p, &e.path.n) < 0 or row_ext(r, row, &e.ext.p, &e.ext.n) < 0
            or row_link(r, row, &e.link.p, &e.link.n) < 0):
        return FAULT_ARENA
    if f.link_row >= 0 and row_path(r, f.link_row, &e.link.p, &e.link.n) < 0:
        return FAULT_ARENA
    if e.type != 49 and e.type != 50:
        e.link.n = 0
    if e.type == 48:
        e.size = r.size[row]
    elif e.type == 51 or e.type == 52:
        e.major, e.minor = r.rdev_major[row], r.rdev_minor[row]
    if e.size < 0 or e.nsec >= NSEC_PER_SEC:
        return FAULT_NUMBER
    if f.has_clamp and (e.mtime > f.clamp_mtime or (e.mtime == f.clamp_mtime and e.nsec)):
        e.mtime, e.nsec = f.clamp_mtime, 0
    e.slash = e.type == 53
    if _has(e.path.p, e.path.n, 0) or _has(e.link.p, e.link.n, 0) or (e.path.n == 0 and not e.slash):
        return FAULT_NAME
    if e.path.n == 0:
        e.path = Text(<const uint8_t*>b".", 1)
    e.sparse = e.size > 0 and (f.regions != NULL or (f.sparse and flags & F_SPARSE))
    e.regions, e.n_regions = f.regions, f.n_regions
    fault = _read_ext(e, f, flags)
    return fault if fault else _measure(e, f)


cdef inline int _region(const Item* e, Py_ssize_t i, int64_t end, int64_t* off, int64_t* nbytes) noexcept nogil:
    # the i-th region, which must begin at or after ``end``
    memcpy(off, e.regions + 16 * i, 8)
    memcpy(nbytes, e.regions + 16 * i + 8, 8)
    return -1 if off[0] < end or nbytes[0] < 0 or off[0] > e.size or nbytes[0] > e.size - off[0] else 0


cdef int _measure(Item* e, Form* f) noexcept nogil:
    """Find what follows the header: 0 or a Fault. A hole at the end is a region of no bytes, as GNU tar has it."""
    cdef int64_t off, nbytes, end = 0, data = 0
    cdef Py_ssize_t i
    e.split = _split(&e.path, e.slash)
    if not e.sparse:
        e.stored = f.payload = e.size
        return 0
    for i in range(e.n_regions):
        if _region(e, i, end, &off, &nbytes) < 0:
            return FAULT_SPARSE
        if nbytes:
            e.n_mapped += 1
            e.map_nbytes += n_digits(<uint64_t>off) + n_digits(<uint64_t>nbytes) + 2
            data += nbytes                     # <= size: the regions do not overlap
            end = off + nbytes
    if end < e.size:
        e.n_mapped += 1
        e.map_nbytes += n_digits(<uint64_t>e.size) + 3
    e.map_nbytes += n_digits(<uint64_t>e.n_mapped) + 1
    f.payload = data
    if data > <int64_t>0x7FFFFFFFFFFFFFFFLL - e.map_nbytes - BLOCK:
        return FAULT_SPARSE
    e.stored = data + (e.map_nbytes + BLOCK - 1) // BLOCK * BLOCK
    return 0


cdef Py_ssize_t _split(const Text* path, bint slash) noexcept nogil:
    # the prefix's length: the last slash that leaves at most 155 before it and 1 to 100 bytes behind it
    cdef Py_ssize_t n = path.n + slash, i
    if n <= NAME_CAP:
        return 0
    i = PREFIX_CAP if PREFIX_CAP < path.n - 2 else path.n - 2
    while i > 0 and path.p[i] != 47:
        i -= 1
    return i if i > 0 and n - i - 1 <= NAME_CAP else SPLIT_PAX


cdef void _put_xattrs(Out* o, const Item* e, Form* f, bint libarchive) noexcept nogil:
    cdef ExtItem x
    cdef Py_ssize_t at = 0
    while not o.full:
        at = ext_next(e.ext.p, e.ext.n, at, &x)
        if at <= 0:
            break
        if x.tag != EXT_XATTR:
            continue
        if libarchive:
            record_libarchive(o, &x)
        elif x.value_len == 0 or _has(x.name, x.name_len, 61):
            f.n_uncarried += not f.libarchive_xattr
        else:
            record_put(o, b"SCHILY.xattr.", x.name, x.name_len, x.value, x.value_len)


cdef void _put_rest(Out* o, const Item* e) noexcept nogil:
    cdef ExtItem x
    cdef Py_ssize_t at = 0
    while not o.full:
        at = ext_next(e.ext.p, e.ext.n, at, &x)
        if at <= 0:
            break
        if x.tag == EXT_PAX and x.value_len:    # an empty value says what no record says
            record_put(o, b"", x.name, x.name_len, x.value, x.value_len)


cdef void _put_records(Out* o, const Item* e, Form* f) noexcept nogil:
    cdef int64_t seconds
    cdef uint32_t nsec
    if e.sparse:
        record_number(o, b"GNU.sparse.major", 1)
        record_number(o, b"GNU.sparse.minor", 0)
        _put_path(o, b"GNU.sparse.name", e)
        record_number(o, b"GNU.sparse.realsize", <uint64_t>e.size)
    if f.libarchive_xattr:
        _put_xattrs(o, e, f, True)
    _put_xattrs(o, e, f, False)
    if e.atime.p != NULL:
        memcpy(&seconds, e.atime.p, 8)
        memcpy(&nsec, e.atime.p + 8, 4)
        record_time(o, b"atime", seconds, nsec % NSEC_PER_SEC)
    if e.gid > MAX_ID:
        record_number(o, b"gid", e.gid)
    if e.gname.n > OWNER_CAP:
        record_put(o, b"gname", NULL, 0, e.gname.p, e.gname.n)
    if e.link.n > NAME_CAP:
        record_put(o, b"linkpath", NULL, 0, e.link.p, e.link.n)
    if e.nsec or e.mtime < 0 or e.mtime > MAX_OCTAL:
        record_time(o, b"mtime", e.mtime, e.nsec)
    if e.split == SPLIT_PAX and not e.sparse:
        _put_path(o, b"path", e)
    if e.stored > MAX_OCTAL:
        record_number(o, b"size", <uint64_t>e.stored)
    if e.uid > MAX_ID:
        record_number(o, b"uid", e.uid)
    if e.uname.n > OWNER_CAP:
        record_put(o, b"uname", NULL, 0, e.uname.p, e.uname.n)
    _put_rest(o, e)


cdef inline void _octal(uint8_t* p, int n, uint64_t v) noexcept nogil:
    # n bytes: digits and a NUL
    p[n - 1] = 0
    while n > 1:
        n -= 1
        p[n - 1] = <uint8_t>(48 + (v & 7))
        v >>= 3


cdef inline void _device(uint8_t* p, uint32_t v) noexcept nogil:
    if v <= MAX_ID:
        _octal(p, 8, v)
        return
    p[0] = 0x80
    p[1] = p[2] = p[3] = 0
    p[4], p[5], p[6], p[7] = <uint8_t>(v >> 24), <uint8_t>(v >> 16), <uint8_t>(v >> 8), <uint8_t>v


cdef void _seal(uint8_t* h) noexcept nogil:
    # magic and version, then the sum of all bytes with spaces where it will stand
    cdef uint32_t total = 0
    cdef int i
    memcpy(h + 257, <const char*>b"ustar\x0000", 8)
    memset(h + 148, 32, 8)
    for i in range(BLOCK):
        total += h[i]
    _octal(h + 148, 7, total)


cdef void _put_base(uint8_t* h, const char* folder, const Text* path) noexcept nogil:
    # a name field of folder and the path's last component, cut where the field ends
    cdef Py_ssize_t at = strlen(folder), begin = path.n, n
    while begin > 0 and path.p[begin - 1] != 47:
        begin -= 1
    n = path.n - begin if path.n - begin < NAME_CAP - at else NAME_CAP - at
    memcpy(h, folder, at)
    memcpy(h + at, path.p + begin, n)


cdef void _put_name(uint8_t* h, const Item* e) noexcept nogil:
    cdef Py_ssize_t n = e.path.n
    if e.sparse:
        _put_base(h, b"GNUSparseFile.0/", &e.path)
    elif e.split == SPLIT_PAX:
        n = n if n < NAME_CAP else NAME_CAP
        while n > 1 and e.path.p[n - 1] == 47:    # only a directory ends so
            n -= 1
        memcpy(h, e.path.p, n)
    elif e.split == 0:
        memcpy(h, e.path.p, n)
        if e.slash:
            h[n] = 47
    else:
        n -= e.split + 1
        memcpy(h + 345, e.path.p, e.split)
        memcpy(h, e.path.p + e.split + 1, n)
        if e.slash:
            h[n] = 47


cdef void _put_header(uint8_t* h, const Item* e) noexcept nogil:
    memset(h, 0, BLOCK)
    _put_name(h, e)
    _octal(h + 100, 8, e.mode)
    _octal(h + 108, 8, e.uid if e.uid <= MAX_ID else 0)
    _octal(h + 116, 8, e.gid if e.gid <= MAX_ID else 0)
    _octal(h + 124, 12, <uint64_t>e.stored if e.stored <= MAX_OCTAL else 0)
    _octal(h + 136, 12, <uint64_t>e.mtime if 0 <= e.mtime <= MAX_OCTAL else 0)
    h[156] = <uint8_t>e.type
    if e.link.n:
        memcpy(h + 157, e.link.p, e.link.n if e.link.n < NAME_CAP else NAME_CAP)
    if 0 < e.uname.n <= OWNER_CAP:
        memcpy(h + 265, e.uname.p, e.uname.n)
    if 0 < e.gname.n <= OWNER_CAP:
        memcpy(h + 297, e.gname.p, e.gname.n)
    _device(h + 329, e.major)
    _device(h + 337, e.minor)
    _seal(h)


cdef void _put_pax_header(uint8_t* h, const Item* e, Py_ssize_t nbytes) noexcept nogil:
    memset(h, 0, BLOCK)
    _put_base(h, b"PaxHeaders/", &e.path)
    _octal(h + 100, 8, 0o644)
    _octal(h + 108, 8, 0)
    _octal(h + 116, 8, 0)
    _octal(h + 124, 12, <uint64_t>nbytes)
    _octal(h + 136, 12, 0)
    h[156] = 120
    _octal(h + 329, 8, 0)
    _octal(h + 337, 8, 0)
    _seal(h)


cdef int _put_map(uint8_t* p, const Item* e) noexcept nogil:
    """Write the sparse map into its e.map_nbytes: 0, or a Fault where the regions changed since they were measured."""
    cdef Out o = Out(p, <Py_ssize_t>e.map_nbytes, 0, False)
    cdef int64_t off, nbytes, end = 0
    cdef Py_ssize_t i
    line_number(&o, e.n_mapped)
    for i in range(e.n_regions):
        if _region(e, i, end, &off, &nbytes) < 0:
            return FAULT_SPARSE
        if nbytes:
            line_number(&o, off)
            line_number(&o, nbytes)
            end = off + nbytes
    if end < e.size:
        line_number(&o, e.size)
        line_number(&o, 0)
    return FAULT_SPARSE if o.full or o.n != o.cap else 0


cdef Py_ssize_t _fault(Form* f, int fault) noexcept nogil:
    f.fault = <Fault>fault
    return BAD_FORMAT


cdef Py_ssize_t form_core(const Rows* r, Py_ssize_t row, Form* f, uint8_t* out, Py_ssize_t cap) noexcept nogil:
    cdef Item e
    cdef Out o = Out(out, cap, 0, False)
    cdef int64_t n_uncarried = f.n_uncarried
    cdef Py_ssize_t n = 0, begin
    cdef int fault = _read_row(r, row, f, &e)
    cdef uint8_t* p
    if fault:
        return _fault(f, fault)
    if cap < BLOCK:
        return OUTPUT_FULL
    o.n = BLOCK                       # room for the pax header, if it comes to one
    _put_records(&o, &e, f)
    n = o.n - BLOCK
    if n == 0:
        o.n = 0
    elif n > MAX_OCTAL:
        return _fault(f, FAULT_EXTRAS)
    p = room(&o, -n & (BLOCK - 1))
    if p != NULL:
        memset(p, 0, -n & (BLOCK - 1))
    begin = o.n
    room(&o, BLOCK)
    p = room(&o, <Py_ssize_t>(e.stored - f.payload))    # the map, padded
    if o.full:
        f.n_uncarried = n_uncarried
        return OUTPUT_FULL
    if n:
        _put_pax_header(out, &e, n)
    _put_header(out + begin, &e)
    if e.sparse:
        memset(p, 0, <size_t>(e.stored - f.payload))
        fault = _put_map(p, &e)
    return _fault(f, fault) if fault else o.n


cdef int form_raise(const Rows* r, Py_ssize_t row, Fault fault) except -1:
    cdef const uint8_t* p = NULL
    cdef Py_ssize_t n = 0
    if fault == FAULT_ARENA or row_path(r, row, &p, &n) < 0:
        raise ValueError(f"row {row} points outside the arena")
    message = {
        FAULT_NAME: "an empty name, or a NUL in one",
        FAULT_TYPE: "not one of tar's types 0 to 6",
        FAULT_NUMBER: "a size or time out of range",
        FAULT_EXTRAS: "malformed extras",
        FAULT_KEYWORD: "a pax keyword that cannot be written beside the columns",
        FAULT_SPARSE: "data regions out of order or outside the file",
    }[fault]
    raise FormatError(f"row {row} cannot be written: {message}", entry=p[:n])


cdef int _acquire_form(Rows* r, Form* f, tuple columns, clamp_mtime, bint libarchive_xattr, bint sparse) except -1:
    memset(f, 0, sizeof(Form))
    f.has_clamp = clamp_mtime is not None
    f.clamp_mtime = clamp_mtime if f.has_clamp else 0
    f.libarchive_xattr, f.sparse = libarchive_xattr, sparse
    return rows_acquire(r, columns, False)


cdef Py_ssize_t _run(const Rows* r, const int64_t* rows, Py_ssize_t n_rows, Py_ssize_t* at, Form* f, int32_t* links,
                     Py_ssize_t n_links, uint8_t* out, Py_ssize_t cap, Py_ssize_t* nbytes) noexcept nogil:
    """Write headers from ``rows[at]`` on; ``at`` and ``nbytes`` move on. The last verdict of form_core()."""
    cdef Py_ssize_t n = 0, row
    while at[0] < n_rows:
        row = <Py_ssize_t>rows[at[0]]
        if row < 0 or row >= r.cap:
            return _fault(f, FAULT_ARENA)
        f.link_row = link_first(r, row, links, n_links)
        n = form_core(r, row, f, out + nbytes[0], cap - nbytes[0])
        if n < BLOCK:
            break
        link_note(r, row, links, n_links)
        nbytes[0] += n
        at[0] += 1
        if f.payload:
            break
    return n


def form(tuple columns not None, const int64_t[::1] rows not None, uint8_t[::1] out not None, Py_ssize_t begin=0,
         int32_t[::1] links=None, clamp_mtime=None, bint libarchive_xattr=False, bint sparse=False):
    """Write the headers of ``rows[begin:]`` (row numbers, in order) to ``out``, up to one whose content must follow.

    ``links`` (-1 everywhere at first, one item a row of the table) turns further members of a link group into hard
    links. Return (n_rows, nbytes, payload, n_uncarried): ``payload`` bytes of content follow the last of the rows, and
    zeros up to 512. No row was written where the next one needs a larger ``out``. ValueError for a row number outside
    the table or a row outside the arena, FormatError for a row that tar cannot hold.
    """
    cdef Rows r
    cdef Form f
    cdef Py_ssize_t n_rows = rows.shape[0], n_links = 0, at = begin, nbytes = 0, n
    cdef int32_t* p_links = NULL
    cdef uint8_t* p_out = &out[0] if out.shape[0] else NULL
    if begin < 0 or begin > n_rows:
        raise ValueError(f"row {begin} of {n_rows}")
    if links is not None and links.shape[0]:
        p_links, n_links = &links[0], links.shape[0]
    _acquire_form(&r, &f, columns, clamp_mtime, libarchive_xattr, sparse)
    try:
        if begin == n_rows:
            return 0, 0, 0, 0
        with nogil:
            n = _run(&r, &rows[0], n_rows, &at, &f, p_links, n_links, p_out, out.shape[0], &nbytes)
        if n == BAD_FORMAT:
            form_raise(&r, <Py_ssize_t>rows[at], f.fault)
        return at - begin, nbytes, f.payload if n >= BLOCK else 0, f.n_uncarried
    finally:
        rows_release(&r)
