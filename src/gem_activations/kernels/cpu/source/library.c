/* The exported functions: checks, choice of the instruction set, hand-over to the threads. */
#include "gem.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

const int gem_outputs[GEM_OPERATIONS] = {1, 1, 1, 2, 2, 3, 3, 1, 1, 2, 1};
const int gem_inputs[GEM_OPERATIONS] = {1, 2, 2, 3, 3, 5, 5, 1, 2, 3, 2};
static const int64_t itemsizes[GEM_DTYPES] = {4, 8, 2, 2};
static _Atomic(gem_kernels *) active;
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

int gem_run(const gem_call *call)
{
    const gem_spec *spec = call->spec;
    if (call->operation < 0 || call->operation >= GEM_OPERATIONS) return GEM_ERROR_OPERATION;
    if (call->dtype < 0 || call->dtype >= GEM_DTYPES) return GEM_ERROR_DTYPE;
    if (call->count < 0) return GEM_ERROR_COUNT;
    if (spec == NULL || spec->n < 1 || spec->n > 64 || (spec->n > 8 && !spec->wide)) return GEM_ERROR_SPEC;
    const gem_kernel kernel = (*active_kernels())[call->operation][call->dtype];
    const int used = gem_outputs[call->operation] + gem_inputs[call->operation];
    const int64_t itemsize = itemsizes[call->dtype];
    if (call->operation != GEM_BACKWARD_SCALE) {
        gem_parallel(kernel, spec, (char *const *)call->arrays, used, 0, itemsize, call->count, (int)call->threads);
        return GEM_OK;
    }
    const int64_t blocks = (call->count + GEM_BLOCK - 1) / GEM_BLOCK;
    double *sums = malloc((size_t)(blocks + 1) * sizeof *sums), total = 0;
    if (sums == NULL) return GEM_ERROR_MEMORY;
    char *arrays[] = {call->arrays[0], call->arrays[1], call->arrays[2], (char *)sums};
    gem_parallel(kernel, spec, arrays, used, 1, itemsize, call->count, (int)call->threads);
    for (int64_t k = 0; k < blocks; k++) total += sums[k];
    *(double *)call->arrays[used] = total * -2.0 * (double)spec->n * (1.0 - spec->leak) / spec->inverse_scale;
    free(sums);
    return GEM_OK;
}
