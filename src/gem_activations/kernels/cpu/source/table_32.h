/* The gradient and the input from the output in float, for n = 1 .. 4 and no leak: piecewise polynomials, no root.
 *
 * For x > 0 f rises, so that f'(x) is a function of y = f(x), and of u = y / scale alone. To solve for x would take
 * divisions and roots; a polynomial takes neither, and one for each octave of u, or part of an octave where f' bends
 * most, needs few terms. The bits of the float u say all: the exponent is the octave, the upper bits of the mantissa
 * the part, and the mantissa less 3/2 the argument.
 *
 * The tails need no octaves of their own. Far below the transition f' is V (1 + c V) with the power law V = (2n+1)
 * u^(2n/(2n+1)): 2n + 1 octaves further down V is smaller by 2^(2n), so that the columns of one period serve all of
 * them, and the exponent of the sum is lowered (`drop`). The table has V; `correction` is 1 + c V, or the constant
 * that it becomes above. Above the last octave f' is 1. The input, less u / (2n+1), follows the same pieces.
 *
 * With AVX-512 a power's 32 coefficients are two registers, and one permute picks a column for each of 16 elements;
 * with AVX2 four permutes and blends do; else they are read from memory. tools/make_gradient_tables.py makes the
 * tables.
 */
#include "gradient_table_32.h"
#include "inverse_table_32.h"

enum { INVERSE_DEGREE = 6 };

typedef struct {
    float scale;     /* of the activation: x = t scale */
    float unit;      /* u = y * unit * 2^shift / 2^scale_log2; the last power is taken out of the exponent bits */
    int32_t bias;    /* exponent bits of the lowest octave that has no power law */
    int32_t lowest;  /* bits of the smallest u that has a normal gradient */
    int32_t highest; /* bits of the largest u: beyond it the gradient is 1 */
} table_constants;

/* With the shift a subnormal output becomes a normal number. A scale so large that the shift could overflow has no
 * use for it: u is then below the transition wherever the output is small. */
static table_constants table_constants_of(const gem_spec *spec, int low, int high, int32_t least)
{
    const int shift = spec->scale_log2 < 80 ? 24 : 0;
    const int zero = 127 + shift + (int)spec->scale_log2;
    const int32_t lowest = zero * (1 << 23) + least;
    table_constants c;
    c.scale = (float)(ldexp(1, (int)spec->scale_log2) / spec->unit);
    c.unit = (float)ldexp(spec->unit, shift);
    c.bias = zero + low;
    c.lowest = lowest > 0 ? lowest : 0;
    c.highest = (zero + high) * (1 << 23) - 1;
    return c;
}

/* x / period for 0 <= x < 2^8 is x * PER_PERIOD >> 16. */
#define PER_PERIOD(period) (65536 / (period) + 1)

#if !GEM_HAS_AVX512
/* In three loops over a block, of which the compiler vectorises the first and the last. */
enum { TABLE_BLOCK = 256 };

typedef struct {
    int32_t column[TABLE_BLOCK];
    float z[TABLE_BLOCK], sum[TABLE_BLOCK];
    uint32_t periods[TABLE_BLOCK]; /* of the power law, by which the column was raised */
} table_block;

/* `whole` and `fine` are the column by octaves and by parts of octaves: the larger one holds. */
static ALWAYS_INLINE int32_t table_column(int32_t whole, int32_t fine) { return fine > whole ? fine : whole; }

/* `drop` is what the exponent bits of the sum are lowered by. */
static ALWAYS_INLINE float table_finish(float sum, uint32_t drop, float y, float otherwise, const float factors[2])
{
    const float value = float_of(bits_of(sum) - drop);
    const float correction = fma_float(value, factors[0], 1);
    return y > 0 ? value * (correction > factors[1] ? correction : factors[1]) : otherwise;
}

