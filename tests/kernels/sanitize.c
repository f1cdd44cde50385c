/* Runs every kernel of every instruction set under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.
 *
 * Arrays are allocated to the byte, so that a read or write beyond them is reported; they start at every distance
 * from an aligned address that their type allows, and outputs hold NaN before the call. The results must
 * equal the same elements computed one by one. Built with OpenMP, whose runtime the library
 * then finds: large arrays are shared by threads, also in calls from inside a parallel region.
 */
#include "../../src/gem_activations/kernels/cpu/source/gem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int itemsizes[GEM_DTYPES] = {4, 8, 2, 2};
static int arrays_of(int operation) { return gem_outputs[operation] + gem_inputs[operation]; }
static long checks;

static void fail(const char *what, int operation, int dtype, int isa, int64_t count)
{
    printf("%s: operation %d, dtype %d, isa %d, count %lld\n", what, operation, dtype, isa, (long long)count);
    exit(1);
}

static int call(int operation, const gem_spec *spec, int dtype, char **a, int64_t count, int threads)
{
    gem_call call = {.spec = spec, .operation = operation, .dtype = dtype, .count = count, .threads = threads};
    const double log_scale = log(2) * fmax(fmin((double)spec->scale_log2, 99), -99); /* 1e-30 .. 1e30 */
    double gradient;
    gem_scales scales = {&log_scale, &gradient, GEM_FLOAT64, 1, 1};
    memcpy(call.arrays, a, sizeof(char *) * (size_t)arrays_of(operation));
    if (operation >= GEM_FORWARD_SCALED) call.arrays[arrays_of(operation)] = &scales;
    return gem_run(&call);
}

/* An activation with the given exponent of its scale; eps is 1 in reduced coordinates. */
static gem_spec make_spec(int n, int scale_log2, double leak, int wide)
{
    const double limit = exp2(60.0 / (2 * n));
    return (gem_spec){.n = n, .wide = wide, .scale_log2 = scale_log2, .inverse_scale = exp2(-scale_log2),
                      .eps = 1, .limit = limit, .leak = leak, .unit = 1};
}

static const uint64_t infinities[GEM_DTYPES] = {0x7f800000, 0x7ff0000000000000, 0x7f80, 0x7c00};

/* Of two NaN the processor keeps the one that the compiler put first: the bits of a NaN say nothing. */
static int same(const char *a, const char *b, int dtype)
{
    const int size = itemsizes[dtype];
    uint64_t x = 0, y = 0;
    memcpy(&x, a, (size_t)size); /* little-endian, as every target here */
    memcpy(&y, b, (size_t)size);
    const uint64_t magnitude = ((uint64_t)1 << (8 * size - 1)) - 1;
    return x == y || ((x & magnitude) > infinities[dtype] && (y & magnitude) > infinities[dtype]);
}

/* Bits of a positive or negative number of any size, sometimes a special one. */
static uint64_t pattern(int dtype)
{
    const uint64_t random = ((uint64_t)rand() << 42) ^ ((uint64_t)rand() << 21) ^ (uint64_t)rand();
    static const uint64_t ones[GEM_DTYPES] = {0x3f800000, 0x3ff0000000000000, 0x3f80, 0x3c00};
    switch (rand() % 16) {
    case 0: return 0;
    case 1: return infinities[dtype];
    case 2: return infinities[dtype] + 1; /* a signalling NaN */
    case 3: return (uint64_t)1 << (8 * itemsizes[dtype] - 1);
    case 4: return 1; /* the smallest subnormal number */
    case 5: case 6: case 7: return random; /* the upper bytes are cut off */
    default: return ones[dtype] + random % (ones[dtype] / 8) - ones[dtype] / 16;
    }
}

static void check(int operation, int dtype, int isa, const gem_spec *spec, int64_t count, int threads, int offset)
{
    const int size = itemsizes[dtype];
    char *blocks[GEM_MAX_ARRAYS], *arrays[GEM_MAX_ARRAYS];
    for (int k = 0; k < arrays_of(operation); k++) {
        const int skip = (offset + k) % 16 * size;
        blocks[k] = malloc((size_t)(count * size + skip + 1));
        arrays[k] = blocks[k] + skip;
        if (k < gem_outputs[operation])
            memset(arrays[k], 0xff, (size_t)(count * size));
        else
            for (int64_t i = 0; i < count; i++) {
                const uint64_t bits = pattern(dtype);
                memcpy(arrays[k] + i * size, &bits, (size_t)size);
            }
    }
    if (call(operation, spec, dtype, arrays, count, threads) != GEM_OK) fail("refused", operation, dtype, isa, count);
    const int64_t stride = count > 2000 ? 97 : 1;
    for (int64_t i = 0; i < count; i += stride) {
        char alone[3][8] = {{0}}, *single[GEM_MAX_ARRAYS];
        for (int k = 0; k < arrays_of(operation); k++)
            single[k] = k < gem_outputs[operation] ? alone[k] : arrays[k] + i * size;
        call(operation, spec, dtype, single, 1, 1);
        for (int k = 0; k < gem_outputs[operation]; k++) {
            if (!same(alone[k], arrays[k] + i * size, dtype))
                fail("not written, or depends on its position", operation, dtype, isa, count);
        }
    }
    for (int k = 0; k < arrays_of(operation); k++) free(blocks[k]);
    checks++;
}

