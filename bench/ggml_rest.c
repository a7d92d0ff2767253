/*
 * What ggml's quantization files need of the rest of ggml, and loops over rows.
 *
 * The tables are those that ggml_cpu_init fills. A function of one row is called from C for
 * every row of a matrix, so that no call from Python is counted to a peer.
 */

#include "ggml-impl.h"
#include "ggml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

float ggml_table_f32_f16[1 << 16];
float ggml_table_f32_e8m0_half[1 << 8];
float ggml_table_f32_ue4m3[1 << 8];

void bench_fill_tables(void)
{
    for (int i = 0; i < 1 << 16; i++) {
        ggml_table_f32_f16[i] = GGML_COMPUTE_FP16_TO_FP32((ggml_fp16_t)i);
    }
    for (int i = 0; i < 1 << 8; i++) {
        ggml_table_f32_e8m0_half[i] = GGML_E8M0_TO_FP32_HALF((uint8_t)i);
        ggml_table_f32_ue4m3[i] = ggml_ue4m3_to_fp32((uint8_t)i);
    }
}

void ggml_abort(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    abort();
}

/* These serve the checks of stored rows, which the bench does not ask for. */
size_t ggml_type_size(enum ggml_type type)
{
    ggml_abort(__FILE__, __LINE__, "no size of type %d in this build", (int)type);
}

size_t ggml_row_size(enum ggml_type type, int64_t count)
{
    (void)count;
    return ggml_type_size(type);
}

const char *ggml_type_name(enum ggml_type type)
{
    ggml_type_size(type);
    return "";
}

typedef void dot_function(int n, float *s, size_t bs, const void *x, size_t bx, const void *y,
                          size_t by, int nrc);

void bench_dot_rows(dot_function *dot, int n, int64_t rows, float *out, const char *weights,
                    size_t stride, const void *activations)
{
    for (int64_t r = 0; r < rows; r++) {
        dot(n, out + r, 0, weights + (size_t)r * stride, 0, activations, 0, 1);
    }
}
