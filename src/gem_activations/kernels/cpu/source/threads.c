/* Threads of the OpenMP runtime that is already in the process, so that no second pool competes with it.
 *
 * PyTorch on Linux loads a libgomp, or a runtime that offers its entry points, into the global scope. Its functions
 * are looked up there; where there are none the caller does all the work. The library itself links no OpenMP.
 */
#define _GNU_SOURCE
#include "gem.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

/* Chunks start at multiples of this many elements: no cache line is written by two threads. */
enum { ALIGNMENT = GEM_BLOCK };

typedef void (*parallel_function)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
typedef int (*query_function)(void);

static struct {
    parallel_function parallel;
    query_function thread, team, nested;
} runtime;
static atomic_int runtime_ready;
static atomic_int forked;

/* After fork the runtime's threads exist in the parent only, and starting a region in the child may hang. */
static void mark_forked(void) { atomic_store(&forked, 1); }

static int find_runtime(void)
{
    if (atomic_load_explicit(&runtime_ready, memory_order_acquire)) return 1;
    void *symbols[4] = {dlsym(RTLD_DEFAULT, "GOMP_parallel"), dlsym(RTLD_DEFAULT, "omp_get_thread_num"),
                        dlsym(RTLD_DEFAULT, "omp_get_num_threads"), dlsym(RTLD_DEFAULT, "omp_in_parallel")};
    for (int k = 0; k < 4; k++)
        if (symbols[k] == NULL) return 0;
    /* ISO C has no cast from void * to a function pointer; POSIX asks that the bits be the same. Two threads may
     * write the same values here at once. */
    memcpy(&runtime, symbols, sizeof runtime);
    atomic_store_explicit(&runtime_ready, 1, memory_order_release);
    return 1;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, mark_forked); }

typedef struct {
    gem_kernel kernel;
    const gem_spec *spec;
    char *const *arrays;
    int used, sums;
    int64_t itemsize, count;
} job;

static void run_share(void *data)
{
    const job *work = data;
    const int64_t team = runtime.team(), thread = runtime.thread();
    int64_t share = (work->count + team - 1) / team;
    share = (share + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const int64_t begin = thread * share, end = begin + share < work->count ? begin + share : work->count;
    if (begin >= end) return;
    char *arrays[GEM_MAX_ARRAYS];
    for (int k = 0; k < work->used; k++) arrays[k] = work->arrays[k] + begin * work->itemsize;
    if (work->sums) arrays[work->used] = work->arrays[work->used] + begin / GEM_BLOCK * (int64_t)sizeof(double);
    work->kernel(work->spec, arrays, end - begin);
}

void gem_parallel(gem_kernel kernel, const gem_spec *spec, char *const arrays[], int used, int sums, int64_t itemsize,
                  int64_t count, int threads)
{
    if (threads > 1 && count >= GEM_GRAIN && !atomic_load(&forked) && find_runtime() && !runtime.nested()) {
        job work = {kernel, spec, arrays, used, sums, itemsize, count};
        runtime.parallel(run_share, &work, (unsigned)threads, 0);
    } else {
        kernel(spec, arrays, count);
    }
}
#else
void gem_parallel(gem_kernel kernel, const gem_spec *spec, char *const arrays[], int used, int sums, int64_t itemsize,
                  int64_t count, int threads)
{
    (void)used, (void)sums, (void)itemsize, (void)threads;
    kernel(spec, arrays, count);
}
#endif
