// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The kernels of kernels/cuda, as C++ for the CPU. On x86-64 they are compiled with AVX2 and FMA, whatever the program is compiled for:
// every a*b+c is an fmaf, which would be a library call otherwise and make a convolution 15 times slower (0.65 s instead of 0.04 s for
// 64x56x56 -> 64, 3x3, one core). Once per translation unit.
#include "../cuda/port.cuh"  // and every standard header, before the region opens

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "../cuda/table.cuh"
#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC pop_options
#endif
#include "../cuda/port_end.cuh"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

/// Has this machine what the kernels were compiled for?
inline bool kernels_run_here() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt
