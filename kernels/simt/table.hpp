// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The table of the device "simt": the kernels of kernels/cuda, run on the CPU thread by thread (machine.hpp). For tests: values are
// those of a GPU up to its freedom in rounding, speed is not. Memory of its own (memory.hpp).
#pragma once

#include "../abi.h"
#include "../api.h"
#include "memory.hpp"

#if TOMOGRAD_BODIES && !defined(__CUDACC__)
#include "kernels.inl"
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
  if (!simt::kernels_run_here()) return nullptr;
  static const tg_kernels table = simt::on_device_memory(simt::make_table("simt"));
  return &table;
}
#endif
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
