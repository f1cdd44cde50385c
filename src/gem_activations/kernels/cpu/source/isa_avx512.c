/* AVX-512 with the extensions that every server core of Intel since 2017 and of AMD since 2022 has. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"), \
                                            min_vector_width(512))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
#endif

#define GEM_KERNELS gem_kernels_avx512
#define GEM_HAS_FMA 1
#define GEM_HAS_F16C 1
#define GEM_HAS_AVX512 1
#include "isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
