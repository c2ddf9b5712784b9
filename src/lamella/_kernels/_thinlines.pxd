"""Lines of text about mappings, as thin_dump and thin_delta 0.9.0 write them, of at most LINE_MOST bytes (thinxml.pxd)."""
from libc.stdint cimport int64_t, uint8_t

cdef extern from *:
    """
    #ifndef LAM_THIN_LINES
    #define LAM_THIN_LINES
    #include <stdint.h>
    #include <string.h>
    static const char lam_pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051"
        "525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    static inline uint8_t *lam_number(uint8_t *out, uint64_t v) {
        /* decimal digits of v */
        uint8_t digits[20], *p = digits + 20;
        while (v >= 100) { p -= 2; memcpy(p, lam_pairs + v % 100 * 2, 2); v /= 100; }
        if (v >= 10) { p -= 2; memcpy(p, lam_pairs + v * 2, 2); } else *--p = (uint8_t)('0' + v);
        memcpy(out, p, digits + 20 - p);
        return out + (digits + 20 - p);
    }
    static inline uint8_t *lam_text(uint8_t *out, const char *text, size_t n) { memcpy(out, text, n); return out + n; }
    #define LAM_TEXT(out, text) lam_text(out, text, sizeof(text) - 1)
    static inline uint8_t *lam_xml_line(uint8_t *o, int64_t thin, int64_t data, int64_t length, int64_t time) {
        if (length == 1) {
            o = lam_number(LAM_TEXT(o, "    <single_mapping origin_block=\\""), (uint64_t)thin);
            o = lam_number(LAM_TEXT(o, "\\" data_block=\\""), (uint64_t)data);
        } else {
            o = lam_number(LAM_TEXT(o, "    <range_mapping origin_begin=\\""), (uint64_t)thin);
            o = lam_number(LAM_TEXT(o, "\\" data_begin=\\""), (uint64_t)data);
            o = lam_number(LAM_TEXT(o, "\\" length=\\""), (uint64_t)length);
        }
        o = lam_number(LAM_TEXT(o, "\\" time=\\""), (uint64_t)time);
        return LAM_TEXT(o, "\\"/>\\n");
    }
    static inline uint8_t *lam_human_line(uint8_t *o, int64_t thin, int64_t data, int64_t length, int64_t time) {
        if (length == 1) {
            o = lam_number(LAM_TEXT(o, "    "), (uint64_t)thin);
            o = lam_number(LAM_TEXT(o, " -> "), (uint64_t)data);
        } else {
            o = lam_number(LAM_TEXT(o, "    ("), (uint64_t)thin);
            o = lam_number(LAM_TEXT(o, ".."), (uint64_t)thin + (uint64_t)length - 1);
            o = lam_number(LAM_TEXT(o, ") -> ("), (uint64_t)data);
            o = lam_number(LAM_TEXT(o, ".."), (uint64_t)data + (uint64_t)length - 1);
            o = LAM_TEXT(o, ")");
        }
        o = lam_number(LAM_TEXT(o, ", "), (uint64_t)time);
        return LAM_TEXT(o, "\\n");
    }
    static inline uint8_t *lam_range_line(uint8_t *o, int64_t thin, int64_t data, int64_t length) {
        o = lam_number(LAM_TEXT(o, "      <range begin=\\""), (uint64_t)thin);
        o = lam_number(LAM_TEXT(o, "\\" data_begin=\\""), (uint64_t)data);
        o = lam_number(LAM_TEXT(o, "\\" length=\\""), (uint64_t)length);
        return LAM_TEXT(o, "\\"/>\\n");
    }
    static inline uint8_t *lam_pair_line(uint8_t *o, int64_t thin, int64_t left, int64_t right, int64_t length) {
        o = lam_number(LAM_TEXT(o, "      <range begin=\\""), (uint64_t)thin);
        o = lam_number(LAM_TEXT(o, "\\" left_data_begin=\\""), (uint64_t)left);
        o = lam_number(LAM_TEXT(o, "\\" right_data_begin=\\""), (uint64_t)right);
        o = lam_number(LAM_TEXT(o, "\\" length=\\""), (uint64_t)length);
        return LAM_TEXT(o, "\\"/>\\n");
    }
    #endif
    """
    # a mapping of a dump, as XML and for people to read
    uint8_t* lam_xml_line(uint8_t* o, int64_t thin, int64_t data, int64_t length, int64_t time) noexcept nogil
    uint8_t* lam_human_line(uint8_t* o, int64_t thin, int64_t data, int64_t length, int64_t time) noexcept nogil
    # a run of a delta, on one side or the same on both, and with other data on either side
    uint8_t* lam_range_line(uint8_t* o, int64_t thin, int64_t data, int64_t length) noexcept nogil
    uint8_t* lam_pair_line(uint8_t* o, int64_t thin, int64_t left, int64_t right, int64_t length) noexcept nogil
