"""CRC-32C as dm's persistent-data library has it: begun with all ones and *not* inverted at the end.

The processor's instruction where there is one (asked once, when the first sum is made), else eight tables.
"""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #ifndef LAM_CRC32C
    #define LAM_CRC32C
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__x86_64__)
    #include <nmmintrin.h>
    #define LAM_CRC_BY_INSTRUCTION __builtin_cpu_supports("sse4.2")
    __attribute__((target("sse4.2")))
    static uint32_t lam_crc32c_fast(uint32_t crc, const uint8_t *p, size_t n) {
        uint64_t c = crc, word;
        for (; n >= 8; p += 8, n -= 8) { memcpy(&word, p, 8); c = _mm_crc32_u64(c, word); }
        for (; n; p++, n--) c = _mm_crc32_u8((uint32_t)c, *p);
        return (uint32_t)c;
    }
    /* the instruction takes three cycles and can begin in each: four sums at once cost little more than one */
    __attribute__((target("sse4.2")))
    static void lam_crc32c_four_fast(const uint8_t *p, size_t stride, size_t n, uint32_t *sums) {
        uint64_t a = ~0u, b = ~0u, c = ~0u, d = ~0u, word;
        const uint8_t *q = p + stride, *r = q + stride, *s = r + stride;
        size_t i = 0;
        for (; n - i >= 8; i += 8) {
            memcpy(&word, p + i, 8); a = _mm_crc32_u64(a, word);
            memcpy(&word, q + i, 8); b = _mm_crc32_u64(b, word);
            memcpy(&word, r + i, 8); c = _mm_crc32_u64(c, word);
            memcpy(&word, s + i, 8); d = _mm_crc32_u64(d, word);
        }
        for (; i < n; i++) {
            a = _mm_crc32_u8((uint32_t)a, p[i]); b = _mm_crc32_u8((uint32_t)b, q[i]);
            c = _mm_crc32_u8((uint32_t)c, r[i]); d = _mm_crc32_u8((uint32_t)d, s[i]);
        }
        sums[0] = (uint32_t)a; sums[1] = (uint32_t)b; sums[2] = (uint32_t)c; sums[3] = (uint32_t)d;
    }
    #define LAM_CRC_FOUR
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    #define LAM_CRC_BY_INSTRUCTION 1
    static uint32_t lam_crc32c_fast(uint32_t crc, const uint8_t *p, size_t n) {
        uint64_t word;
        for (; n >= 8; p += 8, n -= 8) { memcpy(&word, p, 8); crc = __crc32cd(crc, word); }
        for (; n; p++, n--) crc = __crc32cb(crc, *p);
        return crc;
    }
    #else
    #define LAM_CRC_BY_INSTRUCTION 0
    #define lam_crc32c_fast lam_crc32c_plain
    #endif
    static uint32_t lam_crc_tables[8][256];
    static int lam_crc_ready;      /* release and acquire: whoever sees 1 sees the tables; filling twice writes the same */
    static void lam_crc_fill(void) {
        uint32_t i, k, c;
        for (i = 0; i < 256; i++) {
            for (c = i, k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
            lam_crc_tables[0][i] = c;
        }
        for (k = 1; k < 8; k++)
            for (i = 0; i < 256; i++) {
                c = lam_crc_tables[k - 1][i];
                lam_crc_tables[k][i] = lam_crc_tables[0][c & 255] ^ c >> 8;
            }
        __atomic_store_n(&lam_crc_ready, 1, __ATOMIC_RELEASE);
    }
    static uint32_t lam_crc32c_plain(uint32_t crc, const uint8_t *p, size_t n) {
        if (!__atomic_load_n(&lam_crc_ready, __ATOMIC_ACQUIRE)) lam_crc_fill();
        for (; n >= 8; p += 8, n -= 8) {
            uint32_t a = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
            crc = lam_crc_tables[7][a & 255] ^ lam_crc_tables[6][a >> 8 & 255] ^ lam_crc_tables[5][a >> 16 & 255]
                ^ lam_crc_tables[4][a >> 24] ^ lam_crc_tables[3][p[4]] ^ lam_crc_tables[2][p[5]]
                ^ lam_crc_tables[1][p[6]] ^ lam_crc_tables[0][p[7]];
        }
        for (; n; p++, n--) crc = lam_crc_tables[0][(crc ^ *p) & 255] ^ crc >> 8;
        return crc;
    }
    static inline uint32_t lam_crc32c(const uint8_t *p, size_t n) {
        return LAM_CRC_BY_INSTRUCTION ? lam_crc32c_fast(~0u, p, n) : lam_crc32c_plain(~0u, p, n);
    }
    static inline void lam_crc32c_four(const uint8_t *p, size_t stride, size_t n, uint32_t *sums) {
    #ifdef LAM_CRC_FOUR
        if (LAM_CRC_BY_INSTRUCTION) { lam_crc32c_four_fast(p, stride, n, sums); return; }
    #endif
        for (int i = 0; i < 4; i++) sums[i] = lam_crc32c(p + (size_t)i * stride, n);
    }
    #endif
    """
    uint32_t lam_crc32c(const uint8_t* p, size_t n) noexcept nogil
    # four sums, of ``n`` bytes each, that lie ``stride`` bytes apart
    void lam_crc32c_four(const uint8_t* p, size_t stride, size_t n, uint32_t* sums) noexcept nogil
    # the same sum by tables, going on from ``crc``; for tests, and for machines without the instruction
    uint32_t lam_crc32c_plain(uint32_t crc, const uint8_t* p, size_t n) noexcept nogil
