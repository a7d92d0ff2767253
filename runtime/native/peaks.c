/* What the elements of every piece reach. */
#include "blocks.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

void fmtc_peaks(size_t rows, size_t length, size_t unit, const float *x, float *low, float *high,
                uint8_t *first_negative, uint8_t *broken);
void fmtc_absmax(size_t rows, size_t length, size_t unit, const float *x, float *largest);

#define NAN_BITS UINT32_C(0x7FC00000)

/* Whether the first of the elements of largest magnitude is negative. */
static uint8_t sign_of_first(size_t count, const float *x, uint32_t magnitude)
{
    for (size_t i = 0; i < count; i++)
        if ((bits_of(x[i]) & MAGNITUDE) == magnitude)
            return (uint8_t)(bits_of(x[i]) >> 31);
    return 0;
}

/* The least and the largest order of the elements of a piece. */
INLINE void piece_orders(size_t count, const float *x, int32_t *bottom, int32_t *top)
{
    int32_t low = INT32_MAX, high = INT32_MIN;

    for (size_t i = 0; i < count; i++) {
        const int32_t order = ordered(bits_of(x[i]));
        low = order < low ? order : low;
        high = order > high ? order : high;
    }
    *bottom = low;
    *top = high;
}

#ifdef __AVX2__

INLINE __m256i eight_orders(const float *x)
{
    const __m256i bits = _mm256_loadu_si256((const __m256i *)x);
    const __m256i negative = _mm256_srai_epi32(bits, 31);
    return _mm256_xor_si256(bits, _mm256_srli_epi32(negative, 1));
}

/* From the lanes of eight pieces to one lane for each: 4 + 2 + 1 steps that each halve. */
#define REDUCE_EIGHT(v, best)                                                              \
    do {                                                                                   \
        for (int i = 0; i < 4; i++)                                                        \
            v[i] = best(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),                     \
                        _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));                    \
        for (int i = 0; i < 2; i++)                                                        \
            v[i] = best(_mm256_unpacklo_epi64(v[2 * i], v[2 * i + 1]),                     \
                        _mm256_unpackhi_epi64(v[2 * i], v[2 * i + 1]));                    \
        v[0] = best(_mm256_permute2x128_si256(v[0], v[1], 0x20),                           \
                    _mm256_permute2x128_si256(v[0], v[1], 0x31));                          \
    } while (0)

/* The orders of eight pieces of `unit` elements, a multiple of eight. */
INLINE void orders_of_eight(size_t unit, const float *x, int32_t *bottom, int32_t *top)
{
    __m256i low[8], high[8];

    for (size_t piece = 0; piece < 8; piece++, x += unit) {
        low[piece] = high[piece] = eight_orders(x);
        for (size_t i = 8; i < unit; i += 8) {
            const __m256i order = eight_orders(x + i);
            low[piece] = _mm256_min_epi32(low[piece], order);
            high[piece] = _mm256_max_epi32(high[piece], order);
        }
    }
    REDUCE_EIGHT(low, _mm256_min_epi32);
    REDUCE_EIGHT(high, _mm256_max_epi32);
    _mm256_storeu_si256((__m256i *)bottom, low[0]);
    _mm256_storeu_si256((__m256i *)top, high[0]);
}

#else

INLINE void orders_of_eight(size_t unit, const float *x, int32_t *bottom, int32_t *top)
{
    for (size_t piece = 0; piece < 8; piece++)
        piece_orders(unit, x + piece * unit, bottom + piece, top + piece);
}

#endif

/* Where results of pieces go. */
typedef struct {
    float *low, *high;
    uint8_t *first_negative, *broken;
} peaks;

/* The peaks of pieces from their orders: of up to eight, `unit` elements apart. */
INLINE void put_peaks(size_t pieces, size_t unit, size_t count, const float *x,
                      const int32_t *bottom, const int32_t *top, peaks to)
{
    uint32_t rare = 0;

    for (size_t i = 0; i < pieces; i++) {
        const uint32_t low = (uint32_t)ordered((uint32_t)bottom[i]);
        const uint32_t high = (uint32_t)ordered((uint32_t)top[i]);
        const uint32_t below = low & MAGNITUDE, above = high & MAGNITUDE;
        const uint32_t twins = above == below ? (low ^ high) >> 31 : 0;
        to.low[i] = float_of(low);
        to.high[i] = float_of(high);
        to.first_negative[i] = (uint8_t)((above > below ? high : low) >> 31);
        to.broken[i] = (above > below ? above : below) > INFINITE;
        rare |= twins | to.broken[i];
    }
    for (size_t i = 0; rare && i < pieces; i++) {
        const uint32_t low = bits_of(to.low[i]), high = bits_of(to.high[i]);
        if (to.broken[i]) {
            to.low[i] = to.high[i] = float_of(NAN_BITS);
            to.first_negative[i] = 0;
        } else if ((low ^ high) == UINT32_C(0x80000000)) {
            to.first_negative[i] = sign_of_first(count, x + i * unit, high & MAGNITUDE);
        }
    }
}

INLINE void row_peaks(size_t length, size_t unit, const float *x, peaks to)
{
    int32_t bottom[8], top[8];
    size_t piece = 0;

    if (unit % 8 == 0)
        for (; (piece + 8) * unit <= length; piece += 8) {
            const peaks here = {to.low + piece, to.high + piece, to.first_negative + piece,
                                to.broken + piece};
            orders_of_eight(unit, x + piece * unit, bottom, top);
            put_peaks(8, unit, unit, x + piece * unit, bottom, top, here);
        }
    for (; piece * unit < length; piece++) {
        const peaks here = {to.low + piece, to.high + piece, to.first_negative + piece,
                            to.broken + piece};
        const size_t count = least(unit, length - piece * unit);
        piece_orders(count, x + piece * unit, bottom, top);
        put_peaks(1, unit, count, x + piece * unit, bottom, top, here);
    }
}

void fmtc_peaks(size_t rows, size_t length, size_t unit, const float *x, float *low, float *high,
                uint8_t *first_negative, uint8_t *broken)
{
    const size_t pieces = length / unit + (length % unit != 0);

    for (size_t row = 0; row < rows; row++, x += length) {
        const size_t at = row * pieces;
        const peaks to = {low + at, high + at, first_negative + at, broken + at};
        if (unit == 16) /* a known length makes straight code of short loops */
            row_peaks(length, 16, x, to);
        else
            row_peaks(length, unit, x, to);
    }
}

/* The largest magnitude that is below a limit, as binary32 bits; 0 where there is none. */
INLINE uint32_t largest_below(size_t count, const float *x, uint32_t limit)
{
    uint32_t largest = 0;

    for (size_t i = 0; i < count; i++) {
        const uint32_t magnitude = bits_of(x[i]) & MAGNITUDE;
        const uint32_t counted = magnitude < limit ? magnitude : 0;
        largest = counted > largest ? counted : largest;
    }
    return largest;
}

INLINE float piece_absmax(size_t count, const float *x)
{
    const uint32_t largest = largest_below(count, x, UINT32_MAX);
    return float_of(largest < INFINITE ? largest : largest_below(count, x, INFINITE));
}

/* The largest finite magnitude of every piece. */
void fmtc_absmax(size_t rows, size_t length, size_t unit, const float *x, float *largest)
{
    for (size_t row = 0; row < rows; row++, x += length)
        for (size_t at = 0; at < length; at += unit)
            *largest++ = piece_absmax(least(unit, length - at), x + at);
}
