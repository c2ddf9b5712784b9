"""Write the row of one member: normalised names, the run of extras, the columns."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy
from lamella._kernels cimport _status as st
from lamella._kernels cimport _ustar as u
from lamella._kernels._cursor cimport Slice
from lamella._kernels._pax cimport Extras, Item, item_at, item_part, item_same
from lamella._kernels._rows cimport (EXT_ATIME, EXT_GNAME, EXT_SPARSE, EXT_UNAME, EXT_XATTR, F_ATIME, F_DOTDOT, F_SPARSE,
                                     Rows, ext_put, row_ext)
from lamella._kernels._scan cimport Scan

cdef inline Py_ssize_t put_path(uint8_t* dst, Py_ssize_t at, const Slice* path, bint* dotdot) noexcept nogil:
    # append components to dst[:at], at most path.n + 1 bytes; ``dotdot`` is set where one is ".."
    cdef const uint8_t* p = path.p
    cdef const uint8_t* end = path.p + path.n
    cdef const uint8_t* slash
    cdef Py_ssize_t n
    while p < end:
        slash = <const uint8_t*>memchr(p, 47, end - p)
        n = (end if slash == NULL else slash) - p
        if n > 1 or (n == 1 and p[0] != 46):
            if n == 2 and p[0] == 46 and p[1] == 46:
                dotdot[0] = True
            if at:
                dst[at] = 47
                at += 1
            memcpy(dst + at, p, n)
            at += n
        p += n + 1
    return at

cdef inline Py_ssize_t _put_extras(Scan* o, Py_ssize_t at, const u.Member* m, const Extras* x, const Slice* map) noexcept nogil:
    # the run of extras, from arena[at:]; its end, or -1 where it does not fit
    cdef uint8_t* arena = o.r.arena
    cdef Py_ssize_t cap = o.r.arena_cap, k = 0
    cdef Item* item
    cdef Slice name, value
    cdef uint8_t atime[12]
    cdef bint owners = True
    while at >= 0 and (k < x.n_items or owners):
        item = item_at(x, k) if k < x.n_items else NULL
        if owners and (item == NULL or item.tag > EXT_XATTR):
            owners = False
            if m.uname.n:
                at = ext_put(arena, cap, at, EXT_UNAME, NULL, 0, m.uname.p, m.uname.n)
            if m.gname.n and at >= 0:
                at = ext_put(arena, cap, at, EXT_GNAME, NULL, 0, m.gname.p, m.gname.n)
        elif item != NULL:
            name = item_part(x, item.name_off, item.name_len)
            value = item_part(x, item.value_off, item.value_len)
            # of two spellings of an attribute the one that every reader reads
            if k == 0 or item.spelling == 0 or not item_same(x, item - 1, item):
                at = ext_put(arena, cap, at, item.tag, name.p, name.n, value.p, value.n)
            k += 1
    if m.sparse and at >= 0:
        at = ext_put(arena, cap, at, EXT_SPARSE, NULL, 0, map.p, map.n)
    if m.has_atime and at >= 0:
        memcpy(atime, &m.atime, 8)
        memcpy(atime + 8, &m.atime_nsec, 4)
        at = ext_put(arena, cap, at, EXT_ATIME, NULL, 0, atime, 12)
    return at

cdef inline int emit(Scan* o, const u.Member* m, const Extras* x, const Slice* map) noexcept nogil:
    # append the row: OK or OUTPUT_FULL
    cdef Rows* r = o.r
    cdef Py_ssize_t i = o.n_rows, at = o.arena_used, end, n
    cdef const uint8_t* before
    cdef bint dotdot = False
    if i >= r.cap or r.arena_cap - at < m.prefix.n + m.name.n + m.link.n + 2:
        return st.OUTPUT_FULL
    end = put_path(r.arena + at, put_path(r.arena + at, 0, &m.prefix, &dotdot), &m.name, &dotdot)
    r.name_off[i], r.path_len[i], r.link_len[i] = at, <uint16_t>end, 0
    at += end
    if m.kind == 49:
        r.link_len[i] = <uint16_t>put_path(r.arena + at, 0, &m.link, &dotdot)
    elif m.kind == 50:
        memcpy(r.arena + at, m.link.p, m.link.n)
        r.link_len[i] = <uint16_t>m.link.n
    at += r.link_len[i]
    end = _put_extras(o, at, m, x, map)
    if end < 0:
        return st.OUTPUT_FULL
    r.ext_off[i], r.ext_len[i] = at, <uint32_t>(end - at)
    if i and row_ext(r, i - 1, &before, &n) == 0 and n == end - at and memcmp(before, r.arena + at, n) == 0:
        r.ext_off[i] = r.ext_off[i - 1]
        end = at
    r.type[i], r.mode[i], r.uid[i], r.gid[i] = m.kind, m.mode & 0o7777, <uint32_t>m.uid, <uint32_t>m.gid
    r.flags[i] = (F_ATIME if m.has_atime else 0) | (F_SPARSE if m.sparse else 0) | (F_DOTDOT if dotdot else 0)
    r.size[i] = 0 if m.kind != 48 else m.real_size if m.sparse else m.size
    r.mtime[i], r.mtime_nsec[i], r.link_group[i] = m.mtime, m.mtime_nsec, -1
    r.rdev_major[i] = <uint32_t>m.major if m.kind == 51 or m.kind == 52 else 0
    r.rdev_minor[i] = <uint32_t>m.minor if m.kind == 51 or m.kind == 52 else 0
    if r.data_off != NULL:
        r.data_off[i] = o.s.offset if m.kind == 48 and m.size else -1
    o.n_rows, o.arena_used = i + 1, end
    return st.OK
