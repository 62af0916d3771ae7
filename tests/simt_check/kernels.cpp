// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The device simt as test_simt_check knows it: the kernels of kernels/cuda compiled with instrumentation, memory that the checker knows.
#include "../../kernels/cuda/port.cuh"
#include "../../kernels/simt/check.hpp"
#include "../../kernels/simt/table.hpp"

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "../../kernels/cuda/table.cuh"
#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC pop_options
#endif
#include "../../kernels/cuda/port_end.cuh"

namespace tomograd::inline TOMOGRAD_ABI::kernels {

const tg_kernels* simt_kernels() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return nullptr;
#endif
  static const tg_kernels table = [] {
    tg_kernels t = simt::make_table("simt");
    t.allocate = simt::checker::allocate;
    t.release = simt::checker::release;
    t.upload = simt::checker::upload;
    t.download = simt::checker::download;
    return t;
  }();
  return &table;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
