// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The reference device: plain loops in float32 and float64. Slow, obviously right; every other device is tested against it, and
// gradient checks in double run on it.
#pragma once

#if __has_include(<tomograd/kernels/reference/table.hpp>)
#include <tomograd/kernels/reference/table.hpp>
#else
#include "../../../kernels/reference/table.hpp"
#endif

#include "device.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

inline Device reference() { return {DeviceKind::reference, kernels::reference_kernels()}; }

}  // namespace tomograd::inline TOMOGRAD_ABI
