/*
 * Calls every function of one target of a format on rows of odd lengths at awkward places, and
 * prints a hash of all results, which is the same for all targets. With an argument: fewer rows.
 *
 * case.h, written beside this file for every format and target, has FUNCTION(encode) and its
 * like, CODES_BYTES(n) and its like, and what the format is.
 */
#include "places.h"

#include "case.h"

/* Of fmtc_number: bytes, and the bits of infinity. */
static const size_t WIDTHS[] = {4, 2, 2};
static const uint64_t INFINITIES[] = {0x7f800000, 0x7f80, 0x7c00};

static float random_scale(void)
{
    const uint32_t kind = random_bits() % 16;
    const float size = kind == 0 ? 0.0f : kind == 1 ? 0x1p-140f : 0.3f + 0.2f * random_unit();
    return !HAS_POINT && !HAS_MINIMUM && random_bits() % 4 == 0 ? -size : size;
}

static float random_zero(void)
{
    if (HAS_POINT)
        return (float)(POINT_LOW + (int)(random_bits() % (POINT_HIGH - POINT_LOW + 1)));
    return random_finite();
}

static void fill_floats(area *a, float (*one)(void))
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width / sizeof(float); i++)
            put_float(a, row, i, one());
}

static void fill_selects(area *a, uint32_t count)
{
    for (size_t i = 0; i < area_size(a); i++)
        a->data[i] = (uint8_t)(random_bits() % count);
}

#if FUSED
static float random_element(void)
{
    return HAS_NAN && random_bits() % 512 == 0 ? float_with(0x7fc00000) : random_finite();
}

static uint64_t decode_streams(
    uint64_t hash, size_t rows, size_t n, size_t between, int place, const area streams[3])
{
    for (int number = FMTC_FLOAT32; number <= FMTC_FLOAT16; number++) {
        const size_t width = WIDTHS[number];
        area out = area_of(rows, n * width, width, between, place);
        FUNCTION(decode)(
            rows, n, streams[0].data, streams[0].stride, streams[1].data, streams[1].stride,
            HAS_SELECT ? streams[2].data : NULL, streams[2].stride, MULTIPLIER,
            out.data, n + between, (fmtc_number)number);
        check_between_rows(&out, "decode");
        hash = hash_of(hash, &out, width, INFINITIES[number]);
        release(&out);
    }
    return hash;
}

static uint64_t fused(uint64_t hash, size_t rows, size_t n, size_t between, int place)
{
    area x = area_of(rows, n * sizeof(float), sizeof(float), between, place);
    area table = area_of(TABLE_SIZE ? 1 : 0, TABLE_SIZE * sizeof(float), sizeof(float), 0, place);
    area streams[3] = {
        area_of(rows, CODES_BYTES(n), 1, between, place),
        area_of(rows, SCALES_BYTES(n), 1, between, place),
        area_of(HAS_SELECT ? rows : 0, SELECT_BYTES(n), 1, between, place),
    };
    fill_floats(&x, random_element);
    memcpy(table.data, TABLE, TABLE_SIZE * sizeof(float));
    const size_t broken = FUNCTION(encode)(
        rows, n, (const float *)(const void *)x.data, n + between, MULTIPLIER,
        TABLE_SIZE ? (const float *)(const void *)table.data : NULL,
        streams[0].data, streams[0].stride, streams[1].data, streams[1].stride,
        HAS_SELECT ? streams[2].data : NULL, streams[2].stride);
    hash = hash_of_byte(hash, (uint8_t)broken);
    for (int i = 0; i < 3; i++) {
        check_between_rows(streams + i, "encode");
        hash = hash_of(hash, streams + i, 1, 0);
    }
    hash = decode_streams(hash, rows, n, between, place, streams);
    for (int i = 0; i < 3; i++)
        fill_bytes(streams + i); /* what a damaged file may hold */
    hash = decode_streams(hash, rows, n, between, place, streams);
    for (int i = 0; i < 3; i++)
        release(streams + i);
    release(&table);
    release(&x);
    return hash;
}
#endif

static uint64_t given(uint64_t hash, size_t rows, size_t n, size_t between, int place, int selected)
{
    const size_t blocks = BLOCKS(n);
    const int has_zero = HAS_POINT || HAS_MINIMUM;
    area x = area_of(rows, n * sizeof(float), sizeof(float), between, place);
    area codes = area_of(rows, CODES_BYTES(n), 1, between, place);
    area scales = area_of(rows, blocks * sizeof(float), sizeof(float), between, place);
    area zeros = area_of(has_zero ? rows : 0, scales.width, sizeof(float), between, place);
    area select = area_of(selected ? rows : 0, blocks, 1, between, place);
    const uint8_t *selects = selected ? select.data : NULL;
    const float *origins = has_zero ? (const float *)(const void *)zeros.data : NULL;
    fill_floats(&x, random_finite);
    fill_floats(&scales, random_scale);
    fill_floats(&zeros, random_zero);
    fill_selects(&select, GRID_COUNT);
    FUNCTION(encode_given)(
        rows, n, (const float *)(const void *)x.data, n + between,
        (const float *)(const void *)scales.data, selects, origins, blocks + between,
        codes.data, codes.stride);
    check_between_rows(&codes, "encode_given");
    hash = hash_of(hash, &codes, 1, 0);
    fill_bytes(&codes);
    fill_selects(&select, SELECTS);
    for (int number = FMTC_FLOAT32; number <= FMTC_FLOAT16; number++) {
        const size_t width = WIDTHS[number];
        area out = area_of(rows, n * width, width, between, place);
        FUNCTION(decode_given)(
            rows, n, codes.data, codes.stride, (const float *)(const void *)scales.data,
            selects, origins, blocks + between, out.data, n + between, (fmtc_number)number);
        check_between_rows(&out, "decode_given");
        hash = hash_of(hash, &out, width, INFINITIES[number]);
        release(&out);
    }
    release(&select);
    release(&zeros);
    release(&scales);
    release(&codes);
    release(&x);
    return hash;
}

static uint64_t all(size_t rows, size_t n, size_t between, int place)
{
    uint64_t hash = 0xcbf29ce484222325u;
    random_state = 1000 * n + 10 * rows + between;
#if FUSED
    hash = fused(hash, rows, n, between, place);
#endif
    hash = given(hash, rows, n, between, place, 0);
    return given(hash, rows, n, between, place, 1);
}

int main(int count, char **arguments)
{
    static const size_t LENGTHS[] = {
        0, 1, 7, 8, 15, 16, 17, 31, 32, 33, BLOCK - 1, BLOCK, BLOCK + 1, 255, 256, 257, 1000};
    const size_t lengths = sizeof LENGTHS / sizeof *LENGTHS, most = count > 1 ? 2 : 3;
    uint64_t total = 0;
    (void)arguments;
    for (size_t i = 0; i < lengths; i++)
        for (size_t rows = 0; rows <= most; rows++) {
            const size_t n = LENGTHS[i], between = rows % 2 ? 0 : 3;
            const uint64_t hash = all(rows, n, between, 0);
            for (int place = 1; place < PLACES; place++)
                if (all(rows, n, between, place) != hash) {
                    fprintf(stderr, "%zu x %zu: other results at place %d\n", rows, n, place);
                    return 1;
                }
            total = total * 31 + hash;
        }
    printf("%016llx\n", (unsigned long long)total);
    return 0;
}
