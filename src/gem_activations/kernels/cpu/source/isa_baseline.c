/* Whatever the compiler targets by default: x86-64's SSE2, or another processor's baseline. */
#define GEM_KERNELS gem_kernels_baseline
#include "isa.h"
