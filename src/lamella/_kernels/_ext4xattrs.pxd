"""Extended attributes as ext4 keeps them: behind an inode's fields, in a block of their own, as inodes of their own.

What comes out is the run of extras that a walk of the mounted file system would write (_xattrs.pxd): sorted by name, with
access control lists in the kernel's form for programs and not in ext4's, without what the kernel does not list.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._ext4disk cimport (FAULT_XATTR, FL_EA_INODE, OLD_INODE, Fault, Image, fail,
                                         get16, inode_extra, inode_size, read_blocks, read_bytes, read_inode)
from lamella._kernels._ext4runs cimport Runs, runs_begin, runs_next
from lamella._kernels._names cimport NameItem, sort_names
from lamella._kernels._rows cimport EXT_HEADER, EXT_XATTR
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OUTPUT_FULL
from lamella._kernels._thindisk cimport get32, put32

cdef enum:
    XATTR_MAGIC = 0xEA020000
    XATTR_ENTRY = 16             # bytes before an entry's name
    XATTR_HEADER = 32            # ... of a block
    XATTR_LARGEST = 65536        # bytes of a value
    IN_SYSTEM = 7                # the index of "system.", under which inline data is kept
    ACL_ACCESS = 2
    ACL_DEFAULT = 3
    NOTED = 16                   # bytes before a name that is noted: index, region, length, place, size, inode
    LONGEST_PREFIX = 24

cdef struct XattrEntry:
    int index
    int64_t name_len
    const uint8_t* name
    uint32_t place               # of the value, from where its region counts
    uint32_t inode               # or the inode that is the value, 0 for none
    uint32_t nbytes

cdef struct XattrRead:
    const Image* m
    Fault* f
    uint8_t* nodes               # of Runs
    uint8_t* inode               # the inode's bytes
    uint8_t* other               # room for an inode that is a value
    uint8_t* block               # ... for the block of attributes
    uint8_t* text                # ... for 4 * (m.inode + m.block) bytes, 8-byte aligned
    NameItem* items              # ... for (m.inode + m.block) / 8 items
    bint keep_selinux
    uint8_t* out
    int64_t out_cap
    int64_t nbytes               # result: bytes of the run
    int64_t need                 # with OUTPUT_FULL: out_cap should be at least this

cdef inline int64_t xattr_entry(const uint8_t* p, int64_t n, int64_t at, XattrEntry* e) noexcept nogil:
    """Read the entry at ``at`` of a list that ends within ``n`` bytes; the offset behind it, 0 at the end, -1 malformed."""
    if at > n - 4 or get32(p + at) == 0:
        return 0 if at <= n else -1
    if at > n - XATTR_ENTRY:
        return -1
    e.name_len, e.index = p[at], p[at + 1]
    e.place, e.inode, e.nbytes = get16(p + at + 2), get32(p + at + 4), get32(p + at + 8)
    e.name = p + at + XATTR_ENTRY
    if e.name_len > n - at - XATTR_ENTRY:
        return -1
    return at + (XATTR_ENTRY + e.name_len + 3 & ~<int64_t>3)

cdef inline const uint8_t* own_region(const Image* m, const uint8_t* inode, int64_t* n) noexcept nogil:
    """Return where the entries in an inode begin, and how many bytes they and their values have; NULL for none."""
    cdef int64_t at = OLD_INODE + inode_extra(m, inode)
    if m.inode <= OLD_INODE or get16(inode + 0x80) == 0 or at > m.inode - 4 or get32(inode + at) != XATTR_MAGIC:
        return NULL
    n[0] = m.inode - at - 4
    return inode + at + 4

cdef inline int64_t inline_rest(const Image* m, const uint8_t* inode, const uint8_t** p) noexcept nogil:
    """Point at what an inode's inline data has beyond its first 60 bytes: how many bytes, 0 for none, -1 malformed."""
    cdef XattrEntry e
    cdef int64_t n = 0, at = 0
    cdef const uint8_t* region = own_region(m, inode, &n)
    while region != NULL:
        at = xattr_entry(region, n, at, &e)
        if at <= 0:
            return at
        if e.index == IN_SYSTEM and e.name_len == 4 and memcmp(e.name, b"data", 4) == 0:
            if e.inode or e.place > n or e.nbytes > n - e.place:
                return -1
            p[0] = region + e.place
            return e.nbytes
    return 0

