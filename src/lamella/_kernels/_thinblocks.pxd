"""Blocks of a metadata device in memory: read when first asked for, checked before they are used.

``Meta`` has a place for every block (address space; pages come as blocks do) and a byte of state. A block that has been
checked stays and is not read again. Leaves, most of all blocks, can instead pass through a small window that stays in the
cache: readers of whole trees use that, and take memory for inner nodes only. All buffers are the caller's.
A fault (``fault``, ``bad``, ``err``) names the block; nothing is raised here.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset, strerror
from lamella._kernels._crc32c cimport lam_crc32c_four
from lamella._kernels._syscall cimport lam_call
from lamella._kernels._thindisk cimport (
    FAULT_CHECKSUM, FAULT_DEPTH, FAULT_NONE, FAULT_PLACE, FAULT_RANGE, FAULT_READ, MAX_DEPTH, META_BLOCK, NODE_INTERNAL,
    SALT_NODE, SLACK, FaultKind, block_sum, get32, get64, node_fault, node_flags, node_n, node_value)

cdef extern from *:
    """
    static inline long lam_read_at(int fd, uint8_t *p, long n, int64_t off) {
        /* all of it: n, less at the device's end, or -errno */
        long got = 0, r;
        while (got < n) {
            LAM_CALL(r, SYS_pread64, fd, LAM_PTR(p + got), n - got, off + got, 0, 0);
            if (r < 0) return r;
            if (r == 0) break;
            got += r;
        }
        return got;
    }
    """
    long lam_read_at(int fd, uint8_t* p, long n, int64_t off) noexcept nogil

cdef enum BlockState:            # bits
    HELD = 1                     # read, or made: its place has its bytes
    CHECKED = 2                  # ... and checksum and number were right
    FRESH = 4                    # made in this transaction: may be changed in place, is to be written
    USED = 8                     # the committed transaction needs it: not to be given out, whatever its count is now
    DIRTY = 16                   # its count is not yet in the metadata space map's bitmaps
    AS_BITMAP = 32               # a FRESH block is a tree node, or a bitmap,
    AS_INDEX = 64                # or the index of the metadata space map,
    AS_SUPERBLOCK = 96           # or a copy of the superblock

cdef enum:
    WINDOW = 64                  # blocks of a window; 256 KiB stay in the second cache

cdef struct Meta:
    uint8_t* arena               # n_blocks places of META_BLOCK bytes, and SLACK
    uint8_t* state               # n_blocks bytes
    uint8_t* window              # WINDOW places, and SLACK; NULL: none, everything stays
    int64_t n_blocks
    int64_t first                # what the window has: blocks [first, first + n_window)
    int64_t n_window
    uint64_t sound               # a bit for each block of the window: sum and number of a node are right
    int fd
    FaultKind fault
    int err                      # errno of FAULT_READ, 0 where the device ended
    int64_t bad                  # the block at fault
    int64_t n_reads              # calls made

cdef inline int meta_fail(Meta* m, uint64_t number, FaultKind fault) noexcept nogil:
    """Keep what is wrong with block ``number``; -1."""
    m.bad = <int64_t>number
    m.fault = fault
    return -1

cdef inline int meta_read(Meta* m, uint64_t number, int64_t n, uint8_t* to) noexcept nogil:
    """Read blocks [number, number + n), all on the device, to ``to``; -1 and a fault where that is refused."""
    cdef long got = lam_read_at(m.fd, to, n * META_BLOCK, <int64_t>number * META_BLOCK)
    m.n_reads += 1
    if got < n * META_BLOCK:
        m.err = 0 if got >= 0 else <int>-got
        return meta_fail(m, number + <uint64_t>(got // META_BLOCK if got > 0 else 0), FAULT_READ)
    return 0

cdef inline int meta_check(Meta* m, const uint8_t* block, uint64_t number, uint32_t salt) noexcept nogil:
    """Check sum and number of a block; -1 and a fault where they are wrong."""
    if get32(block) != block_sum(block, salt):
        return meta_fail(m, number, FAULT_CHECKSUM)
    if get64(block + 8) != number:
        return meta_fail(m, number, FAULT_PLACE)
    return 0

cdef inline void meta_sound(Meta* m) noexcept nogil:
    """Find out which blocks of the window are nodes, four at a time."""
    cdef uint32_t sums[4]
    cdef int64_t i, k
    cdef const uint8_t* block
    m.sound = 0
    for i in range(0, m.n_window, 4):
        lam_crc32c_four(m.window + i * META_BLOCK + 4, META_BLOCK, META_BLOCK - 4, sums)
        for k in range(4):
            block = m.window + (i + k) * META_BLOCK
            if get32(block) == sums[k] ^ SALT_NODE and get64(block + 8) == <uint64_t>(m.first + i + k):
                m.sound |= <uint64_t>1 << (i + k)

cdef inline uint8_t* meta_block(Meta* m, uint64_t number, uint32_t salt) noexcept nogil:
    """Return a block of that kind, which stays; NULL and a fault where it cannot be had."""
    cdef uint8_t* place
    if number >= <uint64_t>m.n_blocks:
        meta_fail(m, number, FAULT_RANGE)
        return NULL
    place = m.arena + number * META_BLOCK
    if not m.state[number] & HELD:
        if meta_read(m, number, 1, place) < 0:
            return NULL
        m.state[number] |= HELD
    if not m.state[number] & (CHECKED | FRESH):
        if meta_check(m, place, number, salt) < 0:
            return NULL
        m.state[number] |= CHECKED
    return place

cdef inline uint8_t* meta_node(Meta* m, uint64_t number, uint32_t leaf_size) noexcept nogil:
    """Return a tree node, which stays, with a header that is right (``node_fault``)."""
    cdef uint8_t* node = meta_block(m, number, SALT_NODE)
    cdef FaultKind fault
    if node != NULL:
        fault = node_fault(node, leaf_size)
        if fault != FAULT_NONE:
            meta_fail(m, number, fault)
            return NULL
    return node

cdef inline int meta_height(Meta* m, uint64_t root, uint32_t leaf_size) noexcept nogil:
    """Count the nodes on the way from a root to its first leaf; -1 and a fault."""
    cdef const uint8_t* node
    cdef int height
    for height in range(1, MAX_DEPTH + 1):
        node = meta_node(m, root, leaf_size)
        if node == NULL:
            return -1
        if node_flags(node) != NODE_INTERNAL:
            return height
        root = get64(node_value(node, 0))
    return meta_fail(m, root, FAULT_DEPTH)

cdef inline int64_t meta_run(const uint8_t* parent, uint32_t i) noexcept nogil:
    """Count the children from ``i`` on whose blocks follow each other, at most WINDOW."""
    cdef uint64_t first = get64(node_value(parent, i))
    cdef uint32_t n = node_n(parent)
    cdef int64_t k = 1
    while k < WINDOW and i + k < n and get64(node_value(parent, <uint32_t>(i + k))) == first + <uint64_t>k:
        k += 1
    return k

cdef inline const uint8_t* meta_passing(Meta* m, uint64_t number, int64_t run, uint32_t leaf_size) noexcept nogil:
    """Return a tree node that need not stay: it is there until the next call. ``run``: as ``meta_run`` counts.

    A node that is held already is given as it is, since a pool may have changed it.
    """
    cdef const uint8_t* node
    cdef FaultKind fault
    if m.window == NULL or (number < <uint64_t>m.n_blocks and m.state[number] & HELD):
        return meta_node(m, number, leaf_size)
    if not m.first <= <int64_t>number < m.first + m.n_window:
        if number >= <uint64_t>m.n_blocks:
            meta_fail(m, number, FAULT_RANGE)
            return NULL
        run = min(max(run, 1), WINDOW, m.n_blocks - <int64_t>number)
        m.n_window = 0
        if meta_read(m, number, run, m.window) < 0:
            return NULL
        m.first, m.n_window = <int64_t>number, run
        meta_sound(m)
    node = m.window + (<int64_t>number - m.first) * META_BLOCK
    if not m.sound >> (<int64_t>number - m.first) & 1 and meta_check(m, node, number, SALT_NODE) < 0:
        return NULL
    fault = node_fault(node, leaf_size)
    if fault != FAULT_NONE:
        meta_fail(m, number, fault)
        return NULL
    return node

cdef inline int meta_acquire(Meta* m, uint8_t[::1] arena, uint8_t[::1] state, uint8_t[::1] window, int fd) except -1:
    """Fill ``m`` from the caller's buffers, checked: arena (blocks and SLACK), state (a byte a block), window (or None)."""
    memset(m, 0, sizeof(Meta))
    m.n_blocks = state.shape[0]
    if arena.shape[0] < (m.n_blocks + SLACK) * META_BLOCK:
        raise ValueError(f"an arena of {arena.shape[0]} bytes is too small for {m.n_blocks} blocks and {SLACK}")
    if window is not None and window.shape[0] < (WINDOW + SLACK) * META_BLOCK:
        raise ValueError(f"a window of {window.shape[0]} bytes is too small")
    m.arena = &arena[0]
    m.state = &state[0] if m.n_blocks else NULL
    m.window = NULL if window is None else &window[0]
    m.fd = fd
    return 0

cdef inline int meta_raise(const Meta* m) except -1:
    """Raise what the fault says: OSError where the device refused, else MetadataError."""
    from lamella.errors import MetadataError
    if m.fault == FAULT_READ and m.err:
        raise OSError(m.err, f"metadata block {m.bad}: {strerror(m.err).decode('utf-8', 'replace')}")
    what = (
        "nothing", f"outside the device of {m.n_blocks} blocks", "the device ends before it",
        "checksum is wrong, or it is of another kind", "has another block's number", "header of a tree node is wrong",
        "keys are out of order", "nodes form a circle", "a value that cannot be", "a tree node has too few entries",
        "is part of something else, too", "reference count is wrong", "no block is free")[m.fault]
    raise MetadataError(f"metadata block {m.bad}: {what}", block=m.bad)
