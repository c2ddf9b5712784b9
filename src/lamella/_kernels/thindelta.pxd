"""What differs between two trees of mappings, in O(what differs): nodes that both have are passed over unread.

Two walks go side by side (thinmeta.pxd says what the buffers are; each walk has a window of its own). Where both come to
the same node, what is below it is the same; it is skipped, or walked once where that is wanted too. Of two other nodes the
one whose keys begin first is opened, of two that begin alike the higher one, so trees of unlike heights meet as well.
"""
from libc.stdint cimport int64_t, uint8_t
from lamella._kernels._thinblocks cimport Meta
from lamella._kernels._thinwalk cimport Walk

cdef enum DeltaKind:             # as lamella.block.extents has them
    LEFT_ONLY = 0
    RIGHT_ONLY = 1
    DIFFERENT = 2
    SAME = 3

cdef struct Delta:               # in the caller's cursor
    Walk left
    Walk right
    int64_t left_height          # levels of the tree
    int64_t right_height
    int64_t shared               # below this level of the left walk both have the same; -1: not in such a subtree
    int64_t kind                 # the run that is not finished: of ``length`` blocks, none if that is 0
    int64_t begin
    int64_t length
    int64_t left_begin           # data blocks, -1: not mapped
    int64_t right_begin

cdef struct Rows:                # columns, and how a run is made
    int64_t* kind
    int64_t* begin
    int64_t* length
    int64_t* left_begin
    int64_t* right_begin
    int64_t n
    int64_t cap
    int64_t n_data               # data blocks of the pool
    bint same                    # blocks that are the same are wanted, too
    bint loose                   # a run goes on where data blocks do not

cdef struct Side:                # one walk during a call
    Meta m
    Walk* w
    const uint8_t* node          # the deepest, with an entry left; NULL: to be fetched, or at the end
    int64_t n
    bint is_leaf

# 0 where it ended or the rows are full (n == cap), -1 with a fault in the side that ``fault`` is set to
cdef int fill_delta(Delta* d, Side* left, Side* right, Rows* out) noexcept nogil
