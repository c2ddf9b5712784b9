"""Rows and the streams that their content lies in -> a tar stream. Pure: it copies between buffers.

The content of row ``rows[i]`` begins at ``offs[i]`` of a source stream, which comes in chunks, forward only. Offsets of
rows with content ascend. What a chunk has is copied; zeros pad each content to 512. There is no end marker: several
sources follow each other in one tar, each with a range of the rows.
"""
from libc.stdint cimport int64_t, uint8_t
from lamella._kernels._rows cimport Rows
from lamella._kernels._status cimport Status
from lamella._kernels.tarform cimport Form

cdef struct Splice:       # int64 items only, so that an int64 array is one; zeros, and next_idx, begin it
    int64_t next_idx      # item of ``rows`` that comes next
    int64_t head_off      # headers still to be copied: head[head_off:head_end]
    int64_t head_end
    int64_t off           # where in the source the next byte of content is
    int64_t left          # bytes of content still to come
    int64_t pad           # zeros still to come behind them
    int64_t n_uncarried   # xattrs left out so far

# Fill out[used:cap] from rows[next_idx:end] and the chunk, the source's bytes [chunk_off, chunk_off + n_chunk); ``used``
# moves on. OUTPUT_FULL; NEED_INPUT (the chunk that follows); AT_END (the rows are done); SPECIAL (``head`` is too short
# for a row); BAD_FORMAT (f.fault at row rows[next_idx], or fault 0: its content lies before the chunk, or nowhere).
cdef Status splice_core(const Rows* r, const int64_t* rows, const int64_t* offs, Py_ssize_t end, Splice* s, Form* f,
                        uint8_t* head, Py_ssize_t head_cap, const uint8_t* chunk, int64_t chunk_off, Py_ssize_t n_chunk,
                        uint8_t* out, Py_ssize_t cap, Py_ssize_t* used) noexcept nogil
