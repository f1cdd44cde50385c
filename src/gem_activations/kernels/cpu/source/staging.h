/* Types that are stored in one type and computed in a wider one: blocks are widened, computed and rounded once.
 *
 * float is computed in double where spec->wide says that x^(2n) could leave float's range while f(x) does not.
 */

/* Small enough that the five buffers stay in the nearest caches, large enough to hide the calls. */
enum { BLOCK = 512 };

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
DEFINE_FLOAT(second, 1, 3)
DEFINE_FLOAT(glu_forward, 1, 3)
DEFINE_FLOAT(glu_backward, 2, 5)

DEFINE_HALF(forward, 1, 2)
DEFINE_HALF(backward, 1, 3)
DEFINE_HALF(backward_from_output, 1, 3)
DEFINE_HALF(second, 1, 3)
DEFINE_HALF(glu_forward, 1, 3)
DEFINE_HALF(glu_backward, 2, 5)
