/* One pass over floating elements: the largest finite magnitude, and whether there is a NaN
 * or an infinity. Narrow floats are widened to binary32 in the same pass.
 *
 * The bits of a magnitude, read as an integer, are ordered like its value, with infinity above
 * all finite numbers and NaN above infinity: one integer maximum answers all three questions
 * where everything is finite. Only a piece whose maximum is not finite is looked at again,
 * while it is still in the first cache. The loops are plain so that compilers vectorize them.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Elements of a piece: 16 KiB of binary32. */
#define PIECE 4096

#define MAGNITUDE UINT32_C(0x7FFFFFFF)
#define INFINITE UINT32_C(0x7F800000)

/* Bits of a result above the 32 bits of the magnitude. */
#define HAS_NAN (UINT64_C(1) << 32)
#define HAS_INFINITY (UINT64_C(1) << 33)

uint64_t fmtc_scan(size_t count, const float *values);
uint64_t fmtc_widen_bfloat16(size_t count, const uint16_t *narrow, float *values);
uint64_t fmtc_widen_float16(size_t count, const uint16_t *narrow, float *values);

/* The magnitude of an element as an integer. */
static inline uint32_t magnitude(const float *value)
{
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits & MAGNITUDE;
}

/* A piece that holds a NaN or an infinity: adds its flags, returns its largest finite one. */
static uint32_t scan_mixed(size_t count, const float *values, uint64_t *flags)
{
    uint32_t finite = 0, largest = 0, to_infinity = MAGNITUDE;

    for (size_t i = 0; i < count; i++) {
        const uint32_t size = magnitude(values + i);
        const uint32_t kept = size & (0U - ((size - INFINITE) >> 31));
        const uint32_t distance = size ^ INFINITE;
        finite = kept > finite ? kept : finite;
        largest = size > largest ? size : largest;
        to_infinity = distance < to_infinity ? distance : to_infinity;
    }
    *flags |= (largest > INFINITE ? HAS_NAN : 0) | (to_infinity == 0 ? HAS_INFINITY : 0);
    return finite;
}

static uint32_t scan_piece(size_t count, const float *values, uint64_t *flags)
{
    uint32_t largest = 0;

    for (size_t i = 0; i < count; i++) {
        const uint32_t size = magnitude(values + i);
        largest = size > largest ? size : largest;
    }
    return largest < INFINITE ? largest : scan_mixed(count, values, flags);
}

/* Bits 0-31: the largest finite magnitude, as binary32; bit 32: a NaN; bit 33: an infinity. */
uint64_t fmtc_scan(size_t count, const float *values)
{
    uint32_t largest = 0;
    uint64_t flags = 0;

    for (size_t at = 0; at < count; at += PIECE) {
        const size_t rest = count - at;
        const uint32_t size = scan_piece(rest < PIECE ? rest : PIECE, values + at, &flags);
        largest = size > largest ? size : largest;
    }
    return flags | largest;
}

/* bfloat16 is the upper half of binary32. */
static inline uint32_t from_bfloat16(uint16_t narrow)
{
    return (uint32_t)narrow << 16;
}

/* binary16 as binary32 bits, exactly. A subnormal m * 2^-24 is made as 2^-14 + m * 2^-24,
 * minus 2^-14: no operand is subnormal, so that it is right under any mode of the processor. */
static inline uint32_t from_float16(uint16_t narrow)
{
    const uint32_t size = (uint32_t)(narrow & 0x7FFF) << 13;
    const uint32_t subnormal = size < UINT32_C(0x00800000) ? UINT32_C(0xFFFFFFFF) : 0;
    const uint32_t special = size >= UINT32_C(0x0F800000) ? UINT32_C(0xFFFFFFFF) : 0;
    const uint32_t raise = (special & UINT32_C(0x38000000)) | (subnormal & UINT32_C(0x00800000));
    const uint32_t lifted = size + UINT32_C(0x38000000) + raise;
    const uint32_t excess = subnormal & UINT32_C(0x38800000);
    float value, offset;
    uint32_t bits;

    memcpy(&value, &lifted, sizeof value);
    memcpy(&offset, &excess, sizeof offset);
    value -= offset;
    memcpy(&bits, &value, sizeof bits);
    return bits | (uint32_t)(narrow & 0x8000) << 16;
}

#define WIDEN(type)                                                                       \
    uint64_t fmtc_widen_##type(size_t count, const uint16_t *narrow, float *values)       \
    {                                                                                     \
        uint32_t largest = 0;                                                             \
        uint64_t flags = 0;                                                               \
                                                                                          \
        for (size_t at = 0; at < count; at += PIECE) {                                    \
            const size_t piece = count - at < PIECE ? count - at : PIECE;                 \
            uint32_t size;                                                                \
                                                                                          \
            for (size_t i = at; i < at + piece; i++) {                                    \
                const uint32_t bits = from_##type(narrow[i]);                             \
                memcpy(values + i, &bits, sizeof bits);                                   \
            }                                                                             \
            size = scan_piece(piece, values + at, &flags);                                \
            largest = size > largest ? size : largest;                                    \
        }                                                                                 \
        return flags | largest;                                                           \
    }

WIDEN(bfloat16)
WIDEN(float16)
