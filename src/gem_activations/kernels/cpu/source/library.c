/* The exported functions: checks, choice of the instruction set, hand-over to the threads. */
#include "gem.h"

#include <stdatomic.h>
#include <stddef.h>

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

static int run(int operation, const gem_spec *spec, int dtype, char *const arrays[], int used, int64_t count,
               int threads)
{
    if (dtype < 0 || dtype >= GEM_DTYPES) return GEM_ERROR_DTYPE;
    if (count < 0) return GEM_ERROR_COUNT;
    if (spec == NULL || spec->n < 1 || spec->n > 64 || (spec->n > 8 && !spec->wide)) return GEM_ERROR_SPEC;
    gem_parallel((*active_kernels())[operation][dtype], spec, arrays, used, itemsizes[dtype], count, threads);
    return GEM_OK;
}

int gem_forward(const gem_spec *spec, int dtype, void *out, const void *x, int64_t count, int threads)
{
    char *const arrays[] = {out, (char *)x};
    return run(GEM_FORWARD, spec, dtype, arrays, 2, count, threads);
}

int gem_backward(const gem_spec *spec, int dtype, void *out, const void *grad, const void *x, int64_t count,
                 int threads)
{
    char *const arrays[] = {out, (char *)grad, (char *)x};
    return run(GEM_BACKWARD, spec, dtype, arrays, 3, count, threads);
}

int gem_backward_from_output(const gem_spec *spec, int dtype, void *out, const void *grad, const void *y,
                             int64_t count, int threads)
{
    char *const arrays[] = {out, (char *)grad, (char *)y};
    return run(GEM_BACKWARD_FROM_OUTPUT, spec, dtype, arrays, 3, count, threads);
}

int gem_second(const gem_spec *spec, int dtype, void *out, const void *grad, const void *x, int64_t count, int threads)
{
    char *const arrays[] = {out, (char *)grad, (char *)x};
    return run(GEM_SECOND, spec, dtype, arrays, 3, count, threads);
}

int gem_glu_forward(const gem_spec *spec, int dtype, void *out, const void *x, const void *gate, int64_t count,
                    int threads)
{
    char *const arrays[] = {out, (char *)x, (char *)gate};
    return run(GEM_GLU_FORWARD, spec, dtype, arrays, 3, count, threads);
}

int gem_glu_backward(const gem_spec *spec, int dtype, void *grad_x, void *grad_gate, const void *grad, const void *x,
                     const void *gate, int64_t count, int threads)
{
    char *const arrays[] = {grad_x, grad_gate, (char *)grad, (char *)x, (char *)gate};
    return run(GEM_GLU_BACKWARD, spec, dtype, arrays, 5, count, threads);
}
