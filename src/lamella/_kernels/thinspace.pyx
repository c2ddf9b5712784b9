"""Space maps of thin metadata. See thinspace.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._thinblocks cimport (
    AS_BITMAP, AS_INDEX, AS_SUPERBLOCK, CHECKED, DIRTY, FRESH, HELD, USED, meta_block, meta_fail)
from lamella._kernels._thindisk cimport (
    BITMAP_COUNTS, BITMAP_HEADER, COUNT_SIZE, ENTRY_SIZE, FAULT_COUNT, FAULT_NONE, FAULT_RANGE, FAULT_VALUE, INDEX_ENTRIES,
    INDEX_HEADER, META_BLOCK, SALT_BITMAP, SALT_INDEX, SALT_NODE, SALT_SUPERBLOCK, TIME_BITS, bitmap_get, bitmap_put,
    block_seal, get32, get64, node_value, put32, put64)
from lamella._kernels._thintxn cimport (
    LEAF_PLAIN, MOST_COUNT, Txn, block_drop, block_new, block_own, txn_acquire, txn_raise, txn_release)
from lamella._kernels.thintree cimport tree_begin, tree_cut, tree_find, tree_next, tree_nodes, tree_put

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) noexcept nogil

cdef enum:
    _COUNTS = BITMAP_COUNTS

COUNTS = _COUNTS
cdef uint64_t PAIRS = 0x5555555555555555
cdef uint64_t DIRTY_WORD = 0x1010101010101010


cdef uint8_t* _own_bitmap(Txn* t, int64_t* place) noexcept nogil:
    """Return the bitmap at ``place`` so that it may be changed; ``place`` becomes where it now is. NULL and a fault."""
    cdef uint64_t b = <uint64_t>place[0]
    cdef uint8_t* old
    cdef int64_t made
    if b < <uint64_t>t.m.n_blocks and block_own(t, b):
        return t.m.arena + b * META_BLOCK
    old = meta_block(&t.m, b, SALT_BITMAP)
    if old == NULL:
        return NULL
    made = block_new(t, AS_BITMAP)
    if made < 0 or block_drop(t, b) < 0:
        return NULL
    memcpy(t.m.arena + made * META_BLOCK, old, META_BLOCK)
    place[0] = made
    return t.m.arena + made * META_BLOCK


cdef uint8_t* _own_data_bitmap(Txn* t, int64_t k) noexcept nogil:
    cdef int64_t was = t.bitmaps[k]
    cdef uint8_t* bitmap = _own_bitmap(t, &t.bitmaps[k])
    if t.bitmaps[k] != was:
        t.changed[k] = 1
    return bitmap


cdef bint _was_used(Txn* t, int64_t k, uint32_t i) noexcept nogil:
    """Tell whether the committed transaction needs a data block; its bitmap has been read, as this one came from it."""
    cdef uint64_t b = <uint64_t>t.before[k]
    return b < <uint64_t>t.m.n_blocks and bitmap_get(t.m.arena + b * META_BLOCK, i) != 0


cdef int _change_over(Txn* t, uint64_t block, uint8_t* bitmap, uint32_t i, uint32_t count, int change) noexcept nogil:
    """Count a data block on whose count is, or becomes, greater than two."""
    cdef const uint8_t* value
    cdef uint8_t bytes[4]
    if count == 3:
        value = tree_find(&t.m, <uint64_t>t.b.data_counts.root, COUNT_SIZE, block)
        if value == NULL:
            return -1 if t.m.fault != FAULT_NONE else meta_fail(&t.m, <uint64_t>t.b.data_counts.root, FAULT_COUNT)
        count = get32(value)
        if count < 3 or count >= MOST_COUNT:
            return meta_fail(&t.m, <uint64_t>t.b.data_counts.root, FAULT_COUNT)
    count = <uint32_t>(<int>count + change)
    if count < 3:
        bitmap_put(bitmap, i, count)
        return <int>min(tree_cut(t, &t.b.data_counts, COUNT_SIZE, LEAF_PLAIN, block, block + 1, 1), 0)
    bitmap_put(bitmap, i, 3)
    put32(bytes, count)
    return min(tree_put(t, &t.b.data_counts, COUNT_SIZE, LEAF_PLAIN, block, bytes), 0)


cdef int data_change(Txn* t, uint64_t block, int change) noexcept nogil:
    cdef int64_t k = <int64_t>(block // _COUNTS)
    cdef uint32_t i = <uint32_t>(block % _COUNTS), count
    cdef uint8_t* bitmap
    if block >= <uint64_t>t.b.data_blocks or k >= t.n_bitmaps:
        return meta_fail(&t.m, <uint64_t>t.b.mapping.root, FAULT_VALUE)
    bitmap = _own_data_bitmap(t, k)
    if bitmap == NULL:
        return -1
    count = bitmap_get(bitmap, i)
    if count == 0:
        return meta_fail(&t.m, <uint64_t>t.bitmaps[k], FAULT_COUNT)
    if count == 3 or (count == 2 and change > 0):
        return _change_over(t, block, bitmap, i, count, change)
    bitmap_put(bitmap, i, <uint32_t>(<int>count + change))
    if count == 1 and change < 0:
        if t.freed != NULL and t.n_freed < t.freed_cap:
            t.freed[t.n_freed] = <int64_t>block
            t.n_freed += 1
        t.b.data_used -= 1
        t.b.data_held += _was_used(t, k, i)
        t.n_unused[k] += 1
        t.first_unused[k] = min(t.first_unused[k], <int64_t>i)
        t.changed[k] = 1
    return 0


cdef int data_owners(Txn* t, const uint8_t* leaf, uint32_t i, uint32_t j, int change) noexcept nogil:
    cdef uint8_t wanted = 2 if change > 0 else 1       # a count of one, or two, as its bits are: the other one is what follows
    cdef int64_t k = -1, other
    cdef uint8_t* bitmap = NULL
    cdef uint8_t* byte
    cdef uint64_t block
    cdef uint32_t e, at
    for e in range(i, j):
        block = get64(node_value(leaf, e)) >> TIME_BITS
        other = <int64_t>(block // _COUNTS)
        if block < <uint64_t>t.b.data_blocks and other < t.n_bitmaps:
            if other != k:
                k, bitmap = other, _own_data_bitmap(t, other)
                if bitmap == NULL:
                    return -1
            at = <uint32_t>(block % 4 * 2)             # a bitmap's length is a multiple of four
            byte = bitmap + BITMAP_HEADER + block % _COUNTS // 4
            if (byte[0] >> at & 3) == wanted:
                byte[0] ^= <uint8_t>(3 << at)
                continue
        if data_change(t, block, change) < 0:
            return -1
    return 0


cdef int64_t _search(const uint8_t* now, const uint8_t* before, int64_t i, int64_t end) noexcept nogil:
    """Return the first count of zero in both bitmaps in [i, end), -1 where there is none."""
    cdef int64_t word = i // 32
    cdef uint64_t pairs, unused
    while word * 32 < end:
        pairs = get64(now + BITMAP_HEADER + 8 * word)
        if before != NULL:
            pairs |= get64(before + BITMAP_HEADER + 8 * word)
        unused = ~(pairs | pairs >> 1) & PAIRS
        if word == i // 32:
            unused &= <uint64_t>-1 << (2 * (i % 32))
        if unused:
            word = word * 32 + __builtin_ctzll(unused) // 2
            return word if word < end else -1
        word += 1
    return -1


cdef int64_t _new_in(Txn* t, int64_t k, int64_t i) noexcept nogil:
    """Take a free data block of bitmap ``k`` from its count ``i`` on; -1 where there is none, -2 and a fault."""
    cdef const uint8_t* now = meta_block(&t.m, <uint64_t>t.bitmaps[k], SALT_BITMAP)
    cdef const uint8_t* before = NULL
    cdef uint8_t* bitmap
    if now != NULL and t.before[k] >= 0 and t.before[k] != t.bitmaps[k]:
        before = meta_block(&t.m, <uint64_t>t.before[k], SALT_BITMAP)
        if before == NULL:
            return -2
    if now == NULL:
        return -2
    i = _search(now, before, i, min(t.b.data_blocks - k * _COUNTS, _COUNTS))
    if i < 0:
        return -1
    bitmap = _own_data_bitmap(t, k)
    if bitmap == NULL:
        return -2
    bitmap_put(bitmap, <uint32_t>i, 1)
    t.b.data_used += 1
    t.n_unused[k] -= 1
    if t.first_unused[k] == i:
        t.first_unused[k] += 1
    t.changed[k] = 1
    t.b.data_cursor = k * _COUNTS + i + 1
    return k * _COUNTS + i


cdef int64_t data_new(Txn* t) noexcept nogil:
    cdef int64_t n = min(t.n_bitmaps, (t.b.data_blocks + _COUNTS - 1) // _COUNTS)
    cdef int64_t at = t.b.data_cursor, k, found
    cdef int once
    for once in range(2):                # by hints from the cursor on, then whatever the hints say
        if once or at < 0 or at >= t.b.data_blocks:
            at = 0
        for k in range(at // _COUNTS, n):
            if once or t.n_unused[k] > 0:
                found = _new_in(t, k, at - k * _COUNTS if at > k * _COUNTS else 0)
                if found != -1:
                    return found if found >= 0 else -1
    return meta_fail(&t.m, <uint64_t>t.b.data_index.root, FAULT_COUNT)    # more are free than bitmaps show


cdef int _load_bitmap(Txn* t, uint64_t block, int64_t first) noexcept nogil:
    """Fill the column of counts from one metadata bitmap."""
    cdef const uint8_t* bitmap = meta_block(&t.m, block, SALT_BITMAP)
    cdef int64_t i
    if bitmap == NULL:
        return -1
    for i in range(min(t.m.n_blocks - first, _COUNTS)):
        t.counts[first + i] = bitmap_get(bitmap, <uint32_t>i)
        if t.counts[first + i]:
            t.m.state[first + i] |= USED
        else:
            t.b.n_free += 1
    return 0


cdef int _load_metadata(Txn* t, int64_t* places, int64_t n) noexcept nogil:
    cdef const uint8_t* index = meta_block(&t.m, <uint64_t>t.b.index, SALT_INDEX)
    cdef const uint8_t* value
    cdef uint64_t b = 0
    cdef int64_t k, over = 0
    cdef int is_there
    if index == NULL:
        return -1
    t.b.n_free = t.b.n_held = t.b.n_over = t.b.cursor = 0
    for k in range(n):
        places[k] = <int64_t>get64(index + INDEX_HEADER + ENTRY_SIZE * k)
        if _load_bitmap(t, <uint64_t>places[k], k * _COUNTS) < 0:
            return -1
    while True:
        is_there = tree_next(&t.m, <uint64_t>t.b.counts.root, COUNT_SIZE, b, &b)
        if is_there <= 0:
            break
        value = tree_find(&t.m, <uint64_t>t.b.counts.root, COUNT_SIZE, b)
        if b >= <uint64_t>t.m.n_blocks or value == NULL or t.counts[b] != 3 or not 3 <= get32(value) < MOST_COUNT:
            return meta_fail(&t.m, b, FAULT_COUNT)
        t.counts[b] = get32(value)
        t.b.n_over += 1
        b += 1
    for k in range(t.m.n_blocks):
        over += t.counts[k] > 2
    if is_there == 0 and (over != t.b.n_over or t.counts[0] == 0):
        return meta_fail(&t.m, 0, FAULT_COUNT)
    return is_there


cdef int _load_data(Txn* t) noexcept nogil:
    cdef const uint8_t* entry
    cdef int64_t k
    for k in range(t.n_bitmaps):
        entry = tree_find(&t.m, <uint64_t>t.b.data_index.root, ENTRY_SIZE, <uint64_t>k)
        if entry == NULL:
            return -1 if t.m.fault != FAULT_NONE else meta_fail(&t.m, <uint64_t>t.b.data_index.root, FAULT_VALUE)
        t.bitmaps[k] = t.before[k] = <int64_t>get64(entry)
        if get64(entry) >= <uint64_t>t.m.n_blocks:
            return meta_fail(&t.m, get64(entry), FAULT_RANGE)
        t.n_unused[k], t.first_unused[k], t.changed[k] = get32(entry + 8), get32(entry + 12), 0
    return 0


cdef int _count_trees(Txn* t) noexcept nogil:
    """Fill in the sizes of the trees that a commit changes."""
    t.b.counts.n_nodes = tree_nodes(&t.m, <uint64_t>t.b.counts.root, COUNT_SIZE)
    t.b.data_counts.n_nodes = tree_nodes(&t.m, <uint64_t>t.b.data_counts.root, COUNT_SIZE)
    t.b.data_index.n_nodes = tree_nodes(&t.m, <uint64_t>t.b.data_index.root, ENTRY_SIZE)
    t.b.mapping.n_nodes = tree_nodes(&t.m, <uint64_t>t.b.mapping.root, 8)
    t.b.details.n_nodes = tree_nodes(&t.m, <uint64_t>t.b.details.root, 24)
    return -1 if min(t.b.counts.n_nodes, t.b.data_counts.n_nodes, t.b.data_index.n_nodes, t.b.mapping.n_nodes,
                     t.b.details.n_nodes) < 0 else 0


cdef int _save_count(Txn* t, int64_t* places, uint64_t b) noexcept nogil:
    """Write the count of one metadata block."""
    cdef uint32_t i = <uint32_t>(b % _COUNTS), count = t.counts[b]
    cdef uint8_t* bitmap = _own_bitmap(t, &places[b // _COUNTS])
    cdef uint8_t bytes[4]
    cdef bint was_over
    if bitmap == NULL:
        return -1
    was_over = bitmap_get(bitmap, i) == 3
    bitmap_put(bitmap, i, min(count, 3))
    if count > 2:
        put32(bytes, count)
        return min(tree_put(t, &t.b.counts, COUNT_SIZE, LEAF_PLAIN, b, bytes), 0)
    return <int>min(tree_cut(t, &t.b.counts, COUNT_SIZE, LEAF_PLAIN, b, b + 1, 1), 0) if was_over else 0


cdef void _save_entry(Txn* t, uint8_t* entry, int64_t place, int64_t first) noexcept nogil:
    """Write the index entry of a metadata bitmap."""
    cdef int64_t i, n = min(t.m.n_blocks - first, _COUNTS), unused = _COUNTS - n, none_before = n
    for i in range(n):
        if t.counts[first + i] == 0:
            if none_before == n:
                none_before = i
            unused += 1
    put64(entry, <uint64_t>place)
    put32(entry + 8, <uint32_t>unused)
    put32(entry + 12, <uint32_t>none_before)


cdef int _save_metadata(Txn* t, int64_t* places, int64_t n) noexcept nogil:
    cdef uint64_t was = <uint64_t>t.b.index, word
    cdef int64_t k, b, made = block_new(t, AS_INDEX)
    cdef const uint8_t* old = NULL if was == 0 else meta_block(&t.m, was, SALT_INDEX)
    cdef bint again = True
    if made < 0 or (was and (old == NULL or block_drop(t, was) < 0)):
        return -1
    if was:
        memcpy(t.m.arena + made * META_BLOCK, old, META_BLOCK)
    t.b.index = made
    while again:
        again, b = False, 0
        while b < t.m.n_blocks:
            if b + 8 <= t.m.n_blocks:
                memcpy(&word, t.m.state + b, 8)
                if not word & DIRTY_WORD:
                    b += 8
                    continue
            for b in range(b, min(b + 8, t.m.n_blocks)):
                if t.m.state[b] & DIRTY:
                    t.m.state[b] &= ~DIRTY
                    again = True
                    if _save_count(t, places, <uint64_t>b) < 0:
                        return -1
            b += 1
    for k in range(n):
        if <uint64_t>places[k] < <uint64_t>t.m.n_blocks and block_own(t, <uint64_t>places[k]):
            _save_entry(t, t.m.arena + made * META_BLOCK + INDEX_HEADER + ENTRY_SIZE * k, places[k], k * _COUNTS)
    return 0


cdef int _save_data(Txn* t) noexcept nogil:
    cdef uint8_t entry[16]
    cdef int64_t k
    for k in range(t.n_bitmaps):
        if t.changed[k]:
            put64(entry, <uint64_t>t.bitmaps[k])
            put32(entry + 8, <uint32_t>t.n_unused[k])
            put32(entry + 12, <uint32_t>t.first_unused[k])
            if tree_put(t, &t.b.data_index, ENTRY_SIZE, LEAF_PLAIN, <uint64_t>k, entry) < 0:
                return -1
            t.changed[k] = 0
    return 0


cdef int _begin(Txn* t, int64_t* places, int64_t n) noexcept nogil:
    cdef int64_t k
    t.b.n_free, t.b.n_held, t.b.n_over, t.b.cursor = t.m.n_blocks - 1, 0, 0, 1
    t.counts[0], t.m.state[0] = 1, USED | DIRTY        # the superblock; it is written alone
    for k in range(n):
        places[k] = block_new(t, AS_BITMAP)
        if places[k] < 0:
            return -1
    if tree_begin(t, &t.b.counts, COUNT_SIZE) < 0 or tree_begin(t, &t.b.data_index, ENTRY_SIZE) < 0:
        return -1
    return tree_begin(t, &t.b.data_counts, COUNT_SIZE)


cdef int _extend(Txn* t, int64_t* places, int64_t n) noexcept nogil:
    cdef int64_t k
    for k in range(n):
        if places[k] < 0:
            places[k] = block_new(t, AS_BITMAP)
            if places[k] < 0:
                return -1
    for k in range(t.n_bitmaps):
        if t.bitmaps[k] < 0:
            t.bitmaps[k] = block_new(t, AS_BITMAP)
            if t.bitmaps[k] < 0:
                return -1
            t.before[k], t.n_unused[k], t.first_unused[k], t.changed[k] = -1, _COUNTS, 0, 1
    return 0


cdef Py_ssize_t _seal(Txn* t, int64_t* at, int64_t* begin, int64_t* length, Py_ssize_t cap) noexcept nogil:
    cdef Py_ssize_t n = 0
    cdef int64_t b = at[0]
    cdef uint32_t kind, salt
    while b < t.m.n_blocks:
        if t.m.state[b] & FRESH:
            if n and begin[n - 1] + length[n - 1] == b:
                length[n - 1] += 1
            elif n == cap:
                break
            else:
                begin[n], length[n] = b, 1
                n += 1
            kind = t.m.state[b] & AS_SUPERBLOCK
            salt = (SALT_NODE if kind == 0 else SALT_BITMAP if kind == AS_BITMAP else
                    SALT_INDEX if kind == AS_INDEX else SALT_SUPERBLOCK)
            block_seal(t.m.arena + b * META_BLOCK, <uint64_t>b, salt)
        b += 1
    at[0] = b
    return n


cdef void _settle(Txn* t) noexcept nogil:
    cdef int64_t b, k
    cdef uint8_t state
    t.b.n_free = t.b.n_held = t.b.data_held = t.b.data_cursor = 0
    t.b.cursor = -1
    for b in range(t.m.n_blocks):
        state = t.m.state[b]
        if t.counts[b] == 0:
            if t.b.cursor < 0:
                t.b.cursor = b
            t.b.n_free += 1
            state = 0
        else:
            if state & FRESH:
                state |= CHECKED
            state = (state & (HELD | CHECKED)) | USED
        t.m.state[b] = state
    for k in range(t.n_bitmaps):
        t.before[k] = t.bitmaps[k]


cdef int _places(int64_t[::1] places, const Txn* t) except -1:
    if places.shape[0] != (t.m.n_blocks + _COUNTS - 1) // _COUNTS or not 0 < places.shape[0] <= INDEX_ENTRIES:
        raise ValueError(f"{places.shape[0]} bitmaps are not those of {t.m.n_blocks} blocks")
    return 0


def begin(tuple parts not None, int64_t[::1] places not None):
    """Make the space maps of an empty pool, all buffers zeros: a bitmap for each of ``places``, none for data yet.

    For all functions here: MetadataError for what is damaged, OSError for what cannot be read, PoolFullError where no
    metadata block is free; then the transaction must be given up.
    """
    cdef Txn t
    cdef int done
    try:
        txn_acquire(&t, parts)
        _places(places, &t)
        with nogil:
            done = _begin(&t, &places[0], places.shape[0])
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def load(tuple parts not None, int64_t[::1] places not None):
    """Read both space maps, whose roots the books have, and count the trees' nodes: counts, ``places``, data columns."""
    cdef Txn t
    cdef int done
    try:
        txn_acquire(&t, parts)
        _places(places, &t)
        with nogil:
            done = -1 if _load_metadata(&t, &places[0], places.shape[0]) < 0 or _load_data(&t) < 0 else _count_trees(&t)
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def extend(tuple parts not None, int64_t[::1] places not None):
    """Make an empty bitmap wherever ``places``, or the columns of data bitmaps, have none (-1)."""
    cdef Txn t
    try:
        txn_acquire(&t, parts)
        _places(places, &t)
        if _extend(&t, &places[0], places.shape[0]) < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def save(tuple parts not None, int64_t[::1] places not None):
    """Write both space maps to blocks of this transaction: its last change, before it is sealed."""
    cdef Txn t
    cdef int done
    try:
        txn_acquire(&t, parts)
        _places(places, &t)
        with nogil:
            done = _save_data(&t)
            if done == 0:
                done = _save_metadata(&t, &places[0], places.shape[0])
        if done < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def seal(tuple parts not None, int64_t at, int64_t[::1] begin not None, int64_t[::1] length not None):
    """Give blocks made in this transaction, from ``at`` on, their numbers and checksums, and list them as runs.

    Return (runs, where to go on); less than the device's blocks there means that the columns are full.
    """
    cdef Txn t
    cdef Py_ssize_t n = 0
    if begin.shape[0] == 0 or begin.shape[0] != length.shape[0] or at < 0:
        raise ValueError("two columns of one length")
    try:
        txn_acquire(&t, parts)
        with nogil:
            n = _seal(&t, &at, &begin[0], &length[0], begin.shape[0])
        return n, at
    finally:
        txn_release(&t)


def settle(tuple parts not None):
    """Note that the transaction is on the device: its blocks are the committed ones now, and what it left is free."""
    cdef Txn t
    try:
        txn_acquire(&t, parts)
        with nogil:
            _settle(&t)
    finally:
        txn_release(&t)