cdef inline const char* _prefix(int index, int64_t* n) noexcept nogil:
    # what the kernel puts before the name; NULL for what it does not list
    cdef const char* s = NULL
    if index == 1:
        s, n[0] = b"user.", 5
    elif index == ACL_ACCESS:
        s, n[0] = b"system.posix_acl_access", 23
    elif index == ACL_DEFAULT:
        s, n[0] = b"system.posix_acl_default", 24
    elif index == 4:
        s, n[0] = b"trusted.", 8
    elif index == 6:
        s, n[0] = b"security.", 9
    elif index == 10:
        s, n[0] = b"gnu.", 4
    return s

cdef inline int _note(XattrRead* x, const uint8_t* p, int64_t begin, int64_t n, int region, int64_t* end,
                      int64_t* count) noexcept nogil:
    # write the names of a region's entries to the text, each behind a note of where its value is
    cdef XattrEntry e
    cdef int64_t at = begin, skip = 0, length
    cdef uint8_t* t
    cdef const char* s
    while True:
        at = xattr_entry(p, n, at, &e)
        if at < 0:
            return fail(x.f, FAULT_XATTR, x.f.block)
        if at == 0:
            return OK
        s = _prefix(e.index, &skip)
        if s == NULL or (e.index <= ACL_DEFAULT and e.index != 1 and e.name_len):
            continue
        if (not x.keep_selinux and e.index == 6 and e.name_len == 7 and memcmp(e.name, b"selinux", 7) == 0):
            continue
        length = skip + e.name_len
        if length + NOTED + 1 > 4 * (x.m.inode + x.m.block) - end[0] or count[0] >= (x.m.inode + x.m.block) // 16:
            return fail(x.f, FAULT_XATTR, x.f.block)
        t = x.text + end[0]
        t[0], t[1] = <uint8_t>e.index, <uint8_t>region
        t[2], t[3] = <uint8_t>(length & 255), <uint8_t>(length >> 8)
        put32(t + 4, e.place)
        put32(t + 8, e.nbytes)
        put32(t + 12, e.inode)
        memcpy(t + NOTED, s, skip)
        memcpy(t + NOTED + skip, e.name, e.name_len)
        t[NOTED + length] = 0
        x.items[count[0]].off = <uint64_t>(end[0] + NOTED)
        count[0] += 1
        end[0] += NOTED + length + 1

cdef inline int64_t acl_form(const uint8_t* p, int64_t n, uint8_t* out, int64_t room) noexcept nogil:
    """Turn a list of ext4 (no ids where none are meant) into the kernel's; its bytes, -1 malformed, -2 for no room."""
    cdef int64_t at = 4, to = 4
    cdef int tag
    if n < 4 or get32(p) != 1:
        return -1
    if room < 4:
        return -2
    put32(out, 2)
    while at < n:
        if n - at < 4 or room - to < 8:
            return -1 if n - at < 4 else -2
        tag = get16(p + at)
        memcpy(out + to, p + at, 4)
        if tag == 2 or tag == 8:                      # of one user, of one group
            if n - at < 8:
                return -1
            memcpy(out + to + 4, p + at + 4, 4)
            at += 8
        else:
            put32(out + to + 4, 0xFFFFFFFFu)
            at += 4
        to += 8
    return to

