/* What pieces err by, and the few elements that stick out. */
#include "blocks.h"

void fmtc_errors(size_t rows, size_t length, size_t unit, const float *x, const float *decoded,
                 const float *weights, double *errors);
size_t fmtc_above(size_t rows, size_t length, size_t unit, const float *x, const double *bounds,
                  size_t first, size_t room, int64_t *found);
size_t fmtc_errors_above(size_t rows, size_t length, const float *x, const float *decoded,
                         const float *weights, double floor, size_t first, size_t room,
                         int64_t *found);

/* -- squared errors ------------------------------------------------------------------------ */

/* Pieces that are summed side by side, as a sum in order waits for every addition; and
 * how many squares of each are made ahead. */
#define PIECES 8
#define AHEAD 16

/* An array from a place on, where there is one. */
INLINE const float *from(const float *array, size_t at)
{
    return array ? array + at : NULL;
}

INLINE void squares(size_t count, const float *x, const float *decoded, const float *weights,
                    double *out)
{
    for (size_t i = 0; i < count; i++) {
        const double error = (double)x[i] - (decoded ? (double)decoded[i] : 0.0);
        out[i] = weights ? error * error * (double)weights[i] : error * error;
    }
}

INLINE double piece_error(size_t count, const float *x, const float *decoded, const float *weights)
{
    double made[AHEAD], sum = 0;

    for (size_t at = 0; at < count; at += AHEAD) {
        const size_t some = least(AHEAD, count - at);
        squares(some, x + at, from(decoded, at), from(weights, at), made);
        for (size_t i = 0; i < some; i++)
            sum += made[i];
    }
    return sum;
}

INLINE void piece_errors(size_t unit, const float *x, const float *decoded, const float *weights,
                         double *errors)
{
    double made[PIECES][AHEAD];
    double a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;

    for (size_t at = 0; at < unit; at += AHEAD) {
        for (size_t p = 0; p < PIECES; p++) {
            const size_t i = p * unit + at;
            squares(AHEAD, x + i, from(decoded, i), from(weights, i), made[p]);
        }
        for (size_t i = 0; i < AHEAD; i++) {
            a += made[0][i];
            b += made[1][i];
            c += made[2][i];
            d += made[3][i];
            e += made[4][i];
            f += made[5][i];
            g += made[6][i];
            h += made[7][i];
        }
    }
    errors[0] = a;
    errors[1] = b;
    errors[2] = c;
    errors[3] = d;
    errors[4] = e;
    errors[5] = f;
    errors[6] = g;
    errors[7] = h;
}

INLINE void row_errors(size_t length, size_t unit, const float *x, const float *decoded,
                       const float *weights, double *errors)
{
    size_t at = 0;

    if (unit % AHEAD == 0)
        for (; at + PIECES * unit <= length; at += PIECES * unit, errors += PIECES)
            piece_errors(unit, x + at, from(decoded, at), from(weights, at), errors);
    for (; at < length; at += unit)
        *errors++ = piece_error(least(unit, length - at), x + at, from(decoded, at),
                                from(weights, at));
}

/* The sum of (x - decoded)^2 (times the column's weight) of every piece, in element order, every
 * step in binary64. */
void fmtc_errors(size_t rows, size_t length, size_t unit, const float *x, const float *decoded,
                 const float *weights, double *errors)
{
    const size_t pieces = length / unit + (length % unit != 0);

    for (size_t row = 0; row < rows; row++, x += length, errors += pieces) {
        const float *other = from(decoded, row * length);
        if (weights && other)
            row_errors(length, unit, x, other, weights, errors);
        else if (other)
            row_errors(length, unit, x, other, NULL, errors);
        else
            row_errors(length, unit, x, NULL, weights, errors);
    }
}

/* -- few of many ---------------------------------------------------------------------------- */

/* Elements that are looked at together: mostly there is nothing among them. */
#define SPAN 32

/* Indices, from `first` on, of elements whose magnitude is above their piece's bound; how many
 * there are, of which the first `room` are written. */
size_t fmtc_above(size_t rows, size_t length, size_t unit, const float *x, const double *bounds,
                  size_t first, size_t room, int64_t *found)
{
    size_t count = 0;

    for (size_t row = 0; row < rows; row++, x += length)
        for (size_t at = 0; at < length; at += unit) {
            const double bound = *bounds++;
            const size_t end = least(length, at + unit);
            for (size_t i = at; i < end; i += SPAN) {
                const size_t stop = least(end, i + SPAN);
                int any = 0;
                for (size_t j = i; j < stop; j++)
                    any |= (double)float_of(bits_of(x[j]) & MAGNITUDE) > bound;
                for (size_t j = i; any && j < stop; j++)
                    if ((double)float_of(bits_of(x[j]) & MAGNITUDE) > bound) {
                        if (count < room)
                            found[count] = (int64_t)(first + row * length + j);
                        count++;
                    }
            }
        }
    return count;
}

/* What an error counts for: nothing where it is zero, infinite or no number. */
INLINE double key_of(float x, float decoded, const float *weight)
{
    const float error = x - decoded;
    const uint32_t magnitude = bits_of(error) & MAGNITUDE;
    const double size = (double)float_of(magnitude);
    const int counts = magnitude != 0 && magnitude < INFINITE;
    return counts ? (weight ? size * (double)*weight : size) : -2.0;
}

INLINE size_t errors_above(size_t rows, size_t length, const float *x, const float *decoded,
                           const float *weights, double floor, size_t first, size_t room,
                           int64_t *found)
{
    size_t count = 0;

    for (size_t row = 0; row < rows; row++, x += length, decoded += length)
        for (size_t at = 0; at < length; at += SPAN) {
            const size_t stop = least(length, at + SPAN);
            int any = 0;
            for (size_t i = at; i < stop; i++)
                any |= key_of(x[i], decoded[i], weights ? weights + i : NULL) > floor;
            for (size_t i = at; any && i < stop; i++)
                if (key_of(x[i], decoded[i], weights ? weights + i : NULL) > floor) {
                    if (count < room)
                        found[count] = (int64_t)(first + row * length + i);
                    count++;
                }
        }
    return count;
}

/* Indices, from `first` on, of elements whose error x - decoded counts for more than `floor`
 * (-1 or more): its magnitude times the column's weight. How many there are, of which the first
 * `room` are written. */
size_t fmtc_errors_above(size_t rows, size_t length, const float *x, const float *decoded,
                         const float *weights, double floor, size_t first, size_t room,
                         int64_t *found)
{
    if (weights)
        return errors_above(rows, length, x, decoded, weights, floor, first, room, found);
    return errors_above(rows, length, x, decoded, NULL, floor, first, room, found);
}
