/* The formulas, one element at a time, for REAL = float or double. Included once for each.
 *
 * Comparisons are written so that a NaN in x survives: `0 > t ? 0 : t` is t where t is NaN.
 */

/* The bits of a power: the factor of a bit is the square clamped to low .. high, to 1 where the bit is not set. The
 * loop over elements then has no branch, and vectorises for an n that is known at run time only. */
typedef struct {
    REAL low[BITS], high[BITS];
} NAME(exponent);

typedef struct {
    NAME(exponent) exponent; /* of n, but of n - 1 for derivatives beyond the first */
    REAL inverse_scale, eps, limit, leak, slope, two_n;
    REAL floor;       /* 0, or -inf where a leak lets negative values through */
    REAL far;         /* where t^(2n) still has room below overflow */
    REAL largest;     /* the largest finite number */
} NAME(constants);

static ALWAYS_INLINE NAME(exponent) NAME(exponent_of)(int64_t n)
{
    static const REAL lows[2] = {1, (REAL)-INFINITY}, highs[2] = {1, (REAL)INFINITY};
    NAME(exponent) exponent;
    for (int bit = 0; bit < BITS; bit++) {
        exponent.low[bit] = lows[(n >> bit) & 1]; /* loads, not branches that would split the loops over elements */
        exponent.high[bit] = highs[(n >> bit) & 1];
    }
    return exponent;
}

static ALWAYS_INLINE NAME(constants) NAME(constants_of)(const gem_spec *spec, int64_t exponent)
{
    const double two_n = 2.0 * (double)spec->n;
    NAME(constants) c;
    c.exponent = NAME(exponent_of)(exponent);
    c.inverse_scale = (REAL)spec->inverse_scale;
    c.eps = (REAL)spec->eps;
    c.limit = (REAL)spec->limit;
    c.leak = (REAL)spec->leak;
    c.slope = (REAL)(1.0 - spec->leak);
    c.two_n = (REAL)two_n;
    c.floor = spec->leak > 0 ? (REAL)-INFINITY : (REAL)0;
    c.far = (REAL)exp2(FAR_LOG2 / two_n);
    c.largest = LARGEST;
    return c;
}

/* t^(2n), n known at compile time, where two to four products remain, or n = 0: whatever `exponent` says, up to 64. */
static ALWAYS_INLINE REAL NAME(power)(REAL t, int n, NAME(exponent) exponent)
{
    const REAL square = t * t;
    if (n == 1) return square;
    if (n == 2) return square * square;
    if (n == 3) return square * square * square;
    if (n == 4) return (square * square) * (square * square);
    REAL result = 1;
    UNROLL(8)
    for (int bit = BITS - 1; bit >= 0; bit--) {
        const REAL raised = exponent.low[bit] > square ? exponent.low[bit] : square;
        result *= result;
        result *= exponent.high[bit] < raised ? exponent.high[bit] : raised;
    }
    return result;
}

static ALWAYS_INLINE REAL NAME(clamped)(REAL x, REAL inverse_scale, REAL limit)
{
    REAL t = x * inverse_scale;
    t = 0 > t ? 0 : t;
    return limit < t ? limit : t;
}

typedef struct {
    REAL gate, one_minus_gate; /* F and 1 - F */
} NAME(gate_pair);

static ALWAYS_INLINE NAME(gate_pair) NAME(gate_of)(NAME(constants) c, REAL x, int n)
{
    const REAL power = NAME(power)(NAME(clamped)(x, c.inverse_scale, c.limit), n, c.exponent);
    const REAL reciprocal = 1 / (power + c.eps);
    return (NAME(gate_pair)){power * reciprocal, c.eps * reciprocal};
}

static ALWAYS_INLINE REAL NAME(value_of)(NAME(constants) c, REAL x, REAL gate)
{
    const REAL base = c.floor > x ? c.floor : x;
    return base * FMA(c.slope, gate, c.leak);
}

static ALWAYS_INLINE REAL NAME(slope_of)(NAME(constants) c, NAME(gate_pair) pair)
{
    return FMA(c.slope * pair.gate, FMA(c.two_n, pair.one_minus_gate, (REAL)1), c.leak);
}

static ALWAYS_INLINE REAL NAME(value)(NAME(constants) c, REAL x, int n)
{
    const REAL power = NAME(power)(NAME(clamped)(x, c.inverse_scale, c.limit), n, c.exponent);
    return NAME(value_of)(c, x, power / (power + c.eps));
}

static ALWAYS_INLINE REAL NAME(derivative)(NAME(constants) c, REAL x, int n)
{
    return NAME(slope_of)(c, NAME(gate_of)(c, x, n));
}

/* f'(x) and its two derivatives by the input x or by the output y = f(x): d1, d2 and d3 of gem.h. */
typedef struct {
    REAL first, second, third;
} NAME(derivatives);

/* t^(2n-1) / (p + eps) and t^(2n-2) / (p + eps) stand for F / t and F / t^2: no division by an x near 0. What depends on
 * the scale is multiplied last, so that nothing before leaves the range. */
static ALWAYS_INLINE NAME(derivatives) NAME(derivatives_of)(NAME(constants) c, REAL x, int n, int by_output)
{
    const REAL t = NAME(clamped)(x, c.inverse_scale, c.far);
    const REAL even = n == 1 ? 1 : NAME(power)(t, n - 1, c.exponent), odd = even * t, power = odd * t;
    const REAL reciprocal = 1 / (power + c.eps);
    const NAME(gate_pair) pair = {power * reciprocal, c.eps * reciprocal};
    const REAL curvature = FMA(-2 * c.two_n, pair.gate, 1 + c.two_n);
    const REAL change = FMA(FMA(-2 * c.two_n, pair.gate, c.two_n - 1), curvature,
                            -2 * c.two_n * c.two_n * pair.gate * pair.one_minus_gate);
    const REAL common = c.slope * c.two_n * pair.one_minus_gate;
    NAME(derivatives) d;
    d.first = NAME(slope_of)(c, pair);
    d.second = x > c.largest ? 0 : common * (odd * reciprocal) * curvature;
    d.third = x > c.largest || x <= 0 ? 0 : common * (even * reciprocal) * change;
    if (by_output) {
        /* Where f' is nearly 0, so is what these are multiplied by in the end. */
        const REAL inverse = d.first >= SMALLEST ? 1 / d.first : 0, bounded = d.first >= STEEP ? inverse : 0;
        const REAL second = d.second * inverse;
        d.third = (d.third - d.second * second) * bounded * bounded;
        d.second = second;
    }
    const REAL third = d.third * c.inverse_scale * c.inverse_scale;
    d.second *= c.inverse_scale;
    d.third = third > c.largest ? c.largest : -c.largest > third ? -c.largest : third;
    return d;
}
