/* Bit fields to bytes and back. */
#include "blocks.h"

void fmtc_pack(size_t rows, size_t count, unsigned bits, int high_first, const uint32_t *fields,
               uint8_t *octets);
void fmtc_unpack(size_t rows, size_t count, unsigned bits, int high_first, const uint8_t *octets,
                 size_t octets_step, uint32_t *fields);

INLINE void pack_row(size_t count, unsigned bits, int high_first, const uint32_t *fields,
                     uint8_t *octets)
{
    uint64_t held = 0; /* fields that wait, in their order: from the bottom, or to the bottom */
    unsigned fill = 0;

    for (size_t i = 0; i < count; i++) {
        held = high_first ? held << bits | fields[i] : held | (uint64_t)fields[i] << fill;
        for (fill += bits; fill >= 8; fill -= 8) {
            *octets++ = (uint8_t)(high_first ? held >> (fill - 8) : held);
            held = high_first ? held : held >> 8;
        }
    }
    if (fill)
        *octets = (uint8_t)(high_first ? held << (8 - fill) : held);
}

/* Rows of fields of `bits` each, to bytes. */
void fmtc_pack(size_t rows, size_t count, unsigned bits, int high_first, const uint32_t *fields,
               uint8_t *octets)
{
    const size_t step = (count * bits + 7) / 8;

    for (size_t row = 0; row < rows; row++, fields += count, octets += step)
        if (high_first)
            pack_row(count, bits, 1, fields, octets);
        else
            pack_row(count, bits, 0, fields, octets);
}

INLINE void unpack_row(size_t count, unsigned bits, int high_first, const uint8_t *octets,
                       uint32_t *fields)
{
    const uint64_t mask = (UINT64_C(1) << bits) - 1;
    uint64_t held = 0;
    unsigned fill = 0;

    for (size_t i = 0; i < count; i++) {
        for (; fill < bits; fill += 8, octets++)
            held = high_first ? held << 8 | *octets : held | (uint64_t)*octets << fill;
        fill -= bits;
        fields[i] = (uint32_t)((high_first ? held >> fill : held) & mask);
        held = high_first ? held : held >> bits;
    }
}

/* The inverse: fields from rows of bytes that are `octets_step` apart. */
void fmtc_unpack(size_t rows, size_t count, unsigned bits, int high_first, const uint8_t *octets,
                 size_t octets_step, uint32_t *fields)
{
    for (size_t row = 0; row < rows; row++, fields += count, octets += octets_step)
        if (high_first)
            unpack_row(count, bits, 1, octets, fields);
        else
            unpack_row(count, bits, 0, octets, fields);
}
