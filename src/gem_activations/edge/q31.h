/* q31: x F(x) in 32-bit unsigned integers; F = t^(2n) / (t^(2n) + E), t = q - in_zero, E = e_man 2^e_exp. */
#ifndef GEM_Q31_H
#define GEM_Q31_H

#include <stdint.h>

#if defined(__GNUC__) /* At -Os a call of gem_digit would cost more than its body. */
#define GEM_INLINE static inline __attribute__((always_inline))
#else
#define GEM_INLINE static inline
#endif


typedef struct {
    uint32_t e_man;    /* E = e_man 2^e_exp, e_man in [2^31, 2^32) */
    uint32_t l_man;    /* leak E, with the exponent of E */
    uint32_t r_man;    /* in_scale / out_scale = r_man 2^-shift */
    uint32_t n_man;    /* leak in_scale / out_scale = n_man 2^-n_shift; 0 without leak */
    uint64_t half_pos; /* rounding constants, chosen so that results are exactly rounded */
    uint64_t half_neg;
    int32_t e_exp;
    uint32_t power; /* digits of n in base 2 after the first, the last one on top, under a leading 1 */
    int32_t shift;
    int32_t n_shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low; /* range of the output */
    int32_t high;
} gem_q31_layer;

static inline uint32_t gem_mulhi(uint32_t a, uint32_t b) { return (uint32_t)(((uint64_t)a * b) >> 32); }

/* Number of zero bits above the highest set bit of a, which is not 0. */
static inline uint32_t gem_clz(uint32_t a) {
#if defined(__GNUC__) && __SIZEOF_INT__ == 4
    return (uint32_t)__builtin_clz(a);
#else
    uint32_t zeros = 0;
    for (uint32_t step = 16; step != 0; step >>= 1) {
        if (a >> (32 - step) == 0) {
            a <<= step;
            zeros += step;
        }
    }
    return zeros;
#endif
}

#if GEM_Q31_DIVISION == 0 /* udiv: two digits of 16 bits, by divisions of 32 bits (Knuth's algorithm D) */

GEM_INLINE uint32_t gem_digit(uint32_t num, uint32_t den) {
    const uint32_t high = den >> 16, low = den & 0xFFFFu;
    uint32_t digit = num / high, rest = num - digit * high;
    while (digit > 0xFFFFu || digit * low > rest << 16) {
        digit--;
        rest += high;
        if (rest > 0xFFFFu) break;
    }
    return digit;
}

static inline uint32_t gem_fraction(uint32_t num, uint32_t den) {
    const uint32_t first = gem_digit(num, den);
    return first << 16 | gem_digit((num << 16) - first * den, den);
}

#elif GEM_Q31_DIVISION == 1 /* long: one division of 64 by 32 bits */

static inline uint32_t gem_fraction(uint32_t num, uint32_t den) { return (uint32_t)(((uint64_t)num << 32) / den); }

#else /* newton: multiplications alone; the bound keeps a quotient near 1 from wrapping to 0 */

static inline uint32_t gem_fraction(uint32_t num, uint32_t den) {
    uint32_t inverse = 3031741620u - gem_mulhi(den, 2021161081u);
    uint64_t quotient;
    for (int i = 0; i < 3; i++) {
        inverse = (uint32_t)(((uint64_t)inverse * (0x80000000u - gem_mulhi(den, inverse))) >> 30);
    }
    quotient = ((uint64_t)num * inverse) >> 30;
    return quotient > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)quotient;
}

#endif

/* Return the quantised result of a quantised input: both of the width that the layer was made for. */
static inline int32_t gem_q31(const gem_q31_layer *layer, int32_t q) {
    const int32_t t = q - layer->in_zero;
    uint64_t size;
    int32_t y;
    if (t > 0) {
        uint32_t m = (uint32_t)t * (uint32_t)t, zeros = gem_clz(m), base, e = layer->e_man, l = layer->l_man, num, den;
        int32_t x = -(int32_t)zeros, base_x = x;
        m <<= zeros;
        base = m;
        for (uint32_t power = layer->power; power > 1; power >>= 1) {
            /* The product of two mantissas has at most one leading zero. */
            m = gem_mulhi(m, m);
            zeros = 1u ^ m >> 31;
            m <<= zeros;
            x += x + 32 - (int32_t)zeros;
            if (power & 1u) {
                m = gem_mulhi(m, base);
                zeros = 1u ^ m >> 31;
                m <<= zeros;
                x += base_x + 32 - (int32_t)zeros;
            }
        }
        x -= layer->e_exp;
        if (x < 0) {
            m = x < -31 ? 0 : m >> -x;
        } else if (x < 32) {
            e >>= x;
            l >>= x;
        } else {
            e = l = 0;
        }
        den = m + e;
        num = m + l;
        if (den < m) { /* The sum has 33 bits. */
            num = num >> 1 | (uint32_t)(num < m) << 31;
            den = den >> 1 | 0x80000000u;
        }
        m = num < den ? gem_fraction(num, den) : 0xFFFFFFFFu;
        size = ((uint64_t)gem_mulhi(m, layer->r_man) * (uint32_t)t + layer->half_pos) >> layer->shift;
    } else {
        size = ((uint64_t)layer->n_man * (uint32_t)-t + layer->half_neg) >> layer->n_shift;
    }
    y = size > 0x1FFFFu ? 0x1FFFF : (int32_t)size;
    y = layer->out_zero + (t > 0 ? y : -y);
    return y < layer->low ? layer->low : y > layer->high ? layer->high : y;
}

#endif
