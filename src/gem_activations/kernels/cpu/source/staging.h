/* Types that are stored in one type and computed in a wider one: blocks are widened, computed and rounded once.
 *
 * float is computed in double where spec->wide says that x^(2n) could leave float's range while f(x) does not.
 */

/* Small enough that up to eight buffers stay in the nearest caches, large enough to hide the calls. */
enum { BLOCK = GEM_BLOCK };

static void widen_float(double *out, const float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = x[i];
}

static void narrow_float(float *out, const double *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = (float)x[i];
}

/* All inputs of a block are read before an output of it is written: in place works. */
#define STAGED(KERNEL, TYPE, STORED, COMPUTED, OUTPUTS, USED)                                                     \
    COMPUTED buffers[USED][BLOCK];                                                                                \
    char *staging[USED];                                                                                          \
    for (int k = 0; k < (USED); k++) staging[k] = (char *)buffers[k];                                             \
    for (int64_t begin = 0; begin < count; begin += BLOCK) {                                                      \
        const int64_t length = count - begin < BLOCK ? count - begin : BLOCK;                                     \
        for (int k = OUTPUTS; k < (USED); k++) widen_##TYPE(buffers[k], (const STORED *)arrays[k] + begin, length); \
        KERNEL(spec, staging, length);                                                                            \
        for (int k = 0; k < (OUTPUTS); k++) narrow_##TYPE((STORED *)arrays[k] + begin, buffers[k], length);       \
    }

#define DEFINE_FLOAT(OPERATION, OUTPUTS, USED)                                                                \
    static void OPERATION##_wide(const gem_spec *spec, char *const arrays[], int64_t count)                   \
    {                                                                                                         \
        STAGED(OPERATION##_in_double, float, float, double, OUTPUTS, USED)                                    \
    }                                                                                                         \
    static void OPERATION##_float(const gem_spec *spec, char *const arrays[], int64_t count)                  \
    {                                                                                                         \
        (spec->wide ? OPERATION##_wide : OPERATION##_in_float)(spec, arrays, count);                          \
    }

#define DEFINE_HALF(OPERATION, OUTPUTS, USED)                                                                 \
    static void OPERATION##_bfloat16(const gem_spec *spec, char *const arrays[], int64_t count)               \
    {                                                                                                         \
        STAGED(OPERATION##_float, bfloat16, uint16_t, float, OUTPUTS, USED)                                   \
    }                                                                                                         \
    static void OPERATION##_float16(const gem_spec *spec, char *const arrays[], int64_t count)                \
    {                                                                                                         \
        STAGED(OPERATION##_float, float16, uint16_t, float, OUTPUTS, USED)                                    \
    }

DEFINE_FLOAT(forward, 1, 2)
DEFINE_FLOAT(backward, 1, 3)
DEFINE_FLOAT(second, 2, 5)
DEFINE_FLOAT(second_of_output, 2, 5)
DEFINE_FLOAT(third, 3, 8)
DEFINE_FLOAT(third_of_output, 3, 8)
DEFINE_FLOAT(glu_forward, 1, 3)
DEFINE_FLOAT(glu_backward, 2, 5)

/* With a sum for each block, which is as wide as it is. */
#define DEFINE_SUMMED(NAME, KERNEL, TYPE, STORED, COMPUTED)                                                       \
    static void NAME(const gem_spec *spec, char *const arrays[], int64_t count)                                   \
    {                                                                                                             \
        COMPUTED grad[BLOCK], x[BLOCK];                                                                           \
        double *sums = (double *)arrays[3];                                                                       \
        for (int64_t begin = 0; begin < count; begin += BLOCK) {                                                  \
            const int64_t length = count - begin < BLOCK ? count - begin : BLOCK;                                 \
            char *const staging[4] = {(char *)grad, (char *)grad, (char *)x, (char *)sums++};                     \
            widen_##TYPE(grad, (const STORED *)arrays[1] + begin, length);                                        \
            widen_##TYPE(x, (const STORED *)arrays[2] + begin, length);                                           \
            KERNEL(spec, staging, length);                                                                        \
            narrow_##TYPE((STORED *)arrays[0] + begin, grad, length);                                             \
        }                                                                                                         \
    }

DEFINE_SUMMED(backward_scale_wide, backward_scale_in_double, float, float, double)
static void backward_scale_float(const gem_spec *spec, char *const arrays[], int64_t count)
{
    (spec->wide ? backward_scale_wide : backward_scale_in_float)(spec, arrays, count);
}
DEFINE_SUMMED(backward_scale_bfloat16, backward_scale_float, bfloat16, uint16_t, float)
DEFINE_SUMMED(backward_scale_float16, backward_scale_float, float16, uint16_t, float)

/* From the output: the last array, y, is replaced by x, block by block. */
#define DEFINE_FROM_OUTPUT(NAME, COMPUTE, INVERSE, REAL, USED)                                                    \
    static void NAME(const gem_spec *spec, char *const arrays[], int64_t count)                                   \
    {                                                                                                             \
        REAL x[BLOCK];                                                                                            \
        for (int64_t begin = 0; begin < count; begin += BLOCK) {                                                  \
            char *block[USED];                                                                                    \
            const int64_t length = count - begin < BLOCK ? count - begin : BLOCK;                                 \
            for (int k = 0; k < (USED); k++) block[k] = arrays[k] + begin * (int64_t)sizeof(REAL);                \
            char *const pair[2] = {(char *)x, block[(USED)-1]};                                                   \
            INVERSE(spec, pair, length);                                                                          \
            block[(USED)-1] = (char *)x;                                                                          \
            COMPUTE(spec, block, length);                                                                         \
        }                                                                                                         \
    }

DEFINE_FROM_OUTPUT(second_from_output_float, second_of_output_float, inverse_float, float, 5)
DEFINE_FROM_OUTPUT(second_from_output_in_double, second_of_output_in_double, inverse_in_double, double, 5)
DEFINE_FROM_OUTPUT(third_from_output_float, third_of_output_float, inverse_float, float, 8)
DEFINE_FROM_OUTPUT(third_from_output_in_double, third_of_output_in_double, inverse_in_double, double, 8)

DEFINE_HALF(forward, 1, 2)
DEFINE_HALF(backward, 1, 3)
DEFINE_HALF(backward_from_output, 1, 3)
DEFINE_HALF(second, 2, 5)
DEFINE_HALF(second_from_output, 2, 5)
DEFINE_HALF(third, 3, 8)
DEFINE_HALF(third_from_output, 3, 8)
DEFINE_HALF(inverse, 1, 2)
DEFINE_HALF(glu_forward, 1, 3)
DEFINE_HALF(glu_backward, 2, 5)
