/* The kernels of one compute type, REAL = float or double, over dense arrays. Included once for each.
 *
 * Loops are plain so that the compiler vectorises them. An output may be the very array of an input, therefore no
 * `restrict`; INDEPENDENT says that no element depends on another one's output, which holds in place too.
 */

/* Calls LOOP with the compile-time constant n for the common orders, and n = 0 for those in `exponent`. */
#define BY_ORDER(LOOP)                                    \
    switch (spec->n) {                                    \
    case 1: LOOP(spec, arrays, count, 1); break;          \
    case 2: LOOP(spec, arrays, count, 2); break;          \
    case 3: LOOP(spec, arrays, count, 3); break;          \
    case 4: LOOP(spec, arrays, count, 4); break;          \
    default: LOOP(spec, arrays, count, 0);     \
    }

#define DEFINE_KERNEL(OPERATION)                                                                     \
    static void NAME(OPERATION##_in)(const gem_spec *spec, char *const arrays[], int64_t count)      \
    {                                                                                                \
        BY_ORDER(NAME(OPERATION##_loop))                                                             \
    }

static ALWAYS_INLINE void NAME(forward_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0];
    const REAL *x = (const REAL *)arrays[1];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) out[i] = NAME(value)(c, x[i], n);
}

static ALWAYS_INLINE void NAME(backward_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0];
    const REAL *grad = (const REAL *)arrays[1], *x = (const REAL *)arrays[2];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) out[i] = grad[i] * NAME(derivative)(c, x[i], n);
}

/* The constants of an element with a scale of its own, given as its inverse and eps of the reduced coordinates. */
static ALWAYS_INLINE NAME(constants) NAME(with_scale)(NAME(constants) c, REAL inverse_scale, REAL eps)
{
    c.inverse_scale = inverse_scale;
    c.eps = eps;
    return c;
}

static ALWAYS_INLINE void NAME(forward_scaled_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0];
    const REAL *x = (const REAL *)arrays[1];
    const REAL *inverse_scales = (const REAL *)arrays[2], *eps = (const REAL *)arrays[3];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) out[i] = NAME(value)(NAME(with_scale)(c, inverse_scales[i], eps[i]), x[i], n);
}

/* Return grad f'(x), and add a term of the derivative by log a, -2n (1 - leak) x F (1 - F), to a sum: less a factor that
 * is the same throughout a channel. */
static ALWAYS_INLINE REAL NAME(backward_at)(NAME(constants) c, REAL grad, REAL x, int n, REAL *sum)
{
    const NAME(gate_pair) pair = NAME(gate_of)(c, x, n);
    *sum += grad * NAME(clamped)(x, c.inverse_scale, c.limit) * (pair.gate * pair.one_minus_gate);
    return grad * NAME(slope_of)(c, pair);
}

static ALWAYS_INLINE void NAME(backward_scaled_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0], *sums = (REAL *)arrays[1];
    const REAL *grad = (const REAL *)arrays[2], *x = (const REAL *)arrays[3];
    const REAL *inverse_scales = (const REAL *)arrays[4], *eps = (const REAL *)arrays[5];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++)
        out[i] = NAME(backward_at)(NAME(with_scale)(c, inverse_scales[i], eps[i]), grad[i], x[i], n, &sums[i]);
}

/* With the scale of the spec. The sums are GEM_LANES in turn, so that one addition need not wait for the last. */
static ALWAYS_INLINE void NAME(backward_summed_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0], *sums = (REAL *)arrays[1];
    const REAL *grad = (const REAL *)arrays[2], *x = (const REAL *)arrays[3];
    int64_t i = 0;
    for (; i + GEM_LANES <= count; i += GEM_LANES) {
        INDEPENDENT
        for (int k = 0; k < GEM_LANES; k++) out[i + k] = NAME(backward_at)(c, grad[i + k], x[i + k], n, &sums[k]);
    }
    INDEPENDENT
    for (int64_t k = 0; k < count - i; k++) out[i + k] = NAME(backward_at)(c, grad[i + k], x[i + k], n, &sums[k]);
}

/* Both kinds compute from x; they differ in what they differentiate by. */
static ALWAYS_INLINE void NAME(second_by)(const gem_spec *spec, char *const arrays[], int64_t count, int n,
                                          int by_output)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n - 1);
    REAL *to_grad = (REAL *)arrays[0], *to_kept = (REAL *)arrays[1];
    const REAL *twice = (const REAL *)arrays[2], *grad = (const REAL *)arrays[3], *x = (const REAL *)arrays[4];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        const NAME(derivatives) d = NAME(derivatives_of)(c, x[i], n, by_output);
        const REAL gg = twice[i], g = grad[i];
        to_grad[i] = gg * d.first;
        to_kept[i] = gg * g * d.second;
    }
}

