"""Which rows of a layer are seen when the layers above it are known: claims on paths, from the top layer down.

Layers are numbered from the bottom, and given from the top; rows come in archive order. A row claims its path unless a
layer above hides it or has claimed the path already; a row that does not is flagged F_SKIP, and the placing kernel
makes nothing of it. Whiteouts and opaque markers make nothing either: they only say what lower layers cannot show.

What a pass from the top cannot know it reports, and never guesses (verdict SPECIAL, the reason in the state): a path
that a higher layer went through and a lower one makes a symlink of, a hard link whose target is not there. The caller
then repairs it, or begins again at the bottom.

Nodes are kept by (parent, name) in memory of the caller, who grows it when the verdict is OUTPUT_FULL and calls again.
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lamella._kernels._rows cimport Rows

cdef enum Reason:
    WHY_NONE = 0
    # the caller repairs these, one row at a time
    WHY_RELINK = 1           # hard link: its target's name is not seen, ``source`` is the row that made the inode
    WHY_RESTORE = 2          # hard link: the inode was not made; ``source`` is the row that would have made it
    # with these the caller begins again at the bottom
    WHY_THROUGH = 3          # a non-directory where rows of this or a higher layer had a directory without entry
    WHY_BELOW = 4            # a row below a non-directory of the same layer
    WHY_TWICE = 5            # a path twice in one layer, not a directory both times
    WHY_LINK = 6             # a hard link whose target this layer does not have, or has as a directory
    WHY_MARKER = 7           # a whiteout of nothing, or AUFS metadata
    WHY_NAME = 8             # a ".." component, or a root that is no directory

cdef struct Node:
    int64_t name_off
    int32_t parent
    int32_t row              # the last row of layer ``level`` that has this path
    int32_t meta             # row that gives a directory its metadata, -1: none so far
    uint16_t name_len
    int16_t level            # the layer of ``row``, -1
    int16_t hide             # lower layers than this one do not show the path, nor what is below it
    int16_t hide_kids        # nor what is in the directory
    int16_t through          # lowest layer that had something below the path but no directory entry for it, -1
    uint8_t is_dir           # ``row`` is a directory
    uint8_t made             # 0: nothing is there; 1: a directory; 2: something else
    uint8_t needed           # a directory without entry so far, even if all that is in it is hidden

cdef struct ClaimState:
    int32_t n_nodes
    int32_t reason           # of the last SPECIAL
    int64_t row              # at which the last call stopped
    int64_t source           # WHY_RELINK, WHY_RESTORE
    int64_t names_used
    int64_t n_whiteouts      # of the layer so far
    int64_t n_opaques

cdef struct Claims:
    ClaimState* st
    Node* nodes
    Py_ssize_t nodes_cap
    uint32_t* slots          # node number + 1, 0 is free; at most three quarters full
    uint64_t mask
    uint64_t seed
    uint8_t* names
    Py_ssize_t names_cap
    Rows* rows
    int32_t* origin          # by row of a non-directory: the row that made its inode
    Py_ssize_t origin_cap
    int16_t level

# Judge rows [begin, end) of layer ``c.level``; returns a Status and leaves the next row in st.row.
cdef int claim_rows(Claims* c, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