cdef inline int _inode_value(XattrRead* x, uint32_t inode, int64_t nbytes, uint8_t* to) noexcept nogil:
    # copy a value that is an inode of its own (caller: there is room)
    cdef Runs r
    cdef int64_t at = 0, n, budget = 8 * XATTR_LARGEST // x.m.block    # of one value: others may share it
    cdef int status = read_inode(x.m, inode, x.other, x.f)
    if status != OK:
        return status
    if not get32(x.other + 0x20) & FL_EA_INODE or inode_size(x.m, x.other) != <uint64_t>nbytes:
        return fail(x.f, FAULT_XATTR, -1)
    status = runs_begin(&r, x.m, x.other, <uint64_t>nbytes, x.nodes, &budget, x.f)
    while status == OK and at < nbytes:
        status = runs_next(&r)
        if status == AT_END or (status == OK and (r.logical * x.m.block != at or r.unwritten)):
            return fail(x.f, FAULT_XATTR, -1)         # it has no holes
        if status == OK:
            n = r.length * x.m.block
            n = n if n < nbytes - at else nbytes - at
            status = read_bytes(x.m, to + at, n, r.physical * x.m.block, x.f)
            at += n
    return status

cdef inline int _emit_xattr(XattrRead* x, const uint8_t* t) noexcept nogil:
    # append the attribute that is noted at ``t``
    cdef int64_t length = t[2] | t[3] << 8, n = 0, got, room
    cdef uint32_t place = get32(t + 4), nbytes = get32(t + 8), inode = get32(t + 12)
    cdef const uint8_t* region = x.block
    cdef uint8_t* out = x.out + x.nbytes
    cdef uint16_t n16 = <uint16_t>length
    cdef uint32_t n32
    cdef int status
    if t[1] == 0:
        region = own_region(x.m, x.inode, &n)
    else:
        n = x.m.block
    if nbytes > XATTR_LARGEST or (inode == 0 and (region == NULL or place > n or nbytes > n - place)):
        return fail(x.f, FAULT_XATTR, x.f.block)
    room = x.out_cap - x.nbytes - EXT_HEADER - length
    if room < 2 * <int64_t>nbytes:                    # a list of ids may grow so much
        x.need = x.nbytes + EXT_HEADER + length + 2 * <int64_t>nbytes
        return OUTPUT_FULL
    got = nbytes
    if inode:
        status = _inode_value(x, inode, nbytes, out + EXT_HEADER + length)
        if status != OK:
            return status
    elif t[0] == ACL_ACCESS or t[0] == ACL_DEFAULT:
        got = acl_form(region + place, nbytes, out + EXT_HEADER + length, room)
        if got < 0:
            return fail(x.f, FAULT_XATTR, x.f.block)
    else:
        memcpy(out + EXT_HEADER + length, region + place, nbytes)
    n32 = <uint32_t>got
    out[0] = EXT_XATTR
    memcpy(out + 1, &n16, 2)
    memcpy(out + 3, &n32, 4)
    memcpy(out + EXT_HEADER, t + NOTED, length)
    x.nbytes += EXT_HEADER + length + got
    return OK

cdef inline int read_inode_xattrs(XattrRead* x) noexcept nogil:
    """Write the run of the inode: OK (``nbytes`` 0 for none), OUTPUT_FULL with ``need``, BAD_FORMAT or OS_ERROR."""
    cdef int64_t end = 0, count = 0, n = 0, i, acl = get32(x.inode + 0x68) | <int64_t>get16(x.inode + 0x76) << 32
    cdef const uint8_t* region = own_region(x.m, x.inode, &n)
    cdef const NameItem* items
    cdef int status = OK
    x.nbytes = x.need = 0
    x.f.block = -1
    if region != NULL:
        status = _note(x, region, 0, n, 0, &end, &count)
    if status == OK and acl:
        status = read_blocks(x.m, x.block, acl, 1, x.f)
        x.f.block = acl
        if status == OK and (get32(x.block) != XATTR_MAGIC or get32(x.block + 8) != 1):
            status = fail(x.f, FAULT_XATTR, acl)
        if status == OK:
            status = _note(x, x.block, XATTR_HEADER, x.m.block, 1, &end, &count)
    if status != OK or count == 0:
        return status
    items = sort_names(x.text, <uint64_t>end, x.items, x.items + count, count)
    for i in range(count):
        status = _emit_xattr(x, x.text + items[i].off - NOTED)
        if status != OK:
            break
    return status
