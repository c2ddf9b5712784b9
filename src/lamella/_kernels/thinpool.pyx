"""Mappings of a thin device in batches. See thinpool.pxd."""
from libc.errno cimport EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strerror
from lamella._kernels._syscall cimport lam_call
from lamella._kernels._thinblocks cimport AS_SUPERBLOCK, meta_fail, meta_height
from lamella._kernels._thindisk cimport (
    BITMAP_COUNTS, DETAILS_SIZE, FAULT_VALUE, MAPPING_SIZE, META_BLOCK, TIME_BITS, get64, node_find, node_key, node_n,
    node_value, put64)
from lamella._kernels._thinlook cimport LEAF_ENTRIES, TIME_MASK, look_up
from lamella._kernels._thinnode cimport node_at, node_full, node_insert, node_seek
from lamella._kernels._thintxn cimport (
    LEAF_DATA, LEAF_PLAIN, LEAF_TREES, Tree, Txn, block_drop, block_new, block_take, txn_acquire, txn_raise, txn_release)
from lamella._kernels.thinspace cimport data_change, data_new, data_owners
from lamella._kernels.thintree cimport Path, tree_begin, tree_cut, tree_drop, tree_last, tree_nodes, tree_path

cdef extern from "<linux/falloc.h>" nogil:
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE

cdef extern from "<sys/syscall.h>" nogil:
    int SYS_fallocate

cdef enum:
    DATA_FULL_ = 1
    METADATA_FULL_ = 2

FITS, DATA_FULL, METADATA_FULL = 0, DATA_FULL_, METADATA_FULL_
cdef uint64_t MOST_DATA = 1 << 40


cdef int64_t commit_need(const Txn* t) noexcept nogil:
    cdef int64_t bitmaps = (t.m.n_blocks + BITMAP_COUNTS - 1) // BITMAP_COUNTS
    # the index; each bitmap; the tree of counts, all of it, split wherever it can be; the trees whose values change
    return (1 + bitmaps + 2 * t.b.counts.n_nodes + t.b.n_over // 84 + 8
            + t.b.data_index.n_nodes + t.b.mapping.n_nodes + t.b.details.n_nodes + 4)


cdef int64_t _owners_need(const Txn* t, int64_t n) noexcept nogil:
    """Return how many metadata blocks it takes at most to count ``n`` data blocks up or down."""
    cdef int64_t nodes = t.b.data_counts.n_nodes, over = min(n, t.b.data_used)
    return min(n, t.n_bitmaps) + min(4 * over, nodes) + min(over, nodes) + over // 84 + 4


