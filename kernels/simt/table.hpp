// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The table of the device "simt": the kernels of kernels/cuda, run on the CPU thread by thread (machine.hpp). For tests: values are
// those of a GPU up to its freedom in rounding, speed is not. Memory of its own (memory.hpp).
// On x86-64 the kernels are compiled with AVX2 and FMA, whatever the program is compiled for: every a*b+c is an fmaf, which would be a
// library call otherwise and make a convolution 15 times slower (0.65 s instead of 0.04 s for 64x56x56 -> 64, 3x3, one core).
#pragma once

#include "../abi.h"
#include "../api.h"
#include "memory.hpp"

#if TOMOGRAD_BODIES && !defined(__CUDACC__)
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
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

/// Lives as long as the program; safe from many threads. nullptr on an x86-64 without AVX2 and FMA.
#if !TOMOGRAD_BODIES || !defined(__CUDACC__)
TOMOGRAD_INLINE const tg_kernels* simt_kernels();
#endif

#if TOMOGRAD_BODIES
#if defined(__CUDACC__)
// To nvcc the kernels are CUDA, which is another device. static: other translation units have the real one.
static inline const tg_kernels* simt_kernels() { return nullptr; }
#else
TOMOGRAD_INLINE const tg_kernels* simt_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return nullptr;
#endif
  static const tg_kernels table = simt::on_device_memory(simt::make_table("simt"));
  return &table;
}
#endif
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
