"""Maps as extents: look blocks up, lay one map over another, take ranges out, tell two maps apart.

A map is columns ``thin data length time`` of int64 with a row a run: thin block ``thin + i`` lies at data block ``data + i``
for i below ``length``. Rows ascend and do not overlap. Columns in another order give answers without meaning, but end, and
touch nothing outside: sums are made without sign, and every step goes on by a row or a block.

``splice_maps`` and ``classify_maps`` write rows until the output is full, and go on from their state: OUTPUT_FULL, or OK.
Runs that go on in each other come out as one, however the rows were cut; the last waits in the state.
"""
from libc.stdint cimport int64_t, uint64_t

cdef enum MapKind:               # lamella.block.extents.DeltaKind
    LEFT_ONLY = 0
    RIGHT_ONLY = 1
    DIFFERENT = 2
    SAME = 3
    NO_KIND = 4

cdef struct Map:
    const int64_t* thin
    const int64_t* data          # NULL: ranges, with nothing in them
    const int64_t* length
    const int64_t* time          # may be NULL where times are not asked for
    Py_ssize_t n

cdef struct Place:               # in a map: ``used`` blocks of row ``row`` are done
    int64_t row
    uint64_t used

cdef struct Sweep:               # the state; zeros at the beginning, the size of SWEEP_WORDS int64
    Place left                   # of splice_maps: what lies below
    Place right                  # what lies above
    uint64_t begin               # the run that waits; none where ``length`` is 0
    uint64_t length
    int64_t left_data            # of splice_maps: data
    int64_t right_data           # of splice_maps: time
    int64_t kind

cdef struct Runs:                # the output
    int64_t* kind                # NULL for splice_maps
    int64_t* begin
    int64_t* length
    int64_t* left_data
    int64_t* right_data
    Py_ssize_t n
    Py_ssize_t cap

# Write the data block of each of ``n`` blocks, -1 where it is not mapped, and, unless NULL, the time, -1 likewise.
# Blocks that ascend go forward through the map; others are searched for, LANES at once.
cdef void look_up(const Map* m, const int64_t* blocks, Py_ssize_t n, int64_t* data, int64_t* time) noexcept nogil

# ``above`` laid over ``below``; where ``above.data`` is NULL, ``below`` without those ranges.
cdef int splice_maps(const Map* below, const Map* above, Sweep* at, Runs* out) noexcept nogil

# What two maps have at the same blocks; data blocks alone are compared. ``join``: blocks of one kind in a row are one run
# wherever their data lies; else a run ends where the data of a side does. ``same``: write runs of SAME, too.
cdef int classify_maps(const Map* left, const Map* right, bint join, bint same, Sweep* at, Runs* out) noexcept nogil
