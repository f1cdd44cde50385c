/* The gradient from the output, for any n and leak: solve t (leak + q) = v (1 + q), q = t^(2n) / eps, in double.
 *
 * Each step is Halley's for the power law that f follows locally, of exponent d = dlog f / dlog t = m / k below: it
 * is exact where f is a power of t. Where d changes fast a step can overshoot; kept near the start, it converges for
 * every n and leak (tests/kernels measure it). The number of steps is fixed: the value of an element must not depend
 * on its neighbours.
 */

enum { NEWTON_BLOCK = 256 };

typedef struct {
    exponent_double exponent;
    double inverse_scale, inverse_eps, limit, leak, slope, two_n;
    double lowest; /* keeps the products of a step normal */
    double down, up; /* the root is within these factors of the start */
    double root, log2_eps, log2_leak; /* 1 / (2n + 1), and logarithms for the start */
} newton_constants;

static newton_constants newton_constants_of(const gem_spec *spec)
{
    newton_constants c;
    c.exponent = exponent_of_double(spec->n);
    c.inverse_scale = spec->inverse_scale;
    c.inverse_eps = 1 / spec->eps;
    c.limit = spec->limit;
    c.leak = spec->leak > 1e-150 ? spec->leak : 0;
    c.lowest = c.leak > 0 ? 0x1p-500 : 0x1p-1022;
    c.slope = 1 - spec->leak;
    c.two_n = 2.0 * (double)spec->n;
    c.up = 1.02 * pow(c.two_n + 1, 1 / c.two_n);
    c.down = 1 / c.up;
    c.root = 1 / (c.two_n + 1);
    c.log2_eps = log2(spec->eps);
    c.log2_leak = c.leak > 0 ? log2(c.leak) : -INFINITY;
    return c;
}

/* f is close to max(leak t, min(t^(2n+1) / eps, t)), which is inverted in logarithms. Those, and 2 to their power,
 * are taken to 1 % by a parabola between powers of two. */
static ALWAYS_INLINE double newton_start(newton_constants c, double v)
{
    const int64_t bits = bits_of_double(v);
    const double m = double_of((bits & 0x000fffffffffffff) | 0x3ff0000000000000) - 1;
    const double line = (double)(int32_t)(bits >> 32) * 0x1p-20 - 1023 + 0.343 * m * (1 - m);
    const double curve = (line + c.log2_eps) * c.root;
    const double upper = line > curve ? line : curve;
    const double leaky = line - c.log2_leak;
    const double start = (leaky < upper ? leaky : upper) + 1023;
    const double whole = (double)(int32_t)start, part = start - whole;
    const double mantissa = part - 0.343 * part * (1 - part);
    return double_of((int64_t)(int32_t)((whole + mantissa) * 0x1p20) << 32);
}

/* `leak + q` and q are divided by q where there is no leak, so that a q that underflows does no harm. */
static ALWAYS_INLINE double newton_step(newton_constants c, double t, double v, double start, int n, int leaky)
{
    const double q = power_double(t, n, c.exponent) * c.inverse_eps;
    const double above = 1 + q, below = c.leak + q;
    const double a = t * below, b = v * above;
    const double k = leaky ? above * below : above;
    const double m = k + c.two_n * (leaky ? c.slope * q : 1);
    const double sum = m * (a + b), difference = k * (b - a);
    const double next = t * ((sum + difference) / (sum - difference));
    const double low = start * c.down, high = start * c.up;
    const double bounded = next > low ? next : low;
    return bounded < high ? bounded : high;
}

static ALWAYS_INLINE void newton_solve(newton_constants c, double *t, const double *v, const double *start, int length,
                                       int n, int steps)
{
    for (int step = 0; step < steps; step++) {
        if (c.leak > 0)
            for (int i = 0; i < length; i++) t[i] = newton_step(c, t[i], v[i], start[i], n, 1);
        else
            for (int i = 0; i < length; i++) t[i] = newton_step(c, t[i], v[i], start[i], n, 0);
    }
}

/* Steps after which the error of q is below 2e-7 (float) and 1e-13 (double) for every leak; the slope of log f over
 * log t changes faster the larger n is. */
static ALWAYS_INLINE int newton_steps(int64_t n, int is_double)
{
    if (n == 1) return is_double ? 4 : 3;
    if (n <= 4) return is_double ? 5 : 4;
    if (n <= 12) return is_double ? 6 : 5;
    return n <= 32 ? 7 : 8;
}

