/* The gradient from the output in float by tables of 64 columns: n = 5 .. 8, and any table that comes with the spec.
 *
 * As table_32.h, but the layout is known at run time only, the table stays in memory, and an output may have a leak.
 */
#include "gradient_table_64.h"

typedef struct {
    float unit, leak;
    int32_t bias;       /* exponent bits of the octave `low` */
    int32_t lowest;     /* bits of the smallest u to compute with */
    int32_t highest;    /* bits of the largest: beyond it the gradient is 1 */
    int32_t reciprocal; /* 2^16 / period, rounded up; 0 where there is no period */
    int32_t first_fine; /* what the bits of exponent and part exceed the column by, from `split` on */
} long_constants;

static long_constants long_constants_of(const gem_spec *spec, const gem_table *table)
{
    const table_constants shared = table_constants_of(spec, table->low, table->high, table->least);
    long_constants c;
    c.unit = shared.unit;
    c.leak = (float)spec->leak;
    c.bias = shared.bias;
    c.lowest = shared.lowest;
    c.highest = shared.highest;
    c.reciprocal = table->period > 0 ? PER_PERIOD(table->period) : 0;
    c.first_fine = (c.bias + table->split - table->low) * (1 << table->log2_parts);
    c.first_fine -= table->period + table->split - table->low;
    return c;
}

#if GEM_HAS_AVX512
static ALWAYS_INLINE __m512 long_gradient_avx512(long_constants c, const gem_table *table, __m512 y)
{
    const __m512 zero = _mm512_setzero_ps();
    const __mmask16 positive = _mm512_cmp_ps_mask(y, zero, _CMP_GT_OQ);
    const __m512 product = _mm512_mask_mul_ps(_mm512_set1_ps(1), positive, y, _mm512_set1_ps(c.unit));
    const __m512i bits = _mm512_min_epi32(
        _mm512_max_epi32(_mm512_castps_si512(product), _mm512_set1_epi32(c.lowest)), _mm512_set1_epi32(c.highest));
    const __m512i exponent = _mm512_srli_epi32(bits, 23);
    const __m512i below = _mm512_subs_epu16(_mm512_set1_epi32(c.bias - 1), exponent);
    const __m512i periods = _mm512_mulhi_epu16(below, _mm512_set1_epi32(c.reciprocal));
    const __m512i octave = _mm512_sub_epi32(exponent, _mm512_set1_epi32(c.bias - table->period));
    const __m512i whole = _mm512_add_epi32(octave, _mm512_mullo_epi32(periods, _mm512_set1_epi32(table->period)));
    const __m512i parts = _mm512_srl_epi32(bits, _mm_cvtsi32_si128(23 - table->log2_parts));
    const __m512i column = _mm512_max_epi32(whole, _mm512_sub_epi32(parts, _mm512_set1_epi32(c.first_fine)));
    const __mmask16 upper = _mm512_test_epi32_mask(column, _mm512_set1_epi32(32));
    const __m512i local = _mm512_sll_epi32(bits, _mm_cvtsi32_si128(table->skip));
    const __m512i mantissa = _mm512_ternarylogic_epi32(local, _mm512_set1_epi32(0x7fffff),
                                                       _mm512_set1_epi32(0x3f800000), 0xea); /* (local & mask) | one */
    const __m512 z = _mm512_sub_ps(_mm512_castsi512_ps(mantissa), _mm512_set1_ps(1.5f));
    __m512 sum = zero;
    UNROLL(8)
    for (int power = GEM_TABLE_ROWS - 1; power >= 0; power--) {
        const float *row = table->coefficients[power];
        const __m512 left = _mm512_permutex2var_ps(_mm512_loadu_ps(row), column, _mm512_loadu_ps(row + 16));
        const __m512 right = _mm512_permutex2var_ps(_mm512_loadu_ps(row + 32), column, _mm512_loadu_ps(row + 48));
        sum = _mm512_fmadd_ps(sum, z, _mm512_mask_mov_ps(left, upper, right));
    }
    const __m512i drop = _mm512_mullo_epi32(periods, _mm512_set1_epi32((table->period / 2) * (1 << 24)));
    const __m512 value = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(sum), drop));
    const __m512 line = _mm512_fmadd_ps(value, _mm512_set1_ps(table->factors[0]), _mm512_set1_ps(1));
    const __m512 correction = larger(line, table->factors[1]);
    const __mmask16 not_positive = _mm512_cmp_ps_mask(y, zero, _CMP_LE_OQ);
    const __m512 otherwise = _mm512_mask_mov_ps(y, not_positive, _mm512_set1_ps(c.leak)); /* NaN where y is */
    return _mm512_mask_mul_ps(otherwise, positive, value, correction);
}

