/* Passes with scales from memory, for REAL = float or double; included once for each.
 *
 * A block is computed with a vector of inverse scales and one of eps, an entry for each element, so that channels that
 * lie side by side and channels that are far apart take the same loops.
 */

/* How elements are stored that are computed in REAL; NULL: as they are. */
typedef struct {
    int64_t itemsize;
    void (*widen)(REAL *out, const void *stored, int64_t count);
    void (*narrow)(void *stored, const REAL *x, int64_t count);
} NAME(storage);

/* The compiler keeps the order of a sum, so that the lanes of vectors are written out: `wide` of them, a multiple of 16
 * up to 64, so that one addition need not wait for the last. */
static ALWAYS_INLINE REAL NAME(sum_in_lanes)(const REAL *terms, int64_t count, const int wide)
{
    REAL lanes[64] = {0};
    int64_t i = 0;
    for (; i + wide <= count; i += wide)
        for (int lane = 0; lane < wide; lane++) lanes[lane] += terms[i + lane];
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; lane++) lanes[lane] += terms[i + lane];
    for (int lane = 0; i < count; i++, lane++) lanes[lane] += terms[i];
    UNROLL(8)
    for (int half = wide / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

static ALWAYS_INLINE REAL NAME(sum_of)(const REAL *terms, int64_t count)
{
    return count < 128 ? NAME(sum_in_lanes)(terms, count, 16) : NAME(sum_in_lanes)(terms, count, 64);
}

static ALWAYS_INLINE int64_t NAME(least)(int64_t a, int64_t b) { return a < b ? a : b; }

/* Add the terms of a block that begins at element `at`, which it overwrites, to the sums of their channels. */
static void NAME(add_sums)(const gem_scaled *work, REAL *terms, int64_t at, int64_t length, double *sums)
{
    const int64_t channels = work->channels, inner = work->inner;
    if (channels == 1) {
        sums[0] += (double)NAME(sum_of)(terms, length);
    } else if (inner == 1) {
        if (2 * channels <= work->block) {
            /* Whole rows of channels: the last half of them is added to the first, until one is left. */
            for (int64_t rows = length / channels, half; rows > 1; rows -= half) {
                half = rows / 2;
                const REAL *last = terms + (rows - half) * channels;
                INDEPENDENT
                for (int64_t k = 0; k < half * channels; k++) terms[k] += last[k];
            }
            length = channels;
        }
        int64_t channel = at % channels;
        for (int64_t i = 0, run; i < length; i += run, channel = 0) {
            run = NAME(least)(channels - channel, length - i);
            for (int64_t k = 0; k < run; k++) sums[channel + k] += (double)terms[i + k];
        }
    } else {
        int64_t channel = at / inner % channels, left = inner - at % inner;
        for (int64_t i = 0, run; i < length; i += run, left = inner) {
            run = NAME(least)(left, length - i);
            sums[channel] += (double)NAME(sum_of)(terms + i, run);
            channel = channel + 1 == channels ? 0 : channel + 1;
        }
    }
}

static ALWAYS_INLINE void NAME(scaled)(const gem_scaled *work, int64_t begin, int64_t end, NAME(storage) storage)
{
    REAL result[GEM_BLOCK], terms[GEM_BLOCK], grads[GEM_BLOCK], inputs[GEM_BLOCK];
    REAL own_inverse_scales[GEM_BLOCK], own_eps[GEM_BLOCK];
    const REAL *inverse_scales = work->inverse_scales, *eps = work->eps;
    for (int64_t at = begin, length; at < end; at += length) {
        length = NAME(least)(work->block, end - at);
        char *const out = work->out + at * storage.itemsize, *x = work->x + at * storage.itemsize, *grad = NULL;
        if (storage.widen != NULL) storage.widen(inputs, x, length);
        char *const input = storage.widen != NULL ? (char *)inputs : x;
        char *const computed = storage.widen != NULL ? (char *)result : out;
        if (work->grad != NULL) {
            grad = work->grad + at * storage.itemsize;
            if (storage.widen != NULL) storage.widen(grads, grad, length);
            if (storage.widen != NULL) grad = (char *)grads;
        }
        const REAL *block_inverse_scales = inverse_scales + at % work->channels, *block_eps = eps + at % work->channels;
        if (work->inner > 1) {
            block_inverse_scales = own_inverse_scales;
            block_eps = own_eps;
            int64_t channel = at / work->inner % work->channels, left = work->inner - at % work->inner;
            for (int64_t i = 0, run; i < length; i += run, left = work->inner) {
                run = NAME(least)(left, length - i);
                const REAL inverse_scale = inverse_scales[channel], own = eps[channel];
                for (int64_t k = i; k < i + run; k++) own_inverse_scales[k] = inverse_scale, own_eps[k] = own;
                channel = channel + 1 == work->channels ? 0 : channel + 1;
            }
        }
        if (grad == NULL) {
            char *const arrays[] = {computed, input, (char *)block_inverse_scales, (char *)block_eps};
            NAME(forward_scaled_in)(&work->spec, arrays, length);
        } else {
            char *const arrays[] = {computed, (char *)terms, grad, input, (char *)block_inverse_scales,
                                    (char *)block_eps};
            NAME(backward_scaled_in)(&work->spec, arrays, length);
            NAME(add_sums)(work, terms, at, length, work->sums + at / work->chunk * work->channels);
        }
        if (storage.narrow != NULL) storage.narrow(out, (const REAL *)result, length);
    }
}
