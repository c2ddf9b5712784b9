"""Mappings of a thin device in batches: looked up, made, moved to blocks of their own, removed. Metadata is read only.

A device is two int64 items: the root of its tree and its number of mapped blocks. Writing is two calls with the copying
of data in between: ``plan`` finds blocks that need a new data block (unmapped, or from before the last snapshot) and
takes these, ``remap`` maps them; ``forget`` gives them back instead. ``plan`` asks first whether data blocks and metadata
blocks suffice, for itself, ``remap`` and the commit, in the worst case: once it has begun, none of them runs out.
"""
from libc.stdint cimport int64_t
from lamella._kernels._thintxn cimport Tree, Txn

# Map blocks[k] to data[k] at the pool's time, where that is not negative; what it was mapped to loses an owner
cdef int re_map(Txn* t, Tree* tree, int64_t* n_mapped, const int64_t* blocks, const int64_t* data,
                Py_ssize_t n) noexcept nogil

# Metadata blocks that a commit may take, at most
cdef int64_t commit_need(const Txn* t) noexcept nogil
