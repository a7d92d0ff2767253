/*
 * Runs the public functions of one format, which case.h names, over the cases of a file.
 *
 *   neon_harness INPUT OUTPUT
 *
 * The input is a sequence of cases, the output what each of them wrote, in the order of run_case;
 * test_c_neon.py writes the one and reads the other. It prints the target whose functions ran.
 * Every array ends where its memory ends, so that whoever reaches past it crashes.
 */
#define _DEFAULT_SOURCE
#include "case.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static FILE *input, *output;

static void fail(const char *why)
{
    perror(why);
    exit(1);
}

/* So many bytes before a page that cannot be touched; never given back. */
static void *place(size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
    uint8_t *base = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + whole, page, PROT_NONE) != 0)
        fail("memory");
    return base + (whole - size);
}

static void *taken(size_t size)
{
    void *array = place(size);
    if (fread(array, 1, size, input) != size)
        fail("the input is too short");
    return array;
}

static void give(const void *array, size_t size)
{
    if (fwrite(array, 1, size, output) != size)
        fail("the output");
}

static const fmtc_number NUMBERS[3] = {FMTC_FLOAT32, FMTC_BFLOAT16, FMTC_FLOAT16};

static size_t width(fmtc_number number)
{
    return number == FMTC_FLOAT32 ? 4 : 2;
}

#if FUSED
static void run_fused(size_t rows, size_t n)
{
    uint64_t entries;
    memcpy(&entries, taken(sizeof entries), sizeof entries);
    float multiplier;
    memcpy(&multiplier, taken(sizeof multiplier), sizeof multiplier);
    const float *table = taken(entries * sizeof(float)), *x = taken(rows * n * sizeof(float));
    const size_t codes_bytes = CODES_BYTES(n), scales_bytes = SCALES_BYTES(n), select_bytes = SELECT_BYTES(n);
    uint8_t *codes = place(rows * codes_bytes), *scales = place(rows * scales_bytes);
    uint8_t *select = place(rows * select_bytes);
    const uint64_t broken = FUNCTION(encode)(
        rows, n, x, n, multiplier, table, codes, codes_bytes, scales, scales_bytes, select, select_bytes);
    give(&broken, sizeof broken);
    give(codes, rows * codes_bytes);
    give(scales, rows * scales_bytes);
    give(select, rows * select_bytes);
    for (int i = 0; i < 3; i++) {
        const size_t size = rows * n * width(NUMBERS[i]);
        void *out = place(size);
        FUNCTION(decode)(
            rows, n, codes, codes_bytes, scales, scales_bytes, select, select_bytes,
            multiplier, out, n, NUMBERS[i]);
        give(out, size);
    }
}
#endif

/* With one select index for each block to encode, and another, of any table, to decode. */
static void run_given(size_t rows, size_t n)
{
    const size_t blocks = BLOCKS(n), codes_bytes = CODES_BYTES(n);
    const float *x = taken(rows * n * sizeof(float)), *scales = taken(rows * blocks * sizeof(float));
    const float *zeros = HAS_ZERO ? taken(rows * blocks * sizeof(float)) : NULL;
    const uint8_t *select = HAS_SELECT ? taken(rows * blocks) : NULL;
    const uint8_t *tables = HAS_SELECT ? taken(rows * blocks) : NULL;
    uint8_t *codes = place(rows * codes_bytes);
    FUNCTION(encode_given)(rows, n, x, n, scales, select, zeros, blocks, codes, codes_bytes);
    give(codes, rows * codes_bytes);
    for (int i = 0; i < 3; i++) {
        const size_t size = rows * n * width(NUMBERS[i]);
        void *out = place(size);
        FUNCTION(decode_given)(
            rows, n, codes, codes_bytes, scales, tables, zeros, blocks, out, n, NUMBERS[i]);
        give(out, size);
    }
}

int main(int count, char **arguments)
{
    if (count != 3 || !(input = fopen(arguments[1], "rb")) || !(output = fopen(arguments[2], "wb")))
        fail("usage: neon_harness INPUT OUTPUT");
    uint64_t shape[2];
    while (fread(shape, sizeof shape, 1, input) == 1) {
#if FUSED
        run_fused((size_t)shape[0], (size_t)shape[1]);
#endif
        run_given((size_t)shape[0], (size_t)shape[1]);
    }
    if (fclose(output) != 0)
        fail("the output");
    puts(FUNCTION(target)());
    return 0;
}
