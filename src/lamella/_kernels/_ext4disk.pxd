"""The fields of ext4 (and ext2, ext3) on disk, and where an inode lies. docs/formats.md has the picture.

All numbers are little-endian. An ``Image`` is what kernels need to know of a file system: its geometry, which the caller
read from the superblock, and for each group where its inode table begins and how many inodes of it were ever written.
Nothing that was read is believed: positions are bounded by the file system's size, and whoever reads beyond the end of
the file gets a fault, not memory.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lamella._kernels._status cimport BAD_FORMAT, OK, OS_ERROR
from lamella._kernels._thindisk cimport get32

cdef extern from *:
    """
    #include <endian.h>
    #include <errno.h>
    #include <stdint.h>
    #include <string.h>
    #include <unistd.h>
    static inline uint16_t lam_get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return le16toh(v); }
    /* bytes read, fewer only at the end of the file; -errno */
    static inline int64_t lam_pread_all(int fd, uint8_t *p, int64_t n, int64_t off) {
        int64_t got = 0;
        while (got < n) {
            ssize_t r = pread(fd, p + got, (size_t)(n - got), (off_t)(off + got));
            if (r < 0 && errno == EINTR) continue;
            if (r < 0) return -errno;
            if (r == 0) break;
            got += r;
        }
        return got;
    }
    static inline const char *lam_ext4_fault(int kind) {
        static const char *const words[] = {
            "nothing", "no such inode", "an inode that is free", "a block outside the file system",
            "the file ends early", "no node of a tree of extents", "extents that overlap or are empty",
            "blocks that are used twice", "a malformed directory entry", "an inode that is no directory",
            "a directory that has two names", "malformed extended attributes", "a malformed symlink", "unreadable"};
        return kind >= 0 && kind < (int)(sizeof words / sizeof *words) ? words[kind] : "damaged";
    }
    """
    uint16_t get16 "lam_get16"(const uint8_t* p) noexcept nogil
    const char* fault_words "lam_ext4_fault"(int kind) noexcept nogil      # what a fault is
    int64_t lam_pread_all(int fd, uint8_t* p, int64_t n, int64_t off) noexcept nogil

cdef enum:
    MAX_INODE = 4096             # bytes of an inode that are taken
    OLD_INODE = 128              # bytes of the part that every inode has
    MAPPING = 0x28               # 60 bytes: the root of the extents, twelve blocks and three trees, a link's text, data
    MAPPING_ROOM = 60
    FL_EXTENTS = 0x80000
    FL_EA_INODE = 0x200000
    FL_INLINE = 0x10000000
    ROOT_INODE = 2
    S_IFMT = 0o170000            # ext4's numbers, which are Linux's
    S_IFIFO = 0o010000
    S_IFCHR = 0o020000
    S_IFDIR = 0o040000
    S_IFBLK = 0o060000
    S_IFREG = 0o100000
    S_IFLNK = 0o120000
    S_IFSOCK = 0o140000
    N_SHAPE = 8                  # items of a shape

cdef enum ImageBit:
    HAS_FILETYPE = 1             # directory entries say of what type the inode is
    HAS_LARGEDIR = 2             # a directory's size has 64 bits
    HAS_EA_INODE = 4             # values of attributes may be inodes

cdef enum FaultKind:
    FAULT_NONE = 0
    FAULT_INODE = 1              # a number that no inode has
    FAULT_UNUSED = 2             # a name, or a value, of an inode that is free
    FAULT_RANGE = 3              # a block outside the file system
    FAULT_END = 4                # the file ends before it
    FAULT_NODE = 5               # header of a node of a tree of extents
    FAULT_EXTENT = 6             # extents that overlap, or are empty
    FAULT_CIRCLE = 7             # more blocks than there are: something is used twice
    FAULT_ENTRY = 8              # a directory entry that leaves its block, or has no name that can be
    FAULT_TYPE = 9               # an inode that is no directory, though a name says so
    FAULT_TWICE = 10             # a directory that has two names
    FAULT_XATTR = 11             # extended attributes that leave their block
    FAULT_LINK = 12              # a symlink's text
    FAULT_READ = 13              # the device did not give it: errno

cdef struct Image:
    int fd
    int64_t base                 # byte of the file at which the file system begins
    int64_t block                # bytes of a block: a power of two, 1,024 to 65,536
    int64_t inode                # ... of an inode: a power of two, 128 to 4,096
    int64_t per_group            # inodes
    int64_t n_inodes
    int64_t n_blocks
    int64_t bits
    int64_t cluster              # sectors of 512 bytes that a block of attributes takes
    const int64_t* tables        # of each group, the first block of its inode table
    const int64_t* used          # ... how many inodes from the first on may be in use
    int64_t n_groups

cdef struct Fault:
    int kind
    int error                    # errno
    int64_t block                # -1 where no block is to blame
    int64_t inode                # 0 where no inode is known

cdef inline int image_begin(Image* m, int fd, const int64_t* shape, const int64_t* tables, const int64_t* used,
                            int64_t n_groups) noexcept nogil:
    """Take a shape of N_SHAPE items in the order of Image's own; -1 where it cannot be one."""
    m.fd, m.base, m.block, m.inode, m.per_group = fd, shape[0], shape[1], shape[2], shape[3]
    m.n_inodes, m.n_blocks, m.bits, m.cluster = shape[4], shape[5], shape[6], shape[7]
    m.tables, m.used, m.n_groups = tables, used, n_groups
    if m.block < 1024 or m.block > 65536 or m.block & (m.block - 1) or m.inode < OLD_INODE or m.inode > MAX_INODE:
        return -1
    if m.inode & (m.inode - 1) or m.inode > m.block or m.per_group < 1 or m.per_group > 8 * m.block or m.base < 0:
        return -1
    if m.base > <int64_t>1 << 60 or m.n_blocks < 1 or m.n_blocks > (<int64_t>1 << 60) // m.block or n_groups < 1:
        return -1
    return 0 if 0 < m.n_inodes <= 0xFFFFFFFFLL and (m.n_inodes - 1) // m.per_group < n_groups else -1

