/* The public interface of the kernel library: raw pointers, 64-bit counts, no framework.
 *
 * Every function takes dense arrays of `count` elements of one dtype and computes elementwise. An output may be the
 * same array as an input (in place); arrays that overlap otherwise give unspecified values. `threads` is the largest
 * number of threads to use. The value of an element depends on its inputs and on the instruction set only: not on its
 * position, the count or the threads. Half types are computed in float and rounded once, to nearest, ties to even.
 *
 * Functions return GEM_OK or a negative GEM_ERROR code and write nothing on an error.
 */
#ifndef GEM_H
#define GEM_H

#include <stdint.h>

#if defined(__GNUC__)
#define GEM_EXPORT __attribute__((visibility("default")))
#else
#define GEM_EXPORT
#endif

/* Raise it when a signature, the layout of gem_spec or the meaning of a code changes; library.py asks for the same. */
#define GEM_ABI_VERSION 1

enum { GEM_OK = 0, GEM_ERROR_DTYPE = -1, GEM_ERROR_COUNT = -2, GEM_ERROR_SPEC = -3, GEM_ERROR_ISA = -4 };
enum { GEM_FLOAT32, GEM_FLOAT64, GEM_BFLOAT16, GEM_FLOAT16, GEM_DTYPES };
enum { GEM_ISA_BASELINE, GEM_ISA_AVX2, GEM_ISA_AVX512, GEM_ISAS };
enum {
    GEM_FORWARD,
    GEM_BACKWARD,
    GEM_BACKWARD_FROM_OUTPUT,
    GEM_SECOND,
    GEM_GLU_FORWARD,
    GEM_GLU_BACKWARD,
    GEM_OPERATIONS
};
enum { GEM_MAX_ARRAYS = 5 };

enum { GEM_TABLE_ROWS = 8, GEM_TABLE_COLUMNS = 64 };

/* The gradient as a function of u = y / scale, in octaves of u and parts of octaves: polynomials whose value V makes
 * the gradient V max(1 + c V, d). Columns: one period of a power law below `low`, if any, then the octaves
 * low .. split, then 2^log2_parts parts of each of the octaves split .. high. The argument of a polynomial is the
 * mantissa of u less 3/2, after its upper `skip` bits were shifted out. */
typedef struct gem_table {
    float coefficients[GEM_TABLE_ROWS][GEM_TABLE_COLUMNS]; /* by power */
    float factors[2];                                      /* c and d */
    int32_t period;                                        /* 2n + 1, or 0: below `low` u counts as 2^low */
    int32_t low, split, high, log2_parts, skip;
    int32_t least; /* the smallest u to compute with, in float bits counted from those of 1 */
} gem_table;

/* One activation in the coordinates of GemSpec.reduction: t = min(max(x * inverse_scale, 0), limit),
 * p = t^(2n), F = p / (p + eps). */
typedef struct gem_spec {
    int64_t n;            /* 1 .. 64 */
    int64_t wide;         /* not 0: compute float in double, as n > 8 or t^(2n) can underflow where f(x) does not */
    int64_t scale_log2;   /* inverse_scale = 2^-scale_log2 */
    double inverse_scale; /* the power of two nearest 1 / eps_of_x^(1 / (2n)) */
    double eps;           /* eps in reduced coordinates, 2^-n .. 2^n */
    double limit;         /* beyond it 1 - F < 2^-60 */
    double leak;          /* 0 <= leak < 1 */
    const gem_table *table; /* for the gradient from the output where leak > 0, or NULL */
    double unit;          /* eps^(-1 / (2n)): t * unit is x divided by the scale of the activation */
} gem_spec;

GEM_EXPORT int gem_abi_version(void);
GEM_EXPORT int gem_isa(void);          /* the instruction set in use */
GEM_EXPORT int gem_set_isa(int isa);   /* for tests; GEM_ERROR_ISA if this processor or build lacks it */

/* out = f(x) */
GEM_EXPORT int gem_forward(const gem_spec *spec, int dtype, void *out, const void *x, int64_t count, int threads);
/* out = grad f'(x) */
GEM_EXPORT int gem_backward(const gem_spec *spec, int dtype, void *out, const void *grad, const void *x, int64_t count,
                            int threads);
/* out = grad f'(x) with x recovered from y = f(x); y <= 0 gives grad * leak */
GEM_EXPORT int gem_backward_from_output(const gem_spec *spec, int dtype, void *out, const void *grad, const void *y,
                                        int64_t count, int threads);
/* out = grad f''(x) */
GEM_EXPORT int gem_second(const gem_spec *spec, int dtype, void *out, const void *grad, const void *x, int64_t count,
                          int threads);
/* out = x f(gate) */
GEM_EXPORT int gem_glu_forward(const gem_spec *spec, int dtype, void *out, const void *x, const void *gate,
                               int64_t count, int threads);
/* grad_x = grad f(gate), grad_gate = grad x f'(gate); each output may be any one of the inputs, not each other */
GEM_EXPORT int gem_glu_backward(const gem_spec *spec, int dtype, void *grad_x, void *grad_gate, const void *grad,
                                const void *x, const void *gate, int64_t count, int threads);

/* Inside the library. Outputs come first in `arrays`, then inputs, in the order of the functions above. */
typedef void (*gem_kernel)(const gem_spec *spec, char *const arrays[], int64_t count);
typedef const gem_kernel gem_kernels[GEM_OPERATIONS][GEM_DTYPES];

extern gem_kernels gem_kernels_baseline, gem_kernels_avx2, gem_kernels_avx512;

void gem_parallel(gem_kernel kernel, const gem_spec *spec, char *const arrays[], int used, int64_t itemsize,
                  int64_t count, int threads);

#endif
