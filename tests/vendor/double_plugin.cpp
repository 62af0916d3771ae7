// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The double's device behind the door of the CUDA kernels. Linked together with kernels/cuda/vendor.cpp, whose own door stands beside it:
// one file that serves as both plugins, so that programs go every way of --kernels vendor on a CPU.
#include "double.hpp"

extern "C" __attribute__((visibility("default"))) const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why) {
  if (why) *why = version == TG_KERNELS_VERSION ? "" : "another version";
  return version == TG_KERNELS_VERSION ? vendor_double::device() : nullptr;
}
