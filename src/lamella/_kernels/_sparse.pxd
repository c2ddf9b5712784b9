"""Sparse maps: old GNU headers, pax 0.0 and 0.1 records, pax 1.0 payloads (GNU tar manual, "Storing Sparse Files").

A map stands in the scratch buffer as int64 pairs (offset, nbytes), unaligned.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcpy
from lamella._kernels cimport _status as st
from lamella._kernels cimport _ustar as u
from lamella._kernels._cursor cimport Cursor, Slice, slice_of
from lamella._kernels._number cimport number_decimal, number_field
from lamella._kernels._pax cimport KW_SP_NUMBYTES, KW_SP_OFFSET, Extras, item_at, keyword_of, record_next
from lamella._kernels._scan cimport (FAR, PHASE_EXTENSION, PHASE_MAP, PHASE_MEMBER, SCAN_SCRATCH_FULL, Scan, ScanState,
                                     scan_fail)

cdef inline int _map_put(Scan* o, const uint8_t* offset, const uint8_t* nbytes) noexcept nogil:
    # one pair of old GNU fields: 1 kept, 0 there are no more, -1 malformed
    cdef ScanState* s = o.s
    cdef int64_t pair[2]
    if offset[0] == 0 or nbytes[0] == 0:
        return 0
    if number_field(offset, 12, &pair[0]) < 0 or number_field(nbytes, 12, &pair[1]) < 0:
        return -1
    memcpy(o.scratch + s.map_off + 8 * s.map_n, pair, 16)
    s.map_n += 2
    s.used += 16
    return 1

cdef inline int old_sparse(Scan* o, const uint8_t* fields, int n) noexcept nogil:
    # n pairs of a header or an extension (GNU tar manual, "oldgnu" sparse format)
    cdef ScanState* s = o.s
    cdef int i, got = 1
    if o.scratch_cap - s.used < 16 * n:
        return SCAN_SCRATCH_FULL
    for i in range(n):
        if got > 0:
            got = _map_put(o, fields + 24 * i, fields + 24 * i + 12)
    if got < 0:
        return scan_fail(s, u.FAULT_SPARSE, s.header_off, 0)
    if s.map_n // 2 > o.limits.sparse_entries:
        return scan_fail(s, u.FAULT_SPARSE_ENTRIES, s.header_off, s.map_n // 2)
    s.fill = 0
    s.phase = PHASE_EXTENSION if fields[24 * n] else PHASE_MEMBER
    return st.OK

cdef inline int old_sparse_begin(Scan* o, const uint8_t* h) noexcept nogil:
    cdef ScanState* s = o.s
    if u.format_of(h) != u.GNU:
        return scan_fail(s, u.FAULT_SPARSE_KIND, s.header_off, 0)
    s.map_off, s.map_n = s.used, 0
    memcpy(s.head, h, u.BLOCK)
    return old_sparse(o, h + 386, 4)

cdef inline int _put_number(Extras* x, const Slice* digits, int64_t* n) noexcept nogil:
    cdef int64_t value = 0
    if number_decimal(digits, &value) < 0:
        return u.FAULT_SPARSE
    if <uint8_t*>item_at(x, 0) - (x.scratch + x.low) < 8:
        return u.FAULT_SCRATCH
    memcpy(x.scratch + x.low, &value, 8)
    x.low += 8
    n[0] += 1
    return u.FAULT_NONE

cdef inline int map_from_records(Slice body, Slice map, Extras* x, int64_t* n) noexcept nogil:
    # pax 0.1: "offset,nbytes,..." in ``map``; 0.0: a record for each number
    cdef Cursor c
    cdef Slice key, value
    cdef int fault = u.FAULT_NONE, k
    cdef const uint8_t* comma
    while map.p != NULL and fault == u.FAULT_NONE:
        comma = <const uint8_t*>memchr(map.p, 44, map.n)
        value = slice_of(map.p, map.n if comma == NULL else comma - map.p)
        fault = _put_number(x, &value, n)
        if comma == NULL:
            return fault
        map = slice_of(comma + 1, map.p + map.n - comma - 1)
    c.p, c.end = body.p, body.p + body.n
    while fault == u.FAULT_NONE and record_next(&c, &key, &value) > 0:
        k = keyword_of(&key)
        if k == KW_SP_OFFSET or k == KW_SP_NUMBYTES:
            if (k == KW_SP_NUMBYTES) != (n[0] & 1):
                return u.FAULT_SPARSE
            fault = _put_number(x, &value, n)
    return fault

cdef inline int map_check(uint8_t* map, int64_t* n, const u.Member* m) noexcept nogil:
    # ascending, within the file, as many bytes as the member has; empty regions, which mark the end, are dropped
    cdef int64_t pair[2]
    cdef int64_t i, last = 0, total = 0, kept = 0
    if n[0] & 1:
        return u.FAULT_SPARSE
    for i in range(0, n[0], 2):
        memcpy(pair, map + 8 * i, 16)
        if pair[1] == 0:
            continue
        if pair[0] < last or pair[1] < 0 or pair[0] > m.real_size or pair[1] > m.real_size - pair[0]:
            return u.FAULT_SPARSE
        last = pair[0] + pair[1]
        total += pair[1]
        memcpy(map + 8 * kept, pair, 16)
        kept += 2
    n[0] = kept
    return u.FAULT_NONE if total == m.size else u.FAULT_SPARSE

cdef inline int map_begin(ScanState* s, const uint8_t* h, int64_t size) noexcept nogil:
    if h != s.head:
        memcpy(s.head, h, u.BLOCK)
    s.map_off, s.map_n, s.map_want, s.map_value, s.map_digits = s.used, 0, -1, 0, 0
    s.map_taken, s.map_room, s.fill, s.phase = 0, size, 0, PHASE_MAP
    return st.OK

cdef inline int _map_number(Scan* o) noexcept nogil:
    # a number of a pax 1.0 map is complete: the count of pairs, or one of them
    cdef ScanState* s = o.s
    if s.map_want >= 0:
        memcpy(o.scratch + s.map_off + 8 * s.map_n, &s.map_value, 8)
        s.map_n += 1
        s.used += 8
    else:
        if s.map_value > o.limits.sparse_entries:
            return scan_fail(s, u.FAULT_SPARSE_ENTRIES, s.offset, s.map_value)
        if s.map_value > (s.map_room - s.map_taken) // 4:        # a pair has two digits and two newlines at least
            return scan_fail(s, u.FAULT_SPARSE, s.offset, 0)
        if s.map_value > (o.scratch_cap - s.used) // 16:
            return SCAN_SCRATCH_FULL
        s.map_want = 2 * s.map_value
    s.map_value, s.map_digits = 0, 0
    return st.OK

cdef inline int map_take(Scan* o, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    # decimal numbers, a line each, filled up to a block with NULs
    cdef ScanState* s = o.s
    cdef int rc
    while s.map_n != s.map_want or s.map_taken % u.BLOCK:
        if s.map_taken == s.map_room:
            return scan_fail(s, u.FAULT_SPARSE, s.offset, 0)
        if at[0] == n:
            return st.NEED_INPUT
        if s.map_n != s.map_want:
            if p[at[0]] >= 48 and p[at[0]] <= 57 and s.map_value < FAR // 10 - 1:
                s.map_value = s.map_value * 10 + (p[at[0]] - 48)
                s.map_digits = 1
            elif p[at[0]] == 10 and s.map_digits:
                rc = _map_number(o)
                if rc != st.OK:
                    return rc
            else:
                return scan_fail(s, u.FAULT_SPARSE, s.offset, 0)
        at[0] += 1
        s.map_taken += 1
        s.offset += 1
    s.phase = PHASE_MEMBER
    return st.OK
