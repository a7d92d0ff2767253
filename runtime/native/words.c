/* Stored words: ranks among thresholds, and what words mean. */
#include "blocks.h"

/* Thresholds that share their leading bits with a value are all looked at, up to so many. */
#define CLOSE 4

/* Ascending thresholds made ready to be searched: their orders, with CLOSE more that lie above
 * all; and for every combination of leading bits of an order's distance to the first (above
 * `shift`) how many thresholds lie below all orders with it, and below all later ones. `most`
 * thresholds at most share one. */
typedef struct {
    size_t count, shift, most;
} fmtc_search;

void fmtc_prepare_ranks(size_t count, const float *thresholds, size_t start_count,
                        int32_t *orders, uint32_t *starts, fmtc_search *search);
void fmtc_ranks(size_t count, const float *values, const fmtc_search *search,
                const int32_t *orders, const uint32_t *starts, uint32_t *ranks);
void fmtc_word_values(size_t count, const uint32_t *words, const float *table, unsigned shift,
                      uint32_t mask, unsigned sign_bit, float multiplier, float *values);

/* Zeros count as one: +0. */
INLINE int32_t order_of(float value)
{
    return ordered(bits_of(value + 0.0F));
}

/* `starts` has `start_count` + 2 entries: so many combinations there may be. */
void fmtc_prepare_ranks(size_t count, const float *thresholds, size_t start_count,
                        int32_t *orders, uint32_t *starts, fmtc_search *search)
{
    size_t bucket = 0;

    *search = (fmtc_search){count, 0, 0};
    for (size_t i = 0; i < count; i++)
        orders[i] = order_of(thresholds[i]);
    for (size_t i = 0; i < CLOSE; i++)
        orders[count + i] = INT32_MAX;
    if (count == 0)
        return;
    const int64_t first = orders[0], span = orders[count - 1] - first;
    while ((uint64_t)span >> search->shift >= start_count)
        search->shift++;
    for (size_t i = 0; i < count; i++)
        while (bucket <= (uint64_t)(orders[i] - first) >> search->shift)
            starts[bucket++] = (uint32_t)i;
    starts[bucket] = (uint32_t)count;
    for (size_t i = 0; i < bucket; i++)
        if (starts[i + 1] - starts[i] > search->most)
            search->most = starts[i + 1] - starts[i];
}

/* How many of a value's neighbours in order, from `rank` on, lie below it. */
INLINE size_t close_rank(size_t rank, const int32_t *orders, int32_t order)
{
    size_t below = rank;
    for (size_t i = 0; i < CLOSE; i++)
        below += orders[rank + i] < order;
    return below;
}

/* How many thresholds lie below a value; NaN lies above all. */
void fmtc_ranks(size_t count, const float *values, const fmtc_search *search,
                const int32_t *orders, const uint32_t *starts, uint32_t *ranks)
{
    if (search->count == 0) {
        memset(ranks, 0, count * sizeof *ranks);
        return;
    }
    const int64_t first = orders[0], span = orders[search->count - 1] - first;

    for (size_t i = 0; i < count; i++) {
        const int32_t value = order_of(values[i]);
        const int32_t order = (bits_of(values[i]) & MAGNITUDE) > INFINITE ? INT32_MAX : value;
        const int64_t distance = order - first;
        const int64_t inside = distance < 0 ? 0 : distance < span ? distance : span;
        size_t rank = starts[inside >> search->shift];

        if (search->most <= CLOSE)
            rank = close_rank(rank, orders, order);
        else
            while (rank < search->count && orders[rank] < order)
                rank++;
        ranks[i] = (uint32_t)rank;
    }
}

/* What words mean: the table's entry for the bits under `mask` above `shift`, times the
 * multiplier; bit `sign_bit` negates, 32 or more never. Without a table the bits are binary32. */
void fmtc_word_values(size_t count, const uint32_t *words, const float *table, unsigned shift,
                      uint32_t mask, unsigned sign_bit, float multiplier, float *values)
{
    const uint32_t sign = sign_bit < 32 ? UINT32_C(1) << sign_bit : 0;

    for (size_t i = 0; i < count; i++) {
        const uint32_t index = words[i] >> shift & mask;
        const float value = (table ? table[index] : float_of(index)) * multiplier;
        const uint32_t flip = words[i] & sign ? UINT32_C(0x80000000) : 0;
        values[i] = float_of(bits_of(value) ^ flip);
    }
}