/* t where y > 0; some number elsewhere. */
static ALWAYS_INLINE void newton_roots(newton_constants c, double *t, const double *y, int length, int n, int steps)
{
    double v[NEWTON_BLOCK], start[NEWTON_BLOCK];
    for (int i = 0; i < length; i++) {
        double scaled = y[i] > 0 ? y[i] * c.inverse_scale : 1; /* a stand-in where nothing is to be solved */
        scaled = scaled > c.lowest ? scaled : c.lowest;
        v[i] = scaled < c.limit ? scaled : c.limit;
        t[i] = start[i] = newton_start(c, v[i]);
    }
    newton_solve(c, t, v, start, length, n, steps);
}

/* slope = f'(x) from y = f(x); leak where y <= 0, NaN where y is. */
static ALWAYS_INLINE void newton_slopes(const gem_spec *spec, double *slope, const double *y, int length, int n,
                                        int steps)
{
    const newton_constants c = newton_constants_of(spec);
    const constants_double formula = constants_of_double(spec, spec->n);
    double t[NEWTON_BLOCK];
    newton_roots(c, t, y, length, n, steps);
    for (int i = 0; i < length; i++) {
        const double power = power_double(t[i], n, c.exponent), reciprocal = 1 / (power + formula.eps);
        const gate_pair_double gate = {power * reciprocal, formula.eps * reciprocal};
        const double otherwise = y[i] <= 0 ? formula.leak : y[i];
        slope[i] = y[i] > 0 ? slope_of_double(formula, gate) : otherwise;
    }
}

/* x with f(x) = y; 0 where y <= 0 and there is no leak, NaN where y is. Beyond the limit f is the identity. */
static ALWAYS_INLINE void newton_inputs(const gem_spec *spec, double *x, const double *y, int length, int n, int steps)
{
    const newton_constants c = newton_constants_of(spec);
    double t[NEWTON_BLOCK];
    newton_roots(c, t, y, length, n, steps);
    for (int i = 0; i < length; i++) {
        const double below = spec->leak > 0 ? y[i] / spec->leak : 0, otherwise = y[i] <= 0 ? below : y[i];
        x[i] = y[i] > 0 && y[i] * c.inverse_scale < c.limit ? t[i] / c.inverse_scale : otherwise;
    }
}

/* Calls a function of the above with a compile-time order. */
#define NEWTON_BY_ORDER(FUNCTION)                                                                                 \
    static void FUNCTION##_by_order(const gem_spec *spec, double *out, const double *y, int length, int is_double) \
    {                                                                                                             \
        const int steps = newton_steps(spec->n, is_double);                                                       \
        switch (spec->n) {                                                                                        \
        case 1: FUNCTION(spec, out, y, length, 1, steps); break;                                                  \
        case 2: FUNCTION(spec, out, y, length, 2, steps); break;                                                  \
        case 3: FUNCTION(spec, out, y, length, 3, steps); break;                                                  \
        case 4: FUNCTION(spec, out, y, length, 4, steps); break;                                                  \
        default: FUNCTION(spec, out, y, length, 0, steps);                                                        \
        }                                                                                                         \
    }

NEWTON_BY_ORDER(newton_slopes)
NEWTON_BY_ORDER(newton_inputs)

/* RESULT is an expression of i and of the result of FUNCTION. A block is complete before its first output is written:
 * in place works. */
#define DEFINE_NEWTON(NAME, REAL, FUNCTION, INPUT, RESULT)                                                        \
    static void NAME(const gem_spec *spec, char *const arrays[], int64_t count)                                   \
    {                                                                                                             \
        const REAL *outputs = (const REAL *)arrays[INPUT];                                                        \
        double y[NEWTON_BLOCK], result[NEWTON_BLOCK];                                                             \
        for (int64_t begin = 0; begin < count; begin += NEWTON_BLOCK) {                                           \
            const int length = (int)(count - begin < NEWTON_BLOCK ? count - begin : NEWTON_BLOCK);                \
            REAL *out = (REAL *)arrays[0] + begin;                                                                \
            const REAL *grad = (const REAL *)arrays[1] + begin;                                                   \
            for (int i = 0; i < length; i++) y[i] = outputs[begin + i];                                           \
            FUNCTION##_by_order(spec, result, y, length, sizeof(REAL) == sizeof(double));                         \
            INDEPENDENT                                                                                           \
            for (int i = 0; i < length; i++) out[i] = RESULT;                                                     \
            (void)grad;                                                                                           \
        }                                                                                                         \
    }

DEFINE_NEWTON(newton_float, float, newton_slopes, 2, grad[i] * (float)result[i])
DEFINE_NEWTON(backward_from_output_in_double, double, newton_slopes, 2, grad[i] * result[i])
DEFINE_NEWTON(newton_inverse_float, float, newton_inputs, 1, (float)result[i])
DEFINE_NEWTON(inverse_in_double, double, newton_inputs, 1, result[i])
