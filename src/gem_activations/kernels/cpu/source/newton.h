/* The gradient from the output, for any n and leak: solve t (leak + q) = v (1 + q), q = t^(2n) / eps, in double.
 *
 * Each step is Halley's for the power law that f follows locally, of exponent d = dlog f / dlog t = m / k below: it
 * is exact where f is a power of t, and converges from the start below for every leak (tests/kernels measure it).
 * The number of steps is fixed: the value of an element must not depend on its neighbours.
 */

enum { NEWTON_BLOCK = 64 };

typedef struct {
    exponent_double exponent;
    double inverse_scale, inverse_eps, limit, leak, slope, two_n;
    double lowest; /* keeps the products of a step normal */
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
    c.root = 1 / (c.two_n + 1);
    c.log2_eps = log2(spec->eps);
    c.log2_leak = c.leak > 0 ? log2(c.leak) : -INFINITY;
    return c;
}

/* f is close to max(leak t, min(t^(2n+1) / eps, t)); log2 and exp2 are linear between powers of two. */
static ALWAYS_INLINE double newton_start(newton_constants c, double v)
{
    const double line = (double)(int32_t)(bits_of_double(v) >> 32) * 0x1p-20 - 1023;
    const double curve = (line + c.log2_eps) * c.root;
    const double upper = line > curve ? line : curve;
    const double leaky = line - c.log2_leak;
    const double start = leaky < upper ? leaky : upper;
    return double_of((int64_t)(int32_t)((start + 1023) * 0x1p20) << 32);
}

/* `leak + q` and q are divided by q where there is no leak, so that a q that underflows does no harm. */
static ALWAYS_INLINE double newton_step(newton_constants c, double t, double v, int n, int leaky)
{
    const double q = power_double(t, n, c.exponent) * c.inverse_eps;
    const double up = 1 + q, low = c.leak + q;
    const double a = t * low, b = v * up;
    const double k = leaky ? up * low : up;
    const double m = k + c.two_n * (leaky ? c.slope * q : 1);
    const double sum = m * (a + b), difference = k * (b - a);
    const double next = t * ((sum + difference) / (sum - difference));
    return c.limit < next ? c.limit : next;
}

static ALWAYS_INLINE void newton_solve(newton_constants c, double *t, const double *v, int length, int n, int steps)
{
    for (int step = 0; step < steps; step++) {
        if (c.leak > 0)
            for (int i = 0; i < length; i++) t[i] = newton_step(c, t[i], v[i], n, 1);
        else
            for (int i = 0; i < length; i++) t[i] = newton_step(c, t[i], v[i], n, 0);
    }
}

/* Steps to reach 1e-7 (float) and 1e-15 (double) from the start, for every leak: the slope of log f changes faster
 * over log t the larger n is. */
static ALWAYS_INLINE int newton_steps(int64_t n, int is_double)
{
    if (n <= 4) return is_double ? 6 : 4;
    if (n <= 8) return is_double ? 7 : 5;
    return n <= 20 ? 9 : 11;
}

#define DEFINE_NEWTON(REAL)                                                                                            static ALWAYS_INLINE void newton_loop_##REAL(const gem_spec *spec, char *const arrays[], int64_t count, int n)     {                                                                                                                      const newton_constants c = newton_constants_of(spec);                                                              const constants_double formula = constants_of_double(spec, spec->n);                                                        const int steps = newton_steps(spec->n, sizeof(REAL) == 8);                                                        REAL *out = (REAL *)arrays[0];                                                                                     const REAL *grad = (const REAL *)arrays[1], *y = (const REAL *)arrays[2];                                          double t[NEWTON_BLOCK], v[NEWTON_BLOCK];                                                                           for (int64_t begin = 0; begin < count; begin += NEWTON_BLOCK) {                                                        const int length = (int)(count - begin < NEWTON_BLOCK ? count - begin : NEWTON_BLOCK);                             for (int i = 0; i < length; i++) {                                                                                     double scaled = (double)y[begin + i] * c.inverse_scale;                                                            scaled = scaled > c.lowest ? scaled : c.lowest;                                                                    v[i] = scaled < c.limit ? scaled : c.limit;                                                                        t[i] = newton_start(c, v[i]);                                                                                  }                                                                                                                  newton_solve(c, t, v, length, n, steps);                                                                           INDEPENDENT                                                                                                        for (int i = 0; i < length; i++) {                                                                                     const REAL output = y[begin + i], upstream = grad[begin + i];                                                      const double power = power_double(t[i], n, c.exponent), reciprocal = 1 / (power + formula.eps);                                const gate_pair_double gate = {power * reciprocal, formula.eps * reciprocal};                                      const REAL slope = (REAL)slope_of_double(formula, gate);                                                           const REAL below = output <= 0 ? (REAL)spec->leak : output; /* keeps a NaN */                                      out[begin + i] = upstream * (output > 0 ? slope : below);                                                      }                                                                                                              }                                                                                                              }                                                                                                                  static void newton_##REAL(const gem_spec *spec, char *const arrays[], int64_t count)                               {                                                                                                                      switch (spec->n) {                                                                                                 case 1: newton_loop_##REAL(spec, arrays, count, 1); break;                                                         case 2: newton_loop_##REAL(spec, arrays, count, 2); break;                                                         case 3: newton_loop_##REAL(spec, arrays, count, 3); break;                                                         case 4: newton_loop_##REAL(spec, arrays, count, 4); break;                                                         default: newton_loop_##REAL(spec, arrays, count, 0);                                                    }                                                                                                              }

DEFINE_NEWTON(float)
DEFINE_NEWTON(double)

static void backward_from_output_double(const gem_spec *spec, char *const arrays[], int64_t count)
{
    newton_double(spec, arrays, count);
}
