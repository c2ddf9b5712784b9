"""Inodes of ext4: see ext4.pxd for the rules, _ext4disk.pxd for the fields."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset, strerror
from lamella._kernels._ext4disk cimport (
    FAULT_INODE, FAULT_LINK, FAULT_READ, FAULT_XATTR, FL_INLINE, HAS_EA_INODE, MAPPING, MAPPING_ROOM, MAX_INODE, N_SHAPE,
    OLD_INODE, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, Fault, Image, fail, fault_words, get16,
    image_begin, inode_extra, inode_place, inode_size, inode_time, inode_used, read_bytes, read_inode)
from lamella._kernels._ext4runs cimport EXTENT_DEPTH, Runs, runs_begin, runs_next
from lamella._kernels._ext4xattrs cimport NameItem, XattrRead, inline_rest, read_inode_xattrs
from lamella._kernels._rows cimport Rows, row_path, rows_acquire, rows_release
from lamella._kernels._status cimport AT_END, OK, OUTPUT_FULL
from lamella._kernels._thindisk cimport get32
from lamella.errors import FilesystemError

cdef enum:
    LINK_PENDING = -2            # as in walk.pxd
    MAX_PATH = 0xFFFF


# -- which differ -----------------------------------------------------------------------------------------------------

cdef inline bint _part_differs(const uint8_t* p, const uint8_t* q, int64_t begin, int64_t end) noexcept nogil:
    return end > begin and memcmp(p + begin, q + begin, end - begin) != 0


cdef bint _differs(const Image* m, const uint8_t* p, const uint8_t* q) noexcept nogil:
    # all but access time and checksum, whose other halves are behind the first 128 bytes, if there is so much
    cdef int64_t extra
    if (_part_differs(p, q, 0, 0x08) or _part_differs(p, q, 0x0C, 0x7C) or _part_differs(p, q, 0x7E, 0x82)):
        return True
    if m.inode <= OLD_INODE:
        return False
    extra = OLD_INODE + inode_extra(m, p)              # the same in both: it lies before 0x82
    if extra < 0x84:
        return _part_differs(p, q, 0x82, m.inode)
    if extra < 0x90:
        return _part_differs(p, q, 0x84, m.inode)
    return _part_differs(p, q, 0x84, 0x8C) or _part_differs(p, q, 0x90, m.inode)


cdef inline uint16_t _mode_at(const Image* m, int64_t inode, const uint8_t* p) noexcept nogil:
    return get16(p) if inode_place(m, inode) >= 0 and inode_used(p) else 0


cdef int _read_both(const Image* a, const Image* b, int64_t first, int64_t n, uint8_t* p, uint8_t* q,
                    Fault* f) noexcept nogil:
    # ``n`` inodes from ``first`` on, all in one group; those that were never written too
    cdef int64_t group = (first - 1) // a.per_group, at = first - 1 - group * a.per_group
    cdef int64_t x = a.tables[group], y = b.tables[group], skip = at * a.inode
    cdef int status
    if (x < 1 or x >= a.n_blocks or skip + n * a.inode > (a.n_blocks - x) * a.block
            or y < 1 or y >= b.n_blocks or skip + n * b.inode > (b.n_blocks - y) * b.block):
        f.inode = first
        return fail(f, FAULT_INODE, x)
    status = read_bytes(a, p, n * a.inode, x * a.block + skip, f)
    return read_bytes(b, q, n * b.inode, y * b.block + skip, f) if status == OK else status


cdef int changed_inodes(const Image* a, const Image* b, const int64_t* ranges, int64_t n_ranges, InodeState* s,
                        uint32_t* out, uint16_t* modes_a, uint16_t* modes_b, int64_t cap, uint8_t* scratch,
                        Fault* f) noexcept nogil:
    cdef int64_t first, n, i, left, most = CHUNK // a.inode
    cdef uint8_t* p = scratch
    cdef uint8_t* q = scratch + CHUNK
    cdef uint16_t x, y
    cdef int status
    while s.next < n_ranges:
        first, n = ranges[2 * s.next] + s.done, ranges[2 * s.next + 1] - s.done
        if n <= 0:
            s.next += 1
            s.done = 0
            continue
        if first < 1 or first > a.n_inodes or n > a.n_inodes - first + 1:
            f.inode = first
            return fail(f, FAULT_INODE, -1)
        left = a.per_group - (first - 1) % a.per_group
        n = min(n, left, most)
        status = _read_both(a, b, first, n, p, q, f)
        if status != OK:
            return status
        for i in range(n):
            if memcmp(p + i * a.inode, q + i * a.inode, a.inode) == 0 and a.used[(first - 1) // a.per_group] == \
                    b.used[(first - 1) // a.per_group]:
                continue
            x, y = _mode_at(a, first + i, p + i * a.inode), _mode_at(b, first + i, q + i * a.inode)
            if x | y == 0 or (x and y and not _differs(a, p + i * a.inode, q + i * a.inode)):
                continue
            if s.n_out >= cap:
                s.done += i
                return OUTPUT_FULL
            out[s.n_out], modes_a[s.n_out], modes_b[s.n_out] = <uint32_t>(first + i), x, y
            s.n_out += 1
        s.done += n
    return AT_END


# -- what they are ----------------------------------------------------------------------------------------------------

cdef struct Decode:
    const Image* m
    Rows* r
    InodeState* s
    Fault* f
    int options
    uint64_t dev
    uint8_t* inode
    XattrRead x


cdef uint8_t _type_of(int kind) noexcept nogil:
    # tar's type flag
    if kind == S_IFREG:
        return 48
    if kind == S_IFLNK:
        return 50
    if kind == S_IFCHR:
        return 51
    if kind == S_IFBLK:
        return 52
    return 53 if kind == S_IFDIR else 54


cdef inline bint _is_fast(const Image* m, const uint8_t* p) noexcept nogil:
    # whether a symlink's text is where the blocks would be
    cdef int64_t acl = get32(p + 0x68) | <int64_t>get16(p + 0x76) << 32
    if m.bits & HAS_EA_INODE:
        return get32(p + 4) < MAPPING_ROOM
    return <int64_t>get32(p + 0x1C) - (m.cluster if acl else 0) == 0


cdef int _link(Decode* d, Py_ssize_t i) noexcept nogil:
    # put the row's path at the end of the arena, and the text behind it
    cdef int64_t size = get32(d.inode + 4), at = d.s.arena
    cdef const uint8_t* path = NULL
    cdef const uint8_t* rest = NULL
    cdef Py_ssize_t n = 0
    cdef Runs r
    cdef uint8_t* to
    cdef int status
    if size > MAX_PATH or size > d.m.block or row_path(d.r, i, &path, &n) < 0:
        return fail(d.f, FAULT_LINK, -1)
    if d.r.arena_cap - at < n + size:
        d.s.need = n + size
        return OUTPUT_FULL
    memmove(d.r.arena + at, path, n)                  # a row may point beyond what is in use
    to = d.r.arena + at + n
    if get32(d.inode + 0x20) & FL_INLINE:
        if size > MAPPING_ROOM and inline_rest(d.m, d.inode, &rest) < size - MAPPING_ROOM:
            return fail(d.f, FAULT_LINK, -1)
        memcpy(to, d.inode + MAPPING, min(size, MAPPING_ROOM))
        if size > MAPPING_ROOM:
            memcpy(to + MAPPING_ROOM, rest, size - MAPPING_ROOM)
    elif _is_fast(d.m, d.inode):
        if size > MAPPING_ROOM:
            return fail(d.f, FAULT_LINK, -1)
        memcpy(to, d.inode + MAPPING, size)
    else:
        status = runs_begin(&r, d.m, d.inode, <uint64_t>size, d.x.nodes, &d.s.budget, d.f)
        if status == OK:
            status = runs_next(&r)
        if status == AT_END or (status == OK and (r.logical != 0 or r.unwritten)):
            return fail(d.f, FAULT_LINK, -1)
        if status == OK:
            status = read_bytes(d.m, to, size, r.physical * d.m.block, d.f)
        if status != OK:
            return status
    d.r.name_off[i], d.r.link_len[i] = at, <uint16_t>size
    d.s.arena = at + n + size
    return OK


cdef int _attributes(Decode* d, Py_ssize_t i) noexcept nogil:
    cdef int status
    d.x.out, d.x.out_cap = d.r.arena + d.s.arena, d.r.arena_cap - d.s.arena
    status = read_inode_xattrs(&d.x)
    if status == OUTPUT_FULL:
        d.s.need = d.x.need
    if status != OK:
        return status
    d.r.ext_off[i] = d.s.arena if d.x.nbytes else 0
    d.r.ext_len[i] = <uint32_t>d.x.nbytes
    d.s.arena += d.x.nbytes
    return OK


cdef void _fields(Decode* d, Py_ssize_t i, int mode, int64_t inode, uint32_t nlink) noexcept nogil:
    cdef const uint8_t* p = d.inode
    cdef int kind = mode & S_IFMT
    cdef uint64_t size = inode_size(d.m, p) if kind == S_IFREG else 0
    cdef uint32_t dev = 0
    cdef bint new = get32(p + MAPPING) == 0
    inode_time(d.m, p, 0x10, 0x88, &d.r.mtime[i], &d.r.mtime_nsec[i])
    if kind == S_IFCHR or kind == S_IFBLK:
        dev = get32(p + MAPPING + 4) if new else get32(p + MAPPING)
    d.r.type[i], d.r.flags[i], d.r.mode[i] = _type_of(kind), 0, <uint16_t>(mode & 0o7777)
    d.r.uid[i] = get16(p + 2) | <uint32_t>get16(p + 0x78) << 16
    d.r.gid[i] = get16(p + 0x18) | <uint32_t>get16(p + 0x7A) << 16
    d.r.size[i] = <int64_t>(size & 0x7FFFFFFFFFFFFFFFULL)
    if new:
        d.r.rdev_major[i], d.r.rdev_minor[i] = (dev & 0xFFF00) >> 8, (dev & 0xFF) | (dev >> 12 & 0xFFF00)
    else:
        d.r.rdev_major[i], d.r.rdev_minor[i] = dev >> 8 & 0xFF, dev & 0xFF
    d.r.link_group[i] = LINK_PENDING if nlink > 1 and kind != S_IFDIR else -1
    d.r.link_len[i] = d.r.ext_len[i] = 0
    d.r.ext_off[i] = 0
    d.r.dev[i], d.r.ino[i] = d.dev, <uint64_t>inode


cdef int _row(Decode* d, Py_ssize_t i, int64_t inode, uint16_t* mode, uint32_t* nlink) noexcept nogil:
    cdef int64_t arena = d.s.arena, off = d.r.name_off[i]
    cdef int status = read_inode(d.m, inode, d.inode, d.f)
    d.s.budget = d.m.n_blocks                         # of one inode: a symlink is as long as one block
    if status != OK:
        return status
    mode[0], nlink[0] = get16(d.inode), get16(d.inode + 0x1A)
    if mode[0] & S_IFMT == S_IFSOCK:
        return OK
    _fields(d, i, mode[0], inode, nlink[0])
    if mode[0] & S_IFMT == S_IFLNK:
        status = _link(d, i)
    if status == OK and not d.options & NO_XATTRS:
        status = _attributes(d, i)
    if status == OUTPUT_FULL:
        d.s.need += d.s.arena - arena
        d.s.arena, d.r.name_off[i] = arena, off
    return status


cdef void _rooms(XattrRead* x, const Image* m, Fault* f, uint8_t* scratch) noexcept nogil:
    # part the scratch: EXTENT_DEPTH nodes, two inodes, a block, text and items of attributes
    cdef int64_t both = m.block + m.inode
    memset(x, 0, sizeof(XattrRead))
    x.m, x.f, x.nodes = m, f, scratch
    x.inode = scratch + EXTENT_DEPTH * m.block
    x.other = x.inode + m.inode
    x.block = x.other + m.inode
    x.text = x.block + m.block                        # 4 times both
    x.items = <NameItem*>(x.text + 4 * both)          # 2 times both


cdef int inode_rows(const Image* m, const uint32_t* inodes, Rows* r, uint16_t* modes, uint32_t* nlink, uint64_t dev,
                    InodeState* s, int options, uint8_t* scratch, Fault* f) noexcept nogil:
    cdef Decode d
    cdef int status
    d.m, d.r, d.s, d.f, d.options, d.dev = m, r, s, f, options, dev
    _rooms(&d.x, m, f, scratch)
    d.inode = d.x.inode
    d.x.keep_selinux = options & KEEP_SELINUX != 0
    while s.next < r.cap:
        status = _row(&d, s.next, inodes[s.next], &modes[s.next], &nlink[s.next])
        if status != OK:
            return status
        s.next += 1
    return AT_END


# -- where their bytes are --------------------------------------------------------------------------------------------

cdef int _find_runs(const Image* m, int64_t inode, InodeState* s, int64_t* out, int64_t cap, uint8_t* scratch,
                    Fault* f) noexcept nogil:
    # triples (first block in the file, in the file system, number) of what is written
    cdef XattrRead x
    cdef Runs r
    cdef int status = OK
    _rooms(&x, m, f, scratch)
    s.n_out = 0
    status = read_inode(m, inode, x.inode, f)
    if status != OK:
        return status
    if get32(x.inode + 0x20) & FL_INLINE:
        s.n_out = -1
        return AT_END
    status = runs_begin(&r, m, x.inode, inode_size(m, x.inode), x.nodes, &s.budget, f)
    while status == OK:
        status = runs_next(&r)
        if status != OK or r.unwritten:
            continue
        if s.n_out >= cap:
            return OUTPUT_FULL
        out[3 * s.n_out], out[3 * s.n_out + 1], out[3 * s.n_out + 2] = r.logical, r.physical, r.length
        s.n_out += 1
    return status


cdef bint _touches(const int64_t* ranges, int64_t n, int64_t begin, int64_t end) noexcept nogil:
    # whether one of the half-open ranges, ascending and apart, meets [begin, end)
    cdef int64_t low = 0, high = n, middle
    while low < high:
        middle = low + (high - low) // 2
        if ranges[2 * middle + 1] <= begin:
            low = middle + 1
        else:
            high = middle
    return low < n and ranges[2 * low] < end


cdef int _owns(const Image* m, const uint8_t* p, const int64_t* ranges, int64_t n, InodeState* s, uint8_t* nodes,
               Fault* f, bint* owns) noexcept nogil:
    cdef Runs r
    cdef int status = runs_begin(&r, m, p, inode_size(m, p), nodes, &s.budget, f)
    owns[0] = False
    while status == OK:
        status = runs_next(&r)
        if status == OK and _touches(ranges, n, r.physical, r.physical + r.length):
            owns[0] = True                            # and goes on: the budget counts every block
    return OK if status == AT_END else status


cdef int _find_owners(const Image* m, const int64_t* ranges, int64_t n_ranges, InodeState* s, uint32_t* out, int64_t cap,
                      uint8_t* scratch, Fault* f) noexcept nogil:
    cdef int64_t n, i, pos, group, left
    cdef uint8_t* p = scratch + EXTENT_DEPTH * m.block
    cdef bint owns = False
    cdef int status = OK
    s.next = s.next if s.next > 0 else 1
    while s.next <= m.n_inodes:
        group = (s.next - 1) // m.per_group
        left = m.used[group] - (s.next - 1 - group * m.per_group)
        pos = inode_place(m, s.next)
        if pos < 0 or left <= 0:
            s.next = (group + 1) * m.per_group + 1
            continue
        n = min(left, m.n_inodes - s.next + 1, CHUNK // m.inode)
        if inode_place(m, s.next + n - 1) < 0:
            return fail(f, FAULT_INODE, -1)
        status = read_bytes(m, p, n * m.inode, pos, f)
        for i in range(n if status == OK else 0):
            f.inode = s.next
            if inode_used(p + i * m.inode) and get16(p + i * m.inode) & S_IFMT == S_IFREG \
                    and not get32(p + i * m.inode + 0x20) & FL_INLINE:
                status = _owns(m, p + i * m.inode, ranges, n_ranges, s, scratch, f, &owns)
                if status != OK:
                    break
                if owns and s.n_out >= cap:
                    return OUTPUT_FULL
                if owns:
                    out[s.n_out] = <uint32_t>s.next
                    s.n_out += 1
            s.next += 1
        if status != OK:
            return status
    return AT_END


# -- wrappers ---------------------------------------------------------------------------------------------------------

cdef int _take(Image* m, int fd, const int64_t[::1] shape, const int64_t[::1] tables,
               const int64_t[::1] used) except -1:
    if shape.shape[0] != N_SHAPE or tables.shape[0] != used.shape[0] or tables.shape[0] == 0 \
            or image_begin(m, fd, &shape[0], &tables[0], &used[0], tables.shape[0]) < 0:
        raise ValueError("not the shape of a file system")
    return 0


cdef InodeState* _state(int64_t[::1] state, const uint8_t[::1] scratch, int64_t wanted) except NULL:
    if state.shape[0] * 8 != sizeof(InodeState) or scratch.shape[0] < wanted or <size_t>&scratch[0] & 7:
        raise ValueError(f"a state of {sizeof(InodeState) // 8} items; {wanted} bytes of scratch, aligned")
    return <InodeState*>&state[0]


cdef int _verdict(int status, InodeState* s, const Fault* f) except -1:
    s.fault, s.block, s.inode, s.error = f.kind, f.block, f.inode, f.error
    if status >= 0:
        return status
    if f.kind == FAULT_READ:
        raise OSError(f.error, strerror(f.error).decode())
    raise FilesystemError(fault_words(f.kind).decode(), block=f.block, inode=f.inode)


def scratch_nbytes(const int64_t[::1] shape not None):
    """Return how many bytes of scratch the functions here want for a file system of that shape."""
    if shape.shape[0] != N_SHAPE or not 1024 <= shape[1] <= 65536 or not OLD_INODE <= shape[2] <= MAX_INODE:
        raise ValueError("not the shape of a file system")
    return SCRATCH_BLOCKS * (shape[1] + shape[2]) + 2 * CHUNK


def changed(int fd_a, const int64_t[::1] tables_a not None, const int64_t[::1] used_a not None, int fd_b,
            const int64_t[::1] tables_b not None, const int64_t[::1] used_b not None,
            const int64_t[::1] shape not None, const int64_t[::1] ranges not None, int64_t[::1] state not None,
            uint32_t[::1] out not None, uint16_t[::1] modes_a not None, uint16_t[::1] modes_b not None,
            uint8_t[::1] scratch not None):
    """Go on to compare inodes of two images of one shape; AT_END or OUTPUT_FULL, as ext4.pxd says.

    FilesystemError; OSError; ValueError for arrays that do not fit each other.
    """
    cdef Image a, b
    cdef Fault f
    cdef int status
    cdef int64_t n = out.shape[0]
    _take(&a, fd_a, shape, tables_a, used_a)
    _take(&b, fd_b, shape, tables_b, used_b)
    cdef InodeState* s = _state(state, scratch, 2 * CHUNK)
    cdef InodeState t = s[0]
    if (n == 0 or modes_a.shape[0] != n or modes_b.shape[0] != n or not 0 <= t.n_out <= n or a.n_groups != b.n_groups
            or ranges.shape[0] % 2 or not 0 <= t.next <= ranges.shape[0] // 2 or t.done < 0):
        raise ValueError("arrays of one length, pairs of numbers, and a state of theirs")
    memset(&f, 0, sizeof(f))
    cdef const int64_t* pairs = &ranges[0] if ranges.shape[0] else NULL
    with nogil:
        status = changed_inodes(&a, &b, pairs, ranges.shape[0] // 2, &t, &out[0], &modes_a[0], &modes_b[0], n, &scratch[0],
                                &f)
    s[0] = t
    return _verdict(status, s, &f)


def rows(int fd, const int64_t[::1] shape not None, const int64_t[::1] tables not None, const int64_t[::1] used not None,
         const uint32_t[::1] inodes not None, tuple columns not None, uint16_t[::1] modes not None,
         uint32_t[::1] nlink not None, uint64_t dev, int64_t[::1] state not None, uint8_t[::1] scratch not None, int options):
    """Go on to fill rows; AT_END or OUTPUT_FULL, as ext4.pxd says. Errors as changed()."""
    cdef Image m
    cdef Fault f
    cdef Rows r
    cdef int status = AT_END
    _take(&m, fd, shape, tables, used)
    cdef InodeState* s = _state(state, scratch, SCRATCH_BLOCKS * (m.block + m.inode))
    cdef InodeState t = s[0]
    memset(&f, 0, sizeof(f))
    rows_acquire(&r, columns, True)
    try:
        if (inodes.shape[0] != r.cap or modes.shape[0] != r.cap or nlink.shape[0] != r.cap or r.dev == NULL or r.ino == NULL
                or not 0 <= t.next <= r.cap or not 0 <= t.arena <= r.arena_cap):
            raise ValueError("arrays as long as the table, and a state of theirs")
        if r.cap:
            with nogil:
                status = inode_rows(&m, &inodes[0], &r, &modes[0], &nlink[0], dev, &t, options, &scratch[0], &f)
    finally:
        rows_release(&r)
    s[0] = t
    return _verdict(status, s, &f)


def runs(int fd, const int64_t[::1] shape not None, const int64_t[::1] tables not None, const int64_t[::1] used not None,
         int64_t inode, int64_t[::1] state not None, int64_t[::1] out not None, uint8_t[::1] scratch not None):
    """Write triples of what a file has on disk: block of the file, of the file system, number; n_out -1 for inline data.

    AT_END, or OUTPUT_FULL: begin anew with more room. Errors as changed().
    """
    cdef Image m
    cdef Fault f
    cdef int status
    _take(&m, fd, shape, tables, used)
    cdef InodeState* s = _state(state, scratch, SCRATCH_BLOCKS * (m.block + m.inode))
    cdef InodeState t = s[0]
    if out.shape[0] < 3:
        raise ValueError("room for one triple")
    memset(&f, 0, sizeof(f))
    with nogil:
        status = _find_runs(&m, inode, &t, &out[0], out.shape[0] // 3, &scratch[0], &f)
    s[0] = t
    return _verdict(status, s, &f)


def small(int fd, const int64_t[::1] shape not None, const int64_t[::1] tables not None, const int64_t[::1] used not None,
          int64_t inode, uint8_t[::1] out not None):
    """Copy the data that lies in an inode itself to ``out``; its bytes, -1 for an inode without. Errors as changed()."""
    cdef Image m
    cdef Fault f
    cdef uint8_t p[MAX_INODE]
    cdef const uint8_t* rest = NULL
    cdef int64_t n = 0, cap = out.shape[0]
    cdef InodeState t
    cdef int status
    _take(&m, fd, shape, tables, used)
    memset(&f, 0, sizeof(f))
    status = read_inode(&m, inode, p, &f)
    if status == OK and get32(p + 0x20) & FL_INLINE:
        n = inline_rest(&m, p, &rest)
        status = OK if n >= 0 else fail(&f, FAULT_XATTR, -1)
    _verdict(status, &t, &f)
    if not get32(p + 0x20) & FL_INLINE:
        return -1
    if cap:
        memcpy(&out[0], p + MAPPING, min(cap, MAPPING_ROOM))
    if cap > MAPPING_ROOM and n:
        memcpy(&out[MAPPING_ROOM], rest, min(cap - MAPPING_ROOM, n))
    return MAPPING_ROOM + n


def owners(int fd, const int64_t[::1] shape not None, const int64_t[::1] tables not None, const int64_t[::1] used not None,
           const int64_t[::1] ranges not None, int64_t[::1] state not None, uint32_t[::1] out not None,
           uint8_t[::1] scratch not None):
    """Go on to find the files that have blocks in ``ranges`` (begin and end, ascending, apart); AT_END or OUTPUT_FULL.

    ``state.next`` begins with the first inode that is no reserved one. Errors as changed().
    """
    cdef Image m
    cdef Fault f
    cdef int status
    _take(&m, fd, shape, tables, used)
    cdef InodeState* s = _state(state, scratch, EXTENT_DEPTH * m.block + CHUNK)
    cdef InodeState t = s[0]
    if ranges.shape[0] % 2 or out.shape[0] == 0 or not 0 <= t.n_out <= out.shape[0]:
        raise ValueError("pairs of numbers, room for one inode, and a state of theirs")
    memset(&f, 0, sizeof(f))
    cdef const int64_t* pairs = &ranges[0] if ranges.shape[0] else NULL
    with nogil:
        status = _find_owners(&m, pairs, ranges.shape[0] // 2, &t, &out[0], out.shape[0], &scratch[0], &f)
    s[0] = t
    return _verdict(status, s, &f)