#if GEM_HAS_AVX2
/* A row is in four registers: permutes pick from each by three bits of the column, blends choose by the other two. */
static ALWAYS_INLINE void table_sums(table_block *block, int length, const float table[][32], int degree)
{
    for (int i = 0; i < length; i += 8) {
        const __m256i column = _mm256_loadu_si256((const __m256i *)(block->column + i));
        const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(column, 28));
        const __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(column, 27));
        const __m256 z = _mm256_loadu_ps(block->z + i);
        __m256 sum = _mm256_setzero_ps();
        UNROLL(8)
        for (int power = degree; power >= 0; power--) {
            const float *row = table[power];
            const __m256 a = _mm256_permutevar8x32_ps(_mm256_load_ps(row), column);
            const __m256 b = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 8), column);
            const __m256 c = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 16), column);
            const __m256 d = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 24), column);
            const __m256 low = _mm256_blendv_ps(a, b, bit3), high = _mm256_blendv_ps(c, d, bit3);
            sum = _mm256_fmadd_ps(sum, z, _mm256_blendv_ps(low, high, bit4));
        }
        _mm256_storeu_ps(block->sum + i, sum);
    }
}
#else
static ALWAYS_INLINE void table_sums(table_block *block, int length, const float table[][32], int degree)
{
    for (int i = 0; i < length; i++) {
        float sum = 0;
        UNROLL(8)
        for (int power = degree; power >= 0; power--)
            sum = fma_float(sum, block->z[i], table[power][block->column[i]]);
        block->sum[i] = sum;
    }
}
#endif

/* Column, argument and periods of a block. From here on the parameters are compile-time constants of one order. */
static ALWAYS_INLINE void table_place(table_block *block, table_constants c, const float *y, int length, int n, int low,
                                      int split, int log2_parts)
{
    const int period = 2 * n + 1, offset = period + split - low;
    for (int i = 0; i < length; i++) {
        const float u = y[i] > 0 ? y[i] * c.unit : 1; /* 1: anything whose products are normal numbers */
        int32_t bits = (int32_t)bits_of(u);
        bits = bits > c.lowest ? bits : c.lowest;
        bits = bits < c.highest ? bits : c.highest;
        const int32_t octave = (bits >> 23) - c.bias; /* counted from `low` */
        const int32_t below = octave < 0 ? -1 - octave : 0;
        const int32_t periods = (below * PER_PERIOD(period)) >> 16;
        const int32_t fine = (bits >> (23 - log2_parts)) - ((c.bias + split - low) << log2_parts) + offset;
        const int32_t whole = octave + period * (periods + 1);
        block->column[i] = log2_parts > 0 ? table_column(whole, fine) : whole;
        block->z[i] = float_of(((uint32_t)bits & 0x7fffffu) | 0x3f800000u) - 1.5f;
        block->periods[i] = (uint32_t)periods;
    }
    for (int i = length; i % 8 != 0; i++) block->column[i] = 0, block->z[i] = 0; /* sums are made eight at a time */
}

static ALWAYS_INLINE void table_gradients(table_constants c, float *out, const float *grad, const float *y, int length,
                                          const float table[][32], const float factors[2], int n, int low, int split,
                                          int log2_parts, int degree)
{
    table_block block;
    table_place(&block, c, y, length, n, low, split, log2_parts);
    table_sums(&block, length, table, degree);
    INDEPENDENT
    for (int i = 0; i < length; i++) {
        const float otherwise = 0 > y[i] ? 0 : y[i]; /* NaN where y is */
        const uint32_t drop = block.periods[i] * (uint32_t)n << 24; /* a factor of 2^(-2n periods) */
        out[i] = grad[i] * table_finish(block.sum[i], drop, y[i], otherwise, factors);
    }
}

static ALWAYS_INLINE void table_inputs(table_constants c, float *x, const float *y, int length, const float table[][32],
                                       int n, int low, int split, int log2_parts)
{
    table_block block;
    table_place(&block, c, y, length, n, low, split, log2_parts);
    table_sums(&block, length, table, INVERSE_DEGREE);
    INDEPENDENT
    for (int i = 0; i < length; i++) {
        const float otherwise = 0 > y[i] ? 0 : y[i];
        const float curved = float_of(bits_of(block.sum[i]) - (block.periods[i] << 23)) * c.scale;
        const float root = fma_float(y[i], 1.0f / (float)(2 * n + 1), curved);
        const int32_t bits = (int32_t)bits_of(y[i] * c.unit);
        x[i] = y[i] > 0 && bits <= c.highest ? root : otherwise;
    }
}
#else
/* Positive numbers are in the order of their bits, which processors compare faster. */
static ALWAYS_INLINE __m512 larger(__m512 a, float b)
{
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(_mm512_set1_ps(b))));
}

/* The same arithmetic; the columns stay in registers, two for each power, and a permute picks one for each lane. */
typedef struct {
    __m512i product; /* bits of u */
    __m512i periods;
    __m512 sum;
} table_lanes;

