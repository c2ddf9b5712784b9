"""Directories of ext4: see ext4dirs.pxd for the rules."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset, strerror
from lamella._kernels._ext4disk cimport (
    FAULT_ENTRY, FAULT_INODE, FAULT_READ, FAULT_TWICE, FAULT_TYPE, FL_INLINE, HAS_FILETYPE, MAPPING, MAPPING_ROOM, MAX_INODE,
    N_SHAPE, S_IFDIR, S_IFMT, Fault, Image, fail, fault_words, get16, image_begin, inode_size, read_blocks, read_inode)
from lamella._kernels._ext4runs cimport EXTENT_DEPTH, Runs, runs_begin, runs_next
from lamella._kernels._ext4xattrs cimport inline_rest
from lamella._kernels._status cimport AT_END, OK, OUTPUT_FULL
from lamella._kernels._thindisk cimport get32
from lamella.errors import FilesystemError

cdef enum:
    ENTRY = 8                    # bytes before a name
    TYPES = 8                    # file types that there are

cdef struct Lister:
    const Image* m
    Listed* out
    ListState* s
    Fault* f
    uint8_t* scratch
    uint32_t parent              # the directory that is being read


cdef inline int64_t _length(const Image* m, int64_t n) noexcept nogil:
    # bytes of an entry; sixteen bits are two too few for blocks of 65,536
    if m.block < 65536:
        return n
    return m.block if n == 65535 or n == 0 else (n & 65532) | (n & 3) << 16


cdef inline bint _is_name(const uint8_t* p, int64_t n) noexcept nogil:
    return n > 0 and memchr(p, 47, n) == NULL and memchr(p, 0, n) == NULL


cdef inline bint _is_dot(const uint8_t* p, int64_t n) noexcept nogil:
    return p[0] == 46 and (n == 1 or (n == 2 and p[1] == 46))


cdef int _put(Lister* w, uint32_t inode, int kind, const uint8_t* name, int64_t n) noexcept nogil:
    cdef ListState* s = w.s
    cdef Listed* o = w.out
    if s.n_out >= o.cap or o.arena_cap - s.arena < n:
        s.need_out += 1                                # and goes on, to tell how much the directory needs
        s.need_arena += n
        return OK
    if s.need_out == 0:
        o.parent[s.n_out], o.inode[s.n_out], o.kind[s.n_out] = w.parent, inode, <uint8_t>kind
        o.name_off[s.n_out], o.name_len[s.n_out] = s.arena, <uint8_t>n
        memcpy(o.arena + s.arena, name, n)
    s.n_out += 1
    s.arena += n
    return OK


cdef int _entries(Lister* w, const uint8_t* p, int64_t size, int64_t block) noexcept nogil:
    # the entries of one block, or of a piece of an inode
    cdef int64_t at = 0, length, n
    cdef uint32_t inode
    cdef int kind
    cdef int status = OK
    while at < size and status == OK:
        if size - at < ENTRY:
            return fail(w.f, FAULT_ENTRY, block)
        inode, length, n = get32(p + at), _length(w.m, get16(p + at + 4)), p[at + 6]
        if length < ENTRY or length % 4 or length > size - at or n > length - ENTRY:
            return fail(w.f, FAULT_ENTRY, block)
        if inode and not (n and _is_dot(p + at + ENTRY, n)):
            if not _is_name(p + at + ENTRY, n):
                return fail(w.f, FAULT_ENTRY, block)
            if inode > w.m.n_inodes:
                w.f.inode = inode
                return fail(w.f, FAULT_INODE, block)
            kind = p[at + 7] if w.m.bits & HAS_FILETYPE else 0
            status = _put(w, inode, kind if kind < TYPES else 0, p + at + ENTRY, n)
        at += length
    return status


cdef int _inline(Lister* w, const uint8_t* p) noexcept nogil:
    # the number of the directory above, then entries; more of them among the attributes
    cdef const uint8_t* rest = NULL
    cdef int64_t size = <int64_t>inode_size(w.m, p), n
    cdef int status = _entries(w, p + MAPPING + 4, MAPPING_ROOM - 4, -1)
    if status != OK or size <= MAPPING_ROOM:
        return status
    n = inline_rest(w.m, p, &rest)
    if n < size - MAPPING_ROOM:
        return fail(w.f, FAULT_ENTRY, -1)
    return _entries(w, rest, size - MAPPING_ROOM, -1)


cdef int _blocks(Lister* w, const uint8_t* p) noexcept nogil:
    cdef Runs r
    cdef uint64_t size = inode_size(w.m, p)
    cdef int64_t k, n, most = LIST_ROOM // w.m.block, end = <int64_t>(size // w.m.block)
    cdef uint8_t* room = w.scratch + EXTENT_DEPTH * w.m.block
    cdef int status = runs_begin(&r, w.m, p, size, w.scratch, &w.s.budget, w.f)
    while status == OK:
        status = runs_next(&r)
        if status != OK or r.logical >= end:
            break
        if r.unwritten:
            continue
        r.length = min(r.length, end - r.logical)
        while r.length and status == OK:
            n = min(r.length, most)
            status = read_blocks(w.m, room, r.physical, n, w.f)
            for k in range(n if status == OK else 0):
                status = _entries(w, room + k * w.m.block, w.m.block, r.physical + k)
                if status != OK:
                    break
            r.physical += n
            r.length -= n
    return OK if status == AT_END else status


cdef int _directory(Lister* w, uint32_t inode) noexcept nogil:
    # all of one directory, or nothing
    cdef uint8_t p[MAX_INODE]
    cdef ListState was = w.s[0]
    cdef int status = read_inode(w.m, inode, p, w.f)
    if status != OK:
        return status
    w.f.inode = inode
    w.parent = inode
    w.s.need_out = w.s.need_arena = 0
    if get16(p) & S_IFMT != S_IFDIR:
        return fail(w.f, FAULT_TYPE, -1)
    status = _inline(w, p) if get32(p + 0x20) & FL_INLINE else _blocks(w, p)
    if status != OK or w.s.need_out == 0:
        return status
    was.need_out, was.need_arena = w.s.need_out + w.s.n_out - was.n_out, w.s.need_arena + w.s.arena - was.arena
    w.s[0] = was
    return OUTPUT_FULL


cdef inline int _once(Lister* w, uint32_t inode, uint8_t* seen, int64_t seen_cap) noexcept nogil:
    # a directory that must not have been read before
    cdef int status
    if inode >> 3 >= seen_cap or seen[inode >> 3] >> (inode & 7) & 1:
        w.f.inode = inode
        return fail(w.f, FAULT_TWICE, -1)
    status = _directory(w, inode)
    if status == OK:
        seen[inode >> 3] |= <uint8_t>(1 << (inode & 7))
    return status


cdef int _is_dir(Lister* w, int64_t entry, bint* is_dir) noexcept nogil:
    cdef uint8_t p[MAX_INODE]
    cdef int kind = w.out.kind[entry]
    cdef int status = OK
    if kind == 0:
        status = read_inode(w.m, w.out.inode[entry], p, w.f)
        if status == OK and get16(p) & S_IFMT == S_IFDIR:
            kind = w.out.kind[entry] = TYPE_DIR
    is_dir[0] = kind == TYPE_DIR
    return status


cdef int list_dirs(const Image* m, const uint32_t* dirs, int64_t n_dirs, Listed* out, uint8_t* seen, int64_t seen_cap,
                   ListState* s, int options, uint8_t* scratch, Fault* f) noexcept nogil:
    cdef Lister w
    cdef bint is_dir = False
    cdef int status
    w.m, w.out, w.s, w.f, w.scratch = m, out, s, f, scratch
    while s.next < n_dirs:
        status = _once(&w, dirs[s.next], seen, seen_cap)
        if status != OK:
            return status
        s.next += 1
    while options & DEEP and s.next_entry < s.n_out:
        status = _is_dir(&w, s.next_entry, &is_dir)
        if status == OK and is_dir:
            status = _once(&w, out.inode[s.next_entry], seen, seen_cap)
        if status != OK:
            return status
        s.next_entry += 1
    return AT_END


def entries(int fd, const int64_t[::1] shape not None, const int64_t[::1] tables not None, const int64_t[::1] used not None,
            const uint32_t[::1] dirs not None, tuple columns not None, uint8_t[::1] seen not None,
            int64_t[::1] state not None, uint8_t[::1] scratch not None, int options):
    """Go on to list directories; AT_END or OUTPUT_FULL, as ext4dirs.pxd says.

    ``columns``: parent and inode (uint32), kind (uint8), name_off (int64), name_len (uint8) of one length, and the arena.
    FilesystemError; OSError; ValueError for arrays that do not fit each other.
    """
    cdef uint32_t[::1] parent = columns[0], inode = columns[1]
    cdef uint8_t[::1] kind = columns[2], name_len = columns[4], arena = columns[5]
    cdef int64_t[::1] name_off = columns[3]
    cdef Image m
    cdef Fault f
    cdef Listed o
    cdef ListState t
    cdef int status
    if shape.shape[0] != N_SHAPE or tables.shape[0] != used.shape[0] or tables.shape[0] == 0 \
            or image_begin(&m, fd, &shape[0], &tables[0], &used[0], tables.shape[0]) < 0:
        raise ValueError("not the shape of a file system")
    o.cap, o.arena_cap = parent.shape[0], arena.shape[0]
    if (o.cap == 0 or o.arena_cap == 0 or inode.shape[0] != o.cap or kind.shape[0] != o.cap or name_off.shape[0] != o.cap
            or name_len.shape[0] != o.cap or state.shape[0] * 8 != sizeof(ListState)
            or scratch.shape[0] < LIST_BLOCKS * m.block + LIST_ROOM or seen.shape[0] == 0):
        raise ValueError("columns of one length, a state, and scratch of theirs")
    t = (<ListState*>&state[0])[0]
    if (not 0 <= t.next <= dirs.shape[0] or not 0 <= t.n_out <= o.cap or not 0 <= t.next_entry <= t.n_out
            or not 0 <= t.arena <= o.arena_cap):
        raise ValueError("not a state of these columns")
    o.parent, o.inode, o.kind, o.name_off = &parent[0], &inode[0], &kind[0], &name_off[0]
    o.name_len, o.arena = &name_len[0], &arena[0]
    memset(&f, 0, sizeof(f))
    cdef const uint32_t* first = &dirs[0] if dirs.shape[0] else NULL
    with nogil:
        status = list_dirs(&m, first, dirs.shape[0], &o, &seen[0], seen.shape[0], &t, options, &scratch[0], &f)
    t.fault, t.block, t.inode, t.error = f.kind, f.block, f.inode, f.error
    (<ListState*>&state[0])[0] = t
    if status >= 0:
        return status
    if f.kind == FAULT_READ:
        raise OSError(f.error, strerror(f.error).decode())
    raise FilesystemError(fault_words(f.kind).decode(), block=f.block, inode=f.inode)