/* Scales for channels: in arrays to the byte, the same for one thread and several, and as one scale gives. */
static void check_channels(int dtype, int isa, const gem_spec *spec, int64_t n, int64_t channels, int64_t inner)
{
    const int64_t count = n * channels * inner, size = itemsizes[dtype];
    char *arrays[4], *again[2];
    for (int k = 0; k < 4; k++) arrays[k] = malloc((size_t)(count * size)); /* y, out, grad, x */
    for (int k = 0; k < 2; k++) again[k] = malloc((size_t)(count * size));
    double *log_scale = malloc((size_t)channels * sizeof(double)), *gradient = malloc((size_t)channels * sizeof(double));
    double *same_gradient = malloc((size_t)channels * sizeof(double));
    for (int64_t k = 0; k < channels; k++) log_scale[k] = log(2) * (double)(k % 5 - 2);
    for (int64_t i = 0; i < 2 * count; i++) {
        const uint64_t bits = pattern(dtype);
        memcpy(arrays[2 + i / count] + i % count * size, &bits, (size_t)size);
    }
    for (int threads = 3; threads > 0; threads -= 2) {
        char **made = threads == 3 ? arrays : again;
        gem_scales scales = {log_scale, threads == 3 ? gradient : same_gradient, GEM_FLOAT64, channels, inner};
        gem_call forward = {spec, GEM_FORWARD_SCALED, dtype, count, threads, {made[0], arrays[3], &scales}};
        gem_call backward = {spec, GEM_BACKWARD_SCALED, dtype, count, threads, {made[1], arrays[2], arrays[3], &scales}};
        if (gem_run(&forward) != GEM_OK || gem_run(&backward) != GEM_OK) fail("refused", GEM_FORWARD_SCALED, dtype, isa, count);
    }
    for (int64_t k = 0; k < channels; k++)
        if (!same((char *)&gradient[k], (char *)&same_gradient[k], GEM_FLOAT64)) fail("threads", GEM_BACKWARD_SCALED, dtype, isa, count);
    for (int64_t i = 0; i < count; i += count > 2000 ? 97 : 1) {
        char alone[2][8] = {{0}};
        double ignored;
        gem_scales one = {&log_scale[i / inner % channels], &ignored, GEM_FLOAT64, 1, 1};
        char *grad = arrays[2] + i * size, *x = arrays[3] + i * size;
        gem_call forward = {spec, GEM_FORWARD_SCALED, dtype, 1, 1, {alone[0], x, &one}};
        gem_call backward = {spec, GEM_BACKWARD_SCALED, dtype, 1, 1, {alone[1], grad, x, &one}};
        gem_run(&forward);
        gem_run(&backward);
        for (int k = 0; k < 2; k++)
            if (!same(alone[k], arrays[k] + i * size, dtype) || !same(alone[k], again[k] + i * size, dtype))
                fail("not as one scale", GEM_FORWARD_SCALED + k, dtype, isa, count);
    }
    for (int k = 0; k < 4; k++) free(arrays[k]);
    for (int k = 0; k < 2; k++) free(again[k]);
    free(log_scale), free(gradient), free(same_gradient);
    checks++;
}

int main(void)
{
    static const int64_t shapes[][3] = {{1, 3, 1}, {70, 3, 1}, {9, 256, 1}, {9, 257, 1}, {50, 1000, 1}, {3, 5, 7},
                                        {2, 33, 49}, {3, 2, 9000}, {30000, 2, 1}, {4, 300, 50}};

    static const int64_t counts[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 67, 255, 256, 257, 511, 513, 1029};
    static gem_table table = {.low = -2, .split = -2, .high = 2, .log2_parts = 4, .skip = 4, .least = -2 * (1 << 23)};
    for (int k = 0; k < GEM_TABLE_COLUMNS; k++) table.coefficients[0][k] = 1 + 0.01f * (float)k;
    table.factors[1] = 1;
    gem_spec specs[20];
    int made = 0;
    for (int n = 1; n <= 5; n++)
        for (int leaky = 0; leaky < 2; leaky++) specs[made++] = make_spec(n, 1 - n, leaky ? 0.01 : 0, 0);
    specs[made] = make_spec(3, 0, 0.5, 0);
    specs[made++].table = &table;
    specs[made++] = make_spec(8, 0, 0, 0);
    specs[made++] = make_spec(1, 100, 0, 1);
    specs[made++] = make_spec(2, -100, 0, 0);
    specs[made++] = make_spec(4, 79, 0, 1);
    specs[made++] = make_spec(64, 0, 0, 1);
    specs[made++] = make_spec(64, 3, 0.999, 1);
    specs[made++] = make_spec(20, 0, 1e-300, 1);
    for (int isa = 0; isa < GEM_ISAS; isa++) {
        if (gem_set_isa(isa) != GEM_OK) continue;
        for (int operation = 0; operation < GEM_OPERATIONS; operation++)
            for (int dtype = 0; dtype < GEM_DTYPES; dtype++)
                for (int k = 0; k < made; k++) {
                    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
                        check(operation, dtype, isa, &specs[k], counts[c], 1, (int)(c + (size_t)k));
                    if (k < 3) check(operation, dtype, isa, &specs[k], 40001, 3, k);
                }
        for (int dtype = 0; dtype < GEM_DTYPES; dtype++)
            for (int k = 0; k < made; k += 3)
                for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
                    check_channels(dtype, isa, &specs[k], shapes[c][0], shapes[c][1], shapes[c][2]);
    }
#pragma omp parallel num_threads(2)
    {
        float x[4] = {-1, 0, 1, 2}, y[4];
        static float large[2][50000];
        char *small[2] = {(char *)y, (char *)x}, *shared[2] = {(char *)large[0], (char *)large[1]};
        call(GEM_FORWARD, &specs[0], GEM_FLOAT32, small, 4, 2);
#pragma omp single
        call(GEM_FORWARD, &specs[0], GEM_FLOAT32, shared, 50000, 2);
    }
    gem_call none = {.spec = NULL};
    if (gem_run(&none) != GEM_ERROR_SPEC) fail("accepted", 0, 0, 0, 0);
    printf("%ld checks, clean\n", checks);
    return 0;
}
