/* The public interface of the kernel library: raw pointers, 64-bit counts, no framework.
 *
 * gem_run takes dense arrays of `count` elements of one dtype and computes elementwise. An output may be the same array
 * as an input (in place); arrays that overlap otherwise give unspecified values. `threads` is the largest number of
 * threads to use. The value of an element depends on its inputs and on the instruction set only: not on its position,
 * the count or the threads. Half types are computed in float and rounded once, to nearest, ties to even.
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
#define GEM_ABI_VERSION 6

enum {
    GEM_OK = 0,
    GEM_ERROR_DTYPE = -1,
    GEM_ERROR_COUNT = -2,
    GEM_ERROR_SPEC = -3,
    GEM_ERROR_ISA = -4,
    GEM_ERROR_OPERATION = -5,
    GEM_ERROR_MEMORY = -6,
    GEM_ERROR_SCALE = -7
};
enum { GEM_FLOAT32, GEM_FLOAT64, GEM_BFLOAT16, GEM_FLOAT16, GEM_DTYPES };
enum { GEM_ISA_BASELINE, GEM_ISA_AVX2, GEM_ISA_AVX512, GEM_ISAS };

/* What is computed: outputs = expression of the inputs, in the order of the arrays.
 *
 * The backward passes come in two kinds: from the input x of the activation and, _FROM_OUTPUT, from its output y = f(x).
 * d1 is f'(x) in both. d2 and d3 are the derivatives of d1 by what was kept: f'' and f''' of x, or d2 = f''(x) / f'(x)
 * and d3 = (dd2 / dx) / f'(x) of y, whose own gradient is multiplied by f'(x) on its way to x. For leak = 0, y <= 0
 * counts as 0, where all three are 0.
 */
enum {
    GEM_FORWARD,              /* y = f(x) */
    GEM_BACKWARD,             /* out = grad d1;                                          grad, x */
    GEM_BACKWARD_FROM_OUTPUT, /*                                                         grad, y */
    GEM_SECOND,               /* to_grad, to_kept = gg d1, gg grad d2;                   gg, grad, x */
    GEM_SECOND_FROM_OUTPUT,   /*                                                         gg, grad, y */
    GEM_THIRD,                /* to_gg, to_grad, to_kept = a d1 + b grad d2, b gg d2, a gg d2 + b gg grad d3; */
    GEM_THIRD_FROM_OUTPUT,    /*                                                         a, b, gg, grad, x or y */
    GEM_TANGENT,              /* out = a d1 + b grad d2;                                 a, b, grad, x */
    GEM_TANGENT_FROM_OUTPUT,  /*                                                         a, b, grad, y */
    GEM_INVERSE,              /* x with f(x) = y */
    GEM_GLU_FORWARD,          /* out = x f(gate);                                        x, gate */
    GEM_GLU_BACKWARD,         /* to_x, to_gate = grad f(gate), grad x f'(gate);          grad, x, gate */
    GEM_FORWARD_SCALED,       /* y = f(x) with scales from memory;                       x; then gem_scales */
    GEM_BACKWARD_SCALED,      /* out = grad d1, and the gradient of the scales;          grad, x; then gem_scales */
    GEM_OPERATIONS
};
/* Half types are widened block by block; threads share work at multiples of a block. */
enum { GEM_BLOCK = 512 };
enum { GEM_MAX_ARRAYS = 8 };
/* Below this many elements the start of the threads costs more than they save. */
enum { GEM_GRAIN = 32768 };
extern const int gem_outputs[GEM_OPERATIONS], gem_inputs[GEM_OPERATIONS]; /* how many arrays */

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

/* Scales that are learnt, one or one for each channel of arrays of shape (N, channels, inner): of gem_spec only n and
 * leak count. Their gradient is summed in an order that the number of threads does not change. GEM_ERROR_SCALE: one
 * is NaN, or outside 1e-30 .. 1e30, or its eps outside the range of double. */
typedef struct gem_scales {
    const void *log_scale; /* natural logarithms, `channels` of them */
    void *gradient;        /* of GEM_BACKWARD_SCALED: sums of grad df / d(log scale), `channels` of them */
    int64_t dtype;         /* of both: GEM_FLOAT32 or GEM_FLOAT64 */
    int64_t channels, inner;
} gem_scales;

GEM_EXPORT int gem_abi_version(void);
GEM_EXPORT int gem_isa(void);          /* the instruction set in use */
GEM_EXPORT int gem_set_isa(int isa);   /* for tests; GEM_ERROR_ISA if this processor or build lacks it */

/* One call as a block of memory, so that a caller pays for one argument; `arrays` may end after those in use. */
typedef struct gem_call {
    const gem_spec *spec;
    int64_t operation, dtype, count, threads;
    void *arrays[GEM_MAX_ARRAYS]; /* outputs, which must differ from each other, then inputs, then gem_scales if any */
} gem_call;

/* GEM_OK, or a negative GEM_ERROR code: then nothing was written. */
GEM_EXPORT int gem_run(const gem_call *call);

/* Inside the library. */
typedef void (*gem_kernel)(const gem_spec *spec, char *const arrays[], int64_t count);

/* A pass with scales from memory over an array of shape (outer, channels, inner), cut into tiles, whose sums do not
 * depend on the threads.
 *
 * If `lines` is 0 a tile is a piece of up to `width` elements of one channel, `across` of them a row of `inner`. Else
 * the array is read as lines of `columns`: one row of channels or, if that is short, several. A tile is then `lines` of
 * them by `width` columns, which are `span` channels. */
typedef struct gem_scaled {
    gem_spec spec; /* n, leak, and what holds for all scales: wide and limit */
    const double *inverse_scales, *eps; /* of each channel */
    char *out, *grad, *x;               /* grad is NULL on the forward pass */
    double *sums;                       /* of t F (1 - F) grad, `span` of each tile */
    int64_t count, channels, inner, columns;
    int64_t lines, width, across, span;
} gem_scaled;
/* Elements of one tile; the largest width of a tile of several channels; how many sums of a channel are kept apart. */
enum { GEM_TILE = 16384, GEM_WIDTH = 1024, GEM_LANES = 64 };

static inline int64_t gem_first_channel(const gem_scaled *work, int64_t tile)
{
    return work->lines == 0 ? tile / work->across % work->channels : tile % work->across * work->span;
}

typedef void (*gem_scaled_kernel)(const gem_scaled *work, int64_t begin, int64_t end);

typedef const struct {
    gem_kernel elementwise[GEM_FORWARD_SCALED][GEM_DTYPES];
    gem_scaled_kernel scaled[GEM_DTYPES];
} gem_kernels;

extern gem_kernels gem_kernels_baseline, gem_kernels_avx2, gem_kernels_avx512;

/* Share the elements 0 .. count among threads, each of which begins at a multiple of `unit`. */
void gem_parallel(void (*body)(const void *work, int64_t begin, int64_t end), const void *work, int64_t count,
                  int64_t unit, int threads);

#endif
