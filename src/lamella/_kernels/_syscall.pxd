"""System calls made in place instead of through the C library: -errno for an error, and nothing else is touched.

Why: a processor that is protected against misused return addresses comes back from the kernel without knowing the
program's own, and the first return of a function afterwards, that of the library's wrapper, costs a third of a statx.
A core that makes its calls in one loop and returns from nothing in between does not pay it. Where the registers of a
call are not known here, it goes through the library.
"""
cdef extern from *:
    """
    #ifndef LAM_CALL
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define LAM_INLINE static inline __attribute__((always_inline))
    LAM_INLINE long lam_call(long number, long a, long b, long c, long d, long e, long f) {
    #if defined(__x86_64__) && defined(__LP64__)
    #define LAM_IN_PLACE
        long r;
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        register long r9 __asm__("r9") = f;
        __asm__ volatile("syscall" : "=a"(r)
                         : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
        return r;
    #elif defined(__aarch64__) && defined(__LP64__)
    #define LAM_IN_PLACE
        register long x8 __asm__("x8") = number;
        register long x0 __asm__("x0") = a;
        register long x1 __asm__("x1") = b;
        register long x2 __asm__("x2") = c;
        register long x3 __asm__("x3") = d;
        register long x4 __asm__("x4") = e;
        register long x5 __asm__("x5") = f;
        __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
        return x0;
    #else
        long r = syscall(number, a, b, c, d, e, f);
        return r < 0 ? -errno : r;
    #endif
    }
    /* again when a signal interrupted it */
    #define LAM_CALL(r, ...) do r = lam_call(__VA_ARGS__); while (r == -EINTR)
    #define LAM_PTR(p) ((long)(uintptr_t)(p))
    LAM_INLINE int lam_close(int fd) { return (int)lam_call(SYS_close, fd, 0, 0, 0, 0, 0); }
    #endif
    """
    long lam_call(long number, long a, long b, long c, long d, long e, long f) noexcept nogil
    int lam_close(int fd) noexcept nogil
