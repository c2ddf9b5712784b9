"""Names of a directory, without a Python object for each: see dirents.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strerror
from lamella._kernels._index cimport path_hash
from lamella._kernels._statx cimport DT_UNKNOWN, ENOENT, EOVERFLOW, lam_getdents
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OS_ERROR, OUTPUT_FULL, Status

N_STATE = sizeof(ReadState) // 8

cdef enum:
    LINUX_DIRENT = 19        # struct linux_dirent64 (getdents64(2)): ino, off, reclen, type, then the name and its NUL
    DT_CHR = 2
    GONE = 21                # Dirent.gone


cdef inline int64_t _padded(int64_t n) noexcept nogil:
    return (n + 7) & ~<int64_t>7


cdef inline bint _take(const uint8_t* records, int64_t at, int64_t end, Dirent* d) noexcept nogil:
    """Copy the record at ``at``; False where it does not end before ``end``."""
    if at < 0 or end - at < DIRENT:
        return False
    memcpy(d, records + at, DIRENT)
    return d.n > 0 and _padded(d.n) <= end - at - DIRENT


cdef inline int64_t _size(const Dirent* d) noexcept nogil:
    return DIRENT + _padded(d.n)


# -- reading ---------------------------------------------------------------------------------------------------------

cdef int64_t _append(const uint8_t* listed, int64_t n_bytes, uint16_t branch, uint8_t* out, ReadState* s) noexcept nogil:
    """Turn what getdents64 gave into records, each at most 8 bytes longer; their bytes, -1 where it is malformed."""
    cdef int64_t at = 0, room, to = 0
    cdef uint16_t reclen
    cdef const uint8_t* name
    cdef const uint8_t* end
    cdef Dirent d
    memset(&d, 0, DIRENT)
    d.branch = branch
    while n_bytes - at > LINUX_DIRENT:
        memcpy(&d.ino, listed + at, 8)
        memcpy(&reclen, listed + at + 16, 2)
        d.kind = listed[at + 18]
        if reclen <= LINUX_DIRENT or reclen > n_bytes - at:
            return -1
        name, room = listed + at + LINUX_DIRENT, reclen - LINUX_DIRENT
        end = <const uint8_t*>memchr(name, 0, room)
        if end == NULL or end == name:
            return -1
        at += reclen
        d.n = <uint16_t>(end - name)
        if name[0] == 46 and (d.n == 1 or (d.n == 2 and name[1] == 46)):
            continue
        s.n_names += 1
        s.n_devices += d.kind == DT_CHR
        s.n_unknown += d.kind == DT_UNKNOWN
        s.n_marks += d.n >= 4 and memcmp(name, b".wh.", 4) == 0
        memcpy(out + to, &d, DIRENT)
        memset(out + to + _size(&d) - 8, 0, 8)
        memcpy(out + to + DIRENT, name, d.n)
        to += _size(&d)
    return to


cdef Status read_names(int fd, uint16_t branch, uint8_t* scratch, int64_t scratch_cap, uint8_t* out, int64_t cap,
                       ReadState* s) noexcept nogil:
    cdef int64_t n
    while True:
        if s.used < 0 or cap - s.used < 2 * scratch_cap:
            return OUTPUT_FULL
        n = lam_getdents(fd, scratch, scratch_cap)
        if n == 0 or n == -ENOENT:                    # ENOENT: it was removed meanwhile
            return AT_END
        if n > 0:
            n = _append(scratch, n, branch, out + s.used, s)
            s.error = EOVERFLOW if n < 0 else 0
        else:
            s.error = -n
        if s.error:
            return OS_ERROR
        s.used += n


def read(int fd, uint16_t branch, uint8_t[::1] scratch not None, uint8_t[::1] records not None, int64_t[::1] state not None):
    """Append the names in directory ``fd`` to ``records``; a Status. ``state`` is a ReadState; OSError."""
    cdef ReadState s
    cdef Status status
    if state.shape[0] != N_STATE or scratch.shape[0] < 512 or records.shape[0] == 0:
        raise ValueError("a state has other items, or there is too little scratch")
    s = (<ReadState*>&state[0])[0]
    with nogil:
        status = read_names(fd, branch, &scratch[0], scratch.shape[0], &records[0], records.shape[0], &s)
    (<ReadState*>&state[0])[0] = s
    if status == OS_ERROR:
        raise OSError(s.error, strerror(<int>s.error).decode())
    return status


# -- merging ---------------------------------------------------------------------------------------------------------

cdef int64_t _slot(const uint8_t* records, int64_t used, const uint32_t* slots, uint64_t mask, uint64_t seed,
                   const uint8_t* name, Py_ssize_t n, bint* there) noexcept nogil:
    """The slot of a name, or the free one where it belongs; -1: none is free. A slot is the place of a record in units of
    eight, twice, + 1 for the name behind its mark, + 1."""
    cdef uint64_t at = path_hash(name, n, seed) & mask, _probes
    cdef int64_t place
    cdef Py_ssize_t skip
    cdef Dirent d
    there[0] = False
    for _probes in range(mask + 1):
        if slots[at] == 0:
            return <int64_t>at
        place, skip = 8 * <int64_t>((slots[at] - 1) >> 1), 4 * ((slots[at] - 1) & 1)
        if _take(records, place, used, &d) and d.n == n + skip and memcmp(records + place + DIRENT + skip, name, n) == 0:
            there[0] = True
            return <int64_t>at
        at = (at + 1) & mask
    return -1


cdef inline bint _is_mark(const uint8_t* records, int64_t at, const Dirent* d) noexcept nogil:
    return d.n >= 4 and memcmp(records + at + DIRENT, b".wh.", 4) == 0


cdef bint _hide(uint8_t* records, int64_t used, int64_t begin, int64_t end, uint32_t* slots, uint64_t mask, uint64_t seed,
                bint aufs) noexcept nogil:
    """Note which records of a branch an earlier one hides."""
    cdef int64_t at = begin, slot
    cdef bint there
    cdef Dirent d
    while at < end:
        if not _take(records, at, end, &d):
            return False
        slot = _slot(records, used, slots, mask, seed, records + at + DIRENT, d.n, &there)
        if slot < 0:
            return False
        if there or (aufs and _is_mark(records, at, &d)):
            records[at + GONE] = 1
        at += _size(&d)
    return True


cdef bint _enter(uint8_t* records, int64_t used, int64_t begin, int64_t end, uint32_t* slots, uint64_t mask, uint64_t seed,
                 bint aufs) noexcept nogil:
    """Enter the names of a branch, and those that its marks hide."""
    cdef int64_t at = begin, slot
    cdef Py_ssize_t skip
    cdef bint there
    cdef Dirent d
    while at < end:
        if not _take(records, at, end, &d):
            return False
        skip = 4 if aufs and _is_mark(records, at, &d) else 0
        slot = _slot(records, used, slots, mask, seed, records + at + DIRENT + skip, d.n - skip, &there)
        if slot < 0:
            return False
        if not there:
            slots[slot] = <uint32_t>((at >> 3) * 2 + (1 if skip else 0) + 1)
        at += _size(&d)
    return True


cdef int64_t _close_up(uint8_t* records, int64_t used, int64_t* n_shown) noexcept nogil:
    """Move what is shown together, and number it; the bytes in use, -1 for malformed records."""
    cdef int64_t at = 0, to = 0, size
    cdef uint64_t number = 0
    cdef Dirent d
    while at < used:
        if not _take(records, at, used, &d):
            return -1
        size = _size(&d)
        if not d.gone:
            number += 1
            d.number = number
            memmove(records + to + DIRENT, records + at + DIRENT, size - DIRENT)
            memcpy(records + to, &d, DIRENT)
            to += size
        at += size
    n_shown[0] = <int64_t>number
    return to


cdef int64_t merge_names(uint8_t* records, int64_t used, const int64_t* ends, Py_ssize_t n_ends, uint32_t* slots,
                         uint64_t mask, uint64_t seed, bint aufs, int64_t* n_shown) noexcept nogil:
    cdef int64_t begin = 0
    cdef Py_ssize_t k
    for k in range(n_ends):
        if ends[k] < begin or ends[k] > used:
            return -1
        if (k or aufs) and not _hide(records, used, begin, ends[k], slots, mask, seed, aufs):
            return -1
        if k + 1 < n_ends and not _enter(records, used, begin, ends[k], slots, mask, seed, aufs):
            return -1
        begin = ends[k]
    return _close_up(records, used, n_shown) if begin == used else -1


def merge(uint8_t[::1] records not None, const int64_t[::1] ends not None, uint32_t[::1] slots not None, uint64_t seed,
          bint aufs):
    """Leave of ``records`` what the union of branches, which end at ``ends``, shows; return the bytes in use, and how many.

    ValueError for malformed records, or fewer slots than they take. See merge_names in dirents.pxd.
    """
    cdef int64_t used = records.shape[0], n_shown = 0
    cdef Py_ssize_t n = slots.shape[0]
    if n < 2 or n & (n - 1) or used > <int64_t>1 << 33:
        raise ValueError("slots are a power of two, and records no more than 8 GiB")
    if used == 0 or ends.shape[0] == 0:
        return 0, 0
    with nogil:
        used = merge_names(&records[0], used, &ends[0], ends.shape[0], &slots[0], <uint64_t>(n - 1), seed, aufs, &n_shown)
    if used < 0:
        raise ValueError("records are malformed, or take more slots")
    return used, n_shown


# -- spelling --------------------------------------------------------------------------------------------------------

def seek(const uint8_t[::1] records not None, int64_t begin, uint64_t number):
    """Return where from ``begin`` on the first record stands whose number is above ``number``: the end if there is none."""
    cdef int64_t at = begin, used = records.shape[0]
    cdef Dirent d
    if not 0 <= begin <= used:
        raise ValueError("not within the records")
    if at == used:
        return at
    with nogil:
        while _take(&records[0], at, used, &d) and d.number <= number:
            at += _size(&d)
    return at


cdef Status spell_names(const uint8_t* records, int64_t begin, int64_t end, const uint64_t* flips, Py_ssize_t n_flips,
                        Reply* r) noexcept nogil:
    cdef int64_t at = begin, size, before = FUSE_ENTRY if r.plus else 0
    cdef uint64_t numbers[2]
    cdef uint32_t facts[2]
    cdef uint8_t* to
    cdef Dirent d
    while at < end:
        if not _take(records, at, end, &d) or d.branch >= n_flips:
            return BAD_FORMAT
        size = before + FUSE_DIRENT + _padded(d.n)
        if size > r.cap - r.used:
            break
        if not d.gone:
            if r.kind < 0 or d.kind == r.kind:
                if r.n_found >= r.found_cap:
                    break
                r.found[r.n_found] = r.used
                r.n_found += 1
            to = r.out + r.used
            memset(to, 0, before)
            numbers[0], numbers[1] = d.ino ^ flips[d.branch], d.number + r.skipped
            facts[0], facts[1] = d.n, d.kind
            memcpy(to + before, numbers, 16)
            memcpy(to + before + 16, facts, 8)
            memset(to + size - 8, 0, 8)
            memcpy(to + before + FUSE_DIRENT, records + at + DIRENT, d.n)
            r.used += size
            r.number = d.number
        at += DIRENT + _padded(d.n)
    r.at = at
    return OK


def spell(const uint8_t[::1] records not None, int64_t begin, const uint64_t[::1] flips not None, uint64_t skipped,
          uint8_t[::1] out not None, int64_t used, int64_t[::1] found not None, bint plus, int kind):
    """Write ``records`` from ``begin`` on to ``out`` from ``used`` on: see spell_names in dirents.pxd.

    Return the bytes in use, how many are ``found``, where the next record stands, and the number of the last one, 0 for none.
    ValueError for malformed records, or a branch that is not in ``flips``.
    """
    cdef Reply r
    cdef int64_t end = records.shape[0]
    cdef Status status
    if not (0 <= begin <= end and 0 <= used <= out.shape[0]):
        raise ValueError("not within the records, or the answer")
    if begin == end or used == out.shape[0] or found.shape[0] == 0 or flips.shape[0] == 0:
        return used, 0, begin, 0
    r.used, r.n_found, r.out, r.cap, r.found, r.found_cap = used, 0, &out[0], out.shape[0], &found[0], found.shape[0]
    r.at, r.number = begin, 0
    r.skipped, r.kind, r.plus = skipped, kind, plus
    with nogil:
        status = spell_names(&records[0], begin, end, &flips[0], flips.shape[0], &r)
    if status != OK:
        raise ValueError("records are malformed, or of another branch")
    return r.used, r.n_found, r.at, r.number
