// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A double of the CUDA runtime: the functions that the library tomograd_cuda calls, on a machine without a GPU, linked with nvcc's objects
// in place of libcudart. Kernels are launched, not run. What is queued on a stream happens as late as it may: when the host waits for it,
// so that a missing wait, or a staging block that is filled again too early, gives wrong bytes. Wrong calls are refused, and a sentence is
// kept.
//
// In programs the variable TOMOGRAD_CUDART_DOUBLE says how it behaves: "driver=12040 devices=0 capability=75 memory=1000000".
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace cudart_double {

/// What the machine is like; {} is a good one.
struct Behaviour {
  int devices = 1;
  int driver = CUDART_VERSION;  // 0: none is installed
  int capability = 90;
  std::size_t memory = std::size_t{1} << 30;  // of the device, in bytes; what tests before still hold does not count
  std::size_t pinned = std::size_t{1} << 30;  // that cudaHostAlloc may give
  unsigned char fresh = 0xff;                 // what new memory holds: NaN
  bool late = true;                           // off: everything queued happens at once
};
/// From now on; also ends what fail and fail_kernel asked for, and heals a broken device.
void behave(const Behaviour& how);

/// The call of this function, "cudaMalloc", after so many others is refused with this error.
void fail(const std::string& function, cudaError_t error, int after = 0);
/// The next kernel whose mangled name has this part breaks the device once it runs.
void fail_kernel(const std::string& name, cudaError_t error);

/// Graphs that are ready and not destroyed, and streams.
int live_graphs();
int live_streams();

/// The sentences about wrong calls since the last time.
std::vector<std::string> take_complaints();
/// How often each function was called since the last time; also "copy up" to the device, "copy down", "copy within".
std::map<std::string, int> take_calls();
/// The mangled names of kernels launched since the last time, in order.
std::vector<std::string> take_launches();
/// How often since the last time the host had to wait for work that was not done.
int take_waits();

}  // namespace cudart_double
