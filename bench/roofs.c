/* What the memory of this machine can do: the roofs under which every kernel runs. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { LINE = 64 };

/* Write one cache line past the cache where the processor has such a store. */
static inline void stream_line(unsigned char *out)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)out, _mm512_set1_epi32(0x3f800000));
#elif defined(__AVX__)
    const __m256i ones = _mm256_set1_epi32(0x3f800000);
    _mm256_stream_si256((__m256i *)out, ones);
    _mm256_stream_si256((__m256i *)(out + 32), ones);
#elif defined(__SSE2__)
    const __m128i ones = _mm_set1_epi32(0x3f800000);
    for (size_t i = 0; i < LINE; i += 16) {
        _mm_stream_si128((__m128i *)(out + i), ones);
    }
#else
    memset(out, 0x3f, LINE);
#endif
}

static inline void stream_end(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Fill whole lines; out is aligned to one. */
void roof_fill(unsigned char *out, size_t bytes)
{
    for (size_t i = 0; i + LINE <= bytes; i += LINE) {
        stream_line(out + i);
    }
    stream_end();
}

/* The exclusive or of all whole words: every byte is read, and the order is free. */
uint64_t roof_read(const uint64_t *in, size_t bytes)
{
    uint64_t lanes[16] = {0};
    const size_t words = bytes / sizeof *in;
    size_t i = 0;
    for (; i + 16 <= words; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            lanes[j] ^= in[i + j];
        }
    }
    uint64_t all = 0;
    for (size_t j = 0; j < 16; j++) {
        all ^= lanes[j];
    }
    for (; i < words; i++) {
        all ^= in[i];
    }
    return all;
}

/* Read ``in_bytes`` while ``out_bytes`` are filled, both from front to end. */
uint64_t roof_pass(const uint64_t *in, size_t in_bytes, unsigned char *out, size_t out_bytes)
{
    enum { PIECE = 8192 };
    uint64_t all = 0;
    const size_t pieces = out_bytes / PIECE;
    const size_t step = pieces == 0 ? 0 : in_bytes / pieces / LINE * LINE;
    for (size_t i = 0; i < pieces; i++) {
        all ^= roof_read(in + i * step / sizeof *in, step);
        for (size_t j = 0; j < PIECE; j += LINE) {
            stream_line(out + i * PIECE + j);
        }
    }
    const size_t read = pieces * step;
    const size_t written = pieces * PIECE;
    all ^= roof_read(in + read / sizeof *in, in_bytes - read);
    roof_fill(out + written, out_bytes - written);
    return all;
}
