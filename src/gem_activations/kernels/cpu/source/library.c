/* The exported functions: checks, choice of the instruction set, hand-over to the threads. */
#include "gem.h"

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const int gem_outputs[GEM_OPERATIONS] = {1, 1, 1, 2, 2, 3, 3, 1, 1, 1, 1, 2, 1, 1};
const int gem_inputs[GEM_OPERATIONS] = {1, 2, 2, 3, 3, 5, 5, 4, 4, 1, 2, 3, 1, 2};
static const int64_t itemsizes[GEM_DTYPES] = {4, 8, 2, 2};
static _Atomic(gem_kernels *) active;
/* For short arrays, if no table is read: registers of 512 bits slow some processors down for longer than such a call
 * takes. The bits are the same. */
static _Atomic(gem_kernels *) active_short;
static atomic_int active_isa;

static gem_kernels *kernels_of(int isa)
{
    if (isa == GEM_ISA_BASELINE) return &gem_kernels_baseline;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (isa == GEM_ISA_AVX2 && avx2) return &gem_kernels_avx2;
    if (isa == GEM_ISA_AVX512 && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &gem_kernels_avx512;
#endif
    return NULL;
}

int gem_set_isa(int isa)
{
    gem_kernels *kernels = kernels_of(isa);
    if (kernels == NULL) return GEM_ERROR_ISA;
    atomic_store(&active_short, isa == GEM_ISA_AVX512 ? kernels_of(GEM_ISA_AVX2) : kernels);
    atomic_store(&active, kernels);
    atomic_store(&active_isa, isa);
    return GEM_OK;
}

static gem_kernels *active_kernels(void)
{
    if (atomic_load_explicit(&active, memory_order_acquire) == NULL)
        for (int isa = GEM_ISAS - 1; gem_set_isa(isa) != GEM_OK; isa--) continue;
    return atomic_load_explicit(&active, memory_order_acquire);
}

int gem_abi_version(void) { return GEM_ABI_VERSION; }

int gem_isa(void)
{
    active_kernels();
    return atomic_load(&active_isa);
}

typedef struct {
    gem_kernel kernel;
    const gem_spec *spec;
    void *const *arrays;
    int used;
    int64_t itemsize;
} elementwise;

static void run_elementwise(const void *data, int64_t begin, int64_t end)
{
    const elementwise *work = data;
    char *arrays[GEM_MAX_ARRAYS];
    for (int k = 0; k < work->used; k++) arrays[k] = (char *)work->arrays[k] + begin * work->itemsize;
    work->kernel(work->spec, arrays, end - begin);
}

typedef struct {
    gem_scaled_kernel kernel;
    const gem_scaled *scaled;
} scaled_pass;

static void run_scaled_pass(const void *data, int64_t begin, int64_t end)
{
    const scaled_pass *work = data;
    work->kernel(work->scaled, begin, end);
}

static double scale_at(const gem_scales *scales, int64_t channel)
{
    return scales->dtype == GEM_FLOAT64 ? ((const double *)scales->log_scale)[channel]
                                        : (double)((const float *)scales->log_scale)[channel];
}

/* The reduction of GemSpec for each channel, into `inverse_scales` and `eps`; what holds for all of them into `spec`. */
static int reduce_scales(const gem_scales *scales, gem_spec *spec, double *inverse_scales, double *eps)
{
    const double two_n = 2.0 * (double)spec->n, farthest = 69.07755278982138; /* log 1e30 */
    double largest = 0;
    spec->wide = spec->n > 8;
    for (int64_t k = 0; k < scales->channels; k++) {
        const double log_scale = scale_at(scales, k), log_eps = two_n * log_scale;
        if (!(fabs(log_scale) <= farthest && log_eps >= -744 && log_eps <= 709)) return GEM_ERROR_SCALE;
        const double log2_scale = log_scale * 1.4426950408889634;
        const double exponent = (log2_scale + 0x1.8p52) - 0x1.8p52; /* to the nearest integer */
        const int64_t bits = (int64_t)(1023 - exponent) << 52;
        memcpy(&inverse_scales[k], &bits, sizeof bits); /* 2^-exponent */
        eps[k] = exp2(two_n * (log2_scale - exponent));
        largest = eps[k] > largest ? eps[k] : largest;
        if (exponent - two_n * (log2_scale - exponent) > 63.0 / (double)spec->n) spec->wide = 1; /* as library.py */
    }
    spec->limit = pow(largest * 0x1p60, 1 / two_n);
    return GEM_OK;
}

static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Cut a pass into tiles, and return their number. */
static int64_t cut(gem_scaled *work)
{
    work->columns = work->channels * work->inner;
    if (work->channels == 1 || work->inner > GEM_WIDTH) {
        work->lines = 0;
        work->width = work->inner < GEM_TILE ? work->inner : GEM_TILE;
        work->across = ceiling(work->inner, work->width);
        work->span = 1;
        return work->count / work->inner * work->across;
    }
    work->span = work->channels;
    if (work->columns <= GEM_WIDTH) {
        const int64_t outer = work->count / work->columns, times = GEM_WIDTH / work->columns;
        work->columns *= times < outer ? times : outer > 1 ? outer : 1;
    } else {
        for (work->span = 1; 2 * work->span * work->inner <= GEM_WIDTH;) work->span *= 2;
    }
    work->width = work->columns <= GEM_WIDTH ? work->columns : work->span * work->inner;
    work->across = ceiling(work->columns, work->width);
    work->lines = GEM_TILE / work->width;
    return ceiling(work->count, work->columns * work->lines) * work->across;
}

static int run_scaled(const gem_call *call, gem_scaled_kernel kernel, int threads)
{
    const int inputs = gem_inputs[call->operation];
    const gem_scales *scales = call->arrays[1 + inputs];
    const int64_t channels = scales->channels, count = call->count;
    if (channels < 1 || scales->inner < 1 || count % (channels * scales->inner) != 0) return GEM_ERROR_COUNT;
    if (scales->dtype != GEM_FLOAT32 && scales->dtype != GEM_FLOAT64) return GEM_ERROR_DTYPE;
    gem_scaled work = {.spec = *call->spec, .count = count, .channels = channels};
    work.inner = channels > 1 ? scales->inner : count > 0 ? count : 1;
    const int64_t tiles = cut(&work), sums = inputs == 2 ? tiles * work.span : 0;
    double few[256], *memory = few;
    if (2 * channels + sums > 256) memory = malloc((size_t)(2 * channels + sums) * sizeof *memory);
    if (memory == NULL) return GEM_ERROR_MEMORY;
    const int code = reduce_scales(scales, &work.spec, memory, memory + channels);
    if (code == GEM_OK) {
        work.inverse_scales = memory;
        work.eps = memory + channels;
        work.sums = memory + 2 * channels;
        work.out = call->arrays[0];
        work.grad = inputs == 2 ? call->arrays[1] : NULL;
        work.x = call->arrays[inputs];
        const scaled_pass pass = {kernel, &work};
        gem_parallel(run_scaled_pass, &pass, tiles, 1, threads);
        double *const totals = memory + channels; /* eps is not needed any more */
        for (int64_t k = 0; inputs == 2 && k < channels; k++) totals[k] = 0;
        for (int64_t tile = 0; inputs == 2 && tile < tiles; tile++) {
            const int64_t first = gem_first_channel(&work, tile), rest = channels - first;
            for (int64_t k = 0; k < (work.span < rest ? work.span : rest); k++)
                totals[first + k] += work.sums[tile * work.span + k];
        }
        for (int64_t k = 0; inputs == 2 && k < channels; k++) {
            const double total = totals[k] * (-2.0 * (double)work.spec.n * (1.0 - work.spec.leak) / memory[k]);
            if (scales->dtype == GEM_FLOAT64) ((double *)scales->gradient)[k] = total;
            else ((float *)scales->gradient)[k] = (float)total;
        }
    }
    if (memory != few) free(memory);
    return code;
}

int gem_run(const gem_call *call)
{
    const gem_spec *spec = call->spec;
    if (call->operation < 0 || call->operation >= GEM_OPERATIONS) return GEM_ERROR_OPERATION;
    if (call->dtype < 0 || call->dtype >= GEM_DTYPES) return GEM_ERROR_DTYPE;
    if (call->count < 0) return GEM_ERROR_COUNT;
    if (spec == NULL || spec->n < 1 || spec->n > 64 || (spec->n > 8 && !spec->wide)) return GEM_ERROR_SPEC;
    gem_kernels *kernels = active_kernels();
    const int threads = call->count < GEM_GRAIN ? 1 : (int)call->threads;
    const int is_scaled = call->operation >= GEM_FORWARD_SCALED;
    if (call->count < GEM_GRAIN && (is_scaled || call->operation <= GEM_BACKWARD))
        kernels = atomic_load_explicit(&active_short, memory_order_acquire);
    if (is_scaled) return run_scaled(call, kernels->scaled[call->dtype], threads);
    const int used = gem_outputs[call->operation] + gem_inputs[call->operation];
    const gem_kernel kernel = kernels->elementwise[call->operation][call->dtype];
    const elementwise work = {kernel, spec, call->arrays, used, itemsizes[call->dtype]};
    gem_parallel(run_elementwise, &work, call->count, GEM_BLOCK, threads);
    return GEM_OK;
}
