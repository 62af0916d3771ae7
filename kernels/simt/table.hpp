// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The table of the device "simt": the kernels of kernels/cuda, run on the CPU thread by thread (machine.hpp). For tests: values are
// those of a GPU up to its freedom in rounding, speed is not. Host memory.
#pragma once

#include "../abi.h"
#include "../api.h"

#if TOMOGRAD_BODIES && !defined(__CUDACC__)
#include "../cuda/port_end.cuh"
#include "../cuda/table.cuh"
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

/// Lives as long as the program; safe from many threads.
#if !TOMOGRAD_BODIES || !defined(__CUDACC__)
TOMOGRAD_INLINE const tg_kernels* simt_kernels();
#endif

#if TOMOGRAD_BODIES
#if defined(__CUDACC__)
// To nvcc the kernels are CUDA, which is another device. static: other translation units have the real one.
static inline const tg_kernels* simt_kernels() { return nullptr; }
#else
TOMOGRAD_INLINE const tg_kernels* simt_kernels() {
  static const tg_kernels table = simt::make_table("simt");
  return &table;
}
#endif
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
