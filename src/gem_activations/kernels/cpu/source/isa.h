/* All kernels of one instruction set; isa_*.c set the target and GEM_KERNELS, the name of the table, before this. */
#include "gem.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define INDEPENDENT PRAGMA(clang loop vectorize(assume_safety))
#define UNROLL(count) PRAGMA(clang loop unroll_count(count))
#elif defined(__GNUC__)
#define INDEPENDENT PRAGMA(GCC ivdep)
#define UNROLL(count) PRAGMA(GCC unroll count)
#else
#define INDEPENDENT
#define UNROLL(count)
#endif

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

/* Fused by name, not by the compiler's choice: vector bodies and tails then round alike. */
#if GEM_HAS_FMA || defined(__FP_FAST_FMA)
static ALWAYS_INLINE float fma_float(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static ALWAYS_INLINE double fma_double(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
static ALWAYS_INLINE float fma_float(float a, float b, float c) { return a * b + c; }
static ALWAYS_INLINE double fma_double(double a, double b, double c) { return a * b + c; }
#endif

static ALWAYS_INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static ALWAYS_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static ALWAYS_INLINE double double_of(int64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static ALWAYS_INLINE int64_t bits_of_double(double x)
{
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#define REAL float
#define NAME(name) name##_float
#define FMA fma_float
#define FAR_LOG2 125.0
#define BITS 4 /* of an exponent up to 8: larger ones are computed in double */
#define LARGEST FLT_MAX
#define SMALLEST FLT_MIN
#define STEEP 0x1p-60f
#include "element.h"
#include "loops.h"
#include "scaled.h"
#undef REAL
#undef NAME
#undef FMA
#undef FAR_LOG2
#undef BITS
#undef LARGEST
#undef SMALLEST
#undef STEEP

#define REAL double
#define NAME(name) name##_double
#define FMA fma_double
#define FAR_LOG2 1020.0
#define BITS 7 /* of an exponent up to 64 */
#define LARGEST DBL_MAX
#define SMALLEST DBL_MIN
#define STEEP 0x1p-480
#include "element.h"
#include "loops.h"
#include "scaled.h"
#undef REAL
#undef NAME
#undef FMA
#undef FAR_LOG2
#undef BITS
#undef LARGEST
#undef SMALLEST
#undef STEEP

#include "newton.h"
#include "table_32.h"
#include "table_64.h"
#include "half.h"
#include "staging.h"

#define DTYPES(OPERATION) {OPERATION##_float, OPERATION##_in_double, OPERATION##_bfloat16, OPERATION##_float16}

gem_kernels GEM_KERNELS = {
    .elementwise = {
        [GEM_FORWARD] = DTYPES(forward),
        [GEM_BACKWARD] = DTYPES(backward),
        [GEM_BACKWARD_FROM_OUTPUT] = DTYPES(backward_from_output),
        [GEM_SECOND] = DTYPES(second),
        [GEM_SECOND_FROM_OUTPUT] = DTYPES(second_from_output),
        [GEM_THIRD] = DTYPES(third),
        [GEM_THIRD_FROM_OUTPUT] = DTYPES(third_from_output),
        [GEM_TANGENT] = DTYPES(tangent),
        [GEM_TANGENT_FROM_OUTPUT] = DTYPES(tangent_from_output),
        [GEM_INVERSE] = DTYPES(inverse),
        [GEM_GLU_FORWARD] = DTYPES(glu_forward),
        [GEM_GLU_BACKWARD] = DTYPES(glu_backward),
    },
    .scaled = {scaled_float32, scaled_float64, scaled_bfloat16, scaled_float16},
};
