"""Where the blocks of an inode lie: trees of extents and maps of blocks, as runs in the order of the file.

The caller gives room for the nodes on the way down, and a budget of blocks. In a file system that is whole no block is
used twice, so as many as it has are enough for any number of inodes together; a circle runs out of them.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._ext4disk cimport (FAULT_CIRCLE, FAULT_EXTENT, FAULT_NODE, FAULT_RANGE, FL_EXTENTS, MAPPING,
                                         MAPPING_ROOM, Fault, Image, fail, get16, read_blocks)
from lamella._kernels._status cimport AT_END, OK
from lamella._kernels._thindisk cimport get32

cdef enum:
    EXTENT_MAGIC = 0xF30A
    EXTENT_ROOM = 12             # bytes of the header of a node, and of an entry
    EXTENT_DEPTH = 5
    EXTENT_LONGEST = 32768       # blocks; one that says more has not been written
    DIRECT = 12                  # blocks that a map names without a tree

cdef struct Runs:
    const Image* m
    Fault* f
    int64_t* budget
    uint8_t* nodes               # EXTENT_DEPTH blocks
    uint8_t root[MAPPING_ROOM]
    bint by_extents
    int depth                    # levels of nodes below the root
    int level                    # at which we are
    int at[EXTENT_DEPTH + 1]     # next entry of the node at each level
    int n[EXTENT_DEPTH + 1]
    int64_t have[3]              # of a map: the first block that the table in nodes is of; -1 for none
    int64_t next                 # first block of the file that no run has been given of
    int64_t end                  # of a map: blocks of the file
    int64_t logical              # the run: its first block in the file,
    int64_t physical             # ... in the file system,
    int64_t length               # ... and how many
    bint unwritten               # they read as zeros

cdef inline int _spend(Runs* r, int64_t n, int64_t block) noexcept nogil:
    r.budget[0] -= n
    return OK if r.budget[0] >= 0 else fail(r.f, FAULT_CIRCLE, block)

cdef inline int _take_node(Runs* r, int level, const uint8_t* p, int64_t room, int64_t block) noexcept nogil:
    cdef int n = get16(p + 2)
    if get16(p) != EXTENT_MAGIC or n > (room - EXTENT_ROOM) // EXTENT_ROOM or get16(p + 6) != r.depth - level:
        return fail(r.f, FAULT_NODE, block)
    r.at[level], r.n[level], r.level = 0, n, level
    return OK

cdef inline int runs_begin(Runs* r, const Image* m, const uint8_t* inode, uint64_t size, uint8_t* nodes,
                           int64_t* budget, Fault* f) noexcept nogil:
    """Begin with an inode, whose bytes need not stay, that has blocks and no inline data."""
    cdef int k
    cdef int64_t fan = m.block // 4
    r.m, r.f, r.budget, r.nodes, r.next = m, f, budget, nodes, 0
    memcpy(r.root, inode + MAPPING, MAPPING_ROOM)
    r.by_extents = get32(inode + 0x20) & FL_EXTENTS != 0
    for k in range(3):
        r.have[k] = -1
    r.end = DIRECT + fan + fan * fan + fan * fan * fan
    if size <= <uint64_t>(r.end - 1) * <uint64_t>m.block:
        r.end = <int64_t>((size + m.block - 1) // m.block)
    if not r.by_extents:
        return OK
    r.depth = get16(r.root + 6)
    return _take_node(r, 0, r.root, MAPPING_ROOM, -1) if r.depth <= EXTENT_DEPTH else fail(f, FAULT_NODE, -1)

cdef inline int _leaf(Runs* r, const uint8_t* e) noexcept nogil:
    cdef int64_t length = get16(e + 4)
    r.logical, r.physical = get32(e), <int64_t>get16(e + 6) << 32 | get32(e + 8)
    r.unwritten = length > EXTENT_LONGEST
    r.length = length - EXTENT_LONGEST if r.unwritten else length
    if r.length == 0 or r.logical < r.next:
        return fail(r.f, FAULT_EXTENT, r.physical)
    if r.physical < 1 or r.length > r.m.n_blocks or r.physical > r.m.n_blocks - r.length:
        return fail(r.f, FAULT_RANGE, r.physical)
    r.next = r.logical + r.length
    return _spend(r, r.length, r.physical)

cdef inline int _next_extent(Runs* r) noexcept nogil:
    cdef const uint8_t* e
    cdef uint8_t* child
    cdef int64_t block
    cdef int status = OK
    while True:
        e = &r.root[0] if r.level == 0 else r.nodes + (r.level - 1) * r.m.block
        if r.at[r.level] >= r.n[r.level]:
            if r.level == 0:
                return AT_END
            r.level -= 1
            continue
        e += EXTENT_ROOM + EXTENT_ROOM * r.at[r.level]
        r.at[r.level] += 1
        if r.level == r.depth:
            return _leaf(r, e)
        block = <int64_t>get16(e + 8) << 32 | get32(e + 4)
        if get32(e) < r.next:
            return fail(r.f, FAULT_EXTENT, block)
        child = r.nodes + r.level * r.m.block
        status = _spend(r, 1, block)
        if status == OK:
            status = read_blocks(r.m, child, block, 1, r.f)
        if status == OK:
            status = _take_node(r, r.level + 1, child, r.m.block, block)
        if status != OK:
            return status

cdef inline int _mapped(Runs* r, int64_t at, int64_t* block, int64_t* span) noexcept nogil:
    # the block that a map has for block ``at`` of the file; 0 for a hole of ``span`` blocks
    cdef int64_t fan = r.m.block // 4, first = DIRECT, stride = 1, whole
    cdef int levels = 0, k
    cdef int status = OK
    span[0] = 1
    if at < DIRECT:
        block[0] = get32(r.root + 4 * at)
        return OK
    whole = fan
    levels = 1
    while at - first >= whole:
        first += whole
        whole *= fan
        levels += 1
    block[0] = get32(r.root + 4 * (DIRECT + levels - 1))
    for k in range(levels):
        stride = whole // fan
        if block[0] == 0:
            span[0] = whole - (at - first) % whole
            return OK
        if r.have[k] != at - (at - first) % whole:
            r.have[k] = -1
            status = _spend(r, 1, block[0])
            if status == OK:
                status = read_blocks(r.m, r.nodes + k * r.m.block, block[0], 1, r.f)
            if status != OK:
                return status
            r.have[k] = at - (at - first) % whole
        block[0] = get32(r.nodes + k * r.m.block + 4 * ((at - first) // stride % fan))
        whole = stride
    return OK

cdef inline int _next_mapped(Runs* r) noexcept nogil:
    cdef int64_t block = 0, span = 0
    cdef int status = OK
    r.length, r.unwritten = 0, False
    while status == OK and r.next < r.end:
        status = _mapped(r, r.next, &block, &span)
        if status != OK:
            return status
        if r.length and block != r.physical + r.length:
            return OK
        if block == 0:
            r.next += span
            continue
        if block >= r.m.n_blocks:
            return fail(r.f, FAULT_RANGE, block)
        if r.length == 0:
            r.logical, r.physical = r.next, block
        r.length += 1
        r.next += 1
        status = _spend(r, 1, block)
    if status == OK and r.length == 0:
        return AT_END
    return status

cdef inline int runs_next(Runs* r) noexcept nogil:
    """Find the next run: OK, AT_END, BAD_FORMAT or OS_ERROR."""
    return _next_extent(r) if r.by_extents else _next_mapped(r)
