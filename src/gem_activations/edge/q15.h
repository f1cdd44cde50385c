/* q15: x F(x) for int8 in 32-bit unsigned integers; F = t^(2n) / (t^(2n) + E), t = q - in_zero, E = e_man 2^e_exp. */
#ifndef GEM_Q15_H
#define GEM_Q15_H

#include <stdint.h>

typedef struct {
    uint32_t e_man;    /* E = e_man 2^e_exp, e_man in [2^15, 2^16) */
    uint32_t l_man;    /* leak E, with the exponent of E */
    uint32_t r_man;    /* in_scale / out_scale = r_man 2^(8 - shift) */
    uint32_t n_man;    /* leak in_scale / out_scale = n_man 2^-n_shift; 0 without leak */
    uint32_t half_pos; /* rounding constants, chosen so that results are exactly rounded */
    uint32_t half_neg;
    int32_t e_exp;
    uint32_t power; /* digits of n in base 2 after the first, the last one on top, under a leading 1 */
    int32_t shift;
    int32_t n_shift;
    int32_t in_zero;
    int32_t out_zero;
    int32_t low; /* range of the output */
    int32_t high;
} gem_q15_layer;

/* Return the quantised result of a quantised input: both of the width that the layer was made for. */
static inline int32_t gem_q15(const gem_q15_layer *layer, int32_t q) {
    const int32_t t = q - layer->in_zero;
    uint32_t size;
    int32_t y;
    if (t > 0) {
        uint32_t m = (uint32_t)t * (uint32_t)t, base, e = layer->e_man, l = layer->l_man, den;
        int32_t x = 0, base_x;
        while (m < 0x8000u) {
            m <<= 1;
            x--;
        }
        base = m;
        base_x = x;
        for (uint32_t power = layer->power; power > 1; power >>= 1) {
            /* The product of two mantissas has at most one leading zero. */
            uint32_t zeros;
            m = m * m >> 16;
            zeros = 1u ^ m >> 15;
            m <<= zeros;
            x += x + 16 - (int32_t)zeros;
            if (power & 1u) {
                m = m * base >> 16;
                zeros = 1u ^ m >> 15;
                m <<= zeros;
                x += base_x + 16 - (int32_t)zeros;
            }
        }
        x -= layer->e_exp;
        if (x < 0) {
            m = x < -15 ? 0 : m >> -x;
        } else if (x < 16) {
            e >>= x;
            l >>= x;
        } else {
            e = l = 0;
        }
        den = m + e;
        m += l;
        if (den > 0xFFFFu) {
            m >>= 1;
            den >>= 1;
        }
        m = m < den ? (m << 16) / den : 0xFFFFu;
        size = ((uint32_t)t * (m * layer->r_man >> 8) + layer->half_pos) >> layer->shift;
    } else {
        size = ((uint32_t)-t * layer->n_man + layer->half_neg) >> layer->n_shift;
    }
    y = size > 0x1FFFFu ? 0x1FFFF : (int32_t)size;
    y = layer->out_zero + (t > 0 ? y : -y);
    return y < layer->low ? layer->low : y > layer->high ? layer->high : y;
}

#endif
