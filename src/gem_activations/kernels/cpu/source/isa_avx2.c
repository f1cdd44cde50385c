/* AVX2 with FMA and F16C: Intel since 2013, AMD since 2015. Selected at run time only. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define GEM_KERNELS gem_kernels_avx2
#define GEM_HAS_FMA 1
#define GEM_HAS_F16C 1
#define GEM_HAS_AVX2 1
#include "isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
