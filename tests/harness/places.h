/*
 * Memory that shows every access past its ends, random bits, and hashes of results.
 *
 * The heap shows them under AddressSanitizer and valgrind. Guard pages show also what these do not
 * look at, as masked vector loads: memory ends where a page that cannot be read begins.
 */
#ifndef PLACES_H
#define PLACES_H

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where arrays are: on the heap, there one element past an aligned address, against a guard page. */
enum { ON_THE_HEAP, ALIGNED_TO_ELEMENTS_ONLY, BEFORE_A_GUARD, AFTER_A_GUARD, PLACES };

enum { UNTOUCHED = 0xa5 };

/* Rows of an array: `width` bytes of each `stride` are its own. */
typedef struct {
    uint8_t *data;
    size_t rows, width, stride, mapped;
    void *whole;
} area;

static size_t area_size(const area *a)
{
    return a->rows ? (a->rows - 1) * a->stride + a->width : 0;
}

/* Rows of elements of so many bytes, with so many elements between the rows. */
static area area_of(size_t rows, size_t width, size_t element, size_t between, int place)
{
    area a = {.rows = rows, .width = width, .stride = width + between * element};
    const size_t size = area_size(&a);
    if (place < BEFORE_A_GUARD) {
        const size_t moved = place == ALIGNED_TO_ELEMENTS_ONLY ? element : 0;
        a.whole = malloc(size + moved);
        a.data = a.whole ? (uint8_t *)a.whole + moved : NULL;
    } else {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (size + page - 1) / page * page;
        a.mapped = inner + 2 * page;
        a.whole = mmap(NULL, a.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (a.whole != MAP_FAILED && mprotect((uint8_t *)a.whole + page, inner, PROT_READ | PROT_WRITE) == 0)
            a.data = (uint8_t *)a.whole + page + (place == BEFORE_A_GUARD ? inner - size : 0);
    }
    if (!a.data) {
        fprintf(stderr, "no memory\n");
        exit(2);
    }
    memset(a.data, UNTOUCHED, size);
    return a;
}

static void release(area *a)
{
    if (a->mapped)
        munmap(a->whole, a->mapped);
    else
        free(a->whole);
}

/* Ends the program where something was written between the rows. */
static void check_between_rows(const area *a, const char *what)
{
    for (size_t row = 0; row + 1 < a->rows; row++)
        for (size_t i = a->width; i < a->stride; i++)
            if (a->data[row * a->stride + i] != UNTOUCHED) {
                fprintf(stderr, "%s: byte %zu after row %zu was written\n", what, i - a->width, row);
                exit(1);
            }
}

/* -- random ------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float float_with(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Between -1 and 1. */
static float random_unit(void)
{
    return (float)(int32_t)random_bits() * 0x1p-31f;
}

/* Mostly of the size of 1; some zeros, huge and subnormal ones. */
static float random_finite(void)
{
    const uint32_t kind = random_bits() % 16;
    if (kind == 0)
        return random_bits() & 1 ? -0.0f : 0.0f;
    if (kind == 1)
        return random_unit() * 0x1p127f;
    if (kind == 2)
        return float_with(random_bits() & 0x807fffff);
    return random_unit() * (kind < 8 ? 1.0f : 30.0f);
}

static void fill_bytes(area *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i++)
            a->data[row * a->stride + i] = (uint8_t)random_bits();
}

static void put_float(area *a, size_t row, size_t i, float x)
{
    memcpy(a->data + row * a->stride + i * sizeof x, &x, sizeof x);
}

/* -- hashes ------------------------------------------------------------------------------- */

static uint64_t hash_of_byte(uint64_t hash, uint8_t byte)
{
    return (hash ^ byte) * 0x100000001b3u;
}

/* Rows of numbers of 1, 2, 4 or 8 bytes; where they are above `infinite` without sign, a NaN's
 * sign and payload do not count. */
static uint64_t hash_of(uint64_t hash, const area *a, size_t element, uint64_t infinite)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i += element) {
            const uint8_t *from = a->data + row * a->stride + i;
            uint64_t number = 0;
            for (size_t j = 0; j < element; j++)
                number |= (uint64_t)from[j] << 8 * j;
            if (infinite && (number & ~(UINT64_C(1) << (8 * element - 1))) > infinite)
                number = infinite + 1;
            for (size_t j = 0; j < element; j++)
                hash = hash_of_byte(hash, (uint8_t)(number >> 8 * j));
        }
    return hash;
}

#endif
