"""The files of one batch, open, shared among placing threads: the placing thread puts them, whoever is free takes them.

A batch lives within one call of place(): it is empty when the call begins and when it ends, so rows and chunk last as
long as the jobs. Servers take the first one and sleep on ``news`` where there is none; the placing thread takes the last
one once it has put all it has, then waits on ``n_done``. An untaken span that is the same again is the same: no counter.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from lamella._kernels.place cimport JOBS_CAP, Jobs, OpenFile

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline uint32_t lam_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void lam_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline uint32_t lam_add(uint32_t *p, uint32_t n) { return __atomic_add_fetch(p, n, __ATOMIC_SEQ_CST); }
    static inline int64_t lam_count(int64_t *p, int64_t n) { return __atomic_fetch_add(p, n, __ATOMIC_RELAXED); }
    static inline uint64_t lam_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void lam_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline int lam_swap64(uint64_t *p, uint64_t seen, uint64_t v) {
        return __atomic_compare_exchange_n(p, &seen, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline void lam_futex_wait(uint32_t *p, uint32_t seen) {
        syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    }
    static inline void lam_futex_wake(uint32_t *p) { syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0); }
    """
    uint32_t lam_load(const uint32_t* p) noexcept nogil
    void lam_store(uint32_t* p, uint32_t v) noexcept nogil
    uint32_t lam_add(uint32_t* p, uint32_t n) noexcept nogil            # returns the sum
    int64_t lam_count(int64_t* p, int64_t n) noexcept nogil             # returns what was there before
    uint64_t lam_load64(const uint64_t* p) noexcept nogil
    void lam_store64(uint64_t* p, uint64_t v) noexcept nogil
    bint lam_swap64(uint64_t* p, uint64_t seen, uint64_t v) noexcept nogil      # unless it is not ``seen`` any more
    void lam_futex_wait(uint32_t* p, uint32_t seen) noexcept nogil
    void lam_futex_wake(uint32_t* p) noexcept nogil

cdef enum:
    SPINS = 400              # looks at ``n_done`` before sleeping on it: the last job is mostly a few microseconds away

cdef inline uint32_t jobs_pending(Jobs* q) noexcept nogil:
    """Jobs of the batch so far; for the placing thread."""
    return 0 if q is NULL else q.n_put

cdef inline void jobs_put(Jobs* q, const OpenFile* file) noexcept nogil:
    """Add a file; the batch has room for it. Servers are woken at the 4th and 32nd."""
    cdef uint64_t span
    q.items[q.n_put].file, q.items[q.n_put].error = file[0], 0
    lam_store(&q.n_put, q.n_put + 1)
    while True:
        span = lam_load64(&q.span)
        if lam_swap64(&q.span, span, span + 1):
            break
    if (q.n_put == 4 or q.n_put == 32) and lam_load(&q.n_asleep) > 0:
        lam_add(&q.news, 1)
        lam_futex_wake(&q.news)

cdef inline int32_t jobs_take_first(Jobs* q) noexcept nogil:
    """Take a job: its place in ``items``, or -1. For servers."""
    cdef uint64_t span = lam_load64(&q.span)
    while <uint32_t>(span >> 32) < <uint32_t>span:
        if lam_swap64(&q.span, span, span + (<uint64_t>1 << 32)):
            return <int32_t>(span >> 32)
        span = lam_load64(&q.span)
    return -1

cdef inline int32_t jobs_take_last(Jobs* q) noexcept nogil:
    """Take a job from the other end. For the placing thread, when it puts no more."""
    cdef uint64_t span = lam_load64(&q.span)
    while <uint32_t>(span >> 32) < <uint32_t>span:
        if lam_swap64(&q.span, span, span - 1):
            return <int32_t>(<uint32_t>span - 1)
        span = lam_load64(&q.span)
    return -1

cdef inline void jobs_finish(Jobs* q) noexcept nogil:
    """Say that a job is done."""
    if lam_add(&q.n_done, 1) == lam_load(&q.n_put) and lam_load(&q.waiting):
        lam_futex_wake(&q.n_done)

cdef inline void jobs_join(Jobs* q) noexcept nogil:
    """Wait until every job is done; for the placing thread, which has taken what it could."""
    cdef uint32_t seen = lam_load(&q.n_done)
    cdef int spins = 0
    while seen != q.n_put:
        spins += 1
        if spins > SPINS:
            lam_store(&q.waiting, 1)
            lam_futex_wait(&q.n_done, seen)
        seen = lam_load(&q.n_done)
    lam_store(&q.waiting, 0)

cdef inline void jobs_clear(Jobs* q) noexcept nogil:
    """End the batch."""
    lam_store64(&q.span, 0)
    lam_store(&q.n_done, 0)
    lam_store(&q.n_put, 0)

cdef inline bint jobs_wait(Jobs* q, uint32_t seen) noexcept nogil:
    """Sleep until there is news since ``seen``; False at the end. For a server that found nothing."""
    if lam_load(&q.stop):
        return False
    lam_add(&q.n_asleep, 1)
    lam_futex_wait(&q.news, seen)
    lam_add(&q.n_asleep, <uint32_t>-1)
    return True

cdef inline void jobs_stop(Jobs* q) noexcept nogil:
    """Send every server home."""
    lam_store(&q.stop, 1)
    lam_add(&q.news, 1)
    lam_futex_wake(&q.news)
