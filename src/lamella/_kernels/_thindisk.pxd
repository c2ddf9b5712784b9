"""The blocks of dm-thin metadata (version 2), field by field. docs/formats.md draws them.

All numbers are little-endian; block n lies at byte 4096 n of the metadata device. The first 16 bytes of every block are
checksum, a word that depends on the kind, and the block's own number; the kind is in the checksum's salt.
Functions here read and write single fields of a block that the caller holds; they check nothing but what they say.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._crc32c cimport lam_crc32c

cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t lam_get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
    static inline uint64_t lam_get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }
    static inline void lam_put32(uint8_t *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }
    static inline void lam_put64(uint8_t *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }
    """
    uint32_t get32 "lam_get32"(const uint8_t* p) noexcept nogil
    uint64_t get64 "lam_get64"(const uint8_t* p) noexcept nogil
    void put32 "lam_put32"(uint8_t* p, uint32_t v) noexcept nogil
    void put64 "lam_put64"(uint8_t* p, uint64_t v) noexcept nogil

cdef enum:
    META_BLOCK = 4096
    SALT_SUPERBLOCK = 160774
    SALT_NODE = 121107
    SALT_BITMAP = 240779
    SALT_INDEX = 160478          # the metadata space map's one block of index entries
    NODE_HEADER = 32
    NODE_INTERNAL = 1            # flags
    NODE_LEAF = 2
    MAPPING_SIZE = 8             # value sizes; children of internal nodes are 8 bytes too
    DETAILS_SIZE = 24
    ENTRY_SIZE = 16              # index entry: block, entries free, none free before
    COUNT_SIZE = 4
    BITMAP_HEADER = 16
    BITMAP_COUNTS = 16320        # 2-bit counts of a bitmap block
    INDEX_HEADER = 16
    INDEX_ENTRIES = 255          # of a metadata index block
    TIME_BITS = 24               # a mapping is data block << 24 | time
    NODE_MOST = 339              # entries of eight bytes and four: no node has more
    SLACK = 3                    # blocks behind a buffer of nodes; see node_max
    MAX_DEPTH = 16               # of a tree; 252 ** 8 keys exceed 64 bits, so a deeper one is a circle

cdef enum FaultKind:             # what is wrong with a block; meta_raise has the words, in this order
    FAULT_NONE = 0
    FAULT_RANGE = 1              # the number is outside the device
    FAULT_READ = 2               # the device did not give it (errno), or ended before it
    FAULT_CHECKSUM = 3           # not of the kind that is wanted, or damaged
    FAULT_PLACE = 4              # it says that it is another block
    FAULT_NODE = 5               # header of a tree node: flags, counts, sizes
    FAULT_ORDER = 6              # keys do not ascend, or lie outside what the parent says
    FAULT_DEPTH = 7              # a circle of nodes
    FAULT_VALUE = 8              # a leaf's value that cannot be
    FAULT_SPARSE = 9             # a node that is no root has less than a third of its entries
    FAULT_TWICE = 10             # the block is part of something else, too
    FAULT_COUNT = 11             # something points at the block, and its count says no, or a count would not fit
    FAULT_FULL = 12              # no block is free; nothing is damaged

cdef inline uint32_t block_sum(const uint8_t* block, uint32_t salt) noexcept nogil:
    """Return the checksum that ``block`` should have as a block of that kind."""
    return lam_crc32c(block + 4, META_BLOCK - 4) ^ salt

cdef inline void block_seal(uint8_t* block, uint64_t number, uint32_t salt) noexcept nogil:
    """Write the block's own number and its checksum."""
    put64(block + 8, number)
    put32(block, block_sum(block, salt))

cdef inline uint32_t node_flags(const uint8_t* node) noexcept nogil:
    return get32(node + 4)

# The header of a node that was checked may change under us if its buffer has another writer. So each field is bounded
# where it is read: what a wrong one leads to lies in the same block or in the SLACK blocks behind it.
cdef inline uint32_t node_n(const uint8_t* node) noexcept nogil:
    """Entries in use."""
    return min(get32(node + 16), <uint32_t>NODE_MOST)

cdef inline uint32_t node_max(const uint8_t* node) noexcept nogil:
    """Entries that fit: keys begin at 32, values at 32 + 8 times this."""
    return min(get32(node + 20), <uint32_t>NODE_MOST)

cdef inline uint32_t node_size(const uint8_t* node) noexcept nogil:
    """Bytes of a value."""
    return min(get32(node + 24), <uint32_t>DETAILS_SIZE)

cdef inline uint64_t node_key(const uint8_t* node, uint32_t i) noexcept nogil:
    return get64(node + NODE_HEADER + 8 * <size_t>i)

cdef inline const uint8_t* node_value(const uint8_t* node, uint32_t i) noexcept nogil:
    return node + NODE_HEADER + 8 * <size_t>node_max(node) + node_size(node) * <size_t>i

cdef inline uint32_t node_fits(uint32_t size) noexcept nogil:
    """Return how many entries with values of ``size`` bytes a node takes, as the kernel counts: a multiple of three."""
    return (META_BLOCK - NODE_HEADER) // (8 + size) // 3 * 3

cdef inline FaultKind node_fault(const uint8_t* node, uint32_t leaf_size) noexcept nogil:
    """Tell what is wrong with a node's header: after FAULT_NONE no entry below ``node_n`` lies outside the block.

    ``leaf_size``: bytes of a value in this tree's leaves.
    """
    cdef uint32_t flags = node_flags(node), size = get32(node + 24), most = get32(node + 20)
    if flags == NODE_INTERNAL:
        if size != 8 or get32(node + 16) == 0:
            return FAULT_NODE
    elif flags != NODE_LEAF or size != leaf_size:
        return FAULT_NODE
    if most * (8 + <uint64_t>size) > META_BLOCK - NODE_HEADER or most % 3 or get32(node + 16) > most:
        return FAULT_NODE
    return FAULT_NONE

cdef inline int64_t node_find(const uint8_t* node, uint64_t key) noexcept nogil:
    """Return the last entry whose key is at most ``key``; -1 where all are greater."""
    cdef int64_t low = -1, high = node_n(node), middle
    while high - low > 1:
        middle = low + (high - low) // 2
        if node_key(node, <uint32_t>middle) <= key:
            low = middle
        else:
            high = middle
    return low

cdef inline uint32_t bitmap_get(const uint8_t* bitmap, uint32_t i) noexcept nogil:
    """Return count ``i`` (below BITMAP_COUNTS): 0, 1, 2, or 3 for what the tree of counts has.

    Of each pair the lower bit is the greater one.
    """
    cdef uint32_t pair = bitmap[BITMAP_HEADER + i // 4] >> (i % 4 * 2) & 3
    return (pair & 1) << 1 | pair >> 1

cdef inline void bitmap_put(uint8_t* bitmap, uint32_t i, uint32_t count) noexcept nogil:
    cdef uint32_t at = i % 4 * 2, pair = (count & 1) << 1 | count >> 1
    cdef uint8_t* p = bitmap + BITMAP_HEADER + i // 4
    p[0] = <uint8_t>((p[0] & ~(3 << at)) | pair << at)