static ALWAYS_INLINE table_lanes table_sum_avx512(table_constants c, __m512 y, const float table[][32], int n, int low,
                                                  int split, int log2_parts, int degree)
{
    const int period = 2 * n + 1, offset = period + split - low;
    const __m512i product = _mm512_castps_si512(_mm512_mul_ps(y, _mm512_set1_ps(c.unit)));
    const __m512i bits = _mm512_min_epi32(_mm512_max_epi32(product, _mm512_set1_epi32(c.lowest)),
                                          _mm512_set1_epi32(c.highest));
    const __m512i exponent = _mm512_srli_epi32(bits, 23);
    /* Both factors fit 16 bits, and the upper halves of the lanes are 0. */
    const __m512i below = _mm512_subs_epu16(_mm512_set1_epi32(c.bias - 1), exponent);
    const __m512i periods = _mm512_mulhi_epu16(below, _mm512_set1_epi32(PER_PERIOD(period)));
    const __m512i octave = _mm512_sub_epi32(exponent, _mm512_set1_epi32(c.bias - period));
    __m512i column = _mm512_add_epi32(octave, _mm512_mullo_epi32(periods, _mm512_set1_epi32(period)));
    if (log2_parts > 0) {
        const int first_fine = ((c.bias + split - low) << log2_parts) - offset;
        const __m512i fine = _mm512_sub_epi32(_mm512_srli_epi32(bits, 23 - log2_parts), _mm512_set1_epi32(first_fine));
        column = _mm512_max_epi32(column, fine);
    }
    const __m512i mantissa = _mm512_ternarylogic_epi32(bits, _mm512_set1_epi32(0x7fffff), _mm512_set1_epi32(0x3f800000),
                                                       0xea); /* (bits & mask) | one */
    const __m512 z = _mm512_sub_ps(_mm512_castsi512_ps(mantissa), _mm512_set1_ps(1.5f));
    __m512 row[7]; /* the degree is 5 or 6 */
    UNROLL(8)
    for (int power = 0; power <= degree; power++)
        row[power] = _mm512_permutex2var_ps(_mm512_load_ps(table[power]), column, _mm512_load_ps(table[power] + 16));
    const __m512 z2 = _mm512_mul_ps(z, z);
    const __m512 middle = _mm512_fmadd_ps(row[5], z, row[4]);
    const __m512 upper = degree == 6 ? _mm512_fmadd_ps(row[6], z2, middle) : middle;
    const __m512 most = _mm512_fmadd_ps(upper, z2, _mm512_fmadd_ps(row[3], z, row[2]));
    return (table_lanes){product, periods, _mm512_fmadd_ps(most, z2, _mm512_fmadd_ps(row[1], z, row[0]))};
}

static ALWAYS_INLINE __m512 table_gradient_avx512(table_constants c, __m512 y, const float table[][32],
                                                  const float factors[2], int n, int low, int split, int log2_parts,
                                                  int degree)
{
    const table_lanes lanes = table_sum_avx512(c, y, table, n, low, split, log2_parts, degree);
    const __m512i drop = _mm512_mullo_epi32(lanes.periods, _mm512_set1_epi32(n << 24));
    const __m512 value = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(lanes.sum), drop));
    const __m512 correction = larger(_mm512_fmadd_ps(value, _mm512_set1_ps(factors[0]), _mm512_set1_ps(1)), factors[1]);
    /* By class of y: a NaN stays, zero and below give 0, anything else takes the slope. */
    return _mm512_fixupimm_ps(_mm512_mul_ps(value, correction), y, _mm512_set1_epi32(0x08080822), 0);
}

static ALWAYS_INLINE __m512 table_input_avx512(table_constants c, __m512 y, const float table[][32], int n, int low,
                                               int split, int log2_parts)
{
    const table_lanes lanes = table_sum_avx512(c, y, table, n, low, split, log2_parts, INVERSE_DEGREE);
    const __m512i drop = _mm512_slli_epi32(lanes.periods, 23);
    const __m512 curved = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(lanes.sum), drop));
    const __m512 root = _mm512_fmadd_ps(y, _mm512_set1_ps(1.0f / (float)(2 * n + 1)),
                                        _mm512_mul_ps(curved, _mm512_set1_ps(c.scale)));
    const __mmask16 above = _mm512_cmpgt_epi32_mask(lanes.product, _mm512_set1_epi32(c.highest));
    return _mm512_fixupimm_ps(_mm512_mask_mov_ps(root, above, y), y, _mm512_set1_epi32(0x08080822), 0);
}
#endif

