/* Passes with scales from memory, for REAL = float or double; included once for each. */

/* How elements are stored that are computed in REAL; NULL: as they are. */
typedef struct {
    int64_t itemsize;
    void (*widen)(REAL *out, const void *stored, int64_t count);
    void (*narrow)(void *stored, const REAL *x, int64_t count);
} NAME(storage);

/* Elements that lie side by side. For each there are a sum that its term is added to, an inverse scale and an eps, so
 * that channels that lie side by side and channels that are far apart take the same loop; or, if these are NULL, those
 * of the spec are meant, and GEM_LANES sums. */
typedef struct {
    char *out, *grad, *x; /* grad is NULL on the forward pass */
    REAL *sums;
    const REAL *inverse_scales, *eps;
} NAME(part);

static ALWAYS_INLINE int64_t NAME(least)(int64_t a, int64_t b) { return a < b ? a : b; }

static ALWAYS_INLINE void NAME(run_part)(const gem_spec *spec, NAME(part) part, int64_t length, NAME(storage) storage)
{
    REAL result[GEM_BLOCK], grads[GEM_BLOCK], inputs[GEM_BLOCK];
    const int64_t block = storage.widen != NULL ? GEM_BLOCK : length;
    for (int64_t at = 0, count; at < length; at += count) {
        count = NAME(least)(block, length - at);
        char *const stored = part.out + at * storage.itemsize;
        char *out = stored, *grad = part.grad + at * storage.itemsize, *x = part.x + at * storage.itemsize;
        if (storage.widen != NULL) {
            storage.widen(inputs, x, count);
            if (part.grad != NULL) storage.widen(grads, grad, count);
            out = (char *)result, grad = (char *)grads, x = (char *)inputs;
        }
        char *const inverse_scales = (char *)(part.inverse_scales + at), *const eps = (char *)(part.eps + at);
        if (part.inverse_scales == NULL) {
            if (part.grad == NULL) NAME(forward_in)(spec, (char *const[]){out, x}, count);
            else NAME(backward_summed_in)(spec, (char *const[]){out, (char *)part.sums, grad, x}, count);
        } else if (part.grad == NULL) {
            NAME(forward_scaled_in)(spec, (char *const[]){out, x, inverse_scales, eps}, count);
        } else {
            char *const sums = (char *)(part.sums + at);
            NAME(backward_scaled_in)(spec, (char *const[]){out, sums, grad, x, inverse_scales, eps}, count);
        }
        if (storage.narrow != NULL) storage.narrow(stored, (const REAL *)result, count);
    }
}

/* The compiler keeps the order of a sum, so that the lanes of a vector are written out. */
static ALWAYS_INLINE double NAME(sum_of)(const REAL *terms, int64_t count)
{
    REAL lanes[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; lane++) lanes[lane] += terms[i + lane];
    for (int lane = 0; i < count; i++, lane++) lanes[lane] += terms[i];
    UNROLL(4)
    for (int half = 8; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return (double)lanes[0];
}

/* A tile of one scale: elements that lie side by side. */
static ALWAYS_INLINE void NAME(run_row)(const gem_scaled *work, int64_t tile, NAME(storage) storage)
{
    const int64_t channel = gem_first_channel(work, tile);
    const int64_t row = tile / work->across, first = tile % work->across * work->width;
    const int64_t at = (row * work->inner + first) * storage.itemsize;
    REAL sums[GEM_LANES] = {0};
    gem_spec spec = work->spec;
    spec.inverse_scale = work->inverse_scales[channel];
    spec.eps = work->eps[channel];
    char *const grad = work->grad == NULL ? NULL : work->grad + at;
    const NAME(part) part = {work->out + at, grad, work->x + at, sums, NULL, NULL};
    NAME(run_part)(&spec, part, NAME(least)(work->width, work->inner - first), storage);
    if (work->grad != NULL) work->sums[tile] = NAME(sum_of)(sums, GEM_LANES);
}

/* Fill `inverse_scales` and `eps` for the columns of a tile of some channels, which they may hold several times. */
static void NAME(fill)(const gem_scaled *work, int64_t channel, int64_t columns, REAL *inverse_scales, REAL *eps)
{
    const int64_t inner = work->inner, period = NAME(least)(columns, (work->channels - channel) * inner);
    const double *const own_inverse_scales = work->inverse_scales + channel, *const own_eps = work->eps + channel;
    if (inner == 1) {
        for (int64_t k = 0; k < period; k++) inverse_scales[k] = (REAL)own_inverse_scales[k], eps[k] = (REAL)own_eps[k];
    } else {
        for (int64_t k = 0, end = 0, at = 0; k < period; at++) {
            const REAL inverse_scale = (REAL)own_inverse_scales[at], own = (REAL)own_eps[at];
            for (end += inner; k < end; k++) inverse_scales[k] = inverse_scale, eps[k] = own;
        }
    }
    for (int64_t k = period; k < columns; k++) inverse_scales[k] = inverse_scales[k - period], eps[k] = eps[k - period];
}

/* A tile of several channels: lines of the same columns, one below the other. */
static ALWAYS_INLINE void NAME(run_lines)(const gem_scaled *work, int64_t tile, int64_t channel, int64_t columns,
                                          const REAL *inverse_scales, const REAL *eps, NAME(storage) storage)
{
    REAL sums[GEM_WIDTH];
    const int64_t begin = tile / work->across * work->lines * work->columns + channel * work->inner;
    for (int64_t k = 0; k < columns; k++) sums[k] = 0;
    for (int64_t line = 0; line < work->lines; line++) {
        const int64_t start = begin + line * work->columns, at = start * storage.itemsize;
        if (start >= work->count) break;
        char *const grad = work->grad == NULL ? NULL : work->grad + at;
        const NAME(part) part = {work->out + at, grad, work->x + at, sums, inverse_scales, eps};
        NAME(run_part)(&work->spec, part, NAME(least)(columns, work->count - start), storage);
    }
    if (work->grad == NULL) return;
    const int64_t channels = NAME(least)(work->span, work->channels - channel), period = channels * work->inner;
    /* Of channels that are there several times the last half is added to the first, until each is there once. */
    for (int64_t times = columns / period, half; times > 1; times -= half) {
        half = times / 2;
        const REAL *last = sums + (times - half) * period;
        INDEPENDENT
        for (int64_t k = 0; k < half * period; k++) sums[k] += last[k];
    }
    double *const totals = work->sums + tile * work->span;
    if (work->inner == 1)
        for (int64_t k = 0; k < channels; k++) totals[k] = (double)sums[k];
    else
        for (int64_t k = 0; k < channels; k++) totals[k] = NAME(sum_of)(sums + k * work->inner, work->inner);
}

static ALWAYS_INLINE void NAME(scaled)(const gem_scaled *work, int64_t begin, int64_t end, NAME(storage) storage)
{
    REAL inverse_scales[GEM_WIDTH], eps[GEM_WIDTH];
    int64_t filled = -1;
    for (int64_t tile = begin; tile < end; tile++) {
        if (work->lines == 0) {
            NAME(run_row)(work, tile, storage);
            continue;
        }
        const int64_t channel = gem_first_channel(work, tile);
        const int64_t columns = NAME(least)(work->width, work->columns - channel * work->inner);
        if (channel != filled) NAME(fill)(work, channel, columns, inverse_scales, eps);
        filled = channel;
        NAME(run_lines)(work, tile, channel, columns, inverse_scales, eps, storage);
    }
}
