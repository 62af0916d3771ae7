// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The simt device: the CUDA kernels' own source, run on the CPU thread by thread. For tests and for debugging kernels.
#pragma once

#if __has_include(<tomograd/kernels/simt/table.hpp>)
#include <tomograd/kernels/simt/table.hpp>
#else
#include "../../../kernels/simt/table.hpp"
#endif

#include "device.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Throws Error on a machine that cannot run it.
inline Device simt() {
  static const tg_kernels* const table = kernels::simt_kernels();
  if (!table) fail("simt: this processor has no AVX2 and FMA");
  return {DeviceKind::simt, table};
}

}  // namespace tomograd::inline TOMOGRAD_ABI