#if GEM_HAS_AVX512
/* RESULT is an expression of the vectors `outputs` and `grads`; `grad` may be any readable array where it has none. */
#define TABLE_LOOP(RESULT)                                                         \
    int64_t i = 0;                                                                 \
    for (; i + 16 <= count; i += 16) {                                             \
        const __m512 outputs = _mm512_loadu_ps(y + i), grads = _mm512_loadu_ps(grad + i); \
        _mm512_storeu_ps(out + i, RESULT);                                         \
    }                                                                              \
    if (i < count) {                                                               \
        const __mmask16 tail = (__mmask16)((1u << (count - i)) - 1);               \
        const __m512 outputs = _mm512_maskz_loadu_ps(tail, y + i);                 \
        const __m512 grads = _mm512_maskz_loadu_ps(tail, grad + i);                \
        _mm512_mask_storeu_ps(out + i, tail, RESULT);                              \
    }
#define TABLE_LOOP_OF(N)                                                                                          \
    TABLE_LOOP(_mm512_mul_ps(grads, table_gradient_avx512(c, outputs, table_##N, factors_##N, N, LOW_##N, SPLIT_##N, \
                                                          LOG2_PARTS_##N, DEGREE_##N)))
#define INVERSE_LOOP_OF(N)                                                                                        \
    TABLE_LOOP(((void)grads, table_input_avx512(c, outputs, inverse_##N, N, LOW_##N, SPLIT_##N, LOG2_PARTS_##N)))
#else
#define TABLE_BLOCKS(CALL)                                                                                        \
    for (int64_t begin = 0; begin < count; begin += TABLE_BLOCK) {                                                \
        const int length = (int)(count - begin < TABLE_BLOCK ? count - begin : TABLE_BLOCK);                      \
        CALL;                                                                                                     \
    }
#define TABLE_LOOP_OF(N)                                                                                          \
    TABLE_BLOCKS(table_gradients(c, out + begin, grad + begin, y + begin, length, table_##N, factors_##N, N,       \
                                 LOW_##N, SPLIT_##N, LOG2_PARTS_##N, DEGREE_##N))
#define INVERSE_LOOP_OF(N)                                                                                        \
    (void)grad;                                                                                                   \
    TABLE_BLOCKS(table_inputs(c, out + begin, y + begin, length, inverse_##N, N, LOW_##N, SPLIT_##N,               \
                              LOG2_PARTS_##N))
#endif

#define DEFINE_TABLE(NAME, LOOP, N, INPUT)                                                      \
    static void NAME##_##N(const gem_spec *spec, char *const arrays[], int64_t count)           \
    {                                                                                           \
        const table_constants c = table_constants_of(spec, LOW_##N, HIGH_##N, LEAST_##N);       \
        float *out = (float *)arrays[0];                                                        \
        const float *grad = (const float *)arrays[1], *y = (const float *)arrays[INPUT];        \
        LOOP##_OF(N)                                                                            \
    }

DEFINE_TABLE(table_loop, TABLE_LOOP, 1, 2)
DEFINE_TABLE(table_loop, TABLE_LOOP, 2, 2)
DEFINE_TABLE(table_loop, TABLE_LOOP, 3, 2)
DEFINE_TABLE(table_loop, TABLE_LOOP, 4, 2)
DEFINE_TABLE(inverse_loop, INVERSE_LOOP, 1, 1)
DEFINE_TABLE(inverse_loop, INVERSE_LOOP, 2, 1)
DEFINE_TABLE(inverse_loop, INVERSE_LOOP, 3, 1)
DEFINE_TABLE(inverse_loop, INVERSE_LOOP, 4, 1)

/* Other members take the steps of Newton's method in double. */
static void inverse_float(const gem_spec *spec, char *const arrays[], int64_t count)
{
    static const gem_kernel by_order[] = {NULL, inverse_loop_1, inverse_loop_2, inverse_loop_3, inverse_loop_4};
    (spec->leak == 0 && spec->n <= 4 ? by_order[spec->n] : newton_inverse_float)(spec, arrays, count);
}
