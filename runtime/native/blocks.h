/* What the C files of block work share. The NumPy of compiler/blockwork.py states what every
 * function gives, bit for bit.
 *
 * Rows of elements are `length` floats each, one after the other, cut into pieces of `unit`
 * elements, the last of which may be short: results of pieces are [rows, ceil(length / unit)].
 */
#ifndef FMTC_BLOCKS_H
#define FMTC_BLOCKS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "packed streams are little-endian, and so is this code"
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define MAGNITUDE UINT32_C(0x7FFFFFFF)
#define INFINITE UINT32_C(0x7F800000)

INLINE uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* An integer that orders like the binary32 number with these bits, -0 below +0 and NaN outside
 * of the infinities; its own inverse. */
INLINE int32_t ordered(uint32_t bits)
{
    const int32_t negative = -(int32_t)(bits >> 31);
    return (int32_t)(bits ^ ((uint32_t)negative & MAGNITUDE));
}

#endif
