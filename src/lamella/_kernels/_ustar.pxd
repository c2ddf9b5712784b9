"""One 512-byte tar header: its checksum, its format and its fields (POSIX ustar, GNU, star, v7).

A header is copied before it is read here, so a field read twice is the same twice.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memset
from lamella._kernels._cursor cimport Slice, slice_text
from lamella._kernels._number cimport number_field

cdef enum:
    BLOCK = 512

cdef enum Format:
    V7 = 0
    USTAR = 1              # and pax
    GNU = 2
    STAR = 3               # ustar with a shorter prefix, atime and ctime

cdef enum Fault:
    # what is wrong; tarscan.pyx has the sentences, in this order
    FAULT_NONE = 0
    FAULT_CHECKSUM
    FAULT_TYPE             # unknown type flag (value)
    FAULT_UNSUPPORTED      # GNU volume header, continued file or directory dump (value)
    FAULT_MODE
    FAULT_UID
    FAULT_GID
    FAULT_SIZE
    FAULT_MTIME
    FAULT_ATIME
    FAULT_DEVICE
    FAULT_RECORD           # a pax record's length, keyword or end
    FAULT_NUL              # NUL in a pax name
    FAULT_GLOBAL           # a keyword that cannot speak of every member
    FAULT_TWICE            # two extended headers of one kind before one member
    FAULT_ORDER            # a global header between an extended header and its member
    FAULT_ALONE            # the archive ends after an extended header
    FAULT_SPARSE           # malformed sparse map, or one that disagrees with the sizes
    FAULT_SPARSE_KIND      # a sparse format we do not know
    FAULT_XATTR            # malformed LIBARCHIVE.xattr or name
    # input ended inside a ...
    FAULT_CUT_HEADER
    FAULT_CUT_BODY
    FAULT_CUT_PAYLOAD
    FAULT_CUT_MEMBER
    # a budget is spent (value): the field of Limits
    FAULT_ENTRIES
    FAULT_PAX_BYTES
    FAULT_XATTRS
    FAULT_SPARSE_ENTRIES
    FAULT_PATH
    # no fault: room is missing
    FAULT_SCRATCH
    N_FAULTS

cdef enum Sparse:
    SPARSE_NONE = 0
    SPARSE_STORED = 1      # the map stands in the scratch buffer already (old GNU, or pax 1.0 once it was read)
    SPARSE_RECORDS = 2     # pax 0.0 and 0.1: the map is in the pax records
    SPARSE_PAYLOAD = 3     # pax 1.0: the map is the payload's beginning

cdef struct Member:
    # what the headers say of one member; slices point into its header and into the scratch buffer
    int format
    uint8_t flag           # type flag as it stands there
    uint8_t kind           # as a row has it: '0' to '6'
    int sparse
    bint has_atime
    int64_t mode
    int64_t uid
    int64_t gid
    int64_t size           # of the payload as packed
    int64_t real_size      # of a sparse file
    int64_t mtime
    int64_t atime
    int64_t major
    int64_t minor
    uint32_t mtime_nsec
    uint32_t atime_nsec
    Slice prefix
    Slice name
    Slice link
    Slice uname
    Slice gname

cdef inline bint block_is_zero(const uint8_t* h) noexcept nogil:
    """Tell whether the block is 512 zero bytes."""
    return h[0] == 0 and memcmp(h, h + 1, BLOCK - 1) == 0

cdef inline bint checksum_ok(const uint8_t* h) noexcept nogil:
    """Compare the sum of all bytes, the checksum field counted as spaces; readers once summed signed chars."""
    cdef int64_t stated = -1
    cdef int i
    cdef int32_t total = 256, high = 0
    if number_field(h + 148, 8, &stated) < 0:
        return False
    for i in range(BLOCK):
        total += h[i]
    for i in range(148, 156):
        total -= h[i]
    if stated == total:
        return True
    for i in range(BLOCK):
        high += h[i] >> 7 if i < 148 or i >= 156 else 0
    return stated == total - 256 * high

cdef inline int format_of(const uint8_t* h) noexcept nogil:
    """Tell the header's format by its magic."""
    if memcmp(h + 257, b"ustar\0", 6) == 0:
        return STAR if memcmp(h + 508, b"tar\0", 4) == 0 else USTAR
    return GNU if memcmp(h + 257, b"ustar  \0", 8) == 0 else V7

cdef inline int member_read(const uint8_t* h, Member* m) noexcept nogil:
    """Read the header ``h`` into ``m``; 0 or the fault."""
    memset(m, 0, sizeof(Member))
    m.format = format_of(h)
    m.flag = h[156]
    m.name = slice_text(h, 100)
    m.link = slice_text(h + 157, 100)
    if number_field(h + 100, 8, &m.mode) < 0 or m.mode < 0:
        return FAULT_MODE
    if number_field(h + 108, 8, &m.uid) < 0:
        return FAULT_UID
    if number_field(h + 116, 8, &m.gid) < 0:
        return FAULT_GID
    if number_field(h + 124, 12, &m.size) < 0 or m.size < 0:
        return FAULT_SIZE
    if number_field(h + 136, 12, &m.mtime) < 0:
        return FAULT_MTIME
    if m.format == V7:
        return FAULT_NONE
    m.uname = slice_text(h + 265, 32)
    m.gname = slice_text(h + 297, 32)
    if m.flag == 51 or m.flag == 52:
        if number_field(h + 329, 8, &m.major) < 0 or number_field(h + 337, 8, &m.minor) < 0:
            return FAULT_DEVICE
    if m.format == GNU:      # no prefix: atime and ctime stand there, or what else a writer pleased
        m.has_atime = h[345] != 0 and number_field(h + 345, 12, &m.atime) == 0
        return FAULT_NONE
    m.prefix = slice_text(h + 345, 131 if m.format == STAR else 155)
    if m.format == STAR and h[476] != 0:
        if number_field(h + 476, 12, &m.atime) < 0:
            return FAULT_ATIME
        m.has_atime = True
    return FAULT_NONE
