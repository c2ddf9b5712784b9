"""Mappings of thin devices as text, as thin_dump and thin_restore 0.9.0 have it: runs to lines, and XML to runs.

``render_runs`` writes lines of runs in the middle of a device; all else of a dump is few lines and the caller's.

``scan_xml`` reads what thin_dump writes, and what people make of it: attributes in any order and in either quotes,
unknown ones passed over, white space, comments, processing instructions, and a declaration, which is not looked at (all
that counts is ASCII). Not DTDs, CDATA, text, entities in numbers, and (as in 0.9.0) shared runs by <def> and <ref>.
Mappings become rows; at any other element the scan stops (SPECIAL), with the element's numbers in the state. Whatever the
buffer ends in the middle of stays unused (``used``) and comes again, before the bytes that follow; a comment may be longer
than any buffer, an element may not.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    LINE_MOST = 160              # bytes of a line of render_runs, at most
    N_ATTRIBUTES = 17

cdef enum Form:
    FORM_XML = 0
    FORM_HUMAN = 1
    FORM_RANGE = 2               # of a delta: where it has data on one side, or the same on both
    FORM_PAIR = 3                # ... other data on either side; ``time`` has the right one's

cdef enum:                       # attributes: where ``values`` has them; "time" of a mapping goes to its row
    A_TIME = 0
    A_TRANSACTION = 1
    A_FLAGS = 2
    A_VERSION = 3
    A_BLOCK_SIZE = 4
    A_NR_BLOCKS = 5
    A_SNAP = 6
    A_DEV_ID = 7
    A_MAPPED = 8
    A_CREATION = 9
    A_SNAP_TIME = 10
    A_ORIGIN_BLOCK = 11
    A_DATA_BLOCK = 12
    A_ORIGIN_BEGIN = 13
    A_DATA_BEGIN = 14
    A_LENGTH = 15
    A_UUID = 16                  # its text is passed over: metadata has no place for it

cdef enum XmlEvent:
    X_SUPERBLOCK = 1             # values: time to metadata_snap
    X_DEVICE = 2                 # values: dev_id to snap_time
    X_DEVICE_END = 3
    X_SUPERBLOCK_END = 4

cdef enum XmlError:
    E_SYNTAX = 1
    E_ROOT = 2                   # another element than <superblock> outside of it
    E_ELEMENT = 3                # unknown
    E_PLACE = 4                  # known, but not there
    E_CLOSE = 5                  # an end of what is not open
    E_TEXT = 6
    E_MISSING = 7                # attribute ``which``
    E_TWICE = 8
    E_NUMBER = 9
    E_DECLARATION = 10           # <!DOCTYPE, <![CDATA[; <?xml not at the very beginning
    E_JUNK = 11                  # after </superblock>
    E_COMMENT = 12               # "--" in one

cdef enum XmlDepth:
    D_NOTHING = 0
    D_SUPERBLOCK = 1
    D_DEVICE = 2
    D_MAPPING = 3
    D_DONE = 4

cdef enum XmlInside:             # what goes over buffers
    I_NOTHING = 0
    I_COMMENT = 1
    I_INSTRUCTION = 2

cdef struct XmlState:            # zeros at the beginning
    int64_t used                 # bytes of the buffer
    int64_t n_rows
    int64_t n_lines              # line ends in all bytes used
    int64_t n_bytes              # bytes used by earlier calls
    int64_t at                   # BAD_FORMAT: the byte of this buffer that is to blame
    uint64_t values[N_ATTRIBUTES]
    uint32_t seen                # bit per attribute: has a value
    int depth
    int inside
    int is_range                 # D_MAPPING: which end is awaited
    int closes                   # a device or superblock without content: its end is to be told
    int event
    int error
    int which

cdef struct XmlRows:
    int64_t* thin
    int64_t* data
    int64_t* length
    int64_t* time
    Py_ssize_t cap

# Write lines of rows [begin, end) to ``out``; return the next row, and how many bytes in ``used``.
cdef Py_ssize_t render_runs(const int64_t* thin, const int64_t* data, const int64_t* length, const int64_t* time,
                            Py_ssize_t begin, Py_ssize_t end, Form form, uint8_t* out, Py_ssize_t n,
                            Py_ssize_t* used) noexcept nogil

# Read ``p[:n]``: NEED_INPUT, OUTPUT_FULL (rows), SPECIAL (st.event), BAD_FORMAT (st.error).
cdef int scan_xml(XmlState* st, const uint8_t* p, Py_ssize_t n, XmlRows* rows) noexcept nogil
