"""The names of the directory that a walk stands in: read by getdents64, put in order, taken one by one.

They stand in the caller's scratch behind the directory's frame, and ``top``, the bytes in use, grows with them. What
comes out of scratch is checked and copied before it is used: another thread may write there.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._frames cimport READY, UNSORTED, Frame
from lamella._kernels._names cimport NameItem, list_names, name_cmp, pack_dirents, sort_names
from lamella._kernels._statx cimport EINVAL, ENOENT, EOVERFLOW, lam_getdents
from lamella._kernels._status cimport BAD_FORMAT, OK, OS_ERROR, OUTPUT_FULL

cdef extern from "string.h":
    void* memccpy(void* to, const void* p, int end, size_t n) noexcept nogil

cdef enum:
    NAME_ROOM = 4096         # a name and its NUL; no file system's names are longer
    DIR_ROOM = 4096          # scratch that a directory wants at least
    DENTS = 65536            # bytes read by one getdents64 at most

cdef inline int read_names(uint8_t* scratch, int64_t cap, int64_t* top, Frame* f, int64_t* need,
                           int* error) noexcept nogil:
    """Read more names; at the end the frame is UNSORTED. OK, OUTPUT_FULL with ``need``, or OS_ERROR with ``error``."""
    cdef int64_t room = cap - top[0], n
    if room < DIR_ROOM:
        need[0] = top[0] + DENTS
        return OUTPUT_FULL
    n = lam_getdents(f.fd, scratch + top[0], room if room < DENTS else DENTS)
    if n == -EINVAL and room < DENTS:
        need[0] = top[0] + DENTS
        return OUTPUT_FULL
    if n < 0 and n != -ENOENT:                        # ENOENT: it was removed meanwhile
        error[0] = <int>-n
        return OS_ERROR
    if n > 0:
        n = pack_dirents(scratch + top[0], n)
        if n < 0 or top[0] + n - f.names_off > <int64_t>0xFFFFFFFF:
            error[0] = EOVERFLOW
            return OS_ERROR
        top[0] += n
    else:
        f.phase = UNSORTED
    f.list_off = top[0]
    return OK

cdef inline int order_names(uint8_t* scratch, int64_t cap, int64_t* top, Frame* f, int64_t* need) noexcept nogil:
    """Write the list of the names in their order behind them, and the frame is READY. OK, OUTPUT_FULL or BAD_FORMAT."""
    cdef uint8_t* text = scratch + f.names_off
    cdef int64_t end = f.list_off - f.names_off, list_off = (f.list_off + 7) & ~<int64_t>7, k
    cdef NameItem* items = <NameItem*>(scratch + list_off)
    cdef uint32_t off, last = 0
    cdef int64_t room = (cap - list_off) // <int64_t>sizeof(NameItem)
    cdef int64_t n = list_names(text, end, items, room)
    if n < 0:
        return BAD_FORMAT
    if 2 * n > room or list_off > cap:
        need[0] = list_off + 2 * n * <int64_t>sizeof(NameItem)
        return OUTPUT_FULL
    items = sort_names(text, <uint64_t>end, items, items + n, n)
    f.list_off, f.n_names = list_off, 0
    for k in range(n):                                # a list entry is shorter than an item: never ahead of k
        off = <uint32_t>(items[k].off - 1)
        if f.n_names and name_cmp(text, last + 1, off + 1, <uint64_t>end) == 0:
            continue                                  # a directory that changes may list a name twice
        memcpy(scratch + list_off + 4 * <int64_t>f.n_names, &off, 4)
        f.n_names += 1
        last = off
    f.phase = READY
    top[0] = list_off + 4 * <int64_t>f.n_names
    return OK

cdef inline int next_name(const uint8_t* scratch, const Frame* f, char* name, int64_t* n, int* dtype) noexcept nogil:
    """Copy the name whose turn it is to ``name`` (NAME_ROOM bytes), its length to ``n``; OK or BAD_FORMAT."""
    cdef uint32_t off
    cdef int64_t begin, room
    cdef char* end
    memcpy(&off, scratch + f.list_off + 4 * <int64_t>f.next, 4)
    begin = f.names_off + off + 1
    if begin >= f.list_off:
        return BAD_FORMAT
    room = f.list_off - begin
    end = <char*>memccpy(name, scratch + begin, 0, room if room < NAME_ROOM else NAME_ROOM)
    if end == NULL or end == name + 1:
        return BAD_FORMAT
    n[0] = end - name - 1
    dtype[0] = scratch[begin - 1]
    return OK
