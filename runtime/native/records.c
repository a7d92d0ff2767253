/* Records: the bits of planar streams in another order. */
#include "blocks.h"

/* pext and pdep are microcode, and slow, before Zen 3. */
#if defined(__BMI2__) && !defined(__znver1__) && !defined(__znver2__)
#include <immintrin.h>
#define FAST_EXTRACT 1
#endif

/* A word of a plan that moves bits, or one of the parts that it is made of: up to eight bytes at
 * an offset in one of several arrays. The bits `extract` of a part's bytes, in ascending order,
 * become the bits `deposit` of its word. */
typedef struct {
    uint64_t array, offset, octets, extract, deposit;
} fmtc_entry;

/* A word has 64 bits, and a part at least one of them. */
#define FMTC_MOST_PARTS 64

void fmtc_move_bits(size_t records, const uint8_t *const *sources, const size_t *source_steps,
                    uint8_t *const *targets, const size_t *target_steps, size_t entries,
                    const fmtc_entry *plan);

/* Records whose bits are moved before the next word of their layout's plan is: few enough for
 * the first cache. */
#define BATCH 64

/* Parts that are moved together. */
#define TOGETHER 4

INLINE uint64_t load(const uint8_t *from, size_t octets)
{
    uint64_t value = 0;
    memcpy(&value, from, octets);
    return value;
}

INLINE void store(uint8_t *to, uint64_t value, size_t octets)
{
    memcpy(to, &value, octets);
}

/* The bytes of consecutive records in one array: of the first, and how far the next are. */
typedef struct {
    uint8_t *to;
    const uint8_t *from;
    size_t step;
} place;

INLINE place source_of(const fmtc_entry *part, const uint8_t *const *sources,
                       const size_t *source_steps, size_t first)
{
    const size_t step = source_steps[part->array];
    return (place){NULL, sources[part->array] + first * step + part->offset, step};
}

#ifdef FAST_EXTRACT

/* Move `count` parts of one word of some records; add them to what stands there, or not.
 * What is constant where this is inlined makes straight code: a part's and the word's bytes. */
INLINE void move_parts(size_t records, const fmtc_entry *parts, size_t count, const place *from,
                       size_t source_octets, place to, size_t octets, int add)
{
    uint64_t extract[TOGETHER], deposit[TOGETHER];
    const uint8_t *source[TOGETHER];

    for (size_t i = 0; i < count; i++) {
        extract[i] = parts[i].extract;
        deposit[i] = parts[i].deposit;
        source[i] = from[i].from;
    }
    for (size_t record = 0; record < records; record++, to.to += to.step) {
        uint64_t value = add ? load(to.to, octets) : 0;
        for (size_t i = 0; i < count; i++) {
            const uint64_t bits = load(source[i], source_octets);
            value |= _pdep_u64(_pext_u64(bits, extract[i]), deposit[i]);
            source[i] += from[i].step;
        }
        store(to.to, value, octets);
    }
}

INLINE void move_into(size_t records, const fmtc_entry *parts, size_t count, const place *from,
                      size_t source_octets, place to, size_t octets, int add)
{
    if (octets == 8)
        move_parts(records, parts, count, from, source_octets, to, 8, add);
    else if (octets == 4)
        move_parts(records, parts, count, from, source_octets, to, 4, add);
    else if (octets == 2)
        move_parts(records, parts, count, from, source_octets, to, 2, add);
    else if (octets == 1)
        move_parts(records, parts, count, from, source_octets, to, 1, add);
    else
        move_parts(records, parts, count, from, source_octets, to, octets, add);
}

/* Parts of eight bytes, up to TOGETHER of them. */
INLINE void move_wide(size_t records, const fmtc_entry *parts, size_t count, const place *from,
                      place to, size_t octets, int add)
{
    if (count == 1)
        move_into(records, parts, 1, from, 8, to, octets, add);
    else if (octets < 8)
        move_parts(records, parts, count, from, 8, to, octets, add);
    else if (count == 2)
        move_parts(records, parts, 2, from, 8, to, 8, add);
    else if (count == 3)
        move_parts(records, parts, 3, from, 8, to, 8, add);
    else
        move_parts(records, parts, 4, from, 8, to, 8, add);
}