cdef int64_t _need(Txn* t, uint64_t root, int64_t n, int64_t n_insert, int64_t spare) noexcept nogil:
    """Return how many it takes to map ``n`` blocks, ``n_insert`` of them new ones, at most; -1.

    The bound is close only where ``spare`` makes that matter.
    """
    cdef int64_t depth = meta_height(&t.m, root, MAPPING_SIZE), one, nodes, leaves, inner
    if depth < 0:
        return -1
    one = min(t.b.mapping.n_nodes, 4) + 2 * depth + 1 + _owners_need(t, LEAF_ENTRIES + 2) + 3 * (depth + 4)
    if n <= spare // one:
        return n * one
    nodes = tree_nodes(&t.m, root, MAPPING_SIZE)
    if nodes < 0:
        return -1
    leaves = min(n, nodes)
    inner = min(n * (depth - 1), nodes // 84 + depth)     # a node is a third full, or the root
    # shadows; splits; counts of data blocks; counts of nodes, which inner ones that were shared point at
    return min(n * one, leaves + inner + t.b.mapping.n_nodes + min(n_insert, leaves) + n_insert // 84 + inner + depth + 2
               + _owners_need(t, leaves * LEAF_ENTRIES + 2 * n) + 3 * (inner + 4))


cdef int _allocate(Txn* t, int64_t* new, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        if new[k] == -2:
            new[k] = data_new(t)
            if new[k] < 0:
                return -1
    return 0


cdef int _plan(Txn* t, uint64_t root, int64_t snapshotted, const int64_t* blocks, Py_ssize_t n, int64_t* old, int64_t* new,
               int64_t* n_new) noexcept nogil:
    cdef Py_ssize_t k
    cdef int64_t spare = t.b.n_free - commit_need(t), need, n_insert = 0
    if look_up(&t.m, root, blocks, n, old, new) < 0:
        return -1
    n_new[0] = 0
    for k in range(n):
        if old[k] < 0 or new[k] < snapshotted:     # new[k] is its time yet
            n_insert += old[k] < 0
            n_new[0] += 1
            new[k] = -2
        else:
            new[k] = -1
    if n_new[0] == 0:
        return 0
    if n_new[0] > t.b.data_blocks - t.b.data_used - t.b.data_held:
        return DATA_FULL_
    need = _need(t, root, n_new[0], n_insert, spare)
    if need < 0:
        return -1
    return METADATA_FULL_ if need > spare else _allocate(t, new, n)


cdef int _insert(Txn* t, Tree* tree, Path* path, uint64_t key, const uint8_t* value) noexcept nogil:
    """Map a block that is not mapped. ``path`` leads to its leaf, and is where it came to lie afterwards."""
    cdef uint8_t* leaf = t.m.arena + path.block[path.depth - 1] * META_BLOCK
    if node_full(leaf) or not path.low <= key <= path.high:
        if tree_path(t, tree, MAPPING_SIZE, LEAF_DATA, key, True, path) < 0:
            return -1
        leaf = t.m.arena + path.block[path.depth - 1] * META_BLOCK
    node_insert(leaf, <uint32_t>(node_find(leaf, key) + 1), key, value)
    return 0


cdef int re_map(Txn* t, Tree* tree, int64_t* n_mapped, const int64_t* blocks, const int64_t* data,
                Py_ssize_t n) noexcept nogil:
    cdef Path path
    cdef uint8_t* leaf
    cdef uint8_t value[8]
    cdef Py_ssize_t k
    cdef uint64_t key, old
    cdef int64_t i
    path.depth = 0
    for k in range(n):
        if data[k] < 0:
            continue
        key = <uint64_t>blocks[k]
        if blocks[k] < 0 or <uint64_t>data[k] >= MOST_DATA:
            return meta_fail(&t.m, <uint64_t>tree.root, FAULT_VALUE)
        put64(value, <uint64_t>data[k] << TIME_BITS | <uint64_t>t.b.time & TIME_MASK)
        if path.depth == 0 or not path.low <= key <= path.high:
            if tree_path(t, tree, MAPPING_SIZE, LEAF_DATA, key, False, &path) < 0:
                return -1
        leaf = t.m.arena + path.block[path.depth - 1] * META_BLOCK
        i = node_seek(leaf, key) if node_n(leaf) else -1
        if i < 0 or node_key(leaf, <uint32_t>i) != key:
            n_mapped[0] += 1
            if _insert(t, tree, &path, key, value) < 0:
                return -1
        else:
            old = get64(node_value(leaf, <uint32_t>i)) >> TIME_BITS
            put64(node_at(leaf, <uint32_t>i), get64(value))
            if data_change(t, old, -1) < 0:
                return -1
    return 0


cdef int64_t _cut(Txn* t, Tree* tree, int64_t* n_mapped, uint64_t begin, uint64_t end, bint* full) noexcept nogil:
    """Remove mappings, leaf by leaf, as many as there is place for freed blocks: how many; -1."""
    cdef int64_t removed = 0, n
    full[0] = False
    while True:
        if t.b.n_free - commit_need(t) < 4 + 3 * 4 * 8 + _owners_need(t, 3 * LEAF_ENTRIES):
            full[0] = True
            return removed
        n = tree_cut(t, tree, MAPPING_SIZE, LEAF_DATA, begin, end, t.freed_cap - t.n_freed)
        if n <= 0:
            return removed if n == 0 else -1
        removed += n
        n_mapped[0] -= n


cdef int _device(int64_t[::1] device, Tree* tree) except -1:
    if device.shape[0] < 2:
        raise ValueError("a device is its root and its number of mapped blocks")
    tree.root, tree.n_nodes = device[0], 0
    return 0


cdef int _alike(Py_ssize_t n, Py_ssize_t a, Py_ssize_t b) except -1:
    if a != n or b != n:
        raise ValueError("columns of one length are wanted")
    return 0


def lookup(tuple parts not None, int64_t root, const int64_t[::1] blocks not None, int64_t[::1] data not None,
           int64_t[::1] time not None):
    """Write the data block and the time of each virtual block, -1 where it is not mapped. ``root``: of the device's tree.

    For all functions here: MetadataError for what is damaged, OSError for what cannot be read; where they change
    something, the transaction must then be given up.
    """
    cdef Txn t
    cdef int done = 0
    _alike(blocks.shape[0], data.shape[0], time.shape[0])
    try:
        txn_acquire(&t, parts)
        if blocks.shape[0]:
            with nogil:
                done = look_up(&t.m, <uint64_t>root, &blocks[0], blocks.shape[0], &data[0], &time[0])
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def plan(tuple parts not None, int64_t root, int64_t snapshotted, const int64_t[::1] blocks not None,
         int64_t[::1] old not None, int64_t[::1] new not None):
    """Look blocks up and take a new data block for each that needs one: not mapped, or from before time ``snapshotted``.

    ``old`` gets the data blocks as they are (-1), ``new`` the blocks taken, -1 where writing in place is right. Return
    (FITS, how many were taken), or (DATA_FULL or METADATA_FULL, how many are wanted): then nothing was taken.
    """
    cdef Txn t
    cdef int64_t n_new = 0
    cdef int done = 0
    _alike(blocks.shape[0], old.shape[0], new.shape[0])
    try:
        txn_acquire(&t, parts)
        if blocks.shape[0]:
            with nogil:
                done = _plan(&t, <uint64_t>root, snapshotted, &blocks[0], blocks.shape[0], &old[0], &new[0], &n_new)
        if done < 0:
            txn_raise(&t)
        return done, n_new
    finally:
        txn_release(&t)


def remap(tuple parts not None, int64_t[::1] device not None, const int64_t[::1] blocks not None,
          const int64_t[::1] new not None):
    """Map each block to the data block that ``plan`` took for it; those with -1 stay as they are."""
    cdef Txn t
    cdef Tree tree
    cdef int done = 0
    _alike(blocks.shape[0], new.shape[0], new.shape[0])
    _device(device, &tree)
    try:
        txn_acquire(&t, parts)
        t.owners = data_owners
        if blocks.shape[0]:
            with nogil:
                done = re_map(&t, &tree, &device[1], &blocks[0], &new[0], blocks.shape[0])
        device[0] = tree.root
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def forget(tuple parts not None, const int64_t[::1] new not None):
    """Give back data blocks that ``plan`` took and that ``remap`` is not going to use."""
    cdef Txn t
    cdef Py_ssize_t k
    try:
        txn_acquire(&t, parts)
        for k in range(new.shape[0]):
            if new[k] >= 0 and data_change(&t, <uint64_t>new[k], -1) < 0:
                txn_raise(&t)
    finally:
        txn_release(&t)


def cut(tuple parts not None, int64_t[::1] device not None, uint64_t begin, uint64_t end, int64_t[::1] freed not None):
    """Remove the mappings of virtual blocks [begin, end), until ``freed`` is full.

    Return (how many were removed, how many items of ``freed`` are data blocks without an owner now, a verdict). While
    ``freed`` is full there may be more; METADATA_FULL: there are, and they take a commit first, if they can go at all.
    """
    cdef Txn t
    cdef Tree tree
    cdef int64_t removed = 0
    cdef bint full = False
    if freed.shape[0] == 0:
        raise ValueError("no place for a freed block")
    _device(device, &tree)
    try:
        txn_acquire(&t, parts)
        t.owners = data_owners
        t.freed, t.freed_cap = &freed[0], freed.shape[0]
        if begin < end:
            with nogil:
                removed = _cut(&t, &tree, &device[1], begin, end, &full)
        device[0] = tree.root
        if removed < 0:
            txn_raise(&t)
        return removed, t.n_freed, METADATA_FULL_ if full else 0
    finally:
        txn_release(&t)


def make(tuple parts not None):
    """Make the empty tree of a new device; return its root."""
    cdef Txn t
    cdef Tree tree
    try:
        txn_acquire(&t, parts)
        if tree_begin(&t, &tree, MAPPING_SIZE) < 0:
            txn_raise(&t)
        return tree.root
    finally:
        txn_release(&t)


DEVICE, DEVICES, DETAILS = 0, 1, 2


def drop(tuple parts not None, uint64_t root, int kind):
    """Take an owner from a tree: of a DEVICE, of the roots of all DEVICES, or of DETAILS."""
    cdef Txn t
    cdef int done
    if kind < 0 or kind > 2:
        raise ValueError(f"no kind {kind}")
    try:
        txn_acquire(&t, parts)
        t.owners = data_owners
        with nogil:
            done = tree_drop(&t, root, DETAILS_SIZE if kind == 2 else MAPPING_SIZE,
                             LEAF_PLAIN if kind == 2 else LEAF_TREES if kind else LEAF_DATA)
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def share(tuple parts not None, uint64_t block):
    """Give a metadata block, such as a tree's root, one owner more."""
    cdef Txn t
    try:
        txn_acquire(&t, parts)
        if block_take(&t, block) < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def release(tuple parts not None, uint64_t block):
    """Take an owner from a metadata block that points at nothing."""
    cdef Txn t
    try:
        txn_acquire(&t, parts)
        if block_drop(&t, block) < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def copy_superblock(tuple parts not None, const uint8_t[::1] content not None):
    """Write a block that is to be sealed as a superblock; return its number."""
    cdef Txn t
    cdef int64_t made
    if content.shape[0] != META_BLOCK:
        raise ValueError("a block is wanted")
    try:
        txn_acquire(&t, parts)
        made = block_new(&t, AS_SUPERBLOCK)
        if made < 0:
            txn_raise(&t)
        memcpy(t.m.arena + made * META_BLOCK, &content[0], META_BLOCK)
        return made
    finally:
        txn_release(&t)


def last(tuple parts not None, uint64_t root):
    """Return a device's highest mapped block, -1 where nothing is mapped."""
    cdef Txn t
    cdef uint64_t key = 0
    cdef int is_there
    try:
        txn_acquire(&t, parts)
        is_there = tree_last(&t.m, root, MAPPING_SIZE, &key)
        if is_there < 0:
            txn_raise(&t)
        return <int64_t>key if is_there else -1
    finally:
        txn_release(&t)


def spare(tuple parts not None):
    """Return what messages may take: metadata blocks beyond what a commit may take, and what, at most, two things take.

    These are a key put into both trees of devices or taken out of them, and a tree let go of.
    """
    cdef Txn t
    try:
        txn_acquire(&t, parts)
        return (t.b.n_free - commit_need(&t), 2 * min(t.b.mapping.n_nodes, 4) + 2 * min(t.b.details.n_nodes, 4) + 4,
                t.n_bitmaps + 2 * t.b.data_counts.n_nodes + 4)
    finally:
        txn_release(&t)


def punch(int fd, const int64_t[::1] blocks not None, int64_t nbytes):
    """Give back to the system what a data device keeps for these blocks of ``nbytes`` each, run by run; they read as zeros.

    OSError where the device refuses; EOPNOTSUPP where it cannot.
    """
    cdef Py_ssize_t k = 0, n
    cdef long r
    if nbytes <= 0 or nbytes > 1 << 30:
        raise ValueError(f"blocks of {nbytes} bytes")
    while k < blocks.shape[0]:
        n = 1
        while k + n < blocks.shape[0] and blocks[k + n] == blocks[k] + n:
            n += 1
        if blocks[k] < 0 or blocks[k] > (<int64_t>1 << 62) // nbytes - n:
            raise ValueError(f"no block {blocks[k]}")
        r = -EINTR
        while r == -EINTR:
            r = lam_call(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, blocks[k] * nbytes, n * nbytes, 0, 0)
        if r < 0:
            raise OSError(-r, strerror(<int>-r).decode("utf-8", "replace"))
        k += n
