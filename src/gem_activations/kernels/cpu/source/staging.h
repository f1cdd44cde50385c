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
DEFINE_FLOAT(tangent, 1, 5)
DEFINE_FLOAT(tangent_of_output, 1, 5)
DEFINE_FLOAT(glu_forward, 1, 3)
DEFINE_FLOAT(glu_backward, 2, 5)

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
DEFINE_FROM_OUTPUT(tangent_from_output_float, tangent_of_output_float, inverse_float, float, 5)
DEFINE_FROM_OUTPUT(tangent_from_output_in_double, tangent_of_output_in_double, inverse_in_double, double, 5)

DEFINE_HALF(forward, 1, 2)
DEFINE_HALF(backward, 1, 3)
DEFINE_HALF(backward_from_output, 1, 3)
DEFINE_HALF(second, 2, 5)
DEFINE_HALF(second_from_output, 2, 5)
DEFINE_HALF(third, 3, 8)
DEFINE_HALF(third_from_output, 3, 8)
DEFINE_HALF(tangent, 1, 5)
DEFINE_HALF(tangent_from_output, 1, 5)
DEFINE_HALF(inverse, 1, 2)
DEFINE_HALF(glu_forward, 1, 3)
DEFINE_HALF(glu_backward, 2, 5)

/* With scales from memory: by how the elements are stored, and by what they are computed in. */
#define DEFINE_SCALED(TYPE, STORED)                                                                               \
    static void TYPE##_to_float(float *out, const void *stored, int64_t count)                                    \
    {                                                                                                             \
        widen_##TYPE(out, (const STORED *)stored, count);                                                         \
    }                                                                                                             \
    static void float_to_##TYPE(void *stored, const float *x, int64_t count)                                      \
    {                                                                                                             \
        narrow_##TYPE((STORED *)stored, x, count);                                                                \
    }                                                                                                             \
    static void TYPE##_to_double(double *out, const void *stored, int64_t count)                                  \
    {                                                                                                             \
        float x[BLOCK];                                                                                           \
        widen_##TYPE(x, (const STORED *)stored, count);                                                           \
        widen_float(out, x, count);                                                                               \
    }                                                                                                             \
    static void double_to_##TYPE(void *stored, const double *x, int64_t count)                                    \
    {                                                                                                             \
        float narrow[BLOCK];                                                                                      \
        narrow_float(narrow, x, count);                                                                           \
        narrow_##TYPE((STORED *)stored, narrow, count);                                                           \
    }                                                                                                             \
    static void scaled_##TYPE(const gem_scaled *work, int64_t begin, int64_t end)                                 \
    {                                                                                                             \
        const storage_float in_float = {sizeof(STORED), TYPE##_to_float, float_to_##TYPE};                        \
        const storage_double in_double = {sizeof(STORED), TYPE##_to_double, double_to_##TYPE};                    \
        if (work->spec.wide) scaled_double(work, begin, end, in_double);                                          \
        else scaled_float(work, begin, end, in_float);                                                            \
    }

DEFINE_SCALED(bfloat16, uint16_t)
DEFINE_SCALED(float16, uint16_t)

static void float_to_double(double *out, const void *stored, int64_t count) { widen_float(out, stored, count); }
static void double_to_float(void *stored, const double *x, int64_t count) { narrow_float(stored, x, count); }

static void scaled_float32(const gem_scaled *work, int64_t begin, int64_t end)
{
    if (work->spec.wide) scaled_double(work, begin, end, (storage_double){4, float_to_double, double_to_float});
    else scaled_float(work, begin, end, (storage_float){4, NULL, NULL});
}

static void scaled_float64(const gem_scaled *work, int64_t begin, int64_t end)
{
    scaled_double(work, begin, end, (storage_double){8, NULL, NULL});
}