static void long_table_loop(const gem_spec *spec, const gem_table *table, char *const arrays[], int64_t count)
{
    const long_constants c = long_constants_of(spec, table);
    float *out = (float *)arrays[0];
    const float *grad = (const float *)arrays[1], *y = (const float *)arrays[2];
    TABLE_LOOP(_mm512_mul_ps(grads, long_gradient_avx512(c, table, outputs)))
}
#else
static ALWAYS_INLINE void long_gradients(long_constants c, const gem_table *table, float *out, const float *grad,
                                         const float *y, int length)
{
    const int32_t period = table->period, fine_shift = 23 - table->log2_parts, skip = table->skip;
    table_block block;
    for (int i = 0; i < length; i++) {
        int32_t bits = (int32_t)bits_of(y[i] > 0 ? y[i] * c.unit : 1);
        bits = bits > c.lowest ? bits : c.lowest;
        bits = bits < c.highest ? bits : c.highest;
        const int32_t octave = (bits >> 23) - c.bias;
        const int32_t below = octave < 0 ? -1 - octave : 0;
        const int32_t periods = (below * c.reciprocal) >> 16;
        block.column[i] = table_column(octave + period * (periods + 1), (bits >> fine_shift) - c.first_fine);
        block.z[i] = float_of((((uint32_t)bits << skip) & 0x7fffffu) | 0x3f800000u) - 1.5f;
        block.periods[i] = (uint32_t)periods;
    }
    for (int i = 0; i < length; i++) {
        float sum = 0;
        UNROLL(8)
        for (int power = GEM_TABLE_ROWS - 1; power >= 0; power--)
            sum = fma_float(sum, block.z[i], table->coefficients[power][block.column[i]]);
        block.sum[i] = sum;
    }
    INDEPENDENT
    for (int i = 0; i < length; i++) {
        const float otherwise = y[i] <= 0 ? c.leak : y[i]; /* NaN where y is */
        const uint32_t drop = block.periods[i] * (uint32_t)(period / 2) << 24;
        out[i] = grad[i] * table_finish(block.sum[i], drop, y[i], otherwise, table->factors);
    }
}

static void long_table_loop(const gem_spec *spec, const gem_table *table, char *const arrays[], int64_t count)
{
    const long_constants c = long_constants_of(spec, table);
    float *out = (float *)arrays[0];
    const float *grad = (const float *)arrays[1], *y = (const float *)arrays[2];
    for (int64_t begin = 0; begin < count; begin += TABLE_BLOCK) {
        const int length = (int)(count - begin < TABLE_BLOCK ? count - begin : TABLE_BLOCK);
        long_gradients(c, table, out + begin, grad + begin, y + begin, length);
    }
}
#endif

static void backward_from_output_float(const gem_spec *spec, char *const arrays[], int64_t count)
{
    static const gem_kernel by_order[] = {NULL, table_loop_1, table_loop_2, table_loop_3, table_loop_4};
    static const gem_table *const long_tables[] = {&long_table_5, &long_table_6, &long_table_7, &long_table_8};
    if (spec->leak == 0 && spec->n <= 4)
        by_order[spec->n](spec, arrays, count);
    else if (spec->leak == 0 && spec->n <= 8)
        long_table_loop(spec, long_tables[spec->n - 5], arrays, count);
    else if (spec->table != NULL)
        long_table_loop(spec, spec->table, arrays, count);
    else
        newton_float(spec, arrays, count);
}
