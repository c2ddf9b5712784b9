"""Runs to text and text to runs: see thinxml.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from lamella._kernels._status cimport BAD_FORMAT, NEED_INPUT, OK, OUTPUT_FULL, SPECIAL
from lamella._kernels._thinlines cimport lam_human_line, lam_pair_line, lam_range_line, lam_xml_line

STATE_NBYTES, LINE_NBYTES = sizeof(XmlState), LINE_MOST
XML, HUMAN, RANGE, PAIR = FORM_XML, FORM_HUMAN, FORM_RANGE, FORM_PAIR
MORE, FULL = 0, -1
SUPERBLOCK, DEVICE, DEVICE_END, SUPERBLOCK_END = X_SUPERBLOCK, X_DEVICE, X_DEVICE_END, X_SUPERBLOCK_END

cdef enum:
    TIME_MOST = (1 << 24) - 1
    NEAR = 192               # the longest mapping as thin_dump writes it is shorter
    UNSAID = 99              # an attribute that means nothing
    NARROW = 1 << A_TIME | 1 << A_FLAGS | 1 << A_VERSION | 1 << A_BLOCK_SIZE | 1 << A_CREATION | 1 << A_SNAP_TIME

cdef extern from *:
    """
    static inline const uint8_t *lam_after(const uint8_t *p, const char *text, size_t n) {
        return memcmp(p, text, n) == 0 ? p + n : NULL;
    }
    #define LAM_AFTER(p, text) lam_after(p, text, sizeof(text) - 1)
    static inline const uint8_t *lam_digits(const uint8_t *p, int64_t *v) {
        /* one to eighteen digits, which no int64 is too small for; NULL for anything else */
        const uint8_t *begin = p;
        uint64_t n = 0;
        unsigned digit;
        while ((digit = *p - (unsigned)'0') < 10 && p < begin + 18) { n = n * 10 + digit; p++; }
        *v = (int64_t)n;
        return p == begin || digit < 10 ? NULL : p;
    }
    static const uint8_t *lam_mapping(const uint8_t *p, int64_t row[4]) {
        /* a mapping just as thin_dump writes it, NEAR bytes readable; what is behind it, NULL for anything else */
        const uint8_t *q = LAM_AFTER(p, "<single_mapping origin_block=\\"");
        row[2] = 1;
        if (q) {
            if (!(q = lam_digits(q, row)) || !(q = LAM_AFTER(q, "\\" data_block=\\"")) || !(q = lam_digits(q, row + 1)))
                return NULL;
        } else if (!(q = LAM_AFTER(p, "<range_mapping origin_begin=\\"")) || !(q = lam_digits(q, row))
                   || !(q = LAM_AFTER(q, "\\" data_begin=\\"")) || !(q = lam_digits(q, row + 1))
                   || !(q = LAM_AFTER(q, "\\" length=\\"")) || !(q = lam_digits(q, row + 2)))
            return NULL;
        if (!(q = LAM_AFTER(q, "\\" time=\\"")) || !(q = lam_digits(q, row + 3)) || row[2] == 0) return NULL;
        return row[3] < 1 << 24 ? LAM_AFTER(q, "\\"/>") : NULL;
    }
    static const struct { const char *name; int attribute; } lam_names[] = {
        {"time", 0}, {"transaction", 1}, {"flags", 2}, {"version", 3}, {"data_block_size", 4}, {"nr_data_blocks", 5},
        {"metadata_snap", 6}, {"dev_id", 7}, {"mapped_blocks", 8}, {"creation_time", 9}, {"snap_time", 10},
        {"origin_block", 11}, {"data_block", 12}, {"origin_begin", 13}, {"data_begin", 14}, {"length", 15}, {"uuid", 16}};
    static int lam_attribute(const uint8_t *p, long n) {
        size_t i;
        for (i = 0; i < sizeof lam_names / sizeof *lam_names; i++)
            if (strlen(lam_names[i].name) == (size_t)n && memcmp(lam_names[i].name, p, n) == 0) return lam_names[i].attribute;
        return 99;
    }
    """
    const uint8_t* lam_mapping(const uint8_t* p, int64_t* row) noexcept nogil
    int lam_attribute(const uint8_t* p, long n) noexcept nogil


# -- runs to text --------------------------------------------------------------------------------------------------

cdef Py_ssize_t render_runs(const int64_t* thin, const int64_t* data, const int64_t* length, const int64_t* time,
                            Py_ssize_t begin, Py_ssize_t end, Form form, uint8_t* out, Py_ssize_t n,
                            Py_ssize_t* used) noexcept nogil:
    cdef uint8_t* o = out
    while begin < end and n - (o - out) >= LINE_MOST:
        if form == FORM_XML:
            o = lam_xml_line(o, thin[begin], data[begin], length[begin], time[begin])
        elif form == FORM_HUMAN:
            o = lam_human_line(o, thin[begin], data[begin], length[begin], time[begin])
        elif form == FORM_RANGE:
            o = lam_range_line(o, thin[begin], data[begin], length[begin])
        else:
            o = lam_pair_line(o, thin[begin], data[begin], time[begin], length[begin])
        begin += 1
    used[0] = o - out
    return begin


# -- text to runs --------------------------------------------------------------------------------------------------

cdef inline bint _is_space(uint8_t c) noexcept nogil:
    return c == 32 or c == 10 or c == 9 or c == 13


cdef inline bint _is_name(uint8_t c) noexcept nogil:
    return 97 <= (c | 32) <= 122 or 48 <= c <= 58 or c == 95 or c == 45 or c == 46 or c >= 128


cdef int _fail(XmlState* st, Py_ssize_t at, int error) noexcept nogil:
    st.at, st.error = at, error
    return BAD_FORMAT


cdef void _use(XmlState* st, const uint8_t* p, Py_ssize_t upto) noexcept nogil:
    """Take bytes as used, and count their lines."""
    cdef const void* found
    while st.used < upto:
        found = memchr(p + st.used, 10, upto - st.used)
        if found == NULL:
            break
        st.n_lines += 1
        st.used = <const uint8_t*>found - p + 1
    st.used = upto


cdef int _pass_over(XmlState* st, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Go to the end of a comment or an instruction; OK, or NEED_INPUT where it is not there."""
    cdef Py_ssize_t i = st.used
    if st.inside == I_INSTRUCTION:
        while i + 1 < n and not (p[i] == 63 and p[i + 1] == 62):
            i += 1
        if i + 1 >= n:
            _use(st, p, i)
            return NEED_INPUT
        i += 2
    else:
        while i + 2 < n and not (p[i] == 45 and p[i + 1] == 45):
            i += 1
        if i + 2 >= n:
            _use(st, p, i)
            return NEED_INPUT
        if p[i + 2] != 62:
            return _fail(st, i, E_COMMENT)
        i += 3
    _use(st, p, i)
    st.inside = I_NOTHING
    return OK


cdef int _number(XmlState* st, const uint8_t* p, Py_ssize_t begin, Py_ssize_t end, int attribute) noexcept nogil:
    """Keep the value of an attribute."""
    cdef uint64_t v = 0, most = <uint64_t>1 << 63
    cdef Py_ssize_t i
    st.which = attribute
    if st.seen >> attribute & 1:
        return _fail(st, begin, E_TWICE)
    st.seen |= <uint32_t>1 << attribute
    if attribute == A_UUID:
        return OK
    if begin == end:
        return _fail(st, begin, E_NUMBER)
    for i in range(begin, end):
        if not 48 <= p[i] <= 57 or v >= most // 10:
            return _fail(st, begin, E_NUMBER)
        v = v * 10 + (p[i] - 48)
    if v >> 32 and <uint32_t>1 << attribute & NARROW:
        return _fail(st, begin, E_NUMBER)
    st.values[attribute] = v
    return OK


cdef inline Py_ssize_t _behind_space(const uint8_t* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and _is_space(p[i]):
        i += 1
    return i


cdef inline Py_ssize_t _behind_name(const uint8_t* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and _is_name(p[i]):
        i += 1
    return i


cdef int _attribute(XmlState* st, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    """Read the attribute at ``at``, and move behind it; NEED_INPUT where the buffer ends before."""
    cdef Py_ssize_t name = at[0], name_end = _behind_name(p, name, n), value, end, i = _behind_space(p, name_end, n)
    cdef int attribute
    if i < n and (name_end == name or 45 <= p[name] <= 57 or p[i] != 61):
        return _fail(st, i, E_SYNTAX)
    i = _behind_space(p, i + 1, n)
    if i >= n:
        return NEED_INPUT
    if p[i] != 34 and p[i] != 39:
        return _fail(st, i, E_SYNTAX)
    value = end = i + 1
    while end < n and p[end] != p[i] and p[end] != 60:
        end += 1
    if end >= n:
        return NEED_INPUT
    if p[end] == 60:
        return _fail(st, end, E_SYNTAX)
    at[0] = end + 1
    attribute = lam_attribute(p + name, name_end - name)
    return OK if attribute == UNSAID else _number(st, p, value, end, attribute)


cdef int _attributes(XmlState* st, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at, bint* closed) noexcept nogil:
    """Read attributes from ``at`` to behind the element's end; NEED_INPUT where the buffer ends before."""
    cdef Py_ssize_t i
    cdef int got = OK
    st.seen = 0
    while got == OK:
        i = _behind_space(p, at[0], n)
        closed[0] = i < n and p[i] == 47
        i += closed[0]
        if i >= n:
            return NEED_INPUT
        if p[i] == 62:
            at[0] = i + 1
            return OK
        if closed[0] or i == at[0]:
            return _fail(st, i, E_SYNTAX)
        at[0] = i
        got = _attribute(st, p, n, at)
    return got


cdef int _wants(XmlState* st, Py_ssize_t at, uint32_t wanted) noexcept nogil:
    """Check that the attributes ``wanted`` are there."""
    cdef uint32_t absent = wanted & ~st.seen
    if absent == 0:
        return OK
    st.which = 0
    while not absent >> st.which & 1:
        st.which += 1
    return _fail(st, at, E_MISSING)


cdef int _row(XmlState* st, Py_ssize_t at, XmlRows* rows) noexcept nogil:
    """Make a row of a mapping's attributes."""
    cdef uint64_t* v = st.values
    cdef uint64_t thin, data, length = 1
    cdef uint64_t most = (<uint64_t>1 << 63) - 1
    cdef int got
    if st.is_range:
        got = _wants(st, at, 1 << A_ORIGIN_BEGIN | 1 << A_DATA_BEGIN | 1 << A_LENGTH | 1 << A_TIME)
        thin, data, length = v[A_ORIGIN_BEGIN], v[A_DATA_BEGIN], v[A_LENGTH]
        st.which = A_LENGTH
    else:
        got = _wants(st, at, 1 << A_ORIGIN_BLOCK | 1 << A_DATA_BLOCK | 1 << A_TIME)
        thin, data = v[A_ORIGIN_BLOCK], v[A_DATA_BLOCK]
    if got != OK:
        return got
    if v[A_TIME] > TIME_MOST:
        st.which = A_TIME
        return _fail(st, at, E_NUMBER)
    if length > most - thin or length > most - data:
        return _fail(st, at, E_NUMBER)
    if length:
        rows.thin[st.n_rows], rows.data[st.n_rows] = <int64_t>thin, <int64_t>data
        rows.length[st.n_rows], rows.time[st.n_rows] = <int64_t>length, <int64_t>v[A_TIME]
        st.n_rows += 1
    return OK


cdef int _told(XmlState* st, int event, int depth) noexcept nogil:
    st.event, st.depth = event, depth
    return SPECIAL


cdef int _depth_of(const uint8_t* p, Py_ssize_t n, int* is_range) noexcept nogil:
    """Tell how deep an element of that name is; D_NOTHING for one that is not known."""
    is_range[0] = n == 13 and memcmp(p, b"range_mapping", n) == 0
    if is_range[0] or (n == 14 and memcmp(p, b"single_mapping", n) == 0):
        return D_MAPPING
    if n == 6 and memcmp(p, b"device", n) == 0:
        return D_DEVICE
    return D_SUPERBLOCK if n == 10 and memcmp(p, b"superblock", n) == 0 else D_NOTHING


cdef int _place_error(int depth, int element) noexcept nogil:
    """Tell what is wrong with an element at a depth; 0: nothing."""
    if depth == D_DONE:
        return E_JUNK
    if depth == D_NOTHING:
        return 0 if element == D_SUPERBLOCK else E_ROOT
    if element == D_NOTHING:
        return E_ELEMENT
    return 0 if element == depth + 1 else E_PLACE


cdef int _open(XmlState* st, const uint8_t* p, Py_ssize_t n, XmlRows* rows) noexcept nogil:
    """An element that begins at ``st.used``."""
    cdef Py_ssize_t begin = st.used + 1, i = _behind_name(p, begin, n), start = st.used
    cdef bint closed = False
    cdef int element = _depth_of(p + begin, i - begin, &st.is_range) if st.depth != D_MAPPING else D_MAPPING
    cdef int error = _place_error(st.depth, element) if i > begin else E_SYNTAX, got
    if i == n:
        return NEED_INPUT
    got = _attributes(st, p, n, &i, &closed)
    if got == NEED_INPUT:
        return got
    if error:
        return _fail(st, begin if error == E_SYNTAX else start, error)
    if got != OK:
        return got
    if element == D_MAPPING:
        if st.n_rows >= rows.cap:
            return OUTPUT_FULL
        got = _row(st, start, rows)
    elif element == D_DEVICE:
        got = _wants(st, start, 1 << A_DEV_ID | 1 << A_MAPPED | 1 << A_TRANSACTION | 1 << A_CREATION | 1 << A_SNAP_TIME)
    else:
        got = _wants(st, start, 1 << A_TIME | 1 << A_TRANSACTION | 1 << A_BLOCK_SIZE | 1 << A_NR_BLOCKS)
    if got != OK:
        return got
    _use(st, p, i)
    if element == D_MAPPING:
        st.depth = D_DEVICE if closed else D_MAPPING
        return OK
    st.closes = closed
    return _told(st, X_DEVICE if element == D_DEVICE else X_SUPERBLOCK, element)


cdef int _close(XmlState* st, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """An end tag at ``st.used``."""
    cdef Py_ssize_t begin = st.used + 2, size = _behind_name(p, begin, n) - begin, i = _behind_space(p, begin + size, n)
    cdef int is_range, element = _depth_of(p + begin, size, &is_range)
    if i >= n:
        return NEED_INPUT
    if p[i] != 62:
        return _fail(st, i, E_SYNTAX)
    if element == D_NOTHING or element != st.depth or (element == D_MAPPING and is_range != st.is_range):
        return _fail(st, st.used, E_JUNK if st.depth == D_DONE else E_CLOSE)
    _use(st, p, i + 1)
    if st.depth == D_MAPPING:
        st.depth = D_DEVICE
        return OK
    return _told(st, X_DEVICE_END, D_SUPERBLOCK) if st.depth == D_DEVICE else _told(st, X_SUPERBLOCK_END, D_DONE)


cdef int _declaration(XmlState* st, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """What begins with <! or <? at ``st.used``."""
    cdef Py_ssize_t left = n - st.used, i
    cdef const uint8_t* q = p + st.used
    if q[1] == 33:
        if memcmp(q, b"<!--", min(left, 4)) != 0:
            return _fail(st, st.used, E_DECLARATION)
        if left < 4:
            return NEED_INPUT
        st.inside = I_COMMENT
        _use(st, p, st.used + 4)
        return OK
    i = _behind_name(q, 2, left)
    if i + 1 >= left:
        return NEED_INPUT
    if i == 2 or 45 <= q[2] <= 57 or not (_is_space(q[i]) or (q[i] == 63 and q[i + 1] == 62)):
        return _fail(st, st.used, E_SYNTAX)
    if i == 5 and memcmp(q, b"<?xml", 5) == 0 and st.n_bytes + st.used > 0:
        return _fail(st, st.used, E_DECLARATION)
    st.inside = I_INSTRUCTION
    _use(st, p, st.used + i)
    return OK


cdef int _next(XmlState* st, const uint8_t* p, Py_ssize_t n, XmlRows* rows) noexcept nogil:
    """Take one thing that begins at ``st.used``."""
    if p[st.used] != 60:
        return _fail(st, st.used, E_JUNK if st.depth == D_DONE else E_TEXT)
    if st.used + 1 >= n:
        return NEED_INPUT
    if p[st.used + 1] == 33 or p[st.used + 1] == 63:
        return _declaration(st, p, n)
    if p[st.used + 1] == 47:
        return _close(st, p, n)
    return _open(st, p, n, rows)


cdef int scan_xml(XmlState* st, const uint8_t* p, Py_ssize_t n, XmlRows* rows) noexcept nogil:
    cdef int64_t row[4]
    cdef const uint8_t* after
    cdef int got = OK
    st.used = st.n_rows = 0
    if st.closes:
        st.closes = 0
        return _told(st, X_DEVICE_END, D_SUPERBLOCK) if st.depth == D_DEVICE else _told(st, X_SUPERBLOCK_END, D_DONE)
    while got == OK:
        if st.inside != I_NOTHING:
            got = _pass_over(st, p, n)
            continue
        while st.used < n and _is_space(p[st.used]):
            st.n_lines += p[st.used] == 10
            st.used += 1
        if st.used >= n:
            return NEED_INPUT
        if st.depth == D_DEVICE and n - st.used >= NEAR and st.n_rows < rows.cap:
            after = lam_mapping(p + st.used, row)
            if after != NULL:
                rows.thin[st.n_rows], rows.data[st.n_rows] = row[0], row[1]
                rows.length[st.n_rows], rows.time[st.n_rows] = row[2], row[3]
                st.n_rows += 1
                st.used = after - p
                continue
        got = _next(st, p, n, rows)
    return got


# -- the Python side -----------------------------------------------------------------------------------------------

NAMES = ("time", "transaction", "flags", "version", "data_block_size", "nr_data_blocks", "metadata_snap", "dev_id",
         "mapped_blocks", "creation_time", "snap_time", "origin_block", "data_block", "origin_begin", "data_begin",
         "length", "uuid")
WORDS = {
    E_SYNTAX: "not well-formed", E_ROOT: "missing superblock", E_ELEMENT: "unknown element",
    E_PLACE: "an element that does not belong there", E_CLOSE: "the end of an element that is not open",
    E_TEXT: "text where there is none to be", E_MISSING: "could not find attribute: {}", E_TWICE: "attribute {} twice",
    E_NUMBER: "no number that can be: {}", E_DECLARATION: "a declaration that is not read here",
    E_JUNK: "junk after the superblock", E_COMMENT: "two hyphens in a comment",
}


cdef XmlState* _state(uint8_t[::1] state) except NULL:
    cdef XmlState* st
    if state.shape[0] < <Py_ssize_t>sizeof(XmlState):
        raise ValueError(f"a state has {sizeof(XmlState)} bytes")
    st = <XmlState*>&state[0]
    return st


def render(const int64_t[::1] thin not None, const int64_t[::1] data not None, const int64_t[::1] length not None,
           const int64_t[::1] time not None, Py_ssize_t begin, Form form, uint8_t[::1] out not None):
    """Write the lines of runs from row ``begin`` on; return (next row, bytes written). Room: LINE_NBYTES for a row."""
    cdef Py_ssize_t n = thin.shape[0], used = 0
    if data.shape[0] != n or length.shape[0] != n or time.shape[0] != n or not 0 <= begin <= n:
        raise ValueError(f"row {begin} of columns that are of one length")
    if out.shape[0] < LINE_MOST:
        raise ValueError(f"no room for a line of {LINE_NBYTES} bytes")
    if begin == n:
        return n, 0
    with nogil:
        begin = render_runs(&thin[0], &data[0], &length[0], &time[0], begin, n, form, &out[0], out.shape[0], &used)
    return begin, used


def scan(uint8_t[::1] state not None, const uint8_t[::1] buffer not None, int64_t[::1] thin not None,
         int64_t[::1] data not None, int64_t[::1] length not None, int64_t[::1] time not None):
    """Read XML; return (bytes used, rows written, what is met): MORE, FULL, or an element whose numbers values() has.

    Rows stand before the element in the text. FormatError: what is wrong, in which line, at which byte of all.
    """
    from lamella.errors import FormatError
    cdef XmlState* st = _state(state)
    cdef XmlRows rows
    cdef Py_ssize_t n = buffer.shape[0]
    cdef int got
    cdef uint8_t nothing = 0
    rows.cap = thin.shape[0]
    if rows.cap < 1 or data.shape[0] != rows.cap or length.shape[0] != rows.cap or time.shape[0] != rows.cap:
        raise ValueError("output columns are of one length, at least 1")
    rows.thin, rows.data, rows.length, rows.time = &thin[0], &data[0], &length[0], &time[0]
    with nogil:
        got = scan_xml(st, &buffer[0] if n else &nothing, n, &rows)
    if got == BAD_FORMAT:
        _use(st, &buffer[0], min(max(st.at, st.used), n))
        what = WORDS[st.error].format(NAMES[st.which] if 0 <= st.which < N_ATTRIBUTES else "")
        raise FormatError(f"line {st.n_lines + 1}: {what}", offset=st.n_bytes + st.at)
    st.n_bytes += st.used
    return st.used, st.n_rows, st.event if got == SPECIAL else FULL if got == OUTPUT_FULL else MORE


def values(uint8_t[::1] state not None):
    """Return the numbers of the last element by the names of their attributes."""
    cdef XmlState* st = _state(state)
    return {NAMES[i]: st.values[i] for i in range(A_UUID) if st.seen >> i & 1}


def is_done(uint8_t[::1] state not None):
    """Tell whether the superblock has ended, and no comment is open."""
    cdef XmlState* st = _state(state)
    return st.depth == D_DONE and st.inside == I_NOTHING
