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
    void (*body)(const void *work, int64_t begin, int64_t end);
    const void *work;
    int64_t count, unit;
} job;

static void run_share(void *data)
{
    const job *shared = data;
    const int64_t team = runtime.team(), thread = runtime.thread();
    const int64_t units = (shared->count + shared->unit - 1) / shared->unit, share = (units + team - 1) / team;
    const int64_t begin = thread * share * shared->unit, limit = begin + share * shared->unit;
    const int64_t end = limit < shared->count ? limit : shared->count;
    if (begin < end) shared->body(shared->work, begin, end);
}

void gem_parallel(void (*body)(const void *work, int64_t begin, int64_t end), const void *work, int64_t count,
                  int64_t unit, int threads)
{
    if (threads > 1 && !atomic_load(&forked) && find_runtime() && !runtime.nested()) {
        job shared = {body, work, count, unit};
        runtime.parallel(run_share, &shared, (unsigned)threads, 0);
    } else {
        body(work, 0, count);
    }
}
#else
void gem_parallel(void (*body)(const void *work, int64_t begin, int64_t end), const void *work, int64_t count,
                  int64_t unit, int threads)
{
    (void)unit, (void)threads;
    body(work, 0, count);
}
#endif