static ALWAYS_INLINE void NAME(third_by)(const gem_spec *spec, char *const arrays[], int64_t count, int n,
                                         int by_output)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n - 1);
    REAL *to_twice = (REAL *)arrays[0], *to_grad = (REAL *)arrays[1], *to_kept = (REAL *)arrays[2];
    const REAL *of_grad = (const REAL *)arrays[3], *of_kept = (const REAL *)arrays[4];
    const REAL *twice = (const REAL *)arrays[5], *grad = (const REAL *)arrays[6], *x = (const REAL *)arrays[7];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        const NAME(derivatives) d = NAME(derivatives_of)(c, x[i], n, by_output);
        const REAL a = of_grad[i], b = of_kept[i], gg = twice[i], g = grad[i];
        to_twice[i] = a * d.first + b * g * d.second;
        to_grad[i] = b * gg * d.second;
        to_kept[i] = gg * (a * d.second + b * g * d.third);
    }
}

static ALWAYS_INLINE void NAME(tangent_by)(const gem_spec *spec, char *const arrays[], int64_t count, int n,
                                           int by_output)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n - 1);
    REAL *out = (REAL *)arrays[0];
    const REAL *of_grad = (const REAL *)arrays[1], *of_kept = (const REAL *)arrays[2];
    const REAL *grad = (const REAL *)arrays[3], *x = (const REAL *)arrays[4];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        const NAME(derivatives) d = NAME(derivatives_of)(c, x[i], n, by_output);
        out[i] = of_grad[i] * d.first + of_kept[i] * grad[i] * d.second;
    }
}

#define DEFINE_BOTH(OPERATION)                                                                                    \
    static ALWAYS_INLINE void NAME(OPERATION##_loop)(const gem_spec *spec, char *const arrays[], int64_t count,   \
                                                     int n)                                                       \
    {                                                                                                             \
        NAME(OPERATION##_by)(spec, arrays, count, n, 0);                                                          \
    }                                                                                                             \
    static ALWAYS_INLINE void NAME(OPERATION##_of_output_loop)(const gem_spec *spec, char *const arrays[],        \
                                                               int64_t count, int n)                              \
    {                                                                                                             \
        NAME(OPERATION##_by)(spec, arrays, count, n, 1);                                                          \
    }

DEFINE_BOTH(second)
DEFINE_BOTH(third)
DEFINE_BOTH(tangent)

static ALWAYS_INLINE void NAME(glu_forward_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *out = (REAL *)arrays[0];
    const REAL *x = (const REAL *)arrays[1], *gate = (const REAL *)arrays[2];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) out[i] = x[i] * NAME(value)(c, gate[i], n);
}

static ALWAYS_INLINE void NAME(glu_backward_loop)(const gem_spec *spec, char *const arrays[], int64_t count, int n)
{
    const NAME(constants) c = NAME(constants_of)(spec, spec->n);
    REAL *grad_x = (REAL *)arrays[0], *grad_gate = (REAL *)arrays[1];
    const REAL *grad = (const REAL *)arrays[2], *x = (const REAL *)arrays[3], *gate = (const REAL *)arrays[4];
    INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        const REAL upstream = grad[i], factor = x[i], input = gate[i];
        const NAME(gate_pair) pair = NAME(gate_of)(c, input, n);
        grad_x[i] = upstream * NAME(value_of)(c, input, pair.gate);
        grad_gate[i] = upstream * factor * NAME(slope_of)(c, pair);
    }
}

DEFINE_KERNEL(forward)
DEFINE_KERNEL(backward)
DEFINE_KERNEL(forward_scaled)
DEFINE_KERNEL(backward_scaled)
DEFINE_KERNEL(backward_summed)
DEFINE_KERNEL(second)
DEFINE_KERNEL(second_of_output)
DEFINE_KERNEL(third)
DEFINE_KERNEL(third_of_output)
DEFINE_KERNEL(tangent)
DEFINE_KERNEL(tangent_of_output)
DEFINE_KERNEL(glu_forward)
DEFINE_KERNEL(glu_backward)

#undef DEFINE_BOTH
#undef DEFINE_KERNEL
#undef BY_ORDER
