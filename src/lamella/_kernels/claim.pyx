"""Judge rows from the top layer down: see claim.pxd for the contract."""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._index cimport lamella_mix, path_hash
from lamella._kernels._rows cimport F_DOTDOT, F_EXISTED, F_IMPLIED, F_SKIP, Rows, row_link, row_path, rows_acquire, rows_release
from lamella._kernels._status cimport BAD_FORMAT, OK, OUTPUT_FULL, SPECIAL

STATE_NBYTES, NODE_NBYTES = sizeof(ClaimState), sizeof(Node)
RELINK, RESTORE, THROUGH, BELOW, TWICE = WHY_RELINK, WHY_RESTORE, WHY_THROUGH, WHY_BELOW, WHY_TWICE
LINK, MARKER, NAME = WHY_LINK, WHY_MARKER, WHY_NAME
FULL = -1
MAX_LEVEL = 0x7FFF

cdef struct Way:
    # where a walk down a path has come to
    int32_t node
    int16_t hidden           # layers below this one do not show it


# -- nodes ---------------------------------------------------------------------------------------------------------

cdef uint64_t _hash(Claims* c, int32_t parent, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    return lamella_mix(path_hash(p, n, c.seed) ^ <uint64_t>(parent + 1), 0x9E3779B97F4A7C15ULL) & c.mask


cdef int32_t _child(Claims* c, int32_t parent, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Find the node ``p[:n]`` of ``parent``, or make it; -1: no room."""
    cdef uint64_t at = _hash(c, parent, p, n), probes = 0
    cdef Node* node
    cdef int64_t i
    while c.slots[at] != 0 and probes <= c.mask:
        i = <int64_t>c.slots[at] - 1
        if i < c.nodes_cap:
            node = &c.nodes[i]
            if (node.parent == parent and node.name_len == n and 0 <= node.name_off <= c.names_cap - n
                    and memcmp(c.names + node.name_off, p, n) == 0):
                return <int32_t>i
        at = (at + 1) & c.mask
        probes += 1
    i = c.st.n_nodes
    if not 0 <= i < c.nodes_cap or <uint64_t>(4 * (i + 2)) > 3 * c.mask or n > 0xFFFF or c.slots[at] != 0:
        return -1
    if not 0 <= c.st.names_used <= c.names_cap - n:
        return -1
    node = &c.nodes[i]
    node.name_off, node.name_len, node.parent = c.st.names_used, <uint16_t>n, parent
    node.row = node.meta = -1
    node.level = node.through = -1
    node.hide = node.hide_kids = 0
    node.is_dir = node.made = node.needed = 0
    memcpy(c.names + c.st.names_used, p, n)
    c.st.names_used += n
    c.st.n_nodes += 1
    c.slots[at] = <uint32_t>(i + 1)
    return <int32_t>i


cdef bint _has_room(Claims* c, Py_ssize_t n) noexcept nogil:
    """Tell whether names of ``n`` bytes, with their slashes, fit whatever they are: a row is judged once."""
    cdef int64_t nodes = c.st.n_nodes + <int64_t>n // 2 + 2
    return nodes <= c.nodes_cap and <uint64_t>(4 * nodes) <= 3 * c.mask and 0 <= c.st.names_used <= c.names_cap - n


cdef inline int16_t _most(int16_t a, int16_t b) noexcept nogil:
    return a if a > b else b


cdef int _special(Claims* c, int reason) noexcept nogil:
    c.st.reason = reason
    return SPECIAL


cdef int _walk(Claims* c, const uint8_t* p, Py_ssize_t n, bint needs, Way* way) noexcept nogil:
    """Go down to the directory ``p[:n]``, noting that this layer goes through it, or needs it; a Status."""
    cdef Py_ssize_t begin = 0, end
    cdef Node* node
    way.node, way.hidden = 0, 0
    while begin < n:
        end = begin
        while end < n and p[end] != 47:
            end += 1
        if end - begin >= 4 and memcmp(p + begin, b".wh.", 4) == 0:
            return _special(c, WHY_MARKER)
        way.hidden = _most(way.hidden, c.nodes[way.node].hide_kids)
        way.node = _child(c, way.node, p + begin, end - begin)
        if way.node < 0:
            return OUTPUT_FULL
        node = &c.nodes[way.node]
        way.hidden = _most(way.hidden, node.hide)
        if node.level == c.level and not node.is_dir:
            return _special(c, WHY_BELOW)
        if node.level != c.level:
            node.through = c.level
        if needs and way.hidden <= c.level:
            node.needed = 1
        begin = end + 1
    return OK


# -- rows ----------------------------------------------------------------------------------------------------------

cdef int _marker(Claims* c, Py_ssize_t row, const Way* dir, const uint8_t* name, Py_ssize_t n) noexcept nogil:
    """A whiteout or an opaque marker: what lower layers do not show."""
    cdef int32_t at
    c.rows.flags[row] |= F_SKIP
    if n == 12 and memcmp(name, b".wh..wh..opq", 12) == 0:
        c.nodes[dir.node].hide_kids = _most(c.nodes[dir.node].hide_kids, c.level)
        c.st.n_opaques += 1
        return OK
    if n == 4 or (n == 5 and name[4] == 46) or (n == 6 and name[4] == 46 and name[5] == 46) or (
            n >= 8 and memcmp(name + 4, b".wh.", 4) == 0):
        return _special(c, WHY_MARKER)
    at = _child(c, dir.node, name + 4, n - 4)
    if at < 0:
        return OUTPUT_FULL
    c.nodes[at].hide = _most(c.nodes[at].hide, c.level)
    c.st.n_whiteouts += 1
    return OK


cdef int _dir(Claims* c, Py_ssize_t row, Node* node, bint seen) noexcept nogil:
    if node.level == c.level and not node.is_dir:
        return _special(c, WHY_TWICE)
    if node.through > c.level:
        node.through = -1                       # what went through it went into this directory
    if seen and node.made == 0:
        node.made, node.meta = 1, <int32_t>row
    else:
        c.rows.flags[row] |= F_SKIP | (F_EXISTED if seen else 0)
        if seen and (node.meta < 0 or (node.level == c.level and node.meta == node.row)):
            node.meta = <int32_t>row            # made without entry so far, or twice in one layer
    node.level, node.row, node.is_dir = c.level, <int32_t>row, 1
    return OK


cdef int _link(Claims* c, Py_ssize_t row, bint seen) noexcept nogil:
    """A hard link: which row made, or would have made, its inode."""
    cdef const uint8_t* p
    cdef Py_ssize_t n, slash
    cdef Way way
    cdef int32_t at
    cdef Node* node
    cdef int got
    if row_link(c.rows, row, &p, &n) < 0 or n == 0:
        return _special(c, WHY_LINK)
    slash = n - 1
    while slash >= 0 and p[slash] != 47:
        slash -= 1
    got = _walk(c, p, slash if slash > 0 else 0, False, &way)
    if got != OK:
        return got
    at = _child(c, way.node, p + slash + 1, n - slash - 1)
    if at < 0:
        return OUTPUT_FULL
    node = &c.nodes[at]
    if node.level != c.level or node.is_dir or not 0 <= node.row < row:
        return _special(c, WHY_LINK)
    c.origin[row] = c.origin[node.row]
    if not seen or not c.rows.flags[node.row] & F_SKIP:
        return OK
    c.st.source = c.origin[row]
    if not 0 <= c.st.source < row:
        return BAD_FORMAT
    return _special(c, WHY_RESTORE if c.rows.flags[c.st.source] & F_SKIP else WHY_RELINK)


cdef int _other(Claims* c, Py_ssize_t row, int32_t at, int16_t hidden) noexcept nogil:
    """A row that is no directory."""
    cdef Node* node = &c.nodes[at]
    cdef bint seen = hidden <= c.level and node.made == 0
    cdef int got = OK
    if node.level == c.level:
        return _special(c, WHY_TWICE)
    # what a higher layer hid is not what a still higher one went through
    if node.through >= 0 and not c.level < hidden < node.through:
        return _special(c, WHY_THROUGH)
    c.origin[row] = <int32_t>row
    if c.rows.type[row] == 49:
        got = _link(c, row, seen)
        if got != OK and not (got == SPECIAL and c.st.reason <= WHY_RESTORE):
            return got
        node = &c.nodes[at]
    if seen:
        node.made = 2
    if not seen or (got == SPECIAL and c.st.reason == WHY_RESTORE):
        c.rows.flags[row] |= F_SKIP
    node.hide = _most(node.hide, c.level)
    node.level, node.row, node.is_dir = c.level, <int32_t>row, 0
    return got


cdef void _make_above(Claims* c, int32_t node) noexcept nogil:
    """Note that the directories down to ``node`` are there."""
    while 0 < node < c.nodes_cap and c.nodes[node].made == 0:
        c.nodes[node].made = 1
        node = c.nodes[node].parent


cdef int _claim(Claims* c, Py_ssize_t row) noexcept nogil:
    cdef const uint8_t* p
    cdef Py_ssize_t n, slash
    cdef Way way
    cdef int32_t at
    cdef int16_t hidden
    cdef bint is_marker
    cdef int got
    if row_path(c.rows, row, &p, &n) < 0:
        return BAD_FORMAT
    if not _has_room(c, n + c.rows.link_len[row]):
        return OUTPUT_FULL
    if c.rows.flags[row] & F_DOTDOT or (n == 0 and c.rows.type[row] != 53):
        return _special(c, WHY_NAME)
    slash = n - 1
    while slash >= 0 and p[slash] != 47:
        slash -= 1
    is_marker = n - slash - 1 >= 4 and memcmp(p + slash + 1, b".wh.", 4) == 0
    got = _walk(c, p, slash if slash > 0 else 0, not is_marker, &way)
    if got != OK:
        return got
    if is_marker:
        return _marker(c, row, &way, p + slash + 1, n - slash - 1)
    at = 0
    if n > 0:
        at = _child(c, way.node, p + slash + 1, n - slash - 1)
        if at < 0:
            return OUTPUT_FULL
    hidden = _most(way.hidden, c.nodes[at].hide)
    if n > 0:
        hidden = _most(hidden, c.nodes[way.node].hide_kids)
    if c.rows.type[row] == 53:
        got = _dir(c, row, &c.nodes[at], hidden <= c.level)
    else:
        got = _other(c, row, at, hidden)
    # what is restored at the end finds its directories then
    if hidden <= c.level and c.nodes[at].made != 0 and not (got == SPECIAL and c.st.reason == WHY_RESTORE):
        _make_above(c, way.node)
    return got


cdef int claim_rows(Claims* c, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef int got
    c.st.row = begin
    while c.st.row < end:
        if not c.rows.flags[c.st.row] & F_IMPLIED:
            got = _claim(c, c.st.row)
            if got != OK:
                return got
        c.st.row += 1
    return OK


# -- the Python side -----------------------------------------------------------------------------------------------

cdef int _open(Claims* c, uint8_t[::1] state, uint8_t[::1] nodes, uint32_t[::1] slots, uint64_t seed,
               uint8_t[::1] names) except -1:
    cdef Py_ssize_t n = slots.shape[0]
    if state.shape[0] < <Py_ssize_t>sizeof(ClaimState):
        raise ValueError(f"a state has {sizeof(ClaimState)} bytes")
    if n < 4 or n & (n - 1) or names.shape[0] < 1 or nodes.shape[0] < <Py_ssize_t>sizeof(Node):
        raise ValueError("claims want a power of two of slots, and room for a node and a name")
    c.st = <ClaimState*>&state[0]
    c.nodes, c.nodes_cap = <Node*>&nodes[0], nodes.shape[0] // <Py_ssize_t>sizeof(Node)
    c.slots, c.mask, c.seed = &slots[0], <uint64_t>(n - 1), seed
    c.names, c.names_cap = &names[0], names.shape[0]
    if not 1 <= c.st.n_nodes <= c.nodes_cap or not 0 <= c.st.names_used <= c.names_cap:
        raise ValueError("not a state of open_claims(), or smaller memory than it had")
    return 0


def open_claims(uint8_t[::1] state not None, uint8_t[::1] nodes not None):
    """Begin with the root's node alone; ``state`` has STATE_NBYTES bytes, ``nodes`` NODE_NBYTES for each."""
    cdef ClaimState* st
    cdef Node* root
    if state.shape[0] < <Py_ssize_t>sizeof(ClaimState) or nodes.shape[0] < <Py_ssize_t>sizeof(Node):
        raise ValueError(f"a state has {sizeof(ClaimState)} bytes, a node {sizeof(Node)}")
    state[:] = 0
    nodes[:sizeof(Node)] = 0
    st = <ClaimState*>&state[0]
    root = <Node*>&nodes[0]
    st.n_nodes = 1
    root.parent = root.row = root.meta = -1
    root.level = root.through = -1
    root.made = 1


def claim(uint8_t[::1] state not None, uint8_t[::1] nodes not None, uint32_t[::1] slots not None, uint64_t seed,
          uint8_t[::1] names not None, tuple columns not None, int32_t[::1] origin not None, Py_ssize_t begin,
          Py_ssize_t end, int level):
    """Judge rows [begin, end) of layer ``level``; return (next row, reason or 0 or FULL, source row or -1).

    Reason 0: all judged. RELINK and RESTORE concern the row that is returned; go on behind it. FULL: nodes, slots (through
    refill()) or names are; make more room and call again from the row returned.
    """
    cdef Claims c
    cdef Rows rows
    cdef int got
    _open(&c, state, nodes, slots, seed, names)
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level {level}")
    rows_acquire(&rows, columns, True)
    try:
        if begin < 0 or end < begin or end > rows.cap or end > origin.shape[0]:
            raise ValueError(f"rows [{begin}, {end}) of {rows.cap}")
        c.rows, c.level = &rows, <int16_t>level
        c.origin, c.origin_cap = &origin[0] if origin.shape[0] else NULL, origin.shape[0]
        with nogil:
            got = claim_rows(&c, begin, end)
    finally:
        rows_release(&rows)
    if got == BAD_FORMAT:
        raise ValueError(f"row {c.st.row} does not fit its table")
    if got == OUTPUT_FULL:
        return c.st.row, FULL, -1
    return c.st.row, c.st.reason if got == SPECIAL else 0, c.st.source if got == SPECIAL else -1


def refill(uint8_t[::1] state not None, uint8_t[::1] nodes not None, uint32_t[::1] slots not None, uint64_t seed,
           uint8_t[::1] names not None):
    """Enter every node into ``slots``, which are zeros and large enough."""
    cdef Claims c
    cdef Py_ssize_t i
    cdef uint64_t at
    cdef Node* node
    _open(&c, state, nodes, slots, seed, names)
    if <uint64_t>(4 * (c.st.n_nodes + 1)) > 3 * c.mask:
        raise ValueError("the slots cannot hold the nodes")
    with nogil:
        for i in range(1, c.st.n_nodes):
            node = &c.nodes[i]
            if 0 <= node.name_off <= c.names_cap - node.name_len:
                at = _hash(&c, node.parent, c.names + node.name_off, node.name_len)
                while c.slots[at] != 0:
                    at = (at + 1) & c.mask
                c.slots[at] = <uint32_t>(i + 1)


def counts(uint8_t[::1] state not None):
    """Return and reset (whiteouts, opaque markers) since the last call."""
    cdef ClaimState* st
    if state.shape[0] < <Py_ssize_t>sizeof(ClaimState):
        raise ValueError(f"a state has {sizeof(ClaimState)} bytes")
    st = <ClaimState*>&state[0]
    got = st.n_whiteouts, st.n_opaques
    st.n_whiteouts = st.n_opaques = 0
    return got


def missing(uint8_t[::1] state not None, uint8_t[::1] nodes not None, uint8_t[::1] names not None):
    """Return the paths of directories that no row gives and that are there all the same: what was in them is hidden."""
    cdef Claims c
    cdef uint32_t slots[4]
    cdef Py_ssize_t i
    cdef int64_t at
    cdef Node* node
    _open(&c, state, nodes, <uint32_t[:4]>slots, 0, names)
    paths = []
    for i in range(1, c.st.n_nodes):
        if c.nodes[i].made != 0 or not c.nodes[i].needed:
            continue
        parts, at = [], i
        while at > 0:
            node = &c.nodes[at]
            if not -1 <= node.parent < at or not 0 <= node.name_off <= c.names_cap - node.name_len:
                raise ValueError(f"node {at} is not of claim()")
            parts.append(c.names[node.name_off:node.name_off + node.name_len])
            at = node.parent
        paths.append(b"/".join(reversed(parts)))
    return paths


def directories(uint8_t[::1] state not None, uint8_t[::1] nodes not None, int64_t[::1] out not None):
    """Write the rows that give directories their metadata to ``out``, in no order; return how many. ValueError: no room."""
    cdef ClaimState* st = <ClaimState*>&state[0]
    cdef Node* node = <Node*>&nodes[0]
    cdef Py_ssize_t i, n = 0
    if (state.shape[0] < <Py_ssize_t>sizeof(ClaimState)
            or not 0 <= st.n_nodes <= nodes.shape[0] // <Py_ssize_t>sizeof(Node)):
        raise ValueError("not a state of open_claims(), or smaller memory than it had")
    for i in range(st.n_nodes):
        if node[i].made == 1 and node[i].meta >= 0:
            if n == out.shape[0]:
                raise ValueError(f"more than {n} directories")
            out[n] = node[i].meta
            n += 1
    return n
