// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A double of cuDNN and cuBLASLt: exactly the functions that kernels/cuda/vendor.cpp calls, on a CPU. Each checks what it is given as the
// documentation asks for it (descriptors complete and of fitting sizes, formats, pointers within memory of the device and aligned,
// workspaces as large as was said, deterministic algorithms, math type stated) and then hands the arithmetic to the reference kernels,
// with factors rounded where the call allows tensor cores. A call that breaks a rule is refused with the library's status, and a sentence
// is kept. So it checks our calls, not NVIDIA's numerics, speed or the limits of their kernels: only a GPU can.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../../kernels/api.h"

namespace vendor_double {

/// A device that plays the GPU of our own kernels: the reference kernels on memory that knows its blocks. Fresh memory holds NaN, a
/// megabyte of it.
const tg_kernels* device();

/// The sentences about refused calls since the last time.
std::vector<std::string> take_complaints();
/// How often each computing function ran since the last time, "cudnnConvolutionForward", with " tf32" or " bf16" where that was allowed.
std::map<std::string, int> take_calls();
/// The stream of the last computing call.
void* last_stream();
/// Descriptors that were made and not destroyed.
std::int64_t live_descriptors();

/// What the libraries may be like; all reset by {}.
struct Behaviour {
  std::size_t cudnn_version = 0;  // 0: that of the header
  std::string fails = {};         // a function that answers with an internal error
  bool groups = true;             // grouped convolutions are supported
  bool products = true;           // cuBLASLt finds an algorithm
};
void behave(const Behaviour& how);

}  // namespace vendor_double