/* One part of fewer bytes. */
INLINE void move_narrow(size_t records, const fmtc_entry *part, const place *from, place to,
                        size_t octets, int add)
{
    if (octets == 8 && part->octets == 4)
        move_parts(records, part, 1, from, 4, to, 8, add);
    else if (octets == 8 && part->octets == 2)
        move_parts(records, part, 1, from, 2, to, 8, add);
    else if (octets == 8 && part->octets == 1)
        move_parts(records, part, 1, from, 1, to, 8, add);
    else
        move_parts(records, part, 1, from, part->octets, to, octets, add);
}

/* As many of the parts as go together; how many. */
INLINE size_t move_some(size_t records, const fmtc_entry *parts, size_t count, const place *from,
                        place to, size_t octets, int add)
{
    size_t wide = 0;

    while (wide < least(count, TOGETHER) && parts[wide].octets == 8)
        wide++;
    if (wide) {
        move_wide(records, parts, wide, from, to, octets, add);
        return wide;
    }
    move_narrow(records, parts, from, to, octets, add);
    return 1;
}

static void move_word(size_t records, const fmtc_entry *word, const place *from, place to)
{
    const size_t parts = (size_t)word->extract;
    size_t done = move_some(records, word + 1, parts, from, to, word->octets, 0);

    while (done < parts)
        done += move_some(records, word + 1 + done, parts - done, from + done, to, word->octets, 1);
}

#else

/* Bits of a source word that all move by `left` places, which is negative to the right. */
typedef struct {
    uint64_t mask;
    int left;
} run;

/* The bits of a part as runs; how many. */
static size_t runs_of(const fmtc_entry *part, run runs[64])
{
    uint64_t deposit = part->deposit;
    size_t count = 0;

    for (int from = 0, to = 0; from < 64; from++) {
        if (!(part->extract >> from & 1))
            continue;
        for (; !(deposit >> to & 1); to++)
            ;
        if (count == 0 || runs[count - 1].left != to - from)
            runs[count++] = (run){0, to - from};
        runs[count - 1].mask |= UINT64_C(1) << from;
        to++;
    }
    return count;
}

static void move_word(size_t records, const fmtc_entry *word, const place *from, place to)
{
    for (size_t i = 0; i < (size_t)word->extract; i++) {
        run runs[64];
        const size_t count = runs_of(word + 1 + i, runs), octets = word[1 + i].octets;
        const uint8_t *source = from[i].from;
        uint8_t *target = to.to;

        for (size_t record = 0; record < records; record++) {
            const uint64_t bits = octets == 8 ? load(source, 8) : load(source, octets);
            uint64_t value = i ? load(target, word->octets) : 0;
            for (size_t r = 0; r < count; r++) {
                const uint64_t some = bits & runs[r].mask;
                value |= runs[r].left < 0 ? some >> -runs[r].left : some << runs[r].left;
            }
            store(target, value, word->octets);
            source += from[i].step;
            target += to.step;
        }
    }
}

#endif

/* Make target words of the bits of source bytes, for every record.
 *
 * sources, source_steps: the bytes of the first record, and how far the next record's are.
 * targets, target_steps: the same of what is written.
 * plan: so many entries: a word (its `extract` is how many parts it has, at most
 *     FMTC_MOST_PARTS) and its parts, then the next. */
void fmtc_move_bits(size_t records, const uint8_t *const *sources, const size_t *source_steps,
                    uint8_t *const *targets, const size_t *target_steps, size_t entries,
                    const fmtc_entry *plan)
{
    for (size_t first = 0; first < records; first += BATCH) {
        const size_t some = least(BATCH, records - first);
        for (const fmtc_entry *word = plan; word < plan + entries; word += 1 + word->extract) {
            const size_t step = target_steps[word->array];
            place from[FMTC_MOST_PARTS];
            for (size_t i = 0; i < word->extract; i++)
                from[i] = source_of(word + 1 + i, sources, source_steps, first);
            const place to = {targets[word->array] + first * step + word->offset, NULL, step};
            move_word(some, word, from, to);
        }
    }
}