cdef inline int fail(Fault* f, int kind, int64_t block) noexcept nogil:
    f.kind, f.block = kind, block
    return OS_ERROR if kind == FAULT_READ else BAD_FORMAT

cdef inline int read_bytes(const Image* m, uint8_t* p, int64_t n, int64_t pos, Fault* f) noexcept nogil:
    """Read ``n`` bytes at byte ``pos`` of the file system (caller: both are within it)."""
    cdef int64_t got = lam_pread_all(m.fd, p, n, m.base + pos)
    if got == n:
        return OK
    f.error = <int>-got if got < 0 else 0
    return fail(f, FAULT_READ if got < 0 else FAULT_END, (pos + (got if got > 0 else 0)) // m.block)

cdef inline int read_blocks(const Image* m, uint8_t* p, int64_t block, int64_t n, Fault* f) noexcept nogil:
    """Read ``n`` blocks."""
    if block < 1 or n < 1 or n > m.n_blocks or block > m.n_blocks - n:
        return fail(f, FAULT_RANGE, block)
    return read_bytes(m, p, n * m.block, block * m.block, f)

cdef inline int64_t inode_place(const Image* m, int64_t inode) noexcept nogil:
    """Return the byte at which an inode lies; -1 for none such, -2 for one that was never written."""
    cdef int64_t group = (inode - 1) // m.per_group, at = inode - 1 - group * m.per_group, table
    if inode < 1 or inode > m.n_inodes:
        return -1
    if at >= m.used[group]:
        return -2
    table = m.tables[group]
    if table < 1 or table >= m.n_blocks or at * m.inode > (m.n_blocks - table) * m.block - m.inode:
        return -1
    return table * m.block + at * m.inode

cdef inline bint inode_used(const uint8_t* p) noexcept nogil:
    """Tell whether an inode has a name: one that was removed keeps its mode."""
    return get16(p + 0x1A) != 0 and get16(p) != 0

cdef inline int read_inode(const Image* m, int64_t inode, uint8_t* p, Fault* f) noexcept nogil:
    """Read an inode that is in use into ``m.inode`` bytes."""
    cdef int64_t pos = inode_place(m, inode)
    cdef int status = OK
    f.inode = inode
    if pos < 0:
        return fail(f, FAULT_UNUSED if pos == -2 else FAULT_INODE, -1)
    status = read_bytes(m, p, m.inode, pos, f)
    if status == OK and not inode_used(p):
        return fail(f, FAULT_UNUSED, pos // m.block)
    return status

cdef inline int64_t inode_extra(const Image* m, const uint8_t* p) noexcept nogil:
    """Return the bytes beyond the first 128 that hold fields, 0 for none: attributes follow."""
    cdef int64_t n
    if m.inode <= OLD_INODE:
        return 0
    n = get16(p + 0x80)
    return n if n % 4 == 0 and n <= m.inode - OLD_INODE else 0

cdef inline uint64_t inode_size(const Image* m, const uint8_t* p) noexcept nogil:
    cdef uint64_t size = get32(p + 4)
    cdef int kind = get16(p) & S_IFMT
    if kind == S_IFREG or m.bits & HAS_LARGEDIR:
        size |= <uint64_t>get32(p + 0x6C) << 32
    return size

cdef inline void inode_time(const Image* m, const uint8_t* p, int at, int extra_at, int64_t* seconds,
                            uint32_t* nsec) noexcept nogil:
    """Read the time whose low half is at ``at``: two bits of the other field count epochs of 2**32 seconds."""
    cdef uint32_t more = 0
    if inode_extra(m, p) >= extra_at + 4 - OLD_INODE:
        more = get32(p + extra_at)
    seconds[0] = <int64_t><int32_t>get32(p + at) + (<int64_t>(more & 3) << 32)
    nsec[0] = more >> 2
