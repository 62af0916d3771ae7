// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The device simt as test_simt_check knows it: the kernels of kernels/cuda compiled with instrumentation, memory that the checker knows.
#include "../../kernels/simt/kernels.inl"
#include "../../kernels/simt/check.hpp"
#include "../../kernels/simt/table.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels {

const tg_kernels* simt_kernels() {
  if (!simt::kernels_run_here()) return nullptr;
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
